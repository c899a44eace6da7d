"""One group of GPU checks in a process of its own: `python -m benchmarks.gpu_checks GROUP JOB`, started by gpu_check.

stdout carries one JSON object a check and nothing else: check, status, reason, figures, seconds; what libraries print
goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.backend import NotRunError
from benchmarks.gpu_run import FAILED, NOT_RUN, PASSED

logger = logging.getLogger("benchmarks.gpu_checks")

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GpuJob:
    """What a group is told."""

    bundle: str  # a label: a preset, or "given"
    given: Path | None
    checkpoint: Path | None
    work: Path
    device: str  # "cpu", "cuda" or "cuda:N"
    iterations: int
    latency_out: Path
    checks: tuple[str, ...]
    seconds: float = 300.0  # after which the process is ended

    @classmethod
    def parse(cls, text: str) -> GpuJob:
        raw = json.loads(text)
        paths = {name: Path(raw[name]) if raw[name] else None for name in ("given", "checkpoint")}
        return cls(
            **{**raw, **paths, "work": Path(raw["work"]), "latency_out": Path(raw["latency_out"])}
            | {"checks": tuple(raw["checks"])}
        )

    @property
    def folder(self) -> Path:
        """The bundle that is checked."""
        return self.given or self.work / self.bundle


class Rows:
    """Writes what became of each check, as soon as it is known."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.told: set[str] = set()

    @contextmanager
    def check(self, name: str) -> Iterator[Figures]:
        """Passed if the body ends, not run if it raises NotRunError, failed if it raises anything else.

        The body fills the figures; a key "facts" is about the machine and is for every row of the run.
        """
        figures: Figures = {}
        row: dict[str, Any] = {"check": name, "status": PASSED, "reason": "", "figures": figures}
        start = time.perf_counter()
        try:
            yield figures
        except NotRunError as error:
            row |= {"status": NOT_RUN, "reason": str(error)}
        except Exception as error:  # a failure of one check must not end the others
            logger.exception("%s", name)
            row |= {"status": FAILED, "reason": f"{type(error).__name__}: {error}"[:2000]}
        row["seconds"] = time.perf_counter() - start
        if facts := figures.pop("facts", None):
            row["facts"] = facts
        self.told.add(name)
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()


GROUPS: Mapping[str, str] = {  # group -> the function that runs it, in whose module its libraries are imported
    "machine": "benchmarks.gpu_machine.machine",
    "bundle": "benchmarks.gpu_bundles.bundle",
    "cpu": "benchmarks.gpu_parity.on_the_cpu",
    "onnxruntime stages": "benchmarks.gpu_parity.onnxruntime_stages",
    "onnxruntime chain": "benchmarks.gpu_parity.onnxruntime_chain",
    "tensorrt stages": "benchmarks.gpu_parity.tensorrt_stages",
    "tensorrt chain": "benchmarks.gpu_parity.tensorrt_chain",
    "rtx plans": "benchmarks.gpu_bundles.rtx_plans",
    "rtx probe": "benchmarks.gpu_bundles.rtx_probe",
    "attention": "benchmarks.gpu_attention.attention",
    "latency": "benchmarks.gpu_latency.latency",
}


def main(argv: list[str]) -> int:
    """Run a group; what it found is in its rows, and so is why it could not begin."""
    name, job = argv[0], GpuJob.parse(argv[1])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    rows = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    told = Rows(rows)
    try:
        module, _, function = GROUPS[name].rpartition(".")
        run: Callable[[GpuJob, Rows], None] = getattr(importlib.import_module(module), function)
        run(job, told)
    except Exception as error:  # such as a package that is not here: the reason belongs into every row
        for check in job.checks:
            if check not in told.told:
                with told.check(check):
                    raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
