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


def test_the_log_has_the_spans_in_the_order_in_which_they_ended_and_inner_ones_lie_within() -> None:
    timing = Timing(enabled=True)
    with timing.span("recommend"):
        for name in ("tokens", "generator"):
            with timing.span(name):
                pass
    tokens, generator, recommend = timing.log
    assert [span.name for span in timing.log] == ["tokens", "generator", "recommend"]
    assert recommend.begin_s <= tokens.begin_s <= tokens.end_s <= generator.begin_s <= generator.end_s
    assert generator.end_s <= recommend.end_s
    assert timing.spans_ms["recommend"] == [(recommend.end_s - recommend.begin_s) * 1e3]
    timing.clear()
    assert (timing.spans_ms, timing.log) == ({}, [])
