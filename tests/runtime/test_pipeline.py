"""The pipeline against `fake_bundle`'s plain-numpy answers: whole chain, single stages, limits, swaps and threads."""

from __future__ import annotations

import logging
from pathlib import Path

import fake_bundle
import numpy as np
import pytest
from fake_bundle import assert_answer, expected_scores, make_request, tokens_of

from runtime import Pipeline
from runtime.items import ItemIndex


@pytest.mark.parametrize("events", [0, 1, 30, 31, 32, 39], ids="events={}".format)
def test_the_chain_answers_as_plain_numpy_does(pipeline: Pipeline, index: ItemIndex, events: int) -> None:
    request = make_request(index, events)
    (answer,) = pipeline.recommend([request], top_k=4)
    assert_answer(answer, tokens_of(pipeline, [request])[0], index, index.listed, 4)
    assert (answer.unknown_items, answer.dropped, answer.unknown_filter_ids) == (0, 0, 0)


def test_a_batch_answers_as_each_request_alone(pipeline: Pipeline, index: ItemIndex) -> None:
    requests = [make_request(index, events, seed) for seed, events in enumerate((3, 38, 0))]
    together = pipeline.recommend(requests, 5)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = pipeline.recommend([request], 5)
        assert [item.row for item in answer.items] == [item.row for item in alone.items]
        np.testing.assert_allclose(
            [item.score for item in answer.items], [item.score for item in alone.items], rtol=1e-6
        )
        assert_answer(answer, tokens_of(pipeline, [request])[0], index, index.listed, 5)


def test_a_short_request_after_a_long_one_reads_none_of_its_leftovers(pipeline: Pipeline, index: ItemIndex) -> None:
    short, long = make_request(index, 2), make_request(index, 38, 1)
    before = pipeline.recommend([short, short])
    pipeline.recommend([long, long, long])
    assert pipeline.recommend([short, short]) == before


def test_an_fp16_bundle_answers_within_its_rounding(tmp_path: Path) -> None:
    bundle = fake_bundle.write_bundle(tmp_path / "half", precision="fp16")
    with Pipeline.load(bundle, threads=1) as pipeline:
        index = ItemIndex.read(bundle / "items")
        (tokens,) = tokens_of(pipeline, [make_request(index, 0)])
        pipeline.generate([tokens])
        assert pipeline.enhance().dtype == np.float16
        scores = pipeline.rank([list(range(len(index)))])[0]
    np.testing.assert_allclose(scores, expected_scores(tokens, index, range(len(index))), rtol=0.01, atol=2)


def test_history_beyond_s_loses_its_oldest_tokens_and_says_so_once(
    pipeline: Pipeline, index: ItemIndex, caplog: pytest.LogCaptureFixture
) -> None:
    request = make_request(index, 60)
    with caplog.at_level(logging.WARNING, "runtime.pipeline"):
        answers = [pipeline.recommend([request], 3)[0] for _ in range(2)]
    assert [answer.dropped for answer in answers] == [1 + 2 * 60 + 1 - 80] * 2
    assert [record.getMessage()[:36] for record in caplog.records] == ["a history has 42 tokens more than S="]
    assert_answer(answers[0], tokens_of(pipeline, [request])[0], index, index.listed, 3)


def test_unknown_items_in_a_history_are_counted(pipeline: Pipeline, index: ItemIndex) -> None:
    events = [{"item": "never seen", "time": 5}, {"item": index.id(3), "time": 6}]
    assert pipeline.recommend([{"events": events, "now": 7}])[0].unknown_items == 1


def test_delisted_items_are_recommended_only_when_asked_for_by_name(pipeline: Pipeline, index: ItemIndex) -> None:
    request = make_request(index, 4)
    assert 2 not in [item.row for item in pipeline.recommend([request], 6)[0].items]
    (answer,) = pipeline.recommend([request | {"eligible": [index.id(2)]}], 6)
    assert [item.row for item in answer.items] == [2]


def test_each_request_of_a_batch_has_its_own_filter(pipeline: Pipeline, index: ItemIndex) -> None:
    plain = make_request(index, 4)
    only, without = [1, 5, 8], [0, 3, 9]
    requests = [
        plain | {"excluded": [index.id(row) for row in without] + ["nobody"]},
        plain,
        plain | {"eligible": [index.id(row) for row in only], "excluded": [index.id(5)]},
    ]
    answers = pipeline.recommend(requests, 6)
    (tokens,) = tokens_of(pipeline, [plain])
    allowed = index.listed
    assert_answer(answers[0], tokens, index, [bool(allowed[row]) and row not in without for row in range(11)], 6)
    assert_answer(answers[1], tokens, index, allowed, 6)
    assert_answer(answers[2], tokens, index, [row in (1, 8) for row in range(11)], 6)
    assert [answer.unknown_filter_ids for answer in answers] == [1, 0, 0]
    assert_answer(pipeline.recommend([plain], 6)[0], tokens, index, allowed, 6)  # the filters of a call end with it


def test_no_eligible_item_is_an_empty_answer(pipeline: Pipeline, index: ItemIndex) -> None:
    assert pipeline.recommend([make_request(index, 4) | {"eligible": []}])[0].items == []
