"""The result as a table for people, made from the very JSON that machines read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.row import RECOMMEND, TOKENS

HEADINGS = ("", "engine", "p50 ms", "p95 ms", "p99 ms", "req/s", "p50 vs eager", "MiB", "max error")
BUSY = 0.5  # runnable processes per core from which other programs are in the way


def table(report: Mapping[str, Any]) -> str:
    """One block a case, one line for each stage and backend; ends with a newline."""
    lines = [*_heading(report["environment"]), ""]
    rows = report["rows"]
    for case in dict.fromkeys(_sizes(row) for row in rows):
        cells = [_cells(row) for row in rows if _sizes(row) == case]
        widths = [max(len(line[i]) for line in (HEADINGS, *cells)) for i in range(len(HEADINGS))]
        lines += [case, _line(HEADINGS, widths)]
        lines += [_line(line, widths) for line in cells]
        lines.append("")
    lines += _footnotes(rows, report["environment"])
    return "\n".join(lines) + "\n"


def _heading(environment: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    gpu = [] if environment["device"] == "cpu" else [environment["device"]]
    return [
        *gpu,
        f"{environment['bundle']}: {environment['weights']}; {environment['items']} items, {environment['precision']}",
        f"{environment['processor']}, {environment['cores']} cores, {environment['threads']} threads; {versions}",
    ]


def _footnotes(rows: list[Mapping[str, Any]], environment: Mapping[str, Any]) -> list[str]:
    adds = "its stages add up to it, not their percentiles"
    if environment["device"] != "cpu":
        adds = "timed in one piece, its stages in another pass that waits after each"
    lines = [f"chain = tokens to scores, the same work for every engine; {adds}."]
    if any(row["stage"] in (TOKENS, RECOMMEND) for row in rows):
        lines.append("tokens = raw events to tokens; recommend = raw events to named items, the whole runtime.")
    lines.append("MiB = most host memory of the engine's whole process; max error = against eager PyTorch in fp32.")
    seconds = {
        (row["engine"], row["case"]): row["compile_s"]
        for row in rows
        if row["stage"] == "chain" and row["compile_s"] is not None
    }
    lines += [
        f"{name} took {value:.1f} s before {case}, in no number above." for (name, case), value in seconds.items()
    ]
    lines += dict.fromkeys(f"{row['engine']} {row['note']}" for row in rows if row["note"])
    load = environment["load_average"]
    if load is not None and load > BUSY * environment["cores"]:
        lines.append(
            f"NOISY: {load:g} processes were already running on {environment['cores']} cores when this began; "
            "stop them and run it again before you quote a number."
        )
    return lines


def _sizes(row: Mapping[str, Any]) -> str:
    """The case without its stage."""
    return str(row["case"]).removeprefix(f"{row['stage']}-")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    ratio = row["p50_vs_eager"]
    times = [_number(row[key], "{:.2f}") for key in ("p50_ms", "p95_ms", "p99_ms")]
    if row["p50_ms"] is None:
        times[0] = "not run"
    return (
        row["stage"], row["engine"], *times, _number(row["requests_per_s"], "{:,.0f}"),
        _number(ratio, "{:.2f}x"), _number(row["peak_memory_mib"], "{:.0f}"), _number(row["max_error"], "{:.1e}"),
    )  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    left = [f"{cell:<{width}}" for cell, width in zip(cells[:2], widths[:2], strict=True)]
    right = [f"{cell:>{width}}" for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  " + "  ".join(left + right)
