"""Item embeddings: near in space = chosen together or alike, whatever is missing."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from oneranker.errors import DataError
from oneranker.semantic_ids import item_embeddings as module
from oneranker.semantic_ids.item_embeddings import chosen_together, item_embeddings

N, D = 12, 8
KIND = np.array(["food", "drink"] * 6)  # items 0, 2, 4, ... are food
TWO_CROWDS = {  # items 0-5 are bought together, and so are items 6-11
    "group_id": np.repeat(np.arange(100), 3),
    "item_row": np.concatenate(
        [np.random.default_rng(g).choice(6, 3, replace=False) + 6 * (g % 2) for g in range(100)]
    ),
}


def similarity(embeddings: np.ndarray) -> np.ndarray:
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def test_items_chosen_together_are_nearer_than_others() -> None:
    near = similarity(item_embeddings(N, D, **TWO_CROWDS))
    assert min(near[:6, :6].min(), near[6:, 6:].min()) > near[:6, 6:].max()


def test_alike_items_are_nearer_than_others() -> None:
    near = similarity(item_embeddings(N, D, content={"kind": KIND}))
    assert near[0, 2] > 0.99
    assert near[0, 1] < 0.1


def test_both_sources_have_half_of_the_width_and_the_same_weight() -> None:
    both = item_embeddings(N, D, content={"kind": KIND}, **TWO_CROWDS)
    assert (both.dtype, both.shape) == (np.float32, (N, D))
    for half in (both[:, : D // 2], both[:, D // 2 :]):
        np.testing.assert_allclose((half**2).sum(axis=1), 0.5, rtol=1e-5)


def test_pairs_are_weighed_as_a_loop_weighs_them() -> None:
    rng = np.random.default_rng(1)
    groups = [rng.choice(6, size, replace=False).tolist() for size in (2, 3, 1, 4, 2, 3)]
    weight = np.zeros((6, 6))
    for group in groups:
        for i, j in permutations(group, 2):
            weight[i, j] += 1 / (len(group) - 1)
    share = weight.sum(axis=1) ** 0.75
    share /= share.sum()
    expected = np.zeros((6, 6))
    for i, j in permutations(range(6), 2):
        if weight[i, j]:
            expected[i, j] = max(0.0, math.log(weight[i, j] / weight.sum() / (share[i] * share[j])))
    columns = {
        "group_id": np.repeat(np.arange(len(groups)), [len(group) for group in groups]) * 7 - 3,
        "item_row": np.concatenate(groups),
    }
    np.testing.assert_allclose(chosen_together(6, **columns).toarray(), expected, rtol=1e-4, atol=1e-6)


def test_unknown_items_and_repeated_lines_and_row_order_change_nothing() -> None:
    group, item = TWO_CROWDS["group_id"], TWO_CROWDS["item_row"]
    order = np.random.default_rng(0).permutation(len(group))
    noisy = {
        "group_id": np.concatenate([group, group[:9], group[:5]])[::-1],
        "item_row": np.concatenate([item, item[:9], np.full(5, -1)])[::-1],
    }
    plain = chosen_together(N, group, item).toarray()
    np.testing.assert_allclose(chosen_together(N, **noisy).toarray(), plain, rtol=1e-5)
    np.testing.assert_allclose(chosen_together(N, group[order], item[order]).toarray(), plain, rtol=1e-5)


def test_a_long_group_is_cut_into_runs_in_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_GROUP", 3)
    group = np.random.default_rng(0).integers(0, 2, 400)  # item = event, so that every pair tells its run
    together = chosen_together(400, group, np.arange(400)).toarray() > 0
    expected = np.zeros((400, 400), bool)
    for own in (np.flatnonzero(group == 0), np.flatnonzero(group == 1)):
        for begin in range(0, len(own), 3):
            expected[np.ix_(own[begin : begin + 3], own[begin : begin + 3])] = True
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(together, expected)


def test_lists_share_their_values_and_missing_values_share_nothing() -> None:
    near = similarity(item_embeddings(5, 4, content={"genres": np.array(["a|b", "b", "a", "", None], object)}))
    assert near[0, 1] > 0.1
    assert near[0, 2] > 0.1
    assert near[1, 2] < 0.1
    assert near[3, 4] == 0


def test_an_item_that_nothing_is_known_of_is_zero() -> None:
    embeddings = item_embeddings(N + 1, D, **TWO_CROWDS)
    assert not embeddings[N].any()
    assert (np.abs(embeddings[:N]).sum(axis=1) > 0).all()


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"content": {"kind": ["x"]}},
        {"content": {"kind": [""]}},
        {"group_id": np.array([1, 1]), "item_row": np.array([0, 0])},
        {"group_id": np.zeros(0, int), "item_row": np.zeros(0, int)},
        {"content": {"kind": ["x"], "size": ["2"]}, "group_id": np.array([1]), "item_row": np.array([0])},
    ],
)
@pytest.mark.parametrize("width", [1, 5])
def test_a_catalogue_of_one_item_is_embedded(known: dict[str, Any], width: int) -> None:
    embeddings = item_embeddings(1, width, **known)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (1, width))
    assert np.isfinite(embeddings).all()


def test_a_width_above_the_number_of_items_is_filled_with_zeros() -> None:
    embeddings = item_embeddings(3, 16, content={"kind": ["a", "b", "c"]})
    assert embeddings.shape == (3, 16)
    assert not embeddings[:, 3:].any()
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_with_nothing_known_items_still_differ_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    embeddings = item_embeddings(N, D)
    assert len(np.unique(embeddings, axis=0)) == N
    assert "arbitrary" in caplog.text


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (item_embeddings(N, D, content={"kind": KIND}, seed=3, **TWO_CROWDS) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"content": {"kind": KIND[1:]}}, r"content column 'kind' is \[11\], expected \[12\]"),
        ({"group_id": np.zeros(3, int), "item_row": np.zeros(2, int)}, r"group_id is \[3\] and item_row \[2\]"),
        ({"group_id": np.zeros(1, int), "item_row": np.array([12])}, r"item_row spans 12 \.\. 12, expected -1 \.\. 11"),
        ({"group_id": np.zeros(1, int), "item_row": np.array([-2])}, r"item_row spans -2 \.\. -2"),
        ({"group_id": np.zeros(1, int)}, "got group_id without item_row"),
    ],
)
def test_columns_that_do_not_fit_are_refused(known: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        item_embeddings(N, D, **known)


def test_no_items_are_refused() -> None:
    with pytest.raises(DataError, match="got 0 items of width 4, expected both >= 1"):
        item_embeddings(0, 4)
