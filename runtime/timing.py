"""Per-stage wall-clock spans, off unless asked for."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import NamedTuple

_NOTHING = nullcontext()


class Span(NamedTuple):
    """One body that was timed, on the clock of time.perf_counter."""

    name: str
    begin_s: float
    end_s: float


class Timing:
    """Collects spans while `enabled`: their milliseconds by name, and all of them in the order in which they ended.

    Costs one attribute read while it is not enabled.
    """

    def __init__(self, *, enabled: bool = False) -> None:
        self.enabled = enabled
        self.spans_ms: dict[str, list[float]] = {}
        self.log: list[Span] = []

    def span(self, name: str) -> AbstractContextManager[None]:
        """Time the body of a `with` under `name`."""
        return _Timed(self, name) if self.enabled else _NOTHING

    def clear(self) -> None:
        self.spans_ms.clear()
        self.log.clear()


class _Timed(AbstractContextManager[None]):
    def __init__(self, timing: Timing, name: str) -> None:
        self._timing = timing
        self._name = name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.perf_counter()
        self._timing.spans_ms.setdefault(self._name, []).append((end - self._begin) * 1e3)
        self._timing.log.append(Span(self._name, self._begin, end))
