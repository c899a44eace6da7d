"""Limits and malformed input: each refusal names the request and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_bundle import make_request, tokens_of

from oneranker.tokens import Tokens
from runtime import FeedError, OneRankerError, Pipeline, RequestError
from runtime.items import ItemIndex
from runtime.recommendation import Candidates, best_items


def test_a_batch_over_the_profile_is_refused(pipeline: Pipeline, index: ItemIndex) -> None:
    with pytest.raises(FeedError, match=r"batch of 4 requests, expected 1 \.\. 3, the profile's B"):
        pipeline.recommend([make_request(index, 1)] * 4)
    with pytest.raises(FeedError, match="batch of 0 requests"):
        pipeline.generate([])
    assert pipeline.recommend([]) == []


def test_top_k_is_at_least_one_and_in_effect_at_most_c(pipeline: Pipeline) -> None:
    with pytest.raises(FeedError, match="top_k=0, expected at least 1"):
        pipeline.recommend([{"events": [], "now": 1}], 0)
    assert len(pipeline.recommend([{"events": [], "now": 1}], 1000)[0].items) == 6


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([[1], ["nobody"]], "request 1: candidate 0 is 'nobody', expected one of the 11 items of index"),
        ([[1], [3, 11]], "request 1: candidate 1 is 11, expected one of the 11 items"),
        ([[1, -1], [3]], "request 0: candidate 1 is -1, expected one of the 11 items"),
        ([[1], []], r"request 1: has 0 candidates, expected 1 .. 20"),
        ([[1], [1] * 21], r"request 1: has 21 candidates, expected 1 .. 20"),
        ([[1]], "rank: got candidates for 1 requests, expected 2"),
        ([[1], [1, "item-0-1"]], "request 1: candidates are [1, 'item-0-1'], expected item ids (str) or rows (int)"),
        ([[1], [True]], "request 1: candidates are [True]"),
        (np.array([[1, 2], [-1, -1]]), "request 1: has padding only"),
        (np.array([[1, 2], [-2, 3]]), "request 1: candidate 0 is "),
    ],
)
def test_candidates_that_cannot_be_scored_are_named(
    pipeline: Pipeline, index: ItemIndex, candidates: Any, message: str
) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 2)] * 2))
    pipeline.enhance()
    with pytest.raises(FeedError) as caught:
        pipeline.rank(candidates)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "is a list, expected an object"),
        ({"events": [], "now": 1, "colour": 2}, "colour"),
        ({"events": [{"item": "a", "time": 9}, {"item": "a", "time": 8}], "now": 10}, "8 comes after 9"),
        ({"events": [{"item": "a", "time": 9}], "now": 8}, "8 is before the last event"),
        ({"events": [{"time": 9}], "now": 8}, "without 'item'"),
        ({"events": [], "now": -1}, "-1"),
        ({"events": [], "now": 1, "eligible": "item-0-1"}, "'eligible' is a str, expected a list of item ids"),
        ({"events": [], "now": 1, "excluded": 3}, "'excluded' is a int, expected a list of item ids"),
        (
            {"events": [], "now": 1, "eligible": ["a", ["b"]]},
            "request.eligible[1]: got list, expected text or a number",
        ),
        ({"events": [], "now": 1, "excluded": [True]}, "request.excluded[0]: got bool, expected text or a number"),
    ],
)
def test_a_malformed_request_is_named_by_position(pipeline: Pipeline, request_: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        pipeline.recommend([{"events": [], "now": 1}, request_])
    assert caught.value.position == 1
    assert str(caught.value).startswith("request 1: ")
    assert message in str(caught.value)


def test_tokens_of_another_tokenizer_are_refused(pipeline: Pipeline, index: ItemIndex) -> None:
    (good,) = tokens_of(pipeline, [make_request(index, 2)])
    wide = replace(good, token_fields=np.zeros((len(good.token_kind), 4), np.int32))
    with pytest.raises(RequestError, match=r"request 1: token_fields is int32 \[6, 4\], expected int32 \[6, 3\]"):
        pipeline.generate([good, wide])
    long = Tokens(np.zeros((81, 3), np.int32), np.zeros(81, np.int32), np.zeros(81, np.int64), 0, 0)
    with pytest.raises(RequestError, match=r"request 0: has 81 tokens, expected 1 \.\. 80"):
        pipeline.generate([long])


def test_a_score_that_is_no_number_is_an_error(index: ItemIndex) -> None:
    found = Candidates(*(np.ones((1, 2), np.int32),) * 3, count=np.array([2], np.int32))  # type: ignore[arg-type]
    with pytest.raises(OneRankerError, match="score 1 of request 0 is not a finite number"):
        best_items(index, found, np.array([[1.0, np.nan]]), 0, 2)
