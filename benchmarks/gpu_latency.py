"""The latency rows of a GPU run: `python -m benchmarks.latency --device cuda` in few iterations."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.backend import NotRunError
from benchmarks.gpu_checks import GpuJob, Rows
from benchmarks.row import CHAIN, RUNTIME
from runtime.errors import ParityError
from runtime.manifest import Manifest

WRONG = ParityError.exit_code


def latency(job: GpuJob, rows: Rows) -> None:
    """One check a backend: its chain ran, and the runtime's answers are those of the weights."""
    largest = Manifest.read(job.folder).profile["B"][2]
    batches = [word for batch in sorted({1, min(8, largest)}) for word in ("--batch", str(batch))]
    words = ["--bundle", str(job.folder), "--device", job.device, *batches, "--iterations", str(job.iterations)]
    words += ["--checkpoint", str(job.checkpoint)] if job.checkpoint else []
    command = [sys.executable, "-m", "benchmarks.latency", *words, "--out", str(job.latency_out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:]
    report: dict[str, Any] = json.loads(last[0]) if last and last[0].startswith("{") else {"rows": []}
    for check in job.checks:
        backend = check.removeprefix("latency ")
        found = [row for row in report["rows"] if row["backend"] == backend and row["stage"] == CHAIN]
        with rows.check(check) as figures:
            _judge(backend, found, done.returncode, figures)


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
