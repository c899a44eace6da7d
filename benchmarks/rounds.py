"""Runs one engine's process once a round and gathers what the rounds have found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import quickest, spread
from benchmarks.roofline import Needed
from benchmarks.row import BASELINES, CHAIN, NAIVE
from benchmarks.worker import Measured
from runtime.errors import OneRankerError

SETTLED = 0.05  # spread of the kept rounds of the chain at which an engine needs no more of them
SLOW_STARTERS = tuple(name for name in BASELINES if name != NAIVE)  # half a minute each, and nobody judges a change
SLOW_KEPT, SLOW_MOST = 2, 3  # of these, at most so many
FEW = 3  # samples that are no median of anything
# PyTorch's OpenMP threads wait for each other at full speed by default: where one core is busy with something else,
# eager PyTorch then takes 20 times as long. A short spin, then sleep, is the fair baseline; the runtime's do not spin.
SHORT_SPIN = {"GOMP_SPINCOUNT": "1000"}


@dataclass(frozen=True, slots=True)
class Rounds:
    """One engine's rounds of one case, in order; if one could not run, none counts."""

    found: list[Measured]
    keep: int = 1  # that must agree, the quickest of all
    most: int = 1

    @classmethod
    def of_engine(cls, name: str, keep: int, most: int) -> Rounds:
        """None yet, and how many there may be."""
        return cls([], min(keep, SLOW_KEPT), min(most, SLOW_MOST)) if name in SLOW_STARTERS else cls([], keep, most)

    @property
    def due(self) -> int:
        """Rounds that are still to come: those to keep, then one after another until the quickest of them agree."""
        missing = self.keep - len(self.found)
        if self.not_run is not None:
            return 0
        if missing > 0:
            return missing
        return int(len(self.found) < self.most and (self.kept_spread or 0.0) > SETTLED)

    @property
    def kept_spread(self) -> float | None:
        """Of the chain in the quickest rounds so far."""
        return spread(quickest(self.quiet_ms(CHAIN), self.keep))

    @property
    def not_run(self) -> str | None:
        """Why there are no numbers."""
        return next((one.not_run for one in self.found if one.not_run is not None), None)

    @property
    def precision(self) -> str:
        return self.found[0].precision

    @property
    def needed(self) -> dict[str, Needed]:
        """What each stage must at least do; of eager PyTorch alone."""
        return {stage: Needed(**work) for stage, work in self.found[0].needed.items()}

    @property
    def compile_s(self) -> dict[str, float]:
        """Of the first round: the later ones find its work on disk."""
        return self.found[0].compile_s

    def samples_ms(self, stage: str) -> list[list[float]]:
        """Of every round; none where this engine does not run the stage."""
        return [one.samples_ms[stage] for one in self.found if stage in one.samples_ms]

    def quiet_ms(self, stage: str) -> list[list[float]]:
        """Of every round the samples from which no time was stolen, or all of them where those are fewer than FEW."""
        found = [(one.quiet_ms.get(stage, []), one.samples_ms[stage]) for one in self.found if stage in one.samples_ms]
        return [quiet if len(quiet) >= FEW else samples for quiet, samples in found]

    @property
    def peak_memory_mib(self) -> float | None:
        """Of the last round, which finds on disk what an earlier one has compiled."""
        return self.found[-1].peak_memory_mib

    @property
    def device_memory_mib(self) -> float | None:
        """Of the last round."""
        return self.found[-1].device_memory_mib

    def mean(self, name: str) -> float | None:
        """The mean of the rounds' numbers, such as offered_per_s."""
        values: Sequence[float | None] = [getattr(one, name) for one in self.found]
        numbers = [value for value in values if value is not None]
        return sum(numbers) / len(numbers) if numbers else None


def measure_apart(folder: Path, name: str, turn: int) -> Measured:
    """Run one engine's process of one round to its end.

    Raises:
        OneRankerError: It failed; its own message has gone to stderr.
    """
    command = [sys.executable, "-m", "benchmarks.worker", str(folder), name, str(turn)]
    done = subprocess.run(command, check=False, stdout=sys.stderr, env=SHORT_SPIN | os.environ)
    answer = folder / f"{name}.json"
    if done.returncode == 0 and answer.exists():
        return Measured(**json.loads(answer.read_text(encoding="utf-8")))
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    if name in BASELINES:  # one that dies must not take the others' numbers with it
        return Measured(not_run=f"its process ended with {how}; see stderr")
    failed = OneRankerError(f"{name}: its process ended with {how}, expected numbers. Its message stands above.")
    failed.exit_code = max(done.returncode, 1) if done.returncode in (1, 3) else 1
    raise failed
