"""Warm-up, clock, percentiles and peak memory; nothing here knows what is timed."""

from __future__ import annotations

import gc
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

Clock = Callable[[], float]  # seconds
Settle = Callable[[], None]  # returns when a device has nothing left to do
Progress = Callable[[Iterable[int]], Iterable[int]]  # wraps the timed iterations, to show how far they are

PERCENTILES = (50, 90, 95, 99)


class Laps:
    """Splits one iteration into named spans; collects them over all iterations, in milliseconds.

    `settle` is called before the clock is read: it waits for a device, whose work goes on after a call has returned.
    """

    def __init__(self, clock: Clock = time.perf_counter, settle: Settle | None = None) -> None:
        self.samples_ms: dict[str, list[float]] = {}
        self._clock = clock
        self._settle = settle
        self._begin = self._last = 0.0

    def begin(self) -> None:
        """Start an iteration."""
        if self._settle is not None:
            self._settle()
        self._begin = self._last = self._clock()

    def lap(self, name: str) -> None:
        """What ran since the last lap, or since `begin`, was `name`."""
        if self._settle is not None:
            self._settle()
        now = self._clock()
        self._add(name, now - self._last)
        self._last = now

    def end(self, name: str) -> None:
        """The whole iteration up to its last lap was `name`: the laps add up to it exactly."""
        self._add(name, self._last - self._begin)

    def _add(self, name: str, seconds: float) -> None:
        self.samples_ms.setdefault(name, []).append(seconds * 1e3)


class Unsplit(Laps):
    """Laps that are not taken: the iteration is one span, and nothing waits in the middle of it."""

    def lap(self, name: str) -> None:
        """Go on."""


def measure(
    run: Callable[[int, Laps], None],
    *,
    iterations: int,
    warmup: int,
    duration: float = 0.0,
    total: str | None = None,
    clock: Clock = time.perf_counter,
    settle: Settle | None = None,
    progress: Progress = iter,
) -> dict[str, list[float]]:
    """Call `run` with the iteration's number and its laps; warm-up rounds come first and are not kept.

    It goes on until both `iterations` and `duration`, in seconds, are reached, as trtexec does.

    Returns:
        Span name -> samples in milliseconds; `total` names the sum of an iteration's laps.
    """
    for iteration in range(warmup):
        run(iteration, Laps(clock, settle))
    laps = Laps(clock, settle)
    with garbage_collector_off():
        for iteration in progress(_iterations(iterations, duration, clock)):
            laps.begin()
            run(iteration, laps)
            if total is not None:
                laps.end(total)
    return laps.samples_ms


def _iterations(least: int, duration: float, clock: Clock) -> Iterable[int]:
    """Numbers from 0 on, at least so many and for at least so long."""
    if not duration:
        return range(least)
    begin = clock()
    return itertools.takewhile(lambda number: number < least or clock() - begin < duration, itertools.count())


@contextmanager
def garbage_collector_off() -> Iterator[None]:
    """Collect once, then keep the collector out of the timed loop."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def percentiles(samples_ms: Sequence[float]) -> tuple[float, float, float, float]:
    """p50, p90, p95 and p99, linear between neighbours."""
    p50, p90, p95, p99 = np.percentile(np.asarray(samples_ms, np.float64), PERCENTILES).tolist()
    return p50, p90, p95, p99


def quickest(rounds: Sequence[Sequence[float]], keep: int) -> list[Sequence[float]]:
    """The rounds of the lowest medians, `keep` of them: the noise of a shared machine only ever adds time."""
    return sorted(rounds, key=statistics.median)[:keep]


def spread(rounds: Sequence[Sequence[float]]) -> float | None:
    """(largest - smallest median of a round) / median of all samples; None of one round, which does not know it."""
    if len(rounds) < 2:
        return None
    middles = [statistics.median(round_) for round_ in rounds]
    return (max(middles) - min(middles)) / statistics.median(sample for round_ in rounds for sample in round_)


def peak_memory_mib() -> float:
    """The most memory that this process has held since its program started."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: ru_maxrss would also count what the parent process held when it started this one
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes
