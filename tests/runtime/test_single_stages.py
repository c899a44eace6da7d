"""The stages one by one, for callers who bring their own candidates and features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_bundle
import numpy as np
import pytest
from fake_bundle import expected_scores, make_request, tokens_of

from runtime import FeedError, Pipeline, UsageError
from runtime.forward import Forward
from runtime.items import ItemIndex
from runtime.recommendation import best_items


def test_own_candidates_are_scored_in_the_order_given(pipeline: Pipeline, index: ItemIndex) -> None:
    tokens = tokens_of(pipeline, [make_request(index, 3), make_request(index, 35, 1)])
    pipeline.generate(tokens)
    pipeline.enhance()
    rows: list[list[int]] = [[7, 2, 2, 0], [10]]
    scores = pipeline.rank([[index.id(7), index.id(2), index.id(2), index.id(0)], [10]])
    assert scores.shape == (2, 4)
    np.testing.assert_allclose(scores[0], expected_scores(tokens[0], index, rows[0]), rtol=1e-5)
    np.testing.assert_allclose(scores[1, :1], expected_scores(tokens[1], index, rows[1]), rtol=1e-5)
    assert (scores[1, 1:] == np.float32(-1e30)).all()


def test_a_padded_array_of_rows_is_scored_as_the_lists_are(pipeline: Pipeline, index: ItemIndex) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 3), make_request(index, 9, 1)]))
    pipeline.enhance()
    lists = pipeline.rank([[4, 5, 6], [1]])
    assert np.array_equal(pipeline.rank(np.array([[4, 5, 6], [1, -1, -1]])), lists)


@pytest.mark.parametrize("count", [1, 16, 17, 20], ids="C={}".format)
def test_scores_do_not_depend_on_the_number_of_candidates(pipeline: Pipeline, index: ItemIndex, count: int) -> None:
    (tokens,) = tokens_of(pipeline, [make_request(index, 6)])
    pipeline.generate([tokens])
    pipeline.enhance()
    rows = [row % 11 for row in range(count)]
    np.testing.assert_allclose(pipeline.rank([rows])[0], expected_scores(tokens, index, rows), rtol=1e-5)


def test_recommend_equals_its_stages(pipeline: Pipeline, index: ItemIndex) -> None:
    requests = [make_request(index, 3), make_request(index, 12, 1) | {"excluded": [index.id(9)]}]
    whole = pipeline.recommend(requests, 6)
    encoded = pipeline.encode(requests)
    pipeline.generate([one.tokens for one in encoded])
    pipeline.enhance()
    candidates = pipeline.retrieve([one.item_filter for one in encoded])
    scores = pipeline.rank()
    for position, answer in enumerate(whole):
        assert best_items(index, candidates, scores, position, 6) == answer.items


def test_returned_arrays_are_never_overwritten(pipeline: Pipeline, index: ItemIndex) -> None:
    def all_stages(request: dict[str, Any]) -> list[np.ndarray]:
        pipeline.generate(tokens_of(pipeline, [request]))
        user = pipeline.enhance()
        found = pipeline.retrieve()
        kept = [user, found.items, found.logp, found.head, found.count, pipeline.rank(), pipeline.rank([[1, 2]])]
        return [*kept, pipeline.read("ranker_key_history")]

    first = all_stages(make_request(index, 3))
    before = [array.copy() for array in first]
    all_stages(make_request(index, 20, 1))
    assert all(np.array_equal(one, other) for one, other in zip(first, before, strict=True))


def test_a_step_without_the_one_before_it_is_an_error(pipeline: Pipeline, index: ItemIndex) -> None:
    with pytest.raises(UsageError, match="enhancer: the generator has not run on this batch"):
        pipeline.enhance()
    with pytest.raises(UsageError, match="'user_embedding' has not been written"):
        pipeline.read("user_embedding")
    pipeline.recommend([make_request(index, 2)])
    pipeline.generate(tokens_of(pipeline, [make_request(index, 2)]))
    with pytest.raises(UsageError, match="retriever: the enhancer has not run"):
        pipeline.retrieve()
    with pytest.raises(UsageError, match="ranker: the enhancer has not run"):
        pipeline.rank([[1]])
    pipeline.enhance()
    with pytest.raises(UsageError, match=r"no candidates of the served index; call retrieve\(\)"):
        pipeline.rank()
    pipeline.retrieve()
    pipeline.rank([[1]])
    with pytest.raises(UsageError, match="no candidates of the served index"):
        pipeline.rank()  # the caller's candidates lie where the retriever's did


@pytest.mark.parametrize("call", ["recommend", "a recommend that fails", "warm_up"])
def test_after_a_call_with_a_batch_of_its_own_no_step_goes_on_with_it(
    pipeline: Pipeline, index: ItemIndex, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 3)]))
    pipeline.enhance()
    if call == "a recommend that fails":
        monkeypatch.setattr(Forward, "retrieve", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.recommend([make_request(index, 20, 1)])
        monkeypatch.undo()
    elif call == "recommend":
        pipeline.recommend([make_request(index, 20, 1)])
    else:
        pipeline.warm_up([1], [64])
    for step in (pipeline.enhance, pipeline.retrieve, lambda: pipeline.rank([[1]])):
        with pytest.raises(UsageError, match="has not run on this batch, expected it first"):
            step()


def test_features_of_candidates_reach_the_ranker(tmp_path: Path) -> None:
    bundle = fake_bundle.write_bundle(tmp_path / "bundle", features=True)
    index = ItemIndex.read(bundle / "items")
    with Pipeline.load(bundle, threads=1) as pipeline:
        (tokens,) = tokens_of(pipeline, [make_request(index, 0)])
        pipeline.generate([tokens])
        pipeline.enhance()
        features = np.arange(6.0).reshape(1, 3, 2)
        scores = pipeline.rank([[4, 5, 6]], features)
        np.testing.assert_allclose(
            scores[0], expected_scores(tokens, index, [4, 5, 6]) + np.array([1, 5, 9]), rtol=1e-5
        )
        with pytest.raises(FeedError, match=r"is float64 \[1, 2, 2\], expected finite float32 \[1, 3, 2\]"):
            pipeline.rank([[4, 5, 6]], features[:, :2])
        with pytest.raises(FeedError, match=r"candidate_features, got none, expected float32 \[B, C, K\]"):
            pipeline.recommend([make_request(index, 0)], 1)


def test_features_that_no_ranker_reads_are_refused(pipeline: Pipeline, index: ItemIndex) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 0)]))
    pipeline.enhance()
    with pytest.raises(FeedError, match="this model has no candidate_features, got some, expected none"):
        pipeline.rank([[4]], np.zeros((1, 1, 2), np.float32))


def test_pads_are_zeros_at_the_time_of_the_last_real_token(pipeline: Pipeline, index: ItemIndex) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 30)] * 2))
    short, shorter = tokens_of(pipeline, [make_request(index, 4), make_request(index, 1)])
    pipeline.generate([short, shorter])
    fields, kind, time, mask = map(pipeline.read, ("token_fields", "token_kind", "token_time", "history_mask"))
    assert fields.shape == (2, 64, 3)
    for row, tokens in enumerate((short, shorter)):
        length = len(tokens.token_kind)
        assert np.array_equal(fields[row], np.vstack((tokens.token_fields, np.zeros((64 - length, 3)))))
        assert np.array_equal(kind[row], np.append(tokens.token_kind, np.zeros(64 - length)))
        assert np.array_equal(time[row], np.append(tokens.token_time, np.full(64 - length, tokens.token_time[-1])))
        assert np.array_equal(mask[row, 0, 0], np.where(np.arange(64) < length, 0, np.float32(-1e4)))


def test_candidates_of_an_earlier_call_are_padded_over(pipeline: Pipeline, index: ItemIndex) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 4)]))
    pipeline.enhance()
    pipeline.rank([[3] * 16])
    pipeline.rank([[5, 6]])
    assert pipeline.read("candidate_items").tolist() == [[5, 6] + [-1] * 14]
