"""The tables of the benchmark's page as HTML; every text of a row set is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.row import OPEN, RUNTIME, Row
from benchmarks.row_set import Ratio, RowSet, sizes_of
from benchmarks.row_text import (
    NOTHING,
    OF_RETRIEVAL,
    WHAT,
    error,
    milliseconds,
    retrieval_cells,
    share,
    times,
    whole,
)

TIMES = ("p50", "p90", "p95", "p99", "max")
OF_CASE = (
    *("stage", "engine", *(f"{name} ms" for name in TIMES), "requests/s", "spread", "against eager", "MiB"),
    *("roofline", "of bf16 GEMM", "max error", "samples", "rounds", "stolen", "note"),
)
OF_OPEN = ("engine", "arrived/s", "answered/s", *(f"{name} ms" for name in TIMES), "spread", "samples", "note")
OF_RATIOS = ("question", "case", "A", "A p50 ms", "B", "B p50 ms", "ratio", "spread")


def run_block(run: Mapping[str, Any]) -> str:
    """Where and with what it ran, and what this machine can do at most."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    facts = {
        "machine": run["machine"],
        "threads": run["threads"],
        "load before it": run["load_average"],
        "system": run["system"],
        "versions": versions,
        "date": run["date"],
        "commit": run["commit"],
        "command": run["command"],
        "took": f"{run['seconds']:,.0f} s",
    }
    for name, value in (run["ceilings"] or {}).items():
        facts[f"ceiling {name}"] = f"{value:,.1f}"
    lines = (
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(str(NOTHING if value is None else value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table class='facts'><caption>The run</caption><tbody>{''.join(lines)}</tbody></table>"


def case_table(sizes: str, rows: Iterable[Row]) -> str:
    """All stages and engines of one case but the open loop."""
    shown = [row for row in rows if row.stage != OPEN]
    return table(sizes, OF_CASE, [_case_cells(row) for row in shown], text=2, ours=[r.engine in RUNTIME for r in shown])


def open_table(found: RowSet) -> str:
    """Requests that arrive by chance, whatever the engine does."""
    shown = [row for row in found.rows if row.stage == OPEN]
    cells = [
        (f"{row.engine}, {sizes_of(row)}", milliseconds(row.offered_per_s), milliseconds(row.requests_per_s),
         *_times(row), share(row.spread), whole(row.samples), row.note)
        for row in shown
    ]  # fmt: skip
    return table("Open loop", OF_OPEN, cells, text=1, ours=[row.engine in RUNTIME for row in shown])


def ratio_table(ratios: Sequence[Ratio]) -> str:
    """Pairs of rows that do the same work in two ways."""
    cells = [
        (WHAT.get(ratio.name, ratio.name), ratio.case, ratio.engine, milliseconds(ratio.p50_ms),
         ratio.against if ratio.against != ratio.engine else ratio.against_case, milliseconds(ratio.against_p50_ms),
         times(ratio.value), share(ratio.spread))
        for ratio in ratios
    ]  # fmt: skip
    return table("A against B", OF_RATIOS, cells, text=3)


def retrieval_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Retrieval at scale, a line for each number of items and retriever; what it holds is in the row set."""
    return table("Retrieval at scale", OF_RETRIEVAL, [retrieval_cells(row) for row in rows], text=0)


def table(
    caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, text: int, ours: Sequence[bool] = ()
) -> str:
    """A table whose first `text` columns are words; rows of the product are marked."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in headings)
    body = []
    for number, row in enumerate(rows):
        cells = [
            f"<td class='{'word' if column < text or _is_word(cell) else 'number'}'>{escape(cell)}</td>"
            for column, cell in enumerate(row)
        ]
        mark = " class='ours'" if ours and ours[number] else ""
        body.append(f"<tr{mark}>{''.join(cells)}</tr>")
    return (
        f"<div class='wide'><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _case_cells(row: Row) -> tuple[str, ...]:
    return (
        row.stage, row.engine, *_times(row), milliseconds(row.requests_per_s), share(row.spread),
        times(row.p50_vs_eager), whole(row.peak_memory_mib), share(row.roofline), share(row.bf16_gemm_share),
        error(row.max_error), whole(row.samples), whole(row.rounds), share(row.stolen), row.note,
    )  # fmt: skip


def _times(row: Row) -> list[str]:
    return [milliseconds(getattr(row, f"{name}_ms")) for name in TIMES]


def _is_word(cell: str) -> bool:
    return bool(cell) and not cell[0].isdigit() and cell[0] not in "-–"
