"""One case while it is timed: its workload on disk, a process for each round of each engine, and then its rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environment import Environment
from benchmarks.errors import Answers, Error, errors, read_answers
from benchmarks.gpu import Gpu
from benchmarks.roofline import with_roofline
from benchmarks.rounds import Rounds, measure_apart
from benchmarks.row import (
    CHAIN,
    EAGER,
    FUSED_GRAPHED,
    GRAPHED,
    OF_BUNDLE,
    OPEN,
    RECOMMEND,
    RUNTIME,
    TOKENS,
    Row,
    not_run,
    timed,
)
from benchmarks.worker import REFERENCE, ROUNDED
from benchmarks.workload import Workload
from runtime.bundle import OpenBundle
from runtime.manifest import STAGES

if TYPE_CHECKING:
    from benchmarks.latency import LatencySettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What all cases of one bundle share."""

    settings: LatencySettings
    environment: Environment
    bundle: OpenBundle
    checkpoint: Path | None
    gpu: Gpu | None

    @property
    def device(self) -> str:
        """As the runtime and torch write it."""
        return "cpu" if self.gpu is None else f"cuda:{self.gpu.ordinal}"


@dataclass(slots=True)
class TimedCase:
    """One workload on several engines, and what their rounds have found so far."""

    context: Context
    workload: Workload
    folder: Path  # of its own
    found: dict[str, Rounds]  # in the order of the turns
    failures: list[str] = field(default_factory=list)  # answers of our graphs that are not those of the weights
    apart: dict[str, dict[str, Error]] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)  # seconds of the last process of each engine

    @classmethod
    def begin(cls, context: Context, workload: Workload, engines: Sequence[str], folder: Path) -> TimedCase:
        """Nothing timed yet; the workload is written."""
        settings = context.settings
        folder.mkdir()
        workload.write(folder)
        found = {name: Rounds.of_engine(name, settings.rounds, settings.most_rounds) for name in engines}
        return cls(context, workload, folder, found)

    def due(self, until: float) -> list[str]:
        """Engines whose quickest rounds do not agree, as long as there is time; and those that lack rounds anyway."""
        return [
            name for name, rounds in self.found.items()
            if rounds.due and (len(rounds.found) < rounds.keep or time.monotonic() < until)
        ]  # fmt: skip

    def take_turns(self, until: float) -> None:
        """One round of every engine that is due.

        Raises:
            OneRankerError: An engine that must run did not.
        """
        for name in self.due(until):
            if name in self.due(until):  # time may have run out
                self._round(name)

    def _round(self, name: str) -> None:
        rounds, number = self.found[name], len(self.found[name].found)
        logger.info("%s: %s, round %d%s", self.named(CHAIN), name, number + 1, _why(rounds))
        begin = time.monotonic()
        rounds.found.append(measure_apart(self.folder, name, number))
        self.took[name] = time.monotonic() - begin
        if rounds.not_run is not None or name in self.apart:
            return
        stages = self.context.bundle.manifest.stages
        outputs = {stage: [row.name for row in contract.outputs] for stage, contract in stages.items()}
        self.apart[name] = errors(read_answers(self.folder, name), *_yardsticks(self.folder), outputs)
        if name in OF_BUNDLE:
            batch = self.workload.job.batch
            self.failures += [f"{name}, batch {batch}, {line}" for line in self.apart[name][CHAIN].failures]

    @property
    def seconds_left(self) -> float:
        """Of the rounds that are due, each as long as the last one; 0 before there is anything to go by."""
        usual = sum(self.took.values()) / len(self.took) if self.took else 0.0
        return sum(rounds.due * self.took.get(name, usual) for name, rounds in self.found.items())

    def named(self, stage: str) -> str:
        """<stage>-b<B>-s<S>-c<C>-n<N>."""
        padded = max(self.workload.padded(position) for position in range(len(self.workload.encoded)))
        letters, items = self.context.bundle.manifest.letters, self.context.environment.items
        return f"{stage}-b{self.workload.job.batch}-s{padded}-c{letters['C']}-n{items}"

    def rows(self) -> list[Row]:
        """One for each stage and engine, the engines of a stage side by side."""
        rows = [row for name in self.found for row in self._rows_of(name)]
        order = (*STAGES, CHAIN, OPEN, TOKENS, RECOMMEND)
        return sorted(rows, key=lambda row: order.index(row.stage))

    def _rows_of(self, name: str) -> list[Row]:
        rounds, block, ceilings = self.found[name], self.context.environment, self.context.settings.ceilings
        found, needed = self.apart.get(name, {}), self.found[EAGER].needed
        rows = []
        for stage in _stages_of(name, rounds):
            row = Row(
                case=self.named(stage), stage=stage, engine=name, batch=self.workload.job.batch, threads=block.threads,
                device=block.device, precision=rounds.precision, machine=block.machine, versions=block.versions,
                commit=block.commit,
            )  # fmt: skip
            if rounds.not_run is not None:
                rows.append(not_run(row, rounds.not_run))
                continue
            keep = None if stage == OPEN else rounds.keep  # every round has arrivals of its own, which are not noise
            quiet = None if stage == OPEN else rounds.quiet_ms(stage)  # a stall makes all wait who come after it
            row = _measured(timed(row, rounds.samples_ms(stage), keep, quiet), rounds)
            if stage in found:
                row = replace(row, max_error=found[stage].max_error, allowed_error=found[stage].allowed)
            rows.append(row if ceilings is None else with_roofline(row, needed, ceilings))
        return rows


def _why(rounds: Rounds) -> str:
    """Why there is one round more than those to keep."""
    if len(rounds.found) < rounds.keep:
        return f" of {rounds.keep}"
    return f", as the quickest {rounds.keep} differ by {rounds.kept_spread:.0%}"


def _yardsticks(folder: Path) -> tuple[Answers, Answers]:
    """Eager PyTorch in the bundle's precision and in fp32; where there is no file of its own, what was timed is it."""
    present = {name: (folder / f"{name}.safetensors").exists() for name in (ROUNDED, REFERENCE)}
    rounded, reference = (read_answers(folder, name if present[name] else EAGER) for name in (ROUNDED, REFERENCE))
    return rounded, reference


def _stages_of(name: str, rounds: Rounds) -> list[str]:
    """The stages that an engine has rows of; where it could not run, those that say so."""
    stages = [CHAIN] if name in (GRAPHED, FUSED_GRAPHED) else [*STAGES, CHAIN]
    if name in RUNTIME:
        stages += [TOKENS, RECOMMEND]
    return stages + ([OPEN] if rounds.not_run is None and rounds.samples_ms(OPEN) else [])


def _measured(row: Row, rounds: Rounds) -> Row:
    """The row with what its engine's processes have told besides the times."""
    seconds = rounds.compile_s
    if row.stage == OPEN:
        offered, answered = (row.batch * (rounds.mean(name) or 0.0) for name in ("offered_per_s", "answered_per_s"))
        row = replace(row, offered_per_s=offered, requests_per_s=answered)
    return replace(
        row,
        stolen=rounds.mean("stolen"),
        peak_memory_mib=rounds.peak_memory_mib,
        device_memory_mib=rounds.device_memory_mib,
        compile_s=sum(seconds.values()) if seconds and row.stage == CHAIN else seconds.get(row.stage),
    )
