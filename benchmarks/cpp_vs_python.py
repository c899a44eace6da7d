"""Times the C++ runtime beside the Python runtime and eager PyTorch: same bundle, requests and threads, taking turns.

    make cpp
    python -m oneranker.data requests completejourney --data-root demo/data --count 500 --out requests.jsonl
    python -m benchmarks.cpp_vs_python --bundle demo/bundle --requests requests.jsonl

What is timed. recommend: a raw request that is already an object in the caller's language -> named items; json: the
same from the request's JSON text; tokens: raw request -> integers; workers: requests per second of a closed loop with
--workers threads, each with a pipeline of its own (C++: one Model for all of them; Python: a bundle each).

How: a process for each backend stays open; in every round each backend in turn, in an order that rotates, answers the
same next requests of the file while the others wait (tokens: Python's encode also looks filters up, where there are
any). A ratio is made within each round; the table gives its median, lowest and highest over the rounds. --cores N binds
all of them to the first N cores. Peak memory is that of the whole process, requests and the closed loop's pipelines
included. Before anything is timed, the answers to all requests are compared: same items, same order, scores within 1e-5
of Python's.

stdout: a table, then one JSON object on the last line: {"environment": {...}, "rows": [...]}. --out appends it to a
file. stderr: progress. Exit codes: 0 ok, 1 our error, 2 usage, 3 bundle, 4 the answers differ.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.environment import environment
from benchmarks.measure import percentiles
from benchmarks.row import EAGER
from benchmarks.source import checkpoint_of
from benchmarks.turn_process import CPP, TurnProcess, compare, find_program
from benchmarks.turn_worker import PYTHON
from runtime.errors import OneRankerError
from runtime.manifest import Manifest

logger = logging.getLogger("benchmarks.cpp_vs_python")

WORKS = {"recommend": (CPP, PYTHON, EAGER), "json": (CPP, PYTHON), "tokens": (CPP, PYTHON), "workers": (CPP, PYTHON)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """One kind of work on one backend; ratios are Python's time over this one's, of the same round."""

    case: str  # <work>-b<B>-t<threads>[-w<workers>]
    work: str
    backend: str  # runtime-cpp | runtime-python | pytorch-eager
    batch: int
    threads: int
    workers: int
    samples: int
    p50_ms: float | None  # of a batch
    p95_ms: float | None
    p99_ms: float | None
    requests_per_s: float
    vs_python: float  # requests per second over Python's, median of the rounds
    vs_python_lowest: float
    vs_python_highest: float
    peak_memory_mib: float
    machine: str
    versions: dict[str, str]
    commit: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    words = list(sys.argv[1:] if argv is None else argv)
    settings = _parser().parse_args(words)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    try:
        report = run(settings, words)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    line = json.dumps(report)
    if settings.out is not None:
        with settings.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    sys.stdout.write(f"{table(report)}\n{line}\n")
    return 0


def run(settings: argparse.Namespace, words: Sequence[str] = ()) -> dict[str, Any]:
    """Time every batch size.

    Raises:
        BuildError: The C++ program is not built.
        ParityError: The backends answer differently.
    """
    program = find_program(settings.program)
    manifest = Manifest.read(settings.bundle)
    checkpoint = settings.checkpoint
    if checkpoint is None and manifest.weights.source != "random":
        checkpoint = checkpoint_of(settings.bundle, manifest)
    if settings.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.cores])  # children inherit it
    block = asdict(environment(settings.bundle, manifest, (), settings.threads))
    block["command"] = " ".join(["python -m benchmarks.cpp_vs_python", *words])
    rows: list[TurnRow] = []
    for batch in settings.batch or [1]:
        job = {
            "bundle": str(settings.bundle), "requests": str(settings.requests), "batch": batch, "top_k": settings.top_k,
            "threads": settings.threads, "workers": settings.workers,
            "checkpoint": None if checkpoint is None else str(checkpoint),
        }  # fmt: skip
        with (
            TurnProcess(CPP, [str(program)], job) as cpp,
            TurnProcess(PYTHON, [sys.executable, "-m", "benchmarks.turn_worker", PYTHON], job) as python,
            TurnProcess(EAGER, [sys.executable, "-m", "benchmarks.turn_worker", EAGER], job) as eager,
        ):
            backends = (cpp, python, eager)
            compare(backends)
            rows += time_turns(settings, block, batch, backends)
    return {"environment": block, "rows": [asdict(row) for row in rows]}


def time_turns(
    settings: argparse.Namespace, block: dict[str, Any], batch: int, backends: Sequence[TurnProcess]
) -> list[TurnRow]:
    """Rounds over all kinds of work; each backend's turn comes in another place each round."""
    by_name = {backend.name: backend for backend in backends}
    rate: dict[tuple[str, str], list[float]] = {}
    samples: dict[tuple[str, str], list[float]] = {}
    for number in tqdm(range(settings.rounds), desc=f"rounds of B={batch}", file=sys.stderr):
        for work, names in WORKS.items():
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                answer = by_name[name].ask(work, settings)
                took = samples.setdefault((work, name), [])
                took += answer.get("samples_ms", [])
                done = batch * len(answer["samples_ms"]) if "samples_ms" in answer else answer["requests"]
                seconds = sum(answer["samples_ms"]) / 1e3 if "samples_ms" in answer else answer["seconds"]
                rate.setdefault((work, name), []).append(done / seconds)
    rows = []
    for (work, name), rates in rate.items():
        ratios = [mine / theirs for mine, theirs in zip(rates, rate[work, PYTHON], strict=True)]
        took = samples[work, name]
        p50, _, p95, p99 = percentiles(took) if took else (None,) * 4
        workers = settings.workers if work == "workers" else 1
        rows.append(
            TurnRow(
                case=f"{work}-b{batch}-t{settings.threads}" + (f"-w{workers}" if work == "workers" else ""),
                work=work, backend=name, batch=batch, threads=settings.threads, workers=workers, samples=len(took),
                p50_ms=p50, p95_ms=p95, p99_ms=p99, requests_per_s=statistics.median(rates),
                vs_python=statistics.median(ratios), vs_python_lowest=min(ratios), vs_python_highest=max(ratios),
                peak_memory_mib=by_name[name].peak_memory_mib(), commit=block["commit"],
                machine=f"{block['processor']}, {block['cores']} cores", versions=block["versions"],
            )
        )  # fmt: skip
    return rows


