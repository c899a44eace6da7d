"""Random raw requests over a tokenizer's own fields and a catalogue's items: verification needs no data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.settings import MIN_HISTORY, Profile
from oneranker.catalogue import Catalogue
from oneranker.synthetic import START
from oneranker.token_fields import Field, TokenError
from oneranker.tokens import SimpleItemLookup, Tokenizer, Tokens
from runtime.errors import FeedError
from runtime.recommend import read_requests

SHORT = 64  # tokens of the batch with mixed lengths


def random_request(
    tokenizer: Tokenizer, catalogue: Catalogue, generator: np.random.Generator, events: int
) -> dict[str, Any]:
    """A request with so many item events in groups of up to four; one value in ten is unknown or missing."""
    content = [action for action, kind in tokenizer.actions.items() if kind == "content"]
    bought = [action for action, kind in tokenizer.actions.items() if kind == "item"]
    rows, now, group = [], START, 0
    for item in generator.integers(0, len(catalogue.ids), size=events):
        if generator.random() < 0.3:
            now, group = now + int(generator.integers(30, 600_000)), group + 1
        event: dict[str, Any] = {"item": catalogue.ids[item]} | _values(tokenizer.event, generator)
        event |= _values(tokenizer.context, generator)
        if content and generator.random() < 0.05:
            event["action"] = str(generator.choice(content))
        elif bought:
            event["action"] = str(generator.choice(bought))
        if tokenizer.uses_time:
            event["time"] = now
        if tokenizer.uses_group:
            event["group"] = f"g{group}"
        rows.append(event)
    request: dict[str, Any] = {"user": _values(tokenizer.user, generator), "events": rows}
    request["context"] = _values(tokenizer.context, generator)
    return request | ({"now": now + 3600} if tokenizer.uses_time else {})


def random_batches(tokenizer: Tokenizer, catalogue: Catalogue, profile: Profile, seed: int) -> list[list[Tokens]]:
    """One request of the longest history, and a batch of mixed lengths down to the shortest."""
    generator = np.random.default_rng([seed, len(catalogue.ids)])
    lookup = SimpleItemLookup(catalogue.ids, catalogue.item_fields)

    def tokens(length: int) -> Tokens:
        return tokenizer.encode(random_request(tokenizer, catalogue, generator, length), lookup, length)

    longest = profile.S[2]
    short = min(SHORT, longest)
    mixed = [short, max(MIN_HISTORY, short // 2), MIN_HISTORY, max(MIN_HISTORY, short - 1)][: profile.B[2]]
    return [[tokens(longest)], [tokens(length) for length in mixed]]


def batches_of_file(path: Path, tokenizer: Tokenizer, catalogue: Catalogue, profile: Profile) -> list[list[Tokens]]:
    """Real requests, one JSON object a line as `runtime.recommend` reads them, in batches of the profile's size.

    Raises:
        FeedError: The file cannot be read, or a line is no request for this tokenizer.
    """
    lookup = SimpleItemLookup(catalogue.ids, catalogue.item_fields)
    rows = []
    for request, line in zip(*read_requests(path), strict=True):
        try:
            rows.append(tokenizer.encode(request, lookup, profile.S[2]))
        except TokenError as error:
            raise FeedError(f"{path} line {line}: {error}") from error
    return [rows[begin : begin + profile.B[2]] for begin in range(0, len(rows), profile.B[2])]


def _values(fields: tuple[Field, ...], generator: np.random.Generator) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for entry in fields:
        if generator.random() < 0.1:
            continue
        if entry.type == "number":
            low, high = (entry.edges[0], entry.edges[-1]) if entry.edges else (0.0, 1.0)
            out[entry.name] = float(generator.uniform(low - 1, high + 1))
        elif entry.values:
            out[entry.name] = entry.values[int(generator.integers(0, len(entry.values)))]
    return out
