"""The whole CPU benchmark in one command: ceilings, the matrix of cases, retrieval at scale, the page.

    make bench
    python -m benchmarks.bench --out build/bench
    python -m benchmarks.bench --out build/bench --case demo-b1-s256-c128-n10000 --no-scale --rounds 1

It builds the bundles that the cases need (random weights: times do not depend on them), measures GEMM and copy, times
every case of benchmarks/matrix.py, cases and engines in turn, then benchmarks.retrieval_scale, and writes a row set
(benchmarks/row_set.py), one HTML page with its plots, and a trace of one request. Every engine must be here that a case
names: without the kernels of `make cpp` it stops, unless --no-kernels leaves them out.

stdout: one JSON object, {"rows", "page", "trace", "seconds"}. stderr: progress with what is left. The report of
every case stands in OUT/reports, wrong answers or not. Exit codes: 0 ok, 1 our error, 2 usage,
3 bundle, 4 answers that are not those of the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.ceilings import Ceilings, ceilings_apart
from benchmarks.environment import PACKAGES, place, usable_cores
from benchmarks.latency import run_in_turn
from benchmarks.matrix import MATRIX, SCALE, Case
from benchmarks.row import Row
from benchmarks.row_set import RowSet, derived, write_whole
from runtime.errors import OneRankerError

logger = logging.getLogger("benchmarks.bench")
KERNELS_FILE = Path("build/cpp/release/liboneranker_kernels.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """One run of the matrix.

    Raises:
        ValueError: A word or a number that no run can use.
    """

    out: Path = Path("build/bench")
    cases: tuple[str, ...] = ()  # names of benchmarks/matrix.py; none: all
    kernels: Path | None = KERNELS_FILE
    threads: int | None = None  # None: one per core
    rounds: int = 3  # the quickest of an engine and case that must agree
    max_rounds: int = 8
    scale: bool = True  # retrieval at scale, too

    def __post_init__(self) -> None:
        names = [case.name for case in MATRIX]
        if wrong := [name for name in self.cases if name not in names]:
            raise ValueError(f"--case: got {wrong[0]!r}, expected one of {', '.join(names)}")
        if self.rounds < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"--rounds, --threads: got {self.rounds}, {self.threads}, expected at least 1")
        if self.max_rounds < self.rounds:
            raise ValueError(f"--max-rounds: got {self.max_rounds}, expected at least --rounds {self.rounds}")

    @property
    def chosen(self) -> list[Case]:
        return [case for case in MATRIX if not self.cases or case.name in self.cases]


DEFAULT = BenchSettings()


def bench(settings: BenchSettings, words: Sequence[str] = ()) -> dict[str, Any]:
    """Measure everything and write it.

    Returns:
        Where the rows, the page and the trace are, and the seconds it took.

    Raises:
        OneRankerError: Something that was asked for is not here, or answers wrongly.
    """
    begin = time.monotonic()
    if settings.kernels is not None and not settings.kernels.is_file():
        raise OneRankerError(
            f"--kernels {settings.kernels}: no such file, expected the library of kernels. Build it with `make cpp`, "
            "or leave its rows out with --no-kernels."
        )
    threads = settings.threads or usable_cores()
    facts = place("benchmarks.bench", words, threads, PACKAGES)
    path = settings.out / "bench-cpu.jsonl"
    first_of = {case.bundle: case for case in reversed(settings.chosen)}
    bundles = {name: _bundle(settings.out / "bundles" / name, case) for name, case in first_of.items()}
    logger.info("ceilings of this machine: GEMM and copy")
    ceilings = ceilings_apart(threads)
    rows = _time_cases(settings, bundles, threads, ceilings)

    def write(retrieval: Sequence[Mapping[str, Any]]) -> float:
        seconds = round(time.monotonic() - begin, 1)
        run_line = facts | {"ceilings": asdict(ceilings), "seconds": seconds}
        RowSet(run_line, rows, retrieval, derived(rows, retrieval)).write(path)
        return seconds

    write([])  # what comes next may fail
    seconds = write(_retrieval(settings, threads)) if settings.scale else write([])
    page, trace = settings.out / "page", settings.out / "trace.json"
    _program("benchmarks.page", str(path), "--out", str(page))
    first = settings.chosen[0]
    given = [] if settings.kernels is None else ["--kernels", str(settings.kernels)]
    given += ["--threads", str(threads), "--out", str(trace)]
    _program("benchmarks.trace", "--bundle", str(bundles[first.bundle]), *given)
    return {"rows": str(path), "page": str(page / "index.html"), "trace": str(trace), "seconds": seconds}


def _time_cases(settings: BenchSettings, bundles: dict[str, Path], threads: int, ceilings: Ceilings) -> list[Row]:
    """Every case, a round of each in turn; their reports are on disk before wrong answers end the run."""
    rounds = (settings.rounds, settings.max_rounds)
    runs = [
        (case.settings(bundles[case.bundle], settings.kernels, threads, rounds, ceilings), ["--bundle", case.bundle])
        for case in settings.chosen
    ]
    rows: list[Row] = []
    found = run_in_turn(runs)
    for case, (report, _) in zip(settings.chosen, found, strict=True):
        write_whole(settings.out / "reports" / f"{case.name}.json", json.dumps(report))
        rows += [replace(Row(**row), case=f"{case.preset}-{row['case']}") for row in report["rows"]]
    if wrong := next((wrong for _, wrong in found if wrong is not None), None):
        raise wrong
    return rows


def _bundle(folder: Path, case: Case) -> Path:
    """The case's bundle, built unless it is there already: the exporter knows by its fingerprints."""
    logger.info("bundle %s", folder)
    words = ["--preset", case.preset, "--items", str(case.items), "--precision", case.precision]
    _program("export.build", "--stage", "all", *words, "--engine", "none", "--out", str(folder))
    return folder


