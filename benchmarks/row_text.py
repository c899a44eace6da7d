"""How the numbers of a row set are written for people, alike on the page and in the README."""

from __future__ import annotations

from benchmarks.row import Row
from benchmarks.row_set import BOUND, FUSED, GROWTH, GROWTH_FACTOR, HANDED_ON

NOTHING = "–"
WHAT = {  # a ratio's name -> the question that it answers
    HANDED_ON: "keys and values handed on, against computed again",
    FUSED: "with the kernels, against without",
    BOUND: "one chain, against one session.run after another",
    GROWTH: f"time in {GROWTH_FACTOR} times as many items",
}


def milliseconds(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(value: float | None) -> str:
    """A ratio: 2.50x."""
    return NOTHING if value is None else f"{value:.2f}x"


def share(value: float | None) -> str:
    """A part of one in percent."""
    return NOTHING if value is None else f"{value * 100:.1f} %" if value < 0.0995 else f"{value * 100:.0f} %"


def whole(value: float | None) -> str:
    """A count or a size, without decimals."""
    return NOTHING if value is None else f"{value:,.0f}"


def error(value: float | None) -> str:
    """A small number in powers of ten."""
    return NOTHING if value is None else f"{value:.1e}"


def p50_and_p99(row: Row) -> str:
    """`p50 (p99)`, or why there is neither."""
    if row.p50_ms is None:
        return row.note or "not run"
    return f"{milliseconds(row.p50_ms)} ({milliseconds(row.p99_ms)})"
