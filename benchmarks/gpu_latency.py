"""The latency rows of a GPU run: `python -m benchmarks.latency --device cuda` in few iterations."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.backend import NotRunError
from benchmarks.gpu_checks import GpuJob, Rows
from benchmarks.gpu_plan import AUTOTUNED, FUSED, TENSORRT
from benchmarks.row import CHAIN, EAGER, RUNTIME
from runtime.errors import ParityError
from runtime.manifest import Manifest

WRONG = ParityError.exit_code
LACKING = (
    "fused attention: "  # how what this machine lacks begins; anything else that stops the fused form is a failure
)
MARGIN = 10.0  # seconds before the end of the group, to tell what there is


def latency(job: GpuJob, rows: Rows) -> None:
    """One check a backend: its chain ran, and the answers of what is ours are those of the weights.

    Every batch size of every part is a run of its own, whose rows stand in the file before the next one begins: a crash
    or a late end loses one.
    """
    runs = _Runs(job, _with_plans(job))
    asked = [check.removeprefix("latency ") for check in job.checks]
    batches = sorted({1, min(8, Manifest.read(runs.folder).profile["B"][2])})
    for part in _parts(asked):
        for batch in batches:
            runs.run(part, batch)
    for check, backend in zip(job.checks, asked, strict=True):
        own = [row for row in runs.found if row["engine"] == backend and row["stage"] == CHAIN]
        with rows.check(check) as figures:
            codes = runs.codes[backend]
            if codes:
                _judge(backend, own, WRONG if WRONG in codes else max(codes), figures)
            if len(own) < len(codes):
                raise RuntimeError(
                    f"{len(own)} of {len(codes)} batch sizes have a row of {backend}, expected all; see stderr"
                )
            if len(codes) < len(batches):
                raise NotRunError(runs.late)


def _parts(asked: Sequence[str]) -> list[list[str]]:
    """Which engines are timed together, beside eager PyTorch: what may crash or take long stands behind the others."""
    parts = [[name for name in asked if name not in (*FUSED, AUTOTUNED)]]
    parts += [[name for name in asked if name in FUSED], [name for name in asked if name == AUTOTUNED]]
    return [part for part in parts if part]


class _Runs:
    """`benchmarks.latency` again and again, until the group's time is over."""

    def __init__(self, job: GpuJob, folder: Path) -> None:
        self.folder = folder
        self.found: list[dict[str, Any]] = []
        self.codes: dict[str, list[int]] = defaultdict(list)  # of every run that ended, by engine
        self.late = ""
        self._job = job
        self._end = time.monotonic() + job.seconds - MARGIN

    def run(self, engines: Sequence[str], batch: int) -> None:
        """Rows of the engines named: those of eager PyTorch count where it was asked for."""
        if self.late:
            return
        job = self._job
        words = ["--bundle", str(self.folder), "--device", job.device, "--batch", str(batch)]
        words += ["--iterations", str(job.iterations)]
        words += ["--checkpoint", str(job.checkpoint)] if job.checkpoint else []
        words += [word for name in engines if name != EAGER for word in ("--engine", name)]
        command = [sys.executable, "-m", "benchmarks.latency", *words, "--out", str(job.latency_out)]
        try:
            left = max(0.0, self._end - time.monotonic())
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=left)
        except subprocess.TimeoutExpired:
            self.late = f"batch {batch} of {', '.join(engines)} did not end in the {job.seconds:.0f} s of its group"
            return
        last = done.stdout.strip().splitlines()[-1:]
        report: dict[str, Any] = json.loads(last[0]) if last and last[0].startswith("{") else {"rows": []}
        self.found += [row for row in report["rows"] if row["engine"] in engines]
        for name in engines:
            self.codes[name].append(done.returncode)


def _with_plans(job: GpuJob) -> Path:
    """The copy of the bundle that the checks of TensorRT have left, else the bundle: its graphs are the same."""
    plans = job.work / f"{job.bundle}-{TENSORRT}"
    return plans if job.given is None and (plans / "manifest.json").exists() else job.folder


def _judge(backend: str, found: list[dict[str, Any]], code: int, figures: dict[str, Any]) -> None:
    if not found:
        raise RuntimeError(f"benchmarks.latency ended with exit code {code} and no row of {backend}; see stderr")
    keys = (
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "p50_vs_eager",
        "max_error",
        "allowed_error",
        "device_memory_mib",
        "compile_s",
    )
    figures |= {row["case"]: {key: row[key] for key in keys} for row in found}
    if notes := [row["note"].removeprefix("not run: ") for row in found if row["note"]]:
        if backend in FUSED and not notes[0].startswith(LACKING):
            raise RuntimeError(notes[0])
        raise NotRunError(notes[0])
    if code == WRONG and backend in RUNTIME:
        raise RuntimeError("the runtime answers unlike the weights it is compared with; see stderr")
    if backend in FUSED:
        for row in found:
            _held(row)


def _held(row: dict[str, Any]) -> None:
    """The parity rule for a row whose engine the exit code says nothing of; an error that was not measured fails."""
    error, allowed = row["max_error"], row["allowed_error"]
    if error is None or allowed is None or not error <= allowed:
        raise RuntimeError(
            f"{row['case']}: max_error is {error}, expected a number of at most {allowed}; see "
            "oneranker/silu_attention_kernel.py"
        )
