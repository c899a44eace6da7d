"""Spans: collected when asked for, nothing otherwise."""

from __future__ import annotations

from runtime.timing import Timing


def test_spans_are_off_unless_asked_for() -> None:
    timing = Timing()
    with timing.span("generator"):
        pass
    assert timing.spans_ms == {}


def test_every_span_of_a_name_is_kept() -> None:
    timing = Timing(enabled=True)
    for _ in range(3):
        with timing.span("generator"):
            pass
    assert len(timing.spans_ms["generator"]) == 3
    assert min(timing.spans_ms["generator"]) >= 0
