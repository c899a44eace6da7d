"""Balanced K-means beside k-means-constrained on the same data, and alone at the size of a catalogue: one JSON line.

`python -m benchmarks.balanced_kmeans --items 2000 --items 5000 --scale 151411`. Every row is a process of its own, so
that its peak memory is its own. k-means-constrained is no dependency: without it, its rows say so.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import ROOT, place, usable_cores
from benchmarks.measure import peak_memory_mib
from oneranker.semantic_ids.balanced_kmeans import BalancedKMeansSettings, fit_balanced_kmeans

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).resolve().parent / "results" / "balanced-kmeans.jsonl"
OURS, THEIRS = "oneranker", "k-means-constrained"
PACKAGES = ("numpy", "scipy", "scikit-learn", THEIRS, "ortools")
_MODULE = "k_means_constrained"
_BLOBS = 300  # clusters in the data, of very different sizes: more than are asked for, so that balance costs something
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One clustering to do."""

    items: int
    width: int
    clusters: int
    n_init: int
    backend: str  # oneranker | k-means-constrained
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of it; a row that could not run has `note` = "not run: <reason>" and null in every measured field."""

    case: Case
    seconds: float | None = None  # of the fit alone, by the clock
    cpu_seconds: float | None = None  # the same, of the processor, all threads together: what others do counts less
    objective: float | None = None  # sum of squared distances to the clusters' means, computed alike for both
    balanced: bool | None = None  # N mod k clusters hold ceil(N/k) points and the others floor(N/k)
    peak_memory_mib: float | None = None  # of the whole process, data and libraries included
    time_ratio: float | None = None  # our seconds / theirs
    cpu_ratio: float | None = None  # our cpu_seconds / theirs
    objective_ratio: float | None = None  # our objective / theirs
    note: str = ""


def synthetic_points(items: int, width: int, seed: int) -> NDArray[np.float32]:
    """Draw clustered points: 300 Gaussian blobs of very different sizes that touch each other: float32 [N, D]."""
    rng = np.random.default_rng([seed, width])
    centres = rng.normal(size=(_BLOBS, width))
    which = rng.choice(_BLOBS, items, p=rng.dirichlet(np.full(_BLOBS, 0.5)))
    points = np.empty((items, width), np.float32)
    for begin in range(0, items, _ROWS_AT_ONCE):
        rows = which[begin : begin + _ROWS_AT_ONCE]
        points[begin : begin + len(rows)] = centres[rows] + 0.7 * rng.normal(size=(len(rows), width))
    return points


def run_case(case: Case) -> Row:
    """Do one clustering here and now."""
    points = synthetic_points(case.items, case.width, case.seed)
    begin, cpu = time.perf_counter(), time.process_time()
    labels = _ours(points, case) if case.backend == OURS else _theirs(points, case)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    floor, more = divmod(case.items, case.clusters)
    sizes = sorted(np.bincount(labels, minlength=case.clusters).tolist())
    peak = peak_memory_mib()
    return Row(
        case=case,
        seconds=seconds,
        cpu_seconds=cpu,
        objective=_objective(points, labels),
        balanced=sizes == [floor] * (case.clusters - more) + [floor + 1] * more,
        peak_memory_mib=peak,
    )


def run_apart(case: Case, limit: float, threads: int) -> Row:
    """Do one clustering in a process of its own, for at most `limit` seconds."""
    if case.backend == THEIRS and find_spec(_MODULE) is None:
        return Row(case=case, note=f"not run: {THEIRS} is not installed")
    words = [sys.executable, "-m", "benchmarks.balanced_kmeans", "--case", json.dumps(asdict(case))]
    count = str(threads)
    bounds = {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=os.environ | bounds, timeout=limit, stdout=subprocess.PIPE, text=True, check=True
        )
    except subprocess.TimeoutExpired:
        return Row(case=case, note=f"not run: not finished after {limit:g} s")
    except subprocess.CalledProcessError as error:
        return Row(case=case, note=f"not run: exit code {error.returncode}")
    return Row(**{**json.loads(done.stdout), "case": case})


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Our rows with their ratios to the other's row of the same data, where there is one that ran."""
    theirs = {replace(row.case, backend=OURS): row for row in rows if row.case.backend == THEIRS}
    return [
        replace(
            row,
            time_ratio=_ratio(row.seconds, theirs[row.case].seconds),
            cpu_ratio=_ratio(row.cpu_seconds, theirs[row.case].cpu_seconds),
            objective_ratio=_ratio(row.objective, theirs[row.case].objective),
        )
        if row.case in theirs
        else row
        for row in rows
    ]


