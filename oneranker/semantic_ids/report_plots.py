"""Plots of a report on semantic IDs, as PNG files; drawn from the report alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

CODE_USAGE, ERROR_BY_DEPTH = "code_usage.png", "reconstruction_error.png"
LEVEL_MEANING, PREFIX_SIZES = "explained_and_coherence.png", "prefix_sizes.png"
PLOTS = {  # file -> title
    CODE_USAGE: "Items of each code, the most used first",
    ERROR_BY_DEPTH: "Reconstruction error by depth",
    LEVEL_MEANING: "What a code alone says, by level",
    PREFIX_SIZES: "Items under one prefix, by depth",
}
_DPI = 100
_SIDE_BY_SIDE = 4  # panels in a row
_MOST_BINS = 30


def write_plots(report: dict[str, Any], folder: Path) -> None:
    """Draw code usage, reconstruction error, explained variance with coherence, and prefix sizes."""
    figures = {
        CODE_USAGE: _code_usage(report["code_counts"]),
        ERROR_BY_DEPTH: _error_by_depth(report["levels"], report["embedding_error"]),
        LEVEL_MEANING: _level_meaning(report["levels"]),
        PREFIX_SIZES: _prefix_sizes(report["prefix_sizes"]),
    }
    for file, figure in figures.items():
        figure.suptitle(PLOTS[file])
        figure.savefig(folder / file, dpi=_DPI, metadata={"Software": None})


def _code_usage(counts: Sequence[Sequence[int]]) -> Figure:
    figure, panels = _panels(len(counts))
    for level, (panel, count) in enumerate(zip(panels, counts, strict=True), start=1):
        panel.stairs(count, range(len(count) + 1), fill=True, label="codes")
        panel.axhline(sum(count) / len(count), color="black", linestyle="--", linewidth=1, label="even use")
        panel.set(title=f"level {level}", xlabel="code, by rank", ylabel="items", xlim=(0, len(count)), ylim=(0, None))
        _whole_numbers(panel)
    panels[-1].legend()
    return figure


def _error_by_depth(levels: Sequence[dict[str, Any]], embedding_error: float | None) -> Figure:
    figure, (panel,) = _panels(1)
    depth, errors = range(1, len(levels) + 1), [level["reconstruction_error"] for level in levels]
    panel.axhline(1, color="black", linestyle="--", linewidth=1, label="every item at the mean of all")
    panel.plot(depth, errors, marker="o", label="sum of the codes so far")
    for at, error in zip(depth, errors, strict=True):
        panel.annotate(f"{error:.3f}", (at, error), xytext=(6, 6), textcoords="offset points")
    if embedding_error is not None:
        label = f"decoded, in the space of the embeddings: {embedding_error:.3f}"
        panel.plot(len(levels), embedding_error, marker="s", linestyle="none", label=label)
    panel.set(xlabel="depth, codes", ylabel="squared error / variance", xticks=depth)
    panel.set(xlim=(0.5, len(levels) + 0.5), ylim=(0, 1.4 * max(1, *errors)))  # room for the legend
    panel.legend(loc="upper right")
    return figure


def _level_meaning(levels: Sequence[dict[str, Any]]) -> Figure:
    figure, (panel,) = _panels(1)
    for shift, key, label in (
        (-0.2, "explained_variance", "explained variance, share of what parents leave"),
        (0.2, "code_coherence", "coherence, mean cosine under one code across parents"),
    ):
        place = [level + 1 + shift for level in range(len(levels))]
        bars = panel.bar(place, [level[key] for level in levels], width=0.4, label=label)
        panel.bar_label(bars, fmt="%.3f", padding=2)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.margins(y=0.25)  # room for the legend
    panel.set(xlabel="level", ylabel="share, cosine", xticks=range(1, len(levels) + 1))
    panel.legend(loc="upper right")
    return figure


def _prefix_sizes(sizes: Sequence[Sequence[Sequence[int]]]) -> Figure:
    depths = range(1, max(2, len(sizes) - 1))  # whole paths are unique, which is no picture
    figure, panels = _panels(len(depths))
    for panel, depth in zip(panels, depths, strict=True):
        items, prefixes = zip(*sizes[depth], strict=True)
        step = math.ceil((max(items) - min(items) + 1) / _MOST_BINS)
        edges = [edge - 0.5 for edge in range(min(items), max(items) + step + 1, step)]
        panel.hist(items, bins=edges, weights=prefixes)
        panel.set(title=f"depth {depth}", xlabel="items under one prefix", ylabel="prefixes")
        _whole_numbers(panel)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, _SIDE_BY_SIDE)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(6.4, 3.4 * columns), max(4.0, 3.2 * rows)), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no global state
    return figure, [figure.add_subplot(rows, columns, at + 1) for at in range(count)]


def _whole_numbers(panel: Axes) -> None:
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=2))
