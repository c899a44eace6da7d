"""Writes a row set as one HTML page with its tables and plots, readable without a network.

    python -m benchmarks.page benchmarks/results/bench-cpu.jsonl --out build/bench/page

FOLDER/index.html holds everything, its plots too; beside it lies every plot as PNG and as SVG. Bars of the runtime are
plain, those of eager PyTorch dark, all others hatched; lines differ by marker and dash. stdout: one JSON object,
{"page", "plots"}. Exit codes: 0 ok, 1 our error, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.page_tables import case_table, open_table, ratio_table, retrieval_table, run_block
from benchmarks.plots import plots_of, write_plot
from benchmarks.row import OPEN
from benchmarks.row_set import RowSet, sizes_of, write_whole
from runtime.errors import OneRankerError

logger = logging.getLogger("benchmarks.page")
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1a1a1a; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #bbb; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
thead th { text-align: left; border-bottom: 2px solid #555; white-space: nowrap; }
td.number { text-align: right; white-space: nowrap; } td.word { text-align: left; }
tr.ours { background: #eef5fb; } tr.ours td:nth-child(2) { font-weight: 600; }
.facts th { text-align: left; font-weight: 600; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { font-size: 13px; color: #444; }
"""
LEGEND = """
<p>Times are of a whole batch. <b>spread</b>: largest less smallest p50 of a round over p50; a difference within it is
noise. <b>against eager</b>: eager PyTorch's p50 over this p50, above 1 is faster. <b>MiB</b>: most memory of the
engine's whole process. <b>roofline</b>: the shortest time that the measured ceilings allow for the work that must be
done, as a share of p50. <b>of bf16 GEMM</b>: operations that must be done per second of p50, as a share of a bf16
matrix product's rate. <b>max error</b>: against eager PyTorch in fp32. Rows of the runtime are shaded and in bold.</p>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSettings:
    """One page."""

    row_set: Path
    out: Path = Path("build") / "bench" / "page"


DEFAULT = PageSettings(row_set=Path("benchmarks") / "results" / "bench-cpu.jsonl")


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    settings = PageSettings(**vars(_parser().parse_args(argv)))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        plots = write_page(RowSet.read(settings.row_set), settings.out)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    sys.stdout.write(json.dumps({"page": str(settings.out / "index.html"), "plots": plots}) + "\n")
    return 0


def write_page(found: RowSet, folder: Path) -> list[str]:
    """Write the plots, then the page with the plots in it.

    Returns:
        The plots' file names.

    Raises:
        OneRankerError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = {plot: write_plot(plot, folder) for plot in plots_of(found)}
    except OSError as error:
        raise OneRankerError(f"{folder}: got {error}, expected a folder for a page. Name another --out.") from error
    figures = [
        f"<figure role='img' aria-label='{escape(plot.title, quote=True)}'>{svg}<figcaption>{escape(plot.title)}: "
        f"<a href='{plot.name}.png'>PNG</a>, <a href='{plot.name}.svg'>SVG</a></figcaption></figure>"
        for plot, svg in drawn.items()
    ]
    write_whole(folder / "index.html", page_of(found, figures))
    return [f"{plot.name}.{ending}" for plot in drawn for ending in ("png", "svg")]


def page_of(found: RowSet, figures: Sequence[str]) -> str:
    """The page's text: figures come as elements, everything else from the row set."""
    parts = [f"<h1>OneRanker, measured</h1>{run_block(found.run)}<h2>Latency</h2>{LEGEND}"]
    parts += [
        case_table(sizes, [row for row in found.rows if sizes_of(row) == sizes])
        for sizes in dict.fromkeys(map(sizes_of, found.rows))
    ]
    if any(row.stage == OPEN for row in found.rows):
        parts.append(
            "<h2>Requests that arrive by chance</h2><p>Poisson arrivals at a share of what the closed loop answers; "
            f"waiting counts.</p>{open_table(found)}"
        )
    if found.ratios:
        parts.append(
            "<h2>A against B</h2><p>Two ways of the same work in this run; the last column is the larger spread of "
            f"both: a ratio that close to 1 says nothing.</p>{ratio_table(found.ratios)}"
        )
    if found.retrieval:
        parts.append(f"<h2>Retrieval at scale</h2>{retrieval_table(found.retrieval)}")
    parts.append(f"<h2>Plots</h2>{''.join(figures)}")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>OneRanker, measured: {escape(str(found.run['date'])[:10])}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("row_set", type=Path, nargs="?", default=DEFAULT.row_set, metavar="ROWSET", help="(default: %(default)s)")
    add(
        "--out", type=Path, default=DEFAULT.out, metavar="FOLDER", help="made if it is not there (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
