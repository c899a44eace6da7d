"""Retrieval over catalogues of 10^4 to 10^7 items: time, memory, recall of the beams, building and swapping an index.

`python -m benchmarks.retrieval_scale --items 10000 --items 10000000` prints one JSON line a row, whose fields
`benchmarks.retrieval_row.RetrievalRow` explains. Every step of a row is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.environment import PACKAGES, ROOT, place, usable_cores
from benchmarks.retrieval_row import DENSE, TRIE, RetrievalRow
from oneranker.config import PRESETS, OneRankerConfig, preset
from runtime.errors import FeedError, OneRankerError

logger = logging.getLogger(__name__)

RETRIEVERS = (TRIE, DENSE)
GIB = 2**30
_BUNDLE, _CHECKPOINT, _ITEMS, _REQUESTS = "bundle", "checkpoint", "items", "requests.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSettings:
    """One run.

    Raises:
        ValueError: A number that no run can use.
    """

    items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)  # N
    retrievers: tuple[str, ...] = RETRIEVERS
    preset: str = "demo"  # with random weights, where there is no checkpoint
    checkpoint: Path | None = None  # its own items are part of every catalogue
    bundle: Path | None = None  # built from the checkpoint already, with the trie; None: build
    requests: Path | None = None  # real ones of the checkpoint's data, one JSON object a line; None: made up
    threads: int = 2
    rounds: int = 200  # of the retriever
    seconds: float = 20.0  # that the rounds may take
    users: int = 8  # of the recall
    recall_items: int = 10_000_000  # the most items of an exhaustive search
    reference: int = 100_000  # items of the catalogue that larger ones are compared with
    memory_gib: float = 8.0  # the most that a dense index may need
    work: Path | None = None  # where the folders go that are removed in the end; None: the system's
    out: Path | None = None  # file that the lines are added to
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "users"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least 1")
        if not self.items or min(self.items) < 1:
            raise ValueError(f"--items: got {list(self.items)}, expected numbers of at least 1")
        if self.bundle is not None and self.checkpoint is None:
            raise ValueError("--bundle: got a bundle alone, expected --checkpoint beside it: the one it was built from")


DEFAULT = ScaleSettings()
Run = Callable[[str, dict[str, Any]], dict[str, Any]]


def measure(settings: ScaleSettings, run: Run) -> list[RetrievalRow]:
    """Measure every size, smallest first, one step after another; `run` does a step and answers with fields of its row.

    Raises:
        FeedError: The model has not enough semantic IDs, or a step failed before anything could be measured.
    """
    rows = []
    steps = tqdm(total=1 + len(settings.retrievers) * len(settings.items), file=sys.stderr, unit="step")
    if settings.work is not None:
        settings.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="retrieval-scale-", dir=settings.work) as folder, steps:
        work = Path(folder)
        steps.set_description("bundles")
        config = _prepared(settings, work, run)
        steps.update()
        for items in sorted(settings.items):
            for retriever in settings.retrievers:
                steps.set_description(f"{retriever}, {items} items")
                row = _measured(settings, work, run, config, items, retriever)
                logger.info("%s", _told(row))
                rows.append(row)
                steps.update()
    return rows


def _prepared(settings: ScaleSettings, work: Path, run: Run) -> OneRankerConfig:
    """Checkpoints, bundles and requests in the working folder."""
    config = preset(settings.preset)
    if settings.checkpoint is not None:
        from oneranker.weights import read_config  # brings torch, which the steps that serve must not hold

        config = read_config(settings.checkpoint)
    if (most := config.codes**config.code_levels) < max(settings.items):
        raise FeedError(f"--items: got {max(settings.items)}, expected at most V**L = {most}. Ask for fewer.")
    run("bundles", {
        "work": str(work), "preset": settings.preset, "own_items": min(1000, *settings.items), "seed": settings.seed,
        "checkpoint": settings.checkpoint and str(settings.checkpoint.absolute()), "retrievers": settings.retrievers,
        "bundle": settings.bundle and str(settings.bundle.absolute()), "users": settings.users,
        "requests": settings.requests and str(settings.requests.absolute()),
    })  # fmt: skip
    return config


def _measured(
    settings: ScaleSettings, work: Path, run: Run, config: OneRankerConfig, items: int, retriever: str
) -> RetrievalRow:
    weights = f"preset {settings.preset}, random" if settings.checkpoint is None else f"{settings.checkpoint.name}"
    row = RetrievalRow(
        case=f"{retriever}-n{items}", retriever=retriever, items=items, threads=settings.threads, weights=weights
    )
    if retriever == DENSE and (needed := dense_bytes(config, items)) > settings.memory_gib * GIB:
        return replace(row, note=f"not run: needs {needed / GIB:.1f} GiB, {_dense_sum(config, items)}")
    index, reference = work / _ITEMS, work / f"{_ITEMS}-{retriever}-reference"
    try:
        checkpoint = str(work / f"{_CHECKPOINT}-{retriever}")
        found = run("index", {
            "checkpoint": checkpoint, "folder": str(index), "items": items, "retriever": retriever,
            "seed": settings.seed,
        })  # fmt: skip
        found |= run("serve", {
            "bundle": str(work / f"{_BUNDLE}-{retriever}"), "items": str(index), "requests": str(work / _REQUESTS),
            "reference": str(reference) if reference.exists() else None,
            "threads": settings.threads, "rounds": settings.rounds, "seconds": settings.seconds,
        })  # fmt: skip
        if retriever == TRIE and items <= settings.recall_items:
            found |= run("recall", {"checkpoint": checkpoint, "items": str(index)})
    except StepFailedError as error:
        return replace(row, note=f"not run: {error}")
    finally:
        if items == settings.reference and index.exists():
            index.rename(reference)
        shutil.rmtree(index, ignore_errors=True)
    return replace(row, **found | {"case": f"{retriever}-n{found.get('items', items)}"})  # a checkpoint may have more


def dense_bytes(config: OneRankerConfig, items: int) -> int:
    """What a dense index of so many items needs while it is written: its two fp32 tables and the rest of it."""
    return items * (4 * config.width + 4 * (config.width + config.anchors) + _REST)


_REST = 300  # bytes an item: codes, trie, fields and texts, and the lists that they are written from


def _dense_sum(config: OneRankerConfig, items: int) -> str:
    return f"{items} items of 4*D={4 * config.width} + 4*(D+A)={4 * (config.width + config.anchors)} + {_REST} bytes"


class StepFailedError(OneRankerError):
    """A step's process ended without an answer."""


