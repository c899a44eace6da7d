"""Writes the README's table of measurements from a row set, so that no number in it is typed.

    python -m benchmarks.readme benchmarks/results/bench-cpu.jsonl
    python -m benchmarks.readme benchmarks/results/bench-cpu.jsonl --write

The first prints the block; the second replaces what stands between `<!-- bench -->` and `<!-- /bench -->`. A row of a
table is one line of the row set. Exit codes: 0 ok, 1 our error, 2 usage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.row import CHAIN, Row
from benchmarks.row_set import BEST, GENERATOR, Ratio, RowSet, sizes_of, write_whole
from benchmarks.row_text import (
    OF_RETRIEVAL,
    WHAT,
    milliseconds,
    p50_and_p90,
    retrieval_cells,
    share,
    times,
    whole,
)
from runtime.errors import OneRankerError

logger = logging.getLogger("benchmarks.readme")
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"
RESULTS = Path("benchmarks") / "results"
OF_LATENCY = (
    *("stage", "engine", "p50 (p90) ms", "samples", "spread", "against eager", "roofline", "of bf16 GEMM", "MiB"),
)
OF_RATIOS = ("A against B", "case", "A", "A p50 ms", "B", "B p50 ms", "ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadmeSettings:
    """One block."""

    row_set: Path
    write: bool = False
    page: Path = ROOT / "README.md"


DEFAULT = ReadmeSettings(row_set=RESULTS / "bench-cpu.jsonl")


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    settings = ReadmeSettings(**vars(_parser().parse_args(argv)))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        text = block(settings.row_set)
        if settings.write:
            write_whole(settings.page, replaced(settings.page, text))
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    sys.stdout.write(text)
    return 0


def block(path: Path) -> str:
    """What stands between the markers for the row set in `benchmarks/results`.

    Raises:
        OneRankerError: The file is no row set, or is not where the README's numbers come from.
    """
    if path.resolve().parent != ROOT / RESULTS:
        raise OneRankerError(
            f"{path}: got a row set in another folder, expected one in {RESULTS}: the README shows what is committed. "
            "Copy it there."
        )
    return text_of(RowSet.read(path), RESULTS / path.name)


def text_of(found: RowSet, name: Path) -> str:
    """The block of a row set that lies at `name`; ends with a newline."""
    lines = [*_heading(found, name), ""]
    chains = {row.case for row in found.rows if row.stage == CHAIN}
    ratios = [ratio for ratio in found.ratios if ratio.name == BEST]
    ratios += [ratio for ratio in found.ratios if ratio.name != BEST and ratio.case in chains]
    if ratios:
        lines += [*_table(OF_RATIOS, map(_ratio, ratios)), ""]
    cases = list(dict.fromkeys(map(sizes_of, found.rows)))
    for sizes in cases:  # the generator of the last, which is the largest; the chain of all
        stages = (GENERATOR, CHAIN) if sizes == cases[-1] else (CHAIN,)
        shown = [row for row in found.rows if sizes_of(row) == sizes and row.stage in stages]
        lines += [f"`{sizes}`:", "", *_table(OF_LATENCY, map(_latency, shown)), ""]
    if found.retrieval:
        lines += [*_table(OF_RETRIEVAL, map(retrieval_cells, found.retrieval)), ""]
    return "\n".join(lines[:-1]) + "\n"


def _heading(found: RowSet, name: Path) -> list[str]:
    """Where, when and how often it was measured, and what repeats it."""
    run, rounds = found.run, [row.rounds for row in found.rows if row.samples] or [1]
    commit, changed, _ = str(run["commit"]).partition("+changes")
    return [
        f"`{run['machine']}`, {run['threads']} threads, `{run['date'][:10]}`, commit `{commit[:12]}{changed}`; "
        f"{min(rounds)} to {max(rounds)} rounds in which the engines take turns.",
        "p50 and spread are of an engine's quickest rounds, p90 of all; roofline: the shortest time that the machine",
        "allows, as a share of p50; of bf16 GEMM: the rate of needed operations, as a share of a bf16 product's.",
        f"Repeat with `{run['command']}` and",
        f"`python -m benchmarks.readme {name} --write`; lines in {name}.",
    ]


def replaced(page: Path, text: str) -> str:
    """The page with another block between its markers.

    Raises:
        OneRankerError: It cannot be read, or does not have both markers once.
    """
    try:
        before = page.read_text(encoding="utf-8")
    except OSError as error:
        raise OneRankerError(f"{page}: got {error}, expected a page with {BEGIN.strip()}. Name it.") from error
    if (before.count(BEGIN), before.count(END)) != (1, 1) or before.index(BEGIN) > before.index(END):
        raise OneRankerError(
            f"{page}: got {before.count(BEGIN)} lines {BEGIN.strip()} and {before.count(END)} {END}, expected one of "
            "each, in this order. Write both where the tables belong."
        )
    return before[: before.index(BEGIN) + len(BEGIN)] + text + before[before.index(END) :]


def _latency(row: Row) -> tuple[str, ...]:
    return (
        row.stage, row.engine, p50_and_p90(row.p50_ms, row.p90_ms, row.note), whole(row.samples), share(row.spread),
        times(row.p50_vs_eager), share(row.roofline), share(row.bf16_gemm_share), whole(row.peak_memory_mib),
    )  # fmt: skip


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    return (
        WHAT[ratio.name], f"`{ratio.case}`", ratio.engine, milliseconds(ratio.p50_ms),
        ratio.against, milliseconds(ratio.against_p50_ms), times(ratio.value),
    )  # fmt: skip


def _table(headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [_line(headings), "|" + "---|" * len(headings), *map(_line, cells)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.readme", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("row_set", type=Path, nargs="?", default=DEFAULT.row_set, metavar="ROWSET", help="(default: %(default)s)")
    add("--write", action="store_true", help="put the block into the page instead of only printing it")
    add(
        "--page", type=Path, default=DEFAULT.page, metavar="FILE", help="the page with the markers (default: README.md)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