def table(report: dict[str, Any]) -> str:
    """One line for each row, ratios with their spread over the rounds."""
    lines = [f"{'case':<22} {'backend':<15} {'p50 ms':>8} {'p99 ms':>8} {'req/s':>8} {'vs Python':>20} {'MiB':>6}"]
    for row in report["rows"]:
        times = [f"{row[key]:8.2f}" if row[key] is not None else f"{'-':>8}" for key in ("p50_ms", "p99_ms")]
        ratio = f"{row['vs_python']:.2f}x ({row['vs_python_lowest']:.2f}-{row['vs_python_highest']:.2f})"
        lines.append(
            f"{row['case']:<22} {row['backend']:<15} {' '.join(times)} {row['requests_per_s']:8.1f} {ratio:>20} "
            f"{row['peak_memory_mib']:6.0f}"
        )
    load = report["environment"]["load_average"]
    if load is not None and load > (os.cpu_count() or 1) / 2:  # the load is that of all cores, whatever --cores says
        lines.append(f"NOISY: {load:g} processes were already running; stop them before you quote a number.")
    return "\n".join(lines) + "\n"


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cpp_vs_python", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="folder that `python -m export.build` wrote")
    add("--requests", type=Path, required=True, metavar="FILE", help="one JSON request a line")
    add("--batch", type=_positive, action="append", metavar="B", help="may be given again (default: 1)")
    add("--threads", type=_positive, default=1, help="of every backend alike (default: %(default)s)")
    add("--workers", type=_positive, default=2, help="threads of the closed loop (default: %(default)s)")
    add("--cores", type=_positive, help="bind all to the first N cores (default: all)")
    add("--rounds", type=_positive, default=10, help="turns of each backend (default: %(default)s)")
    add("--iterations", type=_positive, default=50, help="batches in a turn (default: %(default)s)")
    add("--seconds", type=float, default=2.0, help="of a turn of the closed loop (default: %(default)s)")
    add("--top-k", type=_positive, default=10, help="items in an answer (default: %(default)s)")
    add("--checkpoint", type=Path, metavar="DIR", help="weights for PyTorch (default: what the manifest names)")
    add("--program", type=Path, metavar="FILE", help="the C++ side (default: what `make cpp` built)")
    add("--out", type=Path, metavar="FILE", help="append the JSON line to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
