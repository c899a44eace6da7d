"""The C++ runtime answers as the Python runtime does: same integers, same items in the same order, same scores."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_library import ROOT, CppPipeline

from export.model_source import ModelSource, read_source
from export.settings import BuildSettings
from export.verify_requests import random_request
from runtime import FeedError, Pipeline, RequestError

pytestmark = pytest.mark.cpp
REQUESTS = 500
CLOSE = 1e-5
DEMO = ROOT / "demo"


@pytest.fixture(scope="module")
def source() -> ModelSource:
    return read_source(BuildSettings(preset="tiny"))


@pytest.fixture(scope="module")
def both(tiny_bundle: Path) -> Iterator[tuple[Pipeline, CppPipeline]]:
    with Pipeline.load(tiny_bundle, threads=1) as python, CppPipeline.load(tiny_bundle) as cpp:
        yield python, cpp


@pytest.fixture(scope="module")
def both_in_half(tiny_fp16_bundle: Path) -> Iterator[tuple[Pipeline, CppPipeline]]:
    with Pipeline.load(tiny_fp16_bundle, threads=1) as python, CppPipeline.load(tiny_fp16_bundle) as cpp:
        yield python, cpp


def random_requests(source: ModelSource, count: int) -> list[dict[str, Any]]:
    """Histories of any length, unknown items, filters that leave a few, many or no items."""
    generator = np.random.default_rng(6)
    ids = source.catalogue.ids
    requests = []
    for number in range(count):
        request = random_request(source.tokenizer, source.catalogue, generator, int(generator.integers(0, 60)))
        for event in request["events"]:
            if generator.random() < 0.05:
                event["item"] = f"unknown {number}"
        for key in ("eligible", "excluded"):
            if generator.random() < 0.2:
                picked = generator.integers(0, len(ids), size=int(generator.integers(0, 40)))
                request[key] = [ids[row] for row in picked] + ["nobody knows it"] * int(generator.integers(0, 2))
        requests.append(request)
    return requests


def assert_same(python: Pipeline, cpp: CppPipeline, requests: Sequence[dict[str, Any]], batches: Sequence[int]) -> None:
    """Compare tokens and answers, request by request, in batches of these sizes in turn."""
    begin = turn = 0
    while begin < len(requests):
        size = min(batches[turn % len(batches)], python.max_batch)
        batch = requests[begin : begin + size]
        for one, mine in zip(python.encode(batch), map(cpp.encode, batch), strict=True):
            for name, array in zip(("token_fields", "token_kind", "token_time"), mine[:3], strict=True):
                np.testing.assert_array_equal(array, getattr(one.tokens, name), err_msg=f"{begin} {name}")
            assert mine[3:] == (one.tokens.unknown_items, one.tokens.dropped)
        for expected, answer in zip(python.recommend(batch, 10), cpp.recommend(batch, 10), strict=True):
            assert [item[:2] + item[4:] for item in answer.items] == [
                (item.id, item.name, item.head, item.row) for item in expected.items
            ]
            for place in ("score", "logp"):
                found = [item[2 if place == "score" else 3] for item in answer.items]
                np.testing.assert_allclose(found, [getattr(i, place) for i in expected.items], rtol=0, atol=CLOSE)
            for name in ("unknown_items", "dropped", "unknown_filter_ids", "index_version"):
                assert getattr(answer, name) == getattr(expected, name), name
        begin, turn = begin + size, turn + 1


def test_random_requests_are_answered_alike(both: tuple[Pipeline, CppPipeline], source: ModelSource) -> None:
    assert_same(*both, random_requests(source, REQUESTS), batches=(1, 3, 2))


def test_an_fp16_bundle_is_answered_alike(both_in_half: tuple[Pipeline, CppPipeline], source: ModelSource) -> None:
    assert_same(*both_in_half, random_requests(source, 60), batches=(1, 3, 2))


def test_own_candidates_are_scored_alike(both: tuple[Pipeline, CppPipeline], source: ModelSource) -> None:
    python, cpp = both
    generator = np.random.default_rng(1)
    for request in random_requests(source, 20):
        picked = generator.integers(0, len(source.catalogue.ids), size=int(generator.integers(1, 8)))
        ids = [source.catalogue.ids[row] for row in picked]
        python.generate([one.tokens for one in python.encode([request])])
        python.enhance()
        np.testing.assert_allclose(cpp.rank(request, ids), python.rank([ids])[0, : len(ids)], rtol=0, atol=CLOSE)


BAD: dict[str, Any] = {
    "an unknown key": {"events": [], "colour": 1},
    "an unknown key with a zero": {"events": [], "col\0our": 1},
    "a column with a zero that is an object": {"user": {"a\0b": {}}, "events": []},
    "events that are no list": {"events": "all"},
    "an event that is no object": {"events": [3]},
    "an event without an item": {"events": [{}]},
    "an unknown column": {"events": [{"item": "item1", "colour": "red"}]},
    "a filter that is no list": {"events": [], "eligible": "item1"},
    "a filter that names a list": {"events": [], "excluded": [["item1"]]},
    "a user that is no object": {"user": [1], "events": []},
    "a kind that there is not": {"events": [{"item": "item1", "kind": "thing"}]},
    "an item that is a list": {"events": [{"item": ["item1"]}]},
    "a group that is an object": {"events": [{"item": "item1", "group": {}}]},
    "a time that is text": {"events": [{"item": "item1", "time": "noon"}]},
    "a negative time": {"events": [{"item": "item1", "time": -1}]},
    "times that go back": {"events": [{"item": "item1", "time": 9}, {"item": "item1", "time": 8}]},
    "an event after now": {"events": [{"item": "item1", "time": 2_000_000_000}]},
    "no now": {"now": None},
    "a now that is true": {"now": True},
}


@pytest.mark.parametrize("what", BAD)
def test_both_refuse(both: tuple[Pipeline, CppPipeline], what: str) -> None:
    request = {"now": 1_700_000_000} | BAD[what]
    for event in request.get("events", []):
        if isinstance(event, dict):
            event.setdefault("time", 5)
    for pipeline in both:
        with pytest.raises(RequestError) as caught:
            pipeline.recommend([request])
        assert re.search(r"expected .+\. [A-Z].+\.$", str(caught.value)), caught.value


def test_the_malformed_request_of_a_batch_is_named(both: tuple[Pipeline, CppPipeline]) -> None:
    good: dict[str, Any] = {"now": 1_700_000_000, "events": []}
    for pipeline in both:
        with pytest.raises(RequestError) as caught:
            pipeline.recommend([good, good | {"events": [{"item": "item1", "time": 5, "colour": 1}]}])
        assert caught.value.position == 1
        assert "request.events[0]" in str(caught.value)
        assert pipeline.recommend([good], 3)[0].items, "and it lives on"


def test_both_refuse_too_large_a_batch_and_no_items(both: tuple[Pipeline, CppPipeline]) -> None:
    good: dict[str, Any] = {"now": 1_700_000_000, "events": []}
    for pipeline in both:
        with pytest.raises(FeedError):
            pipeline.recommend([good] * (both[0].max_batch + 1))
        with pytest.raises(FeedError):
            pipeline.recommend([good], 0)
        assert pipeline.recommend([], 3) == []


@pytest.mark.slow
def test_five_hundred_real_requests_of_the_demo_are_answered_alike() -> None:
    if not (DEMO / "bundle" / "manifest.json").is_file():
        pytest.skip("needs demo/bundle and demo/data: run `make demo`")
    path = DEMO / "real_requests.jsonl"
    words = ["requests", "completejourney", "--data-root", str(DEMO / "data"), "--count", str(REQUESTS)]
    subprocess.run([sys.executable, "-m", "oneranker.data", *words, "--out", str(path)], check=True, cwd=ROOT)
    requests = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(requests) == REQUESTS
    with Pipeline.load(DEMO / "bundle") as python, CppPipeline.load(DEMO / "bundle", threads=0) as cpp:
        assert_same(python, cpp, requests, batches=(1, 8))
