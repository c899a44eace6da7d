from __future__ import annotations

import numpy as np
import pytest

from benchmarks.open_loop import arrivals, open_loop


class FakeTime:
    """Time passes while one sleeps, while one works, and a little at every look at the clock."""

    def __init__(self) -> None:
        self.now = 50.0

    def clock(self) -> float:
        self.now += 1e-5
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_arrivals_are_a_poisson_process_of_the_given_rate() -> None:
    gaps = np.diff(arrivals(20_000, 40.0))
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 40, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential: the deviation is the mean
    assert (gaps > 1 / 40).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert np.array_equal(arrivals(5, 40.0), arrivals(5, 40.0))
    assert not np.allclose(arrivals(5, 40.0), arrivals(5, 40.0, seed=1)), "every round has arrivals of its own"


@pytest.mark.parametrize("count", [1, 15, 60])
def test_few_arrivals_have_the_rate_that_is_said_too(count: int) -> None:
    assert arrivals(count, 40.0)[-1] == pytest.approx(count / 40)


def test_latency_runs_from_the_arrival_and_everybody_behind_a_stall_waits() -> None:
    time, seconds = FakeTime(), [0.001] * 200
    seconds[50] = 3.0
    found = open_loop(
        lambda number: time.sleep(seconds[number]), 200, per_second=20.0, clock=time.clock, sleep=time.sleep
    )
    due, free, expected = arrivals(200, 20.0), 0.0, []
    for at, took in zip(due, seconds, strict=True):  # one server, first come, first served
        free = max(free, at) + took
        expected.append((free - at) * 1e3)
    assert found.samples_ms == pytest.approx(expected, abs=40)  # what looking at the clock takes adds up
    assert sum(sample > 1000 for sample in found.samples_ms) > 20, "a closed loop would tell of one"


def test_what_arrives_faster_than_it_is_answered_is_answered_at_the_servers_own_rate() -> None:
    time = FakeTime()
    found = open_loop(lambda _: time.sleep(0.1), 300, per_second=1000.0, clock=time.clock, sleep=time.sleep)
    assert found.answered_per_s == pytest.approx(10, rel=0.02)
    assert found.samples_ms[-1] == pytest.approx(300 * 100 - 300, rel=0.02)
