from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.measure import PROCESSORS, Laps, Unsplit, measure, peak_memory_mib, percentiles
from benchmarks.stolen import STAT, stolen_s


class FakeClock:
    """Seconds that only pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_are_numpys(count: int) -> None:
    samples = np.random.default_rng(count).exponential(size=count)
    assert percentiles(samples.tolist()) == pytest.approx([np.percentile(samples, share) for share in (50, 90, 95, 99)])


def test_laps_are_the_time_since_the_last_lap_and_add_up_to_the_total() -> None:
    clock, seconds = FakeClock(), iter([0.5, 0.25, 1.0, 2.0])

    def run(iteration: int, laps: Laps) -> None:
        for name in ("first", "second"):
            clock.now += next(seconds)
            laps.lap(name)

    samples = measure(run, iterations=2, warmup=0, total="all", clock=clock).samples_ms
    assert samples == {"first": [500, 1000], "second": [250, 2000], "all": [750, 3000]}


def test_every_reading_of_the_clock_waits_for_the_device() -> None:
    clock = FakeClock()
    waiting = [0.0]

    def settle() -> None:
        clock.now += waiting.pop()
        waiting.append(0.0)

    def run(iteration: int, laps: Laps) -> None:
        waiting[:] = [3.0]  # what the call has only enqueued
        laps.lap("first")
        waiting[:] = [1.0]
        laps.lap("second")
        waiting[:] = [50.0]  # enqueued after the last lap: the next iteration must not start before it is done

    samples = measure(run, iterations=2, warmup=1, total="all", clock=clock, settle=settle).samples_ms
    assert samples == {"first": [3000, 3000], "second": [1000, 1000], "all": [4000, 4000]}


def test_an_unsplit_iteration_takes_no_laps() -> None:
    def forbidden() -> float:
        raise AssertionError("read the clock")

    laps = Unsplit(forbidden, settle=forbidden)
    laps.lap("x")
    assert laps.samples_ms == {}


def test_warm_up_rounds_run_but_are_not_kept() -> None:
    clock, seen = FakeClock(), []

    def run(iteration: int, laps: Laps) -> None:
        seen.append(iteration)
        clock.now += 100 if len(seen) <= 3 else 1
        laps.lap("x")

    assert measure(run, iterations=4, warmup=3, clock=clock).samples_ms == {"x": [1000] * 4}
    assert seen == [0, 1, 2, 0, 1, 2, 3]


def test_time_between_iterations_belongs_to_no_sample() -> None:
    clock = FakeClock()

    def slow_progress(rounds: range) -> itertools.chain[int]:
        def steps() -> itertools.chain[int]:
            for i in rounds:
                clock.now += 50  # what a progress bar takes
                yield i

        return itertools.chain(steps())

    def run(iteration: int, laps: Laps) -> None:
        clock.now += 2
        laps.lap("x")

    assert measure(run, iterations=3, warmup=0, clock=clock, progress=slow_progress).samples_ms == {"x": [2000] * 3}


def test_the_collector_is_off_while_timing_and_on_again_after_an_error() -> None:
    states = []

    def run(iteration: int, laps: Laps) -> None:
        states.append(gc.isenabled())
        if iteration == 1:
            raise KeyError

    with pytest.raises(KeyError):
        measure(run, iterations=2, warmup=0)
    assert states == [False, False]
    assert gc.isenabled()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: /proc says how much a program has held")
def test_peak_memory_leaves_the_parents_memory_out() -> None:
    ballast = bytearray(300 * 2**20)  # resident here when the child is started
    ballast[:: 2**12] = b"x" * len(ballast[:: 2**12])
    code = "from benchmarks.measure import peak_memory_mib; print(peak_memory_mib())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 < float(child.stdout) < 150
    assert peak_memory_mib() > 300


def test_iterations_from_which_time_was_stolen_are_told_apart_and_made_up_for() -> None:
    """Each takes 2 s; the hypervisor takes half of every third one, and under a hundredth of the others."""
    clock, lost, seen = FakeClock(), [0.0], [0]

    def run(_iteration: int, laps: Laps) -> None:
        seen[0] += 1
        clock.now += 2.0
        lost[0] += 2.0 * PROCESSORS * (0.5 if seen[0] % 3 == 0 else 0.009)
        laps.lap("x")

    found = measure(run, iterations=1, warmup=0, duration=8.0, clock=clock, stolen=lambda: round(lost[0], 6))
    assert len(found.quiet_ms["x"]) == 4  # 8 s of them
    assert len(found.samples_ms["x"]) == 5
    assert found.stolen == pytest.approx((0.5 + 4 * 0.009) / 5)


def test_a_machine_that_is_never_quiet_ends_the_timing_all_the_same() -> None:
    clock, lost = FakeClock(), [0.0]

    def run(_iteration: int, laps: Laps) -> None:
        clock.now += 1.0
        lost[0] += 0.5
        laps.lap("x")

    found = measure(run, iterations=3, warmup=0, duration=5.0, clock=clock, stolen=lambda: lost[0])
    assert (len(found.samples_ms["x"]), found.quiet_ms) == (10, {})  # twice 5 s


@pytest.mark.skipif(not STAT.exists(), reason="needs Linux: /proc/stat counts stolen time")
def test_stolen_time_is_what_the_kernel_counts_over_all_processors() -> None:
    before = stolen_s()
    each = [line.split() for line in STAT.read_text().splitlines() if line.startswith("cpu")]
    assert stolen_s() >= int(each[0][8]) / os.sysconf("SC_CLK_TCK") >= before >= 0
    assert int(each[0][8]) == pytest.approx(sum(int(one[8]) for one in each[1:]), abs=len(each))