def _retrieval(settings: BenchSettings, threads: int) -> list[dict[str, Any]]:
    """The rows of benchmarks.retrieval_scale, which prints one JSON line each."""
    logger.info("retrieval at scale: N up to %s", f"{max(SCALE):,}")
    words = [word for items in SCALE for word in ("--items", str(items))]
    printed = _program(
        "benchmarks.retrieval_scale", *words, "--threads", str(threads), "--work", str(settings.out / "scale")
    )
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def _program(module: str, *words: str) -> str:
    """Run one of our programs to its end; returns what it printed.

    Raises:
        OneRankerError: It failed; its own message has gone to stderr.
    """
    done = subprocess.run([sys.executable, "-m", module, *words], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        failed = OneRankerError(
            f"{module}: its process ended with exit code {done.returncode}, expected 0. Its message stands above."
        )
        failed.exit_code = done.returncode if done.returncode in (1, 3, 4) else 1
        raise failed
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    named = vars(parser.parse_args(words))
    try:
        settings = BenchSettings(**named | {"cases": tuple(named["cases"] or ())})
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    try:
        answer = bench(settings, words)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=DEFAULT.out, help="folder of bundles, rows, page and trace (default: %(default)s)")
    add("--case", action="append", dest="cases", metavar="NAME", help="only this case; may be given again")
    add("--kernels", type=Path, default=DEFAULT.kernels, metavar="FILE", help="of `make cpp` (default: %(default)s)")
    add("--no-kernels", dest="kernels", action="store_const", const=None, help="leave their rows out")
    add("--threads", type=int, help="of every engine alike (default: one per core)")
    add(
        "--rounds",
        type=int,
        default=DEFAULT.rounds,
        help="processes an engine and case at least (default: %(default)s)",
    )
    add("--max-rounds", type=int, default=DEFAULT.max_rounds,
        help="until the quickest --rounds of them agree within 5 %% (default: %(default)s)")  # fmt: skip
    add("--no-scale", dest="scale", action="store_false", help="leave retrieval at scale out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
