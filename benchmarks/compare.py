"""Holds one row set against an earlier one: slower, faster, or noise inside the spread.

    python -m benchmarks.compare benchmarks/results/bench-cpu.jsonl build/bench/bench-cpu.jsonl
    python -m benchmarks.compare OLD NEW --ratios    (another machine: ratios to eager PyTorch, never times)

Rows are joined by case and engine. The change is new p50 / old p50. It is noise when it is at most the largest of
--tolerance, the old row's spread and the new row's spread, in either direction; a row of one round does not know its
spread, and 15 % take its place. Noise of more than 30 % is called noisy: nothing can be said of that row. Peak memory
is compared once for each process and flagged above 10 %. What OLD measured and NEW did not is lost, unless NEW has
nothing of its case: a run of some cases is compared in those. Ceilings that differ by more than 5 % are told first:
then it is the machine that changed.

Rows of the stage chain decide, and of what is lost, those of our own engines; all others are listed as the reason.

Times are compared on one machine with one number of threads; anything else is an error. --ratios compares
p50_vs_eager instead, and no memory: eager PyTorch of the same run is the yardstick, and its spreads count too. The open
loop has no ratios.

stdout: a table, then one JSON object on the last line: {"old", "new", "ratios", "changes", "only_old", "only_new",
"counts", "worse", "noisy"}, fields in benchmarks/comparison.py; "noisy" counts chains.
Exit codes: 0 nothing that decides is slower, lost or takes more memory, 1 something is (or our error), 2 usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.comparison import (
    LOST,
    NOISE,
    NOISY,
    NOISY_ABOVE,
    TOLERANCE,
    YARDSTICK,
    Change,
    Comparison,
    compare_row_sets,
    differences,
)
from benchmarks.row_set import RowSet
from runtime.errors import OneRankerError

logger = logging.getLogger("benchmarks.compare")
HEADINGS = ("case", "engine", "quantity", "old", "new", "change", "noise", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """One comparison.

    Raises:
        ValueError: A tolerance that is no share.
    """

    old: Path
    new: Path
    ratios: bool = False
    tolerance: float = TOLERANCE  # share of p50

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 10:
            raise ValueError(f"--tolerance: got {self.tolerance}, expected a share such as 0.05")


DEFAULT = CompareSettings(old=Path("old"), new=Path("new"))


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    parser = _parser()
    try:
        settings = CompareSettings(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        old, new = RowSet.read(settings.old), RowSet.read(settings.new)
        comparison = compare_row_sets(old, new, ratios=settings.ratios, tolerance=settings.tolerance)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    line = {"old": str(settings.old), "new": str(settings.new), "ratios": settings.ratios, **as_json(comparison)}
    sys.stdout.write(f"{table(comparison, differences(old.run, new.run))}\n{json.dumps(line)}\n")
    return 1 if comparison.worse else 0


def as_json(comparison: Comparison) -> dict[str, object]:
    """The comparison as the last line holds it; `counts` says how many changes have which verdict."""
    verdicts = Counter(change.verdict.partition(":")[0] for change in comparison.changes)
    worse = [(change.case, change.engine, change.quantity) for change in comparison.worse]
    return {**asdict(comparison), "counts": dict(verdicts), "worse": worse, "noisy": len(comparison.noisy)}


def table(comparison: Comparison, differ: Sequence[str] = ()) -> str:
    """Every row for people, then what moved, by name; ends with a newline."""
    cells = [HEADINGS, *(_cells(change) for change in comparison.changes)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    lines = [f"differs: {fact}" for fact in differ]
    for line in cells:
        left = [f"{cell:<{width}}" for cell, width in zip(line[:3], widths[:3], strict=True)]
        right = [f"{cell:>{width}}" for cell, width in zip(line[3:7], widths[3:7], strict=True)]
        lines.append("  ".join([*left, *right, line[7]]).rstrip())
    only = {"only in the old row set, its case was not run again": comparison.only_old}
    only |= {"only in the new row set": comparison.only_new}
    lines += [f"{where}: {case} on {engine}" for where, keys in only.items() for case, engine in keys]
    lost = [change for change in comparison.changes if change.verdict == LOST]
    moved = [change for change in comparison.changes if change.factor is not None and change.verdict not in _WITHIN]
    lines += ["", f"{len(moved)} of {len(comparison.changes)} moved by more than the noise, {len(lost)} are lost."]
    lines += [_words(change) for change in (*moved, *lost)]
    if comparison.noisy:
        lines.append(
            f"{len(comparison.noisy)} rows of the chain are noisy, by more than {NOISY_ABOVE:.0%}: nothing can be said "
            "of them. Leave the machine alone and measure again."
        )
    return "\n".join(lines) + "\n"


_WITHIN = (NOISE, NOISY)


def _words(change: Change) -> str:
    """What happened, with a factor above 1 whichever way it went, and whether it decides."""
    size = "" if change.factor is None else f"{max(change.factor, 1 / change.factor):.2f}x "
    decides = "; this decides" if change.worse else ""
    return f"{size}{change.verdict} ({change.quantity}): {change.case} on {change.engine}{decides}"


def _cells(change: Change) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    moved = None if change.factor is None else change.factor - 1
    verdict = f"= {YARDSTICK}" if change.verdict == YARDSTICK else change.verdict
    return (
        change.case, change.engine, change.quantity, number(change.old, "{:.3f}"), number(change.new, "{:.3f}"),
        number(moved, "{:+.1%}"), number(change.tolerance, "{:.1%}"), verdict,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("old", type=Path, metavar="OLD", help="row set to compare with")
    add("new", type=Path, metavar="NEW", help="row set to judge")
    add("--ratios", action="store_true", help="compare ratios to eager PyTorch, on whatever machine")
    add(
        "--tolerance",
        type=float,
        default=DEFAULT.tolerance,
        metavar="SHARE",
        help="noise at least (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
