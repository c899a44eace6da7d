"""A backend's process as the benchmark sees it: one command a line in, one answer a line out; and whether all agree."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.environment import ROOT
from benchmarks.rounds import SHORT_SPIN
from benchmarks.turn_worker import PYTHON
from runtime.errors import BuildError, OneRankerError, ParityError

CPP = "runtime-cpp"
PROGRAM = Path("build/cpp/release/benchmarks/turns")
CLOSE = 1e-5  # of scores, against Python's; items and their order are the same


def find_program(named: Path | None) -> Path:
    """The C++ side.

    Raises:
        BuildError: It is not there.
    """
    program = named or ROOT / PROGRAM
    if not program.is_file():
        raise BuildError(f"{program}: no such file, expected the C++ side of this benchmark. Run `make cpp`.")
    return program


class TurnProcess:
    """One backend's process. It waits for commands and does nothing between them."""

    def __init__(self, name: str, command: Sequence[str], job: Mapping[str, Any]) -> None:
        import os

        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=SHORT_SPIN | os.environ
        )
        self._say(job)

    def ask(self, work: str, settings: argparse.Namespace) -> dict[str, Any]:
        """One turn of this kind of work."""
        command = {"seconds": settings.seconds} if work == "workers" else {"iterations": settings.iterations}
        return self._say({"work": work} | command)

    def answers(self) -> list[list[tuple[str, float]]]:
        """What it recommends for every request: ids and scores."""
        answers: list[list[tuple[str, float]]] = self._say({"work": "answers"})["answers"]
        return answers

    def peak_memory_mib(self) -> float:
        """The most memory that the process has held since it started."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
        return 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _say(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its exit code says more
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            failed = OneRankerError(
                f"{self.name}: its process ended with exit code {code}, expected an answer. Its message stands above."
            )
            failed.exit_code = code if code in (1, 3) else 1
            raise failed
        answer: dict[str, Any] = json.loads(line)
        return answer


def compare(backends: Sequence[TurnProcess]) -> None:
    """Hold every backend's answers against Python's: as many, the same items with the same scores, in the same order.

    Raises:
        ParityError: An answer differs; of eager PyTorch's, items whose scores are as close as its rounding may stand
            in another order.
    """
    found = {backend.name: backend.answers() for backend in backends}
    for name, answers in found.items():
        for position, (mine, theirs) in enumerate(zip(answers, found[PYTHON], strict=True)):
            off = farthest(mine, theirs, in_order=name == CPP)
            if not off <= CLOSE:
                raise ParityError(
                    f"{name}: request {position} is answered with {len(mine)} items {mine[:3]}, {PYTHON} says "
                    f"{len(theirs)} items {theirs[:3]} (scores off by {off:.2g}, allowed {CLOSE}). Rebuild the bundle "
                    "and the C++ runtime from the same source."
                )


def farthest(mine: Sequence[tuple[str, float]], theirs: Sequence[tuple[str, float]], *, in_order: bool) -> float:
    """The largest difference of scores, place by place and item by item; infinite for other items or another order."""
    ids = [[item for item, _ in answer] for answer in (mine, theirs)]
    if ids[0] != ids[1] and (in_order or sorted(ids[0]) != sorted(ids[1])):
        return math.inf
    pairs = [*zip(mine, theirs, strict=True), *zip(sorted(mine), sorted(theirs), strict=True)]
    return float(np.max([abs(a[1] - b[1]) for a, b in pairs], initial=0.0))  # NaN stays NaN
