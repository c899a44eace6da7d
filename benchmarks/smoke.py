"""Guards against a slowdown: times one small case in two minutes, and compares its ratios with the committed row set.

    python -m benchmarks.smoke
    python -m benchmarks.smoke --against benchmarks/results/bench-cpu.jsonl --tolerance 0.3

It takes the smallest case of --preset in the committed row set, builds its bundle with random weights under --bundles
(that of `make bench`, if it is there and nothing changed), and times eager PyTorch and the runtime on it in rounds,
with the kernels where `make cpp` has built them. Each ratio to eager PyTorch is held against the committed one, as
`python -m benchmarks.compare --ratios` does. Never a time: another machine has others. A few iterations are noisy:
less than --tolerance is noise whatever the spread, and what got worse is measured again, --attempts times in all; it
counts when it is worse every time.

stdout: the table of the last comparison, then its JSON object on the last line, with "worse_every_time". stderr:
progress.
Exit codes: 0 no ratio is worse every time, 1 one is (or our error), 2 usage, 3 bundle, 4 wrong answers.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.compare import as_json, table
from benchmarks.comparison import Comparison, Key, compare_row_sets, differences
from benchmarks.environment import ROOT, load_average, usable_cores
from benchmarks.latency import LatencySettings
from benchmarks.latency import run as run_latency
from benchmarks.row import EAGER, ENGINE, KERNELS, Row
from benchmarks.row_set import RowSet, derived, sizes_of
from benchmarks.table import BUSY
from export.build import build_bundle
from export.settings import BuildSettings, Engine, Precision
from runtime.errors import OneRankerError

logger = logging.getLogger("benchmarks.smoke")
SIZES = re.compile(r"(?P<preset>\w+)-b(?P<B>\d+)-s(?P<S>\d+)-c\d+-n(?P<N>\d+)")
LIBRARY = ROOT / "build" / "cpp" / "release" / "liboneranker_kernels.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeSettings:
    """One guard.

    Raises:
        ValueError: A number that no run can use.
    """

    against: Path = ROOT / "benchmarks" / "results" / "bench-cpu.jsonl"
    preset: str = "demo"
    bundles: Path = ROOT / "build" / "bench" / "bundles"  # those of benchmarks.bench
    kernels: Path | None = None  # None: LIBRARY where it is built
    iterations: int = 30
    warmup: int = 5
    rounds: int = 2
    attempts: int = 2
    threads: int | None = None  # None: as many as the committed row set, and at most one per core
    tolerance: float = 0.25  # share of a ratio
    out: Path | None = None

    def __post_init__(self) -> None:
        numbers = {"--iterations": (self.iterations, 1), "--warmup": (self.warmup, 0), "--rounds": (self.rounds, 1)}
        numbers |= {"--attempts": (self.attempts, 1)}
        for flag, (value, least) in {**numbers, "--threads": (self.threads or 1, 1)}.items():
            if value < least:
                raise ValueError(f"{flag}: got {value}, expected at least {least}")
        if not 0 <= self.tolerance < 10:
            raise ValueError(f"--tolerance: got {self.tolerance}, expected a share such as 0.25")


DEFAULT = SmokeSettings()


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    parser = _parser()
    try:
        settings = SmokeSettings(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    try:
        comparison, differ, worse = guard(settings)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    line = {"old": str(settings.against), "ratios": True, **as_json(comparison), "worse_every_time": worse}
    sys.stdout.write(f"{table(comparison, differ)}{_verdict(worse)}\n{json.dumps(line)}\n")
    return 1 if worse else 0


def guard(settings: SmokeSettings) -> tuple[Comparison, list[str], list[Key]]:
    """Measure and compare, again while something is worse that was so every time before.

    Returns:
        The last comparison, what else differs from the committed run, and the rows that were worse every time.

    Raises:
        OneRankerError: As in `measure_smallest` and `benchmarks.comparison.compare_row_sets`.
    """
    committed = RowSet.read(settings.against)
    if (load := load_average() or 0.0) > BUSY * usable_cores():
        logger.warning("NOISY: %g processes are already running here; what follows may be their doing.", load)
    worse: list[Key] = []
    for attempt in range(settings.attempts):
        new = measure_smallest(settings, committed)
        if settings.out is not None:
            new.write(settings.out)
        comparison = compare_row_sets(shared_with(committed, new), new, ratios=True, tolerance=settings.tolerance)
        found = [(change.case, change.engine) for change in comparison.worse]
        worse = [key for key in found if attempt == 0 or key in worse]
        if not worse:
            break
        logger.info("attempt %d of %d: %d ratios are worse", attempt + 1, settings.attempts, len(worse))
    return comparison, differences(committed.run, new.run), worse


def _verdict(worse: Sequence[Key]) -> str:
    if not worse:
        return "No ratio is worse every time.\n"
    return "".join(f"worse every time: {case} on {engine}\n" for case, engine in worse)


def measure_smallest(settings: SmokeSettings, committed: RowSet) -> RowSet:
    """Time the smallest committed case of the preset again, on fewer engines and with fewer iterations.

    Raises:
        BuildError: The bundle cannot be built.
        ParityError: The runtime answers unlike the weights.
        OneRankerError: The row set has no case of the preset.
    """
    begin = time.perf_counter()
    sizes = smallest_sizes(committed, settings.preset)
    bundle = settings.bundles / f"{settings.preset}-n{sizes['N']}-{Precision.FP32}"
    logger.info("%s: building, or found as it was", bundle)
    build_bundle(
        BuildSettings(
            preset=settings.preset, items=sizes["N"], out=bundle, precision=Precision.FP32, engine=Engine.NONE
        )
    )
    kernels = settings.kernels or (LIBRARY if LIBRARY.is_file() else None)
    if kernels is None:
        logger.info("%s is not built: %s is left out. Build it with `make cpp`.", LIBRARY, KERNELS)
    report, wrong = run_latency(
        LatencySettings(
            bundle=bundle, batch=(sizes["B"],), history=sizes["S"], iterations=settings.iterations,
            warmup=settings.warmup, rounds=settings.rounds, kernels=kernels,
            threads=settings.threads or min(usable_cores(), int(committed.run["threads"])),
            engines=(EAGER, ENGINE) if kernels is None else (EAGER, ENGINE, KERNELS),
        )
    )  # fmt: skip
    if wrong is not None:
        raise wrong
    return _row_set(report, settings.preset, time.perf_counter() - begin)


def smallest_sizes(committed: RowSet, preset: str) -> dict[str, int]:
    """B, S and N of the preset's case with the least of them.

    Raises:
        OneRankerError: There is none.
    """
    named = [SIZES.fullmatch(sizes) for sizes in dict.fromkeys(map(sizes_of, committed.rows))]
    found = [{letter: int(one[letter]) for letter in "BSN"} for one in named if one and one["preset"] == preset]
    if not found:
        raise OneRankerError(
            f"smoke: got no case of the preset {preset} among {len(named)}, expected one such as "
            f"{preset}-b1-s256-c128-n10000. Measure it with `python -m benchmarks.bench`, or name another --preset."
        )
    return min(found, key=lambda sizes: (sizes["B"] * sizes["S"], sizes["N"]))


def shared_with(committed: RowSet, new: RowSet) -> RowSet:
    """The committed rows of what was measured again: the others are no news."""
    keys = {(row.case, row.engine) for row in new.rows}
    return replace(
        committed, rows=[row for row in committed.rows if (row.case, row.engine) in keys], retrieval=(), ratios=()
    )


def _row_set(report: dict[str, Any], preset: str, seconds: float) -> RowSet:
    block = report["environment"]
    run = {name: block[name] for name in ("date", "commit", "load_average", "threads", "system", "versions")}
    run |= {"command": "python -m benchmarks.smoke", "machine": f"{block['processor']}, {block['cores']} cores"}
    rows = [Row(**{**row, "case": f"{preset}-{row['case']}"}) for row in report["rows"]]
    return RowSet({**run, "ceilings": None, "seconds": seconds}, rows, (), derived(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.smoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--against", type=Path, default=DEFAULT.against, metavar="ROWSET",
        help="what to compare with (default: benchmarks/results/bench-cpu.jsonl)")  # fmt: skip
    add("--preset", default=DEFAULT.preset, help="whose smallest case is timed (default: %(default)s)")
    add("--bundles", type=Path, default=DEFAULT.bundles, metavar="FOLDER",
        help="where its bundle is built (default: build/bench/bundles)")  # fmt: skip
    add("--kernels", type=Path, metavar="FILE", help="default: build/cpp/release/liboneranker_kernels.so, if built")
    add("--iterations", type=int, default=DEFAULT.iterations, help="timed batches a round (default: %(default)s)")
    add("--warmup", type=int, default=DEFAULT.warmup, help="batches thrown away first (default: %(default)s)")
    add("--rounds", type=int, default=DEFAULT.rounds, help="turns of each engine (default: %(default)s)")
    add("--attempts", type=int, default=DEFAULT.attempts, help="measurements of what got worse (default: %(default)s)")
    add("--threads", type=int, help="of every engine (default: as in the row set, at most one per core)")
    add(
        "--tolerance",
        type=float,
        default=DEFAULT.tolerance,
        metavar="SHARE",
        help="noise at least (default: %(default)s)",
    )
    add("--out", type=Path, metavar="FILE", help="write what was measured as a row set")
    return parser


if __name__ == "__main__":
    sys.exit(main())
