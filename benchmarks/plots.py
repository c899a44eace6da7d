"""The plots of a row set: times of each stage with their tails, memory, and retrieval over the number of items."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.row import CHAIN, EAGER, OPEN, RUNTIME, Row
from benchmarks.row_set import RowSet, sizes_of
from benchmarks.row_text import milliseconds, whole
from runtime.manifest import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# hatched and light: what the product is compared with; eager PyTorch is dark, the product is plain
FACES = {"ours": ("#1f6fb2", ""), "yardstick": ("#444444", ""), "other": ("#d9d9d9", "///")}
MARKERS = "os^Dv*"  # one a line, so that lines are told apart without colour
DASHES = ("-", "--", ":", "-.")
LOG_ABOVE = 20  # times the smallest value: a common axis from nought would show the largest alone
OF_RETRIEVAL = {  # field -> title of its panel
    "p50_ms": "p50, ms",
    "recall_at_c": "recall at C against exhaustive search",
    "bytes_per_item": "bytes per item beyond the item table",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure: its file name without an ending, and what it shows in words."""

    name: str
    title: str
    figure: Figure


def plots_of(found: RowSet) -> list[Plot]:
    """Everything of a row set that can be drawn, in the order of the page."""
    drawn = []
    for sizes in dict.fromkeys(map(sizes_of, found.rows)):
        rows = [row for row in found.rows if sizes_of(row) == sizes and row.p50_ms is not None and row.stage != OPEN]
        if rows:
            title = f"{sizes}: p50 of every stage in ms, on the right of its bar; the whisker ends at p99"
            drawn.append(Plot(name=f"time-{_file_name(sizes)}", title=title, figure=_times(rows, title)))
        holding = [row for row in rows if row.stage == CHAIN and row.peak_memory_mib is not None]
        if holding:
            title = f"{sizes}: most memory of the whole process, MiB"
            drawn.append(Plot(name=f"memory-{_file_name(sizes)}", title=title, figure=_memory(holding, title)))
    measured = [row for row in found.retrieval if row.get("p50_ms") is not None]
    if measured:
        title = "Retrieval over the number of items"
        drawn.append(Plot(name="retrieval", title=title, figure=_retrieval(measured, title)))
    return drawn


def write_plot(plot: Plot, folder: Path) -> str:
    """Write the plot as PNG and SVG; the SVG is handed back as an element for a page."""
    from matplotlib import rc_context

    plot.figure.savefig(folder / f"{plot.name}.png", dpi=120)
    text = io.StringIO()
    # text stays text; names inside of the file follow from the plot's own name, not from chance
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name}):
        plot.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    (folder / f"{plot.name}.svg").write_text(svg, encoding="utf-8")
    element = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    return _own_ids(element, plot.name)


def _own_ids(element: str, name: str) -> str:
    """Several of these stand on one page: an id must be that of one of them."""
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", element)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure


def _times(rows: Sequence[Row], title: str) -> Figure:
    """A panel a stage, a bar an engine, the same engine on the same line of every panel.

    The open loop has none: its waiting depends on the load, and each engine has another one.
    """
    stages = [stage for stage in (*STAGES, CHAIN) if any(row.stage == stage for row in rows)]
    engines = list(dict.fromkeys(row.engine for row in rows))
    lines = -(-len(stages) // 3)
    figure = _figure(12, lines * (0.3 * len(engines) + 0.9) + 0.4, title)
    axes = figure.subplots(lines, 3, squeeze=False, sharey=True)
    for position, panel in enumerate(axes.flat):
        if position >= len(stages):
            panel.set_visible(False)
            continue
        shown = {row.engine: row for row in rows if row.stage == stages[position]}
        _bars(panel, engines, {name: row.p50_ms for name, row in shown.items()}, milliseconds)
        for line, name in enumerate(engines):
            row = shown.get(name)
            if row is not None and row.p50_ms is not None and row.p99_ms is not None:
                tail = [[0.0], [max(row.p99_ms - row.p50_ms, 0.0)]]
                panel.errorbar([row.p50_ms], [line], xerr=tail, fmt="none", ecolor="black", capsize=3, linewidth=1)
        panel.set_title(stages[position], fontsize=10)
        panel.set_xlabel("ms", fontsize=8)
    return figure


def _memory(rows: Sequence[Row], title: str) -> Figure:
    figure = _figure(12, 0.32 * len(rows) + 1.0, title)
    panel = figure.subplots()
    _bars(panel, [row.engine for row in rows], {row.engine: row.peak_memory_mib for row in rows}, whole)
    panel.set_xlabel("MiB", fontsize=8)
    return figure


def _bars(
    panel: Axes, engines: Sequence[str], values: Mapping[str, float | None], written: Callable[[float | None], str]
) -> None:
    """Lying bars with their numbers in a column on the right; an engine without a value has an empty line."""
    for line, name in enumerate(engines):
        value = values.get(name)
        if value is None:
            continue
        face, hatch = FACES["ours" if name in RUNTIME else "yardstick" if name == EAGER else "other"]
        panel.barh(line, value, color=face, hatch=hatch, edgecolor="black", linewidth=0.6, height=0.72)
        right = panel.get_yaxis_transform()  # across in shares of the panel, down in lines
        panel.text(1.015, line, written(value), transform=right, va="center", ha="left", fontsize=8)
    panel.set_yticks(range(len(engines)), engines, fontsize=8)
    panel.set_ylim(len(engines) - 0.5, -0.5)  # the first engine on top
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)


def _retrieval(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """A panel a measure, a line for every retriever and engine."""
    shown = [measure for measure in OF_RETRIEVAL if any(row.get(measure) is not None for row in rows)]
    figure = _figure(4.4 * len(shown), 3.8, title)
    lines = list(dict.fromkeys((row["retriever"], row["engine"]) for row in rows))
    for panel, measure in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown, strict=True):
        for number, line in enumerate(lines):
            points = sorted(
                (row["items"], row[measure])
                for row in rows
                if (row["retriever"], row["engine"]) == line and row.get(measure) is not None
            )
            panel.plot(
                [point[0] for point in points], [point[1] for point in points], color="black", linewidth=1,
                marker=MARKERS[number % len(MARKERS)], linestyle=DASHES[number % len(DASHES)],
                label=line[0] if len({engine for _, engine in lines}) == 1 else ", ".join(line),
            )  # fmt: skip
        panel.set_xscale("log")
        values = [row[measure] for row in rows if row.get(measure) is not None]
        if max(values) > LOG_ABOVE * min(values) > 0:
            panel.set_yscale("log")
        else:
            panel.set_ylim(0, 1.15 * max(values) or 1.0)
        panel.set_xlabel("items N", fontsize=8)
        panel.set_title(OF_RETRIEVAL[measure], fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    return figure
