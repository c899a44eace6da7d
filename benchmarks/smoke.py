"""Guards against a slowdown: times one small case in two minutes, and compares its ratios with the committed row set.

    python -m benchmarks.smoke
    python -m benchmarks.smoke --against benchmarks/results/bench-cpu.jsonl --tolerance 0.3

It takes the smallest case of --preset in the committed row set, builds its bundle with random weights under --bundles
(that of `make bench`, if it is there and nothing changed), and times eager PyTorch and the runtime on it in rounds. If
the committed rows have the kernels of `make cpp`, they must be here, unless --no-kernels leaves them out. Each ratio
to eager PyTorch is held against the committed one, as `python -m benchmarks.compare --ratios` does. Never a time:
another machine has others. A few iterations are noisy: less than --tolerance is noise whatever the spread, and what got
worse, or is too noisy to say, is measured again, --attempts times in all; it counts when no attempt clears it.

It does not see what has no ratio (tokens, recommend), nor what slows eager PyTorch down as much.

stdout: the table of the last comparison, then its JSON object on the last line, with "worse_every_time",
"noisy_every_time" (nothing can be said on this machine now) and "left_out" (engines of the committed case that the
guard does not time). stderr: progress.
Exit codes: 0 every chain was cleared once, 1 one was not (or our error), 2 usage, 3 bundle, 4 wrong answers.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare import as_json, table
from benchmarks.comparison import Comparison, Key, compare_row_sets, differences
from benchmarks.environment import ROOT, load_average, usable_cores
from benchmarks.latency import LatencySettings
from benchmarks.latency import run as run_latency
from benchmarks.row import EAGER, ENGINE, KERNELS, OPEN, Row
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
    kernels: Path | None = LIBRARY  # None: not timed, though the committed row set has them
    iterations: int = 30
    warmup: int = 5
    rounds: int = 2
    max_rounds: int = 4
    attempts: int = 2
    threads: int | None = None  # None: as many as the committed row set, and at most one per core
    tolerance: float = 0.25  # share of a ratio
    out: Path | None = None

    def __post_init__(self) -> None:
        numbers = {"--iterations": (self.iterations, 1), "--warmup": (self.warmup, 0), "--rounds": (self.rounds, 1)}
        numbers |= {"--max-rounds": (self.max_rounds, self.rounds)}
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
        found = guard(settings)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    line = {
        "old": str(settings.against), "ratios": True, **as_json(found.comparison), "worse_every_time": found.worse,
        "noisy_every_time": found.noisy, "left_out": found.left_out,
    }  # fmt: skip
    sys.stdout.write(f"{table(found.comparison, found.differ)}{_verdict(found)}\n{json.dumps(line)}\n")
    return 1 if found.worse or found.noisy else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the guard found: the last comparison, and what no attempt cleared."""

    comparison: Comparison
    differ: Sequence[str]  # what else differs from the committed run
    worse: Sequence[Key]  # in every attempt
    noisy: Sequence[Key]  # in some, and worse in the others
    left_out: Sequence[str]  # engines of the committed case that were not timed


def guard(settings: SmokeSettings) -> Finding:
    """Measure and compare, again while there is a chain that no attempt has cleared.

    Raises:
        OneRankerError: As in `smallest_case`, `engines_of`, `measure` and `benchmarks.comparison.compare_row_sets`.
    """
    committed = RowSet.read(settings.against)
    if (load := load_average() or 0.0) > BUSY * usable_cores():
        logger.warning("NOISY: %g processes are already running here; what follows may be their doing.", load)
    case = smallest_case(committed, settings.preset)
    old = [row for row in committed.rows if sizes_of(row) == case[0]]
    engines = engines_of(old, settings.kernels)
    left_out = [name for name in dict.fromkeys(row.engine for row in old) if name not in engines]
    kept = [row for row in old if row.engine in engines and row.stage != OPEN]  # which has no ratios
    suspects: dict[Key, bool] = {}  # not cleared yet -> worse every time
    for attempt in range(settings.attempts):
        new = measure(settings, case, engines, int(committed.run["threads"]))
        if settings.out is not None:
            new.write(settings.out)
        comparison = compare_row_sets(RowSet(committed.run, kept), new, ratios=True, tolerance=settings.tolerance)
        worse = {(change.case, change.engine) for change in comparison.worse}
        found = worse | {(change.case, change.engine) for change in comparison.noisy}
        suspects = {key: key in worse and suspects.get(key, True) for key in found if attempt == 0 or key in suspects}
        if not suspects:
            break
        logger.info("attempt %d of %d: %d chains are worse or noisy", attempt + 1, settings.attempts, len(suspects))
    return Finding(
        comparison=comparison, differ=differences(committed.run, new.run), left_out=left_out,
        worse=sorted(key for key, always in suspects.items() if always),
        noisy=sorted(key for key, always in suspects.items() if not always),
    )  # fmt: skip


