"""What an engine's builder says while it works: its log kept line by line, its phases with seconds, its errors."""

from __future__ import annotations

import logging
import threading
import time
from types import ModuleType
from typing import Any, Protocol

logger = logging.getLogger(__name__)

WORTH_A_LINE = 2.0  # seconds
_ERRORS = ("[ERROR] ", "[INTERNAL_ERROR] ")


class BuilderLog(Protocol):
    """The builder's log, as an object that the builder itself writes to."""

    lines: list[str]  # "[SEVERITY] message"; a message may have several lines


def builder_log(trt: ModuleType) -> Any:
    """A logger of the library's own kind that keeps every message; see BuilderLog."""

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(f"[{severity.name}] {message}")

    return Log()


def errors_in(lines: list[str], most: int = 3) -> str:
    """The last errors of a log, one after another."""
    found = [line.partition("] ")[2].strip() for line in lines if line.startswith(_ERRORS)]
    return "; ".join(found[-most:]) or "no error on its log"


class Phases:
    """Seconds of the builder's phases; a phase that took long gets one line. The builder calls from its own threads."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()

    def start(self, name: str) -> None:
        with self._lock:
            self._started[name] = time.perf_counter()

    def finish(self, name: str) -> None:
        with self._lock:
            started = self._started.pop(name, None)
        if started is not None and (seconds := time.perf_counter() - started) > WORTH_A_LINE:
            logger.info("%s engine: %s: %.1f s", self.stage, name.lower(), seconds)


def progress_monitor(trt: ModuleType, phases: Phases) -> Any:
    """A monitor of the library's own kind that reports to `phases`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
