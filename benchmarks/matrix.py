"""The named cases of the CPU benchmark: which sizes are timed on which engines, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.ceilings import Ceilings
from benchmarks.latency import LatencySettings
from benchmarks.row import (
    COMPILED,
    CPU_ENGINES,
    EAGER,
    ENGINE,
    KERNELS,
    KERNELS_RECOMPUTE,
    NAIVE,
    NEED_KERNELS,
    RECOMPUTE,
)
from oneranker.config import PRESETS

OURS = (ENGINE, RECOMPUTE, KERNELS, KERNELS_RECOMPUTE)  # with keys and values handed on, and without
MAX_SECONDS = 1500.0  # of all cases; the rounds to keep are not cut short
SHARED = (EAGER, COMPILED, NAIVE, *OURS)
BATCHED = (EAGER, ENGINE, RECOMPUTE, KERNELS, KERNELS_RECOMPUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """preset x B x S x N x precision, on some engines; C is the preset's own."""

    preset: str
    items: int  # N
    batch: int  # B
    history: int  # S
    engines: tuple[str, ...]
    precision: str = "fp32"  # of the graphs; an engine whose name ends in bf16 casts the model itself
    utilisation: float = 0.0  # of an open loop after the closed one
    iterations: int = 3  # of a round, at least
    duration: float = 1.0  # seconds of a round, at least

    @property
    def name(self) -> str:
        """<preset>-b<B>-s<S>-c<C>-n<N>, as in the rows."""
        return f"{self.preset}-b{self.batch}-s{self.history}-c{PRESETS[self.preset].candidates}-n{self.items}"

    @property
    def bundle(self) -> str:
        """The folder of its bundle, which cases of other sizes share."""
        return f"{self.preset}-n{self.items}-{self.precision}"

    def settings(
        self, bundle: Path, kernels: Path | None, threads: int, rounds: tuple[int, int], ceilings: Ceilings | None
    ) -> LatencySettings:
        """As benchmarks.latency takes it, rounds from .. to; without kernels, without the engines that need them."""
        engines = [name for name in self.engines if kernels is not None or name not in NEED_KERNELS]
        return LatencySettings(
            bundle=bundle,
            batch=(self.batch,),
            history=self.history,
            iterations=self.iterations,
            duration=self.duration,
            warmup=2,
            threads=threads,
            kernels=kernels,
            engines=tuple(engines),
            rounds=rounds[0],
            max_rounds=rounds[1],
            max_seconds=MAX_SECONDS,
            utilisation=self.utilisation,
            ceilings=ceilings,
        )


MATRIX = (
    Case(preset="demo", items=10_000, batch=1, history=256, engines=CPU_ENGINES, utilisation=0.7),
    Case(preset="demo", items=10_000, batch=8, history=256, engines=BATCHED),
    Case(preset="paper", items=100_000, batch=1, history=512, engines=SHARED, utilisation=0.7),
    Case(preset="paper", items=100_000, batch=8, history=512, engines=BATCHED),
    Case(preset="paper", items=100_000, batch=1, history=2048, engines=CPU_ENGINES),
)
SCALE = (10_000, 100_000, 1_000_000, 10_000_000)  # N of retrieval at scale
