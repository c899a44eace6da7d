"""One GPU run: a process for each group of checks, its rows stamped with the machine and written as they come."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_plan import MACHINE, Group

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
LEAST_SECONDS = 5.0  # below this a group is not started

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a whole run is told."""

    root: Path
    work: Path
    out: Path
    command: str
    python: str = sys.executable
    bundle: Path | None = None
    checkpoint: Path | None = None
    device: str = "cuda"
    iterations: int = 50
    budget_seconds: float | None = None
    require_gpu: bool = False


class Run:
    """Collects the rows; whatever a group does, it goes on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rows: list[Row] = []
        self.device = "unknown"
        self._facts: Row = {"driver": None, "versions": {}, "commit": None}
        self._path = [str(settings.root)]
        self._libraries: list[str] = []
        self._begin = time.monotonic()
        settings.work.mkdir(parents=True, exist_ok=True)
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.write_text("", encoding="utf-8")

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    def install(self, install: Callable[[], tuple[Path, list[str]]], refused: type[Exception]) -> None:
        """Make carried packages known to every process that follows."""
        self._say("install")
        try:
            site, wheels = install()
        except refused as error:
            self.add({"check": "install", "status": FAILED, "reason": str(error)}, "")
            return
        self._path.insert(0, str(site))
        self.add({"check": "install", "status": PASSED, "figures": {"wheels": wheels}}, "")

    def machine(self) -> None:
        """Find out what this machine is; the rest is stamped with it."""
        self.group(MACHINE)

    def group(self, group: Group) -> None:
        """Run a group in a process of its own, or say for each of its checks why not."""
        if not group.applies(gpu=self.gpu):
            return
        done: set[str] = set()
        refusal = self._refusal(group)
        if refusal is None:
            self._say(f"{group.bundle} {group.name}".strip())
            ended, seconds = self._run(group, done)
            missing = [check for check in group.checks if check not in done]
            status = PASSED if group.answers else FAILED
            for check in missing:
                figures = {"runs": False, "answer": ended} if group.answers else {}
                self.add({"check": check, "status": status, "reason": ended, "figures": figures}, group.bundle, seconds)
            return
        for check in group.checks:
            status = FAILED if self.settings.require_gpu and group.required(check) else NOT_RUN
            self.add({"check": check, "status": status, "reason": refusal}, group.bundle)

    def add(self, row: Row, bundle: str, seconds: float | None = None) -> None:
        """Stamp a row, keep it and write it."""
        stamped = {
            "check": row["check"],
            "bundle": bundle,
            "status": row["status"],
            "reason": row.get("reason", ""),
            "figures": row.get("figures", {}),
            "seconds": round(row.get("seconds", seconds) or 0.0, 3),
            "device": self.device,
            **self._facts,
            "command": self.settings.command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.rows.append(stamped)
        with self.settings.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(stamped) + "\n")
        self._say(f"  {stamped['status']}: {stamped['check']} {str(stamped['reason'])[:300]}".rstrip())

    def _refusal(self, group: Group) -> str | None:
        """Why a group is not even started."""
        if group is not MACHINE and group.needs_gpu and not self.gpu:
            return "there is no CUDA device here"
        left = self._left()
        if left is not None and left < LEAST_SECONDS:
            return f"the budget of {self.settings.budget_seconds:g} s is spent"
        return None

    def _left(self) -> float | None:
        budget = self.settings.budget_seconds
        return None if budget is None else budget - (time.monotonic() - self._begin)

    def _run(self, group: Group, done: set[str]) -> tuple[str, float]:
        """Start the group's process and read its rows as they come; returns how it ended."""
        start, left = time.monotonic(), self._left()
        limit = group.seconds if left is None else min(group.seconds, left)
        settings = self.settings
        job = {
            "bundle": group.bundle,
            "given": None if settings.bundle is None else str(settings.bundle),
            "checkpoint": None if settings.checkpoint is None else str(settings.checkpoint),
            "work": str(settings.work),
            "device": settings.device if self.gpu or group is MACHINE else "cpu",
            "iterations": settings.iterations,
            "latency_out": str(settings.out.with_name("latency-gpu.jsonl")),
            "checks": group.checks,
            "seconds": limit,
        }
        command = [settings.python, "-m", "benchmarks.gpu_checks", group.name, json.dumps(job)]
        try:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                text=True,
                cwd=settings.root,
                env=self._environment(),
                start_new_session=True,
            )
        except OSError as error:
            return f"{settings.python} could not be started: {error}", 0.0
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout, group, done), daemon=True)
        reader.start()
        try:
            code = process.wait(timeout=limit)
            ended = f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; see stderr"
        except subprocess.TimeoutExpired:
            ended = f"its process was stopped after {limit:.0f} s"
        self._end(process)
        reader.join(timeout=10)
        return ended, time.monotonic() - start

    def _read(self, lines: IO[str], group: Group, done: set[str]) -> None:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                self._say(line.rstrip())
                continue
            if facts := row.pop("facts", None):
                self.device = facts.pop("device")
                self._libraries = facts.pop("library_folders")
                self._facts = facts
            if row["status"] == NOT_RUN and self.settings.require_gpu and group.required(row["check"]):
                row["status"] = FAILED
            done.add(row["check"])
            self.add(row, group.bundle)

    def _end(self, process: subprocess.Popen[str]) -> None:
        """End what is left of a process and of its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _environment(self) -> dict[str, str]:
        def joined(name: str, first: list[str]) -> str:
            return os.pathsep.join([*first, *filter(None, [os.environ.get(name)])])

        environment = os.environ | {"PYTHONPATH": joined("PYTHONPATH", self._path)}
        if self._libraries:
            environment["LD_LIBRARY_PATH"] = joined("LD_LIBRARY_PATH", self._libraries)
        return environment

    def _say(self, text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - self._begin:6.1f} s] {text}\n")
        sys.stderr.flush()
