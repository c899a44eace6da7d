from __future__ import annotations

import numpy as np
from tiny import tiny_source

from export.settings import BuildSettings, profile_of
from export.verify_requests import random_batches, random_request


def test_verification_sees_the_longest_history_and_the_shortest() -> None:
    source = tiny_source()
    profile = profile_of(BuildSettings(), source.model.config)
    batches = random_batches(source.tokenizer, source.catalogue, profile, seed=0)
    assert [[len(tokens.token_kind) for tokens in batch] for batch in batches] == [[20], [20, 10, 3, 19]]


def test_random_requests_use_every_field_of_the_tokenizer_and_leave_some_out() -> None:
    source = tiny_source()
    tokenizer, catalogue = source.tokenizer, source.catalogue
    generator = np.random.default_rng(0)
    requests = [random_request(tokenizer, catalogue, generator, 40) for _ in range(30)]
    events = [event for request in requests for event in request["events"]]
    for fields, rows in (
        (tokenizer.event, events),
        (tokenizer.context, events),
        (tokenizer.user, [r["user"] for r in requests]),
    ):
        for entry in fields:
            given = sum(entry.name in row for row in rows)
            assert 0 < given < len(rows), entry.name
    assert {event["action"] for event in events} == {"bought", "read"}


def test_the_same_seed_asks_the_same() -> None:
    source = tiny_source()
    profile = profile_of(BuildSettings(), source.model.config)
    first, second = (random_batches(source.tokenizer, source.catalogue, profile, seed=3) for _ in range(2))
    for left, right in zip(first, second, strict=True):
        for one, other in zip(left, right, strict=True):
            assert np.array_equal(one.token_fields, other.token_fields)
            assert np.array_equal(one.token_time, other.token_time)
