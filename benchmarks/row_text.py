"""How the numbers of a row set are written for people, alike on the page and in the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.row_set import BEST, BOUND, FUSED, GROWTH, HANDED_ON

NOTHING = "–"
WHAT = {  # a ratio's name -> the question that it answers
    BEST: "best of ours, against the best peer",
    HANDED_ON: "keys and values handed on, against computed again",
    FUSED: "with the kernels, against without",
    BOUND: "one chain, against one session.run after another",
    GROWTH: "time over more items, against fewer",
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


def p50_and_p90(p50_ms: float | None, p90_ms: float | None, note: str) -> str:
    """`p50 (p90)`, or why there is neither; p99 of some dozens of samples would be their largest."""
    if p50_ms is None:
        return note or "not run"
    return f"{milliseconds(p50_ms)} ({milliseconds(p90_ms)})"


OF_RETRIEVAL = (
    *("items N", "retriever", "p50 (p90) ms", "p50 against", "bytes/item", "recall@C", "recall@10", "build s"),
    *("open s", "swap s"),
)


def retrieval_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of retrieval at scale, in the order of OF_RETRIEVAL."""

    def number(name: str, form: str) -> str:
        return NOTHING if row.get(name) is None else form.format(row[name])

    against = NOTHING
    if row.get("p50_vs_reference") is not None:
        against = f"{times(row['p50_vs_reference'])} that of {whole(row['reference_items'])}"
    return (
        whole(row["items"]), row["retriever"], p50_and_p90(row["p50_ms"], row["p90_ms"], row["note"]), against,
        number("bytes_per_item", "{:.1f}"), number("recall_at_c", "{:.3f}"), number("recall_at_10", "{:.3f}"),
        number("index_build_s", "{:.2f}"), number("index_open_s", "{:.2f}"), number("swap_s", "{:.2f}"),
    )  # fmt: skip
