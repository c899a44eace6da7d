"""Open loop: requests arrive by chance and wait their turn, as users do, instead of one after the other's answer.

Arrivals are a Poisson process: the times between them are exponential. One server answers them in order; the latency of
a request runs from its arrival, not from its start, so a stall is felt by all who wait (no coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLEEPS = 0.002  # seconds before an arrival from which on the waiting thread looks at the clock instead of sleeping


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """What became of the requests of one open loop."""

    samples_ms: list[float]  # from arrival to answer
    answered_per_s: float  # requests over the time from the start to the last answer


def arrivals(count: int, per_second: float, seed: int = 0) -> NDArray[np.float64]:
    """Seconds from the start at which each request arrives, the last of them after exactly count / per_second.

    Given their number, the arrivals of a Poisson process are spread uniformly: scaling the gaps to the exact mean keeps
    them by chance, and every engine is offered the very rate that it is said to be.

    Shapes: -> float64 [count]
    """
    gaps = np.random.default_rng(seed).exponential(size=count)
    return np.cumsum(gaps * (count / per_second / gaps.sum()))


def open_loop(
    answer: Callable[[int], object],
    count: int,
    per_second: float,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> OpenLoop:
    """Answer `count` requests that arrive at this rate on average; `answer` is given the number of each."""
    begin = clock()
    due = begin + arrivals(count, per_second, seed)
    samples = []
    for number in range(count):
        while (left := due[number] - clock()) > 0:
            if left > SLEEPS:
                sleep(left - SLEEPS)
        answer(number)
        samples.append((clock() - due[number]) * 1e3)
    return OpenLoop(samples_ms=samples, answered_per_s=count / (clock() - begin))
