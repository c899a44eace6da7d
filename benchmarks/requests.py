"""The raw requests of a benchmark: a file's, or random ones of a given history length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.model_source import ModelSource
from export.verify_requests import random_request
from oneranker.synthetic import synthetic_request
from oneranker.tokens import SimpleItemLookup
from runtime.errors import FeedError
from runtime.manifest import Manifest
from runtime.recommend import read_requests

SHORTEST = 3  # tokens: a user, an event, the request
SEED = 0


def requests_of_file(path: Path) -> list[dict[str, Any]]:
    """Every request of a JSON-lines file.

    Raises:
        FeedError: It cannot be read, is not JSON, or holds none.
    """
    requests, _ = read_requests(path)
    if not requests:
        raise FeedError(f"{path}: holds no request, expected at least one JSON object a line. Write some into it.")
    return requests


def random_requests(source: ModelSource, manifest: Manifest, count: int, history: int) -> list[dict[str, Any]]:
    """Requests of `history` tokens over the bundle's own items and field values, always the same ones.

    Where the weights are random the length is exact; over real fields it may be one token short of it.
    """
    generator = np.random.default_rng([SEED, history])
    if manifest.weights.source == "random":
        return [synthetic_request(source.catalogue, generator, history) for _ in range(count)]
    return [_cut(source, random_request(source.tokenizer, source.catalogue, generator, history), history)
            for _ in range(count)]  # fmt: skip


def _cut(source: ModelSource, request: dict[str, Any], history: int) -> dict[str, Any]:
    """Drop the oldest events until the request makes at most `history` tokens: nothing is left to be truncated."""
    lookup = SimpleItemLookup(source.catalogue.ids, source.catalogue.item_fields)
    events = request["events"]
    low, high = 0, len(events)  # the most of the newest events that fit
    while low < high:
        kept = (low + high + 1) // 2
        tokens = source.tokenizer.encode({**request, "events": events[-kept:]}, lookup, 3 * history + 2)
        low, high = (kept, high) if len(tokens.token_kind) <= history else (low, kept - 1)
    return {**request, "events": events[len(events) - low :]}
