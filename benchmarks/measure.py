"""Warm-up, clock, percentiles and peak memory; nothing here knows what is timed."""

from __future__ import annotations

import gc
import itertools
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.stolen import QUIET, Stolen, stolen_s

Clock = Callable[[], float]  # seconds
Settle = Callable[[], None]  # returns when a device has nothing left to do
Progress = Callable[[Iterable[int]], Iterable[int]]  # wraps the timed iterations, to show how far they are

PERCENTILES = (50, 90, 95, 99)
MOST = 2  # times what was asked for, where the machine is not quiet
PROCESSORS = os.cpu_count() or 1  # that the stolen time is counted over


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


@dataclass(frozen=True, slots=True)
class Timed:
    """Span name -> samples in milliseconds: all of them, and those of iterations from which no time was stolen."""

    samples_ms: dict[str, list[float]]
    quiet_ms: dict[str, list[float]]
    stolen: float  # share of all processors' time during the iterations


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
    stolen: Stolen = stolen_s,
) -> Timed:
    """Call `run` with the iteration's number and its laps; warm-up rounds come first and are not kept.

    It goes on until both `iterations` and `duration`, in seconds, are reached, as trtexec does, in quiet iterations,
    but for at most MOST times as many and as long. `total` names the sum of an iteration's laps.
    """
    for iteration in range(warmup):
        run(iteration, Laps(clock, settle))
    seen = _Seen(iterations, duration)
    samples: dict[str, list[float]] = {}
    quiet: dict[str, list[float]] = {}
    with garbage_collector_off():
        for iteration in progress(
            itertools.takewhile(seen.wants, itertools.count()) if duration else range(iterations)
        ):
            laps = Laps(clock, settle)
            stolen_before, begin = stolen(), clock()
            laps.begin()
            run(iteration, laps)
            if total is not None:
                laps.end(total)
            calm = seen.add(clock() - begin, stolen() - stolen_before)
            for found in (samples, quiet) if calm else (samples,):
                for name, spans in laps.samples_ms.items():
                    found.setdefault(name, []).extend(spans)
    return Timed(samples, quiet, seen.stolen)


@dataclass(slots=True)
class _Seen:
    """How much has been timed, in quiet iterations and in all."""

    least: int
    duration: float
    count: int = 0
    seconds: float = 0.0
    quiet_count: int = 0
    quiet_seconds: float = 0.0
    stolen_seconds: float = 0.0

    def add(self, seconds: float, stolen_seconds: float) -> bool:
        """Whether the iteration was quiet."""
        self.count += 1
        self.seconds += seconds
        self.stolen_seconds += stolen_seconds
        quiet = stolen_seconds <= QUIET * seconds * PROCESSORS
        if quiet:
            self.quiet_count += 1
            self.quiet_seconds += seconds
        return quiet

    def wants(self, _number: int) -> bool:
        """Whether there is to be another iteration."""
        enough = self.quiet_count >= self.least and self.quiet_seconds >= self.duration
        most = self.count >= MOST * self.least and self.seconds >= MOST * self.duration
        return not enough and not most

    @property
    def stolen(self) -> float:
        return self.stolen_seconds / (self.seconds * PROCESSORS) if self.seconds else 0.0


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