def _verdict(found: Finding) -> str:
    lines = [f"left out, not timed here: {', '.join(found.left_out)}"] if found.left_out else []
    lines += [f"worse every time: {case} on {engine}" for case, engine in found.worse]
    lines += [
        f"worse or too noisy every time: {case} on {engine}: nothing can be said on this machine now. Leave it alone "
        "and repeat."
        for case, engine in found.noisy
    ]
    if not found.worse and not found.noisy:
        lines.append("No ratio is worse every time.")
    return "\n".join(lines) + "\n"


def measure(settings: SmokeSettings, case: re.Match[str], engines: Sequence[str], threads: int) -> RowSet:
    """Time a committed case again, on these engines and with fewer iterations.

    Raises:
        BuildError: The bundle cannot be built.
        ParityError: The runtime answers unlike the weights.
    """
    begin = time.perf_counter()
    items = int(case["N"])
    bundle = settings.bundles / f"{settings.preset}-n{items}-{Precision.FP32}"
    logger.info("%s: building, or found as it was", bundle)
    build_bundle(
        BuildSettings(preset=settings.preset, items=items, out=bundle, precision=Precision.FP32, engine=Engine.NONE)
    )
    report, wrong = run_latency(
        LatencySettings(
            bundle=bundle, batch=(int(case["B"]),), history=int(case["S"]), iterations=settings.iterations,
            warmup=settings.warmup, rounds=settings.rounds, max_rounds=settings.max_rounds,
            kernels=settings.kernels if KERNELS in engines else None,
            threads=settings.threads or min(usable_cores(), threads),
            engines=tuple(engines),
        )
    )  # fmt: skip
    if wrong is not None:
        raise wrong
    return _row_set(report, settings.preset, time.perf_counter() - begin)


def engines_of(rows: Sequence[Row], kernels: Path | None) -> tuple[str, ...]:
    """Eager PyTorch and our engines that these committed rows are of.

    Raises:
        OneRankerError: The kernels were timed, and are neither here nor left out.
    """
    timed = any(row.engine == KERNELS and row.p50_ms is not None for row in rows)
    if not timed or kernels is None:
        return (EAGER, ENGINE)
    if not kernels.is_file():
        raise OneRankerError(
            f"--kernels {kernels}: no such file, expected the library of {KERNELS}, which the committed row set has. "
            "Build it with `make cpp`, or leave its rows unguarded with --no-kernels."
        )
    return (EAGER, ENGINE, KERNELS)


def smallest_case(committed: RowSet, preset: str) -> re.Match[str]:
    """The preset's case with the fewest tokens, then items; its parts by name, as in SIZES.

    Raises:
        OneRankerError: There is none.
    """
    named = [SIZES.fullmatch(sizes) for sizes in dict.fromkeys(map(sizes_of, committed.rows))]
    found = [one for one in named if one and one["preset"] == preset]
    if not found:
        raise OneRankerError(
            f"smoke: got no case of the preset {preset} among {len(named)}, expected one such as "
            f"{preset}-b1-s256-c128-n10000. Measure it with `python -m benchmarks.bench`, or name another --preset."
        )
    return min(found, key=lambda one: (int(one["B"]) * int(one["S"]), int(one["N"])))


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
    add("--kernels", type=Path, default=DEFAULT.kernels, metavar="FILE",
        help="of `make cpp` (default: build/cpp/release/liboneranker_kernels.so)")  # fmt: skip
    add("--no-kernels", dest="kernels", action="store_const", const=None, help="leave their rows unguarded")
    add("--iterations", type=int, default=DEFAULT.iterations, help="timed batches a round (default: %(default)s)")
    add("--warmup", type=int, default=DEFAULT.warmup, help="batches thrown away first (default: %(default)s)")
    add("--rounds", type=int, default=DEFAULT.rounds, help="turns of each engine (default: %(default)s)")
    add("--max-rounds", type=int, default=DEFAULT.max_rounds,
        help="until the quickest --rounds agree within 5 %% (default: %(default)s)")  # fmt: skip
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
