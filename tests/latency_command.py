"""benchmarks.latency as a command, for the tests of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from runtime.manifest import STAGES

QUICK = ("--iterations", "3", "--warmup", "1", "--threads", "1")
SHARED = [*STAGES, "chain"]


def latency(*words: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.latency", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))
