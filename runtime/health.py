"""Command: does a bundle load and answer here? `python -m runtime.health --bundle DIR` prints one JSON line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oneranker.tokens import Field, Tokenizer
from runtime.errors import BundleError, OneRankerError
from runtime.pipeline import Pipeline

logger = logging.getLogger("runtime.health")

NOW = 1_700_000_000  # of the synthetic request, in seconds since 1970
TOP_K = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """What a healthy bundle said; `asdict` of it is the line on stdout."""

    index_version: str
    engine: str  # that serves
    device: str  # where it serves
    precision: str
    items: int  # in the answer
    load_ms: float
    answer_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 healthy, 1 no such engine or device here or a score that is no number, 3 a bad bundle; argparse exits with 2.
    """
    parser = argparse.ArgumentParser(
        "python -m runtime.health", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--bundle", required=True, type=Path, help="folder that `python -m export.build` wrote")
    parser.add_argument("--engine", default="auto", help="as in Pipeline.load")
    parser.add_argument("--device", default="auto", help="as in Pipeline.load")
    words = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        report = check_health(words.bundle, words.engine, words.device)
    except OneRankerError as error:
        logger.error("%s", error)
        return error.exit_code
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    return 0


def check_health(bundle: Path, engine: str = "auto", device: str = "auto") -> HealthReport:
    """Load a bundle with one thread and answer one synthetic request through every stage.

    Raises:
        BundleError: The bundle cannot be loaded, or recommends nothing.
        DeviceError: The engine or the device is not here.
        FeedError: A score is not a finite number.
    """
    begin = time.perf_counter()
    with Pipeline.load(bundle, engine=engine, device=device, threads=1) as pipeline:
        loaded = time.perf_counter()
        answer = pipeline.recommend([synthetic_request(pipeline.tokenizer)], TOP_K)[0]
        answered = time.perf_counter()
        engine, device, precision = pipeline.engine, pipeline.device, pipeline.manifest.precision
    if not answer.items:
        raise BundleError(
            f"{bundle}: answered a request with no item, expected at least one. List items in index "
            f"{answer.index_version[:12]}…, or serve another index."
        )
    return HealthReport(
        index_version=answer.index_version,
        engine=engine,
        device=device,
        precision=precision,
        items=len(answer.items),
        load_ms=round((loaded - begin) * 1e3, 3),
        answer_ms=round((answered - loaded) * 1e3, 3),
    )


def synthetic_request(tokenizer: Tokenizer) -> dict[str, Any]:
    """A request that any bundle understands: one event per action with the first value of every declared field.

    Its item is one that no catalogue knows, so the request needs no data.
    """
    context = _first_values(tokenizer.context)
    event = {"item": "an item of no catalogue"} | _first_values(tokenizer.event) | context
    if tokenizer.uses_time:
        event["time"] = NOW
    if tokenizer.uses_group:
        event["group"] = "1"
    events = [event | ({"action": action} if action else {}) for action in tokenizer.actions or [""]]
    request = {"user": _first_values(tokenizer.user), "context": context, "events": events}
    return request | ({"now": NOW} if tokenizer.uses_time else {})


def _first_values(fields: Sequence[Field]) -> dict[str, Any]:
    return {
        entry.name: entry.edges[0] if entry.edges else entry.values[0]
        for entry in fields
        if entry.edges or entry.values
    }


if __name__ == "__main__":
    sys.exit(main())
