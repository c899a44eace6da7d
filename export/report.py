"""What a build tells: one line a step on stderr while it runs, one report at the end."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class PlanReport:
    """The engine of one stage of a finished bundle; more of it lies beside it in engine_report.json."""

    file: str
    sha256: str
    bytes: int
    seconds: float
    reused: bool
    scratch_bytes: int | None  # of the profile that needs most
    weight_bytes: int | None
    attention_layers: int
    fused_attention: list[str]  # kernels of the profile that has fewest of them
    verified: str


@dataclass(slots=True, kw_only=True)
class StageReport:
    """One stage of a finished bundle."""

    file: str
    sha256: str
    bytes: int
    seconds: float
    reused: bool
    parity: dict[str, Any]
    plan: PlanReport | None = None


@dataclass(slots=True, kw_only=True)
class BuildReport:
    """A finished build; `asdict` of it is the line on stdout."""

    bundle: str
    weights: dict[str, Any]
    precision: str
    engine: str
    stages: dict[str, StageReport] = field(default_factory=dict)
    chain: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    items: dict[str, Any] = field(default_factory=dict)
    changed: bool = True
    seconds: float = 0.0
    peak_memory_mib: int = 0


@dataclass(slots=True)
class Step:
    """One timed step; `note` may say more than the name while it runs."""

    seconds: float = 0.0
    note: str = ""


@contextmanager
def step(name: str) -> Iterator[Step]:
    """Time a step and log it with the memory peak so far."""
    running, start = Step(), time.perf_counter()
    yield running
    running.seconds = round(time.perf_counter() - start, 3)
    logger.info("%s%s: %.1f s, peak %d MiB", name, running.note, running.seconds, peak_memory_mib())


def peak_memory_mib() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak // (2**20 if sys.platform == "darwin" else 2**10))  # Linux counts KiB, macOS bytes
