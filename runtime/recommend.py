"""Command: answer the requests of a JSON-lines file from a bundle, `python -m runtime.recommend`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.errors import FeedError, OneRankerError, RequestError
from runtime.pipeline import Pipeline
from runtime.recommendation import Recommendation
from runtime.serving import ENGINES

logger = logging.getLogger("runtime.recommend")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 ok, 1 a bad request or a missing device, 3 a bad bundle; argparse itself exits with 2.
    """
    parser = argparse.ArgumentParser(
        "python -m runtime.recommend", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--bundle", required=True, type=Path, help="folder that `python -m export.build` wrote")
    parser.add_argument("--requests", required=True, type=Path, help="file with one JSON request a line")
    parser.add_argument("--top-k", default=10, type=int, help="items per request")
    parser.add_argument("--items", default=None, type=Path, help="another item index folder than the bundle's")
    parser.add_argument("--engine", default="auto", choices=ENGINES, help="auto: the bundle's plans, where they run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, or auto")
    parser.add_argument("--threads", default=None, type=int, help="threads per stage; all cores if not given")
    parser.add_argument("--kernels", default=None, type=Path, help="liboneranker_kernels.so of `make cpp`, for the CPU")
    parser.add_argument("--json", action="store_true", help="one JSON line per request instead of a table")
    words = parser.parse_args(argv)
    for name, value in (("--top-k", words.top_k), ("--threads", words.threads)):
        if value is not None and value < 1:
            parser.error(f"{name} is {value}, expected at least 1")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        requests, lines = read_requests(words.requests)
        with Pipeline.load(
            words.bundle, words.engine, words.device, words.threads, words.items, kernels=words.kernels
        ) as pipeline:
            for line, answer in _answers(pipeline, requests, lines, words.requests, words.top_k):
                text = json.dumps({"line": line, **asdict(answer)}) if words.json else table(line, answer)
                sys.stdout.write(text + "\n")
    except OneRankerError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


def read_requests(path: Path) -> tuple[list[Any], list[int]]:
    """The requests of a JSON-lines file and their line numbers from 1; empty lines are skipped.

    Raises:
        FeedError: If the file cannot be read or a line is not JSON.
    """
    requests, lines = [], []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FeedError(f"{path}: got {error}, expected a readable file with one JSON request a line.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            requests.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise FeedError(
                f"{path} line {number}: not JSON ({error}), expected one request object. Fix it."
            ) from error
        lines.append(number)
    return requests, lines


def _answers(
    pipeline: Pipeline, requests: Sequence[Any], lines: Sequence[int], path: Path, top_k: int
) -> Iterator[tuple[int, Recommendation]]:
    """Each request's line and answer, in batches as large as the bundle takes."""
    for begin in range(0, len(requests), pipeline.max_batch):
        chunk = requests[begin : begin + pipeline.max_batch]
        try:
            answers = pipeline.recommend(chunk, top_k)
        except RequestError as error:
            raise FeedError(f"{path} line {lines[begin + error.position]}: {error.reason}") from error
        yield from zip(lines[begin : begin + len(chunk)], answers, strict=True)


def table(line: int, answer: Recommendation) -> str:
    """One answer for people: a heading, then rank, score, item id and name."""
    notes = [
        f"{count} {what}"
        for count, what in (
            (answer.unknown_items, "history events of unknown items"),
            (answer.dropped, "oldest tokens dropped"),
            (answer.unknown_filter_ids, "unknown ids in its filters"),
        )
        if count
    ]
    heading = f"request of line {line}" + (f" ({', '.join(notes)})" if notes else "")
    if not answer.items:
        return f"{heading}\n  no item is eligible\n"
    width = max(4, *(len(item.id) for item in answer.items))
    rows = [f"  {'':>3}  {'score':>9}  {'log p':>8}  {'head':>4}  {'item':<{width}}  name"]
    for rank, item in enumerate(answer.items, start=1):
        rows.append(
            f"  {rank:>3}  {item.score:>9.4f}  {item.logp:>8.3f}  {item.head:>4}  {item.id:<{width}}  {item.name}"
        )
    return "\n".join([heading, *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
