"""The latency rows of a GPU run: `python -m benchmarks.latency --device cuda` in few iterations."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.backend import NotRunError
from benchmarks.gpu_checks import GpuJob, Rows
from benchmarks.gpu_plan import TENSORRT
from benchmarks.row import CHAIN, RUNTIME
from runtime.errors import ParityError
from runtime.manifest import Manifest

WRONG = ParityError.exit_code
MARGIN = 10.0  # seconds before the end of the group, to tell what there is


def latency(job: GpuJob, rows: Rows) -> None:
    """One check a backend: its chain ran, and the runtime's answers are those of the weights.

    Every batch size is a run of its own, whose rows stand in the file before the next one begins: a late end loses one.
    """
    folder = _with_plans(job)
    end = time.monotonic() + job.seconds - MARGIN
    found: list[dict[str, Any]] = []
    codes, late = [], ""
    for batch in sorted({1, min(8, Manifest.read(folder).profile["B"][2])}):
        words = ["--bundle", str(folder), "--device", job.device, "--batch", str(batch)]
        words += ["--iterations", str(job.iterations)]
        words += ["--checkpoint", str(job.checkpoint)] if job.checkpoint else []
        command = [sys.executable, "-m", "benchmarks.latency", *words, "--out", str(job.latency_out)]
        try:
            left = max(0.0, end - time.monotonic())
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=left)
        except subprocess.TimeoutExpired:
            late = f"batch {batch} did not end in the {job.seconds:.0f} s of its group"
            break
        codes.append(done.returncode)
        last = done.stdout.strip().splitlines()[-1:]
        report: dict[str, Any] = json.loads(last[0]) if last and last[0].startswith("{") else {"rows": []}
        found += report["rows"]
    for check in job.checks:
        backend = check.removeprefix("latency ")
        own = [row for row in found if row["engine"] == backend and row["stage"] == CHAIN]
        with rows.check(check) as figures:
            if codes:
                _judge(backend, own, WRONG if WRONG in codes else max(codes), figures)
            if len(own) < len(codes):
                raise RuntimeError(
                    f"{len(own)} of {len(codes)} batch sizes have a row of {backend}, expected all; see stderr"
                )
            if late:
                raise NotRunError(late)


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
    if notes := [row["note"] for row in found if row["note"]]:
        raise NotRunError(notes[0].removeprefix("not run: "))
    if code == WRONG and backend in RUNTIME:
        raise RuntimeError("the runtime answers unlike the weights it is compared with; see stderr")