def slope(rows: Sequence[Row]) -> float | None:
    """The log-log slope of processor seconds over items, by least squares over the rows that ran: 1 is linear."""
    items = [math.log(row.case.items) for row in rows if row.cpu_seconds]
    seconds = [math.log(row.cpu_seconds) for row in rows if row.cpu_seconds]
    return float(np.polyfit(items, seconds, 1)[0]) if len(set(items)) > 1 else None


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one JSON line out, on stdout and in the file of results; the table and the slopes go to stderr."""
    words = _parser().parse_args(argv)
    if words.case is not None:
        sys.stdout.write(json.dumps(asdict(run_case(Case(**json.loads(words.case))))) + "\n")
        return 0
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    where = place("benchmarks.balanced_kmeans", sys.argv[1:] if argv is None else argv, words.threads, PACKAGES)
    where["data"] = f"{_BLOBS} Gaussian blobs, deviation 0.7, sizes Dirichlet(0.5), seed 0"
    one = Case(items=0, width=words.width, clusters=words.clusters, n_init=words.n_init, backend=OURS)
    both = [replace(one, items=items, backend=backend) for items in words.items for backend in (OURS, THEIRS)]
    alone = [replace(one, items=items, n_init=words.scale_n_init) for items in words.scale]
    pairs, scale = (_run(cases, words.limit, words.threads) for cases in (both, alone))
    slopes = {backend: slope([row for row in pairs if row.case.backend == backend]) for backend in (OURS, THEIRS)}
    slopes[f"{OURS} alone"] = slope(scale)
    logger.info("log-log slope of processor seconds over items: %s", slopes)
    line = json.dumps({**where, "slopes": slopes, "rows": [asdict(row) for row in [*with_ratios(pairs), *scale]]})
    words.out.parent.mkdir(parents=True, exist_ok=True)
    with words.out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    sys.stdout.write(line + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.balanced_kmeans", description=__doc__)
    parser.add_argument("--items", type=int, action="append", default=[], metavar="N", help="both, on N items; repeat")
    parser.add_argument("--scale", type=int, action="append", default=[], metavar="N", help="ours alone; repeat")
    parser.add_argument("--width", type=int, default=640, help="of the points (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--n-init", type=int, default=1, help="starts of both in a pair (default: %(default)s)")
    parser.add_argument("--scale-n-init", type=int, default=1, help="starts of ours alone (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of BLAS (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for a row (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the line is added to")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # the process of one row
    return parser


def _run(cases: Sequence[Case], limit: float, threads: int) -> list[Row]:
    rows = []
    for case in cases:
        rows.append(run_apart(case, limit, threads))
        logger.info("%s", _told(with_ratios(rows)[-1]))
        if case.backend == THEIRS:
            logger.info("  ratios of ours: %s", _told(with_ratios(rows)[-2]))
    return rows


def _told(row: Row) -> str:
    found = {key: value for key, value in asdict(row).items() if key != "case" and value not in (None, "")}
    return f"{row.case.backend} {row.case.items} x {row.case.width} -> {row.case.clusters}: {found}"


def _ours(points: NDArray[np.float32], case: Case) -> NDArray[np.int64]:
    settings = BalancedKMeansSettings(n_init=case.n_init, seed=case.seed)
    return fit_balanced_kmeans(points, case.clusters, settings).labels


def _theirs(points: NDArray[np.float32], case: Case) -> NDArray[np.int64]:
    from k_means_constrained import KMeansConstrained

    floor, more = divmod(case.items, case.clusters)
    model = KMeansConstrained(
        case.clusters,
        size_min=floor,
        size_max=floor + bool(more),
        n_init=case.n_init,
        random_state=case.seed,
        n_jobs=1,
    )
    return np.asarray(model.fit(points).labels_, np.int64)


def _objective(points: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    total = 0.0
    for label in np.unique(labels).tolist():
        members = points[labels == label].astype(np.float64)
        total += float(np.square(members - members.mean(axis=0)).sum())
    return total


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


if __name__ == "__main__":
    sys.exit(main())