def run_apart(threads: int) -> Run:
    """Steps in processes of their own, with so many threads."""

    def run(step: str, job: dict[str, Any]) -> dict[str, Any]:
        words = [sys.executable, "-m", "benchmarks.retrieval_scale", "--step", step, "--job", json.dumps(job)]
        count = str(threads)
        bounds = {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        done = subprocess.run(words, cwd=ROOT, env=os.environ | bounds, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise StepFailedError(f"step {step} ended with {done.returncode} and said: {last}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    return run


def do_step(step: str, job: dict[str, Any]) -> dict[str, Any]:
    """Do one step here and now; each brings in only what it needs, so that serving is measured without torch."""
    if step == "serve":
        from benchmarks.retrieval_serving import Serving, serve

        return serve(Serving(**job))
    from benchmarks import retrieval_index, retrieval_recall

    if step == "bundles":
        return retrieval_index.prepare(retrieval_index.Preparation(**job))
    if step == "index":
        return retrieval_index.write_index(
            Path(job["checkpoint"]), Path(job["folder"]), job["items"], job["retriever"], job["seed"]
        )
    return retrieval_recall.of_served(Path(job["checkpoint"]), Path(job["items"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, JSON lines out; 0 ok, 1 our error, 2 usage."""
    parser = _parser()
    words = vars(parser.parse_args(argv))
    step, job = words.pop("step"), words.pop("job")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        if step is not None:
            sys.stdout.write(json.dumps(do_step(step, json.loads(job))) + "\n")
            return 0
        words["items"] = tuple(words["items"] or DEFAULT.items)
        words["retrievers"] = tuple(words["retrievers"] or DEFAULT.retrievers)
        try:
            settings = ScaleSettings(**words)
        except ValueError as error:
            parser.error(str(error))
        where = place("benchmarks.retrieval_scale", sys.argv[1:] if argv is None else argv, settings.threads, PACKAGES)
        rows = measure(settings, run_apart(settings.threads))
    except OneRankerError as error:
        logger.error("%s", error)
        return error.exit_code
    known = {key: where[key] for key in ("machine", "versions", "commit", "command", "date")}
    lines = "".join(json.dumps(asdict(replace(row, **known))) + "\n" for row in rows)
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        with settings.out.open("a", encoding="utf-8") as file:
            file.write(lines)
    sys.stdout.write(lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.retrieval_scale", description=__doc__)
    add = parser.add_argument
    add("--items", type=int, action="append", metavar="N", help=f"items; repeat (default: {list(DEFAULT.items)})")
    add("--retriever", dest="retrievers", action="append", choices=RETRIEVERS, help="repeat (default: both)")
    add("--preset", default=DEFAULT.preset, choices=sorted(PRESETS), help="with random weights (default: %(default)s)")
    add("--checkpoint", type=Path, metavar="DIR", help="trained weights and items instead; written by oneranker.train")
    add("--bundle", type=Path, metavar="DIR", help="built from the checkpoint already, in fp32; without it: build")
    add("--requests", type=Path, metavar="FILE", help="of the checkpoint's data, one a line; without it: made up")
    add("--threads", type=int, default=min(DEFAULT.threads, usable_cores()), help="default: %(default)s")
    add("--rounds", type=int, default=DEFAULT.rounds, help="timed runs of the retriever (default: %(default)s)")
    add("--seconds", type=float, default=DEFAULT.seconds, help="that they may take (default: %(default)s)")
    add("--users", type=int, default=DEFAULT.users, help="different requests (default: %(default)s)")
    add("--recall-items", type=int, default=DEFAULT.recall_items, help="most items of an exhaustive search")
    add("--reference", type=int, default=DEFAULT.reference, help="items that larger ones are compared with")
    add("--memory-gib", type=float, default=DEFAULT.memory_gib, help="most for a dense index (default: %(default)s)")
    add("--seed", type=int, default=DEFAULT.seed, help="default: %(default)s")
    add("--work", type=Path, metavar="DIR", help="folder for what is removed in the end (default: the system's)")
    add("--out", type=Path, metavar="FILE", help="file that the lines are added to")
    add("--step", help=argparse.SUPPRESS)  # a process of its own does one step of a run
    add("--job", help=argparse.SUPPRESS)
    return parser


def _told(row: RetrievalRow) -> str:
    found = {key: value for key, value in asdict(row).items() if value not in (None, "", 0, {})}
    return json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()})


if __name__ == "__main__":
    sys.exit(main())
