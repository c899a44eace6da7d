"""Per-stage wall-clock spans, off unless asked for."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

_NOTHING = nullcontext()


class Timing:
    """Collects spans in milliseconds by name while `enabled`; costs one attribute read while not."""

    def __init__(self, *, enabled: bool = False) -> None:
        self.enabled = enabled
        self.spans_ms: dict[str, list[float]] = {}

    def span(self, name: str) -> AbstractContextManager[None]:
        """Time the body of a `with` under `name`."""
        return _Span(self.spans_ms.setdefault(name, [])) if self.enabled else _NOTHING

    def clear(self) -> None:
        self.spans_ms.clear()


class _Span(AbstractContextManager[None]):
    def __init__(self, spans_ms: list[float]) -> None:
        self._spans_ms = spans_ms

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spans_ms.append((time.perf_counter() - self._begin) * 1e3)
