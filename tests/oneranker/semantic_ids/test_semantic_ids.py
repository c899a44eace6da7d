"""The one interface over all methods: what `fit` gives against slow loops, and what `assign` may and may not do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted_ids import SETTINGS, D, N, drawn, fitted, learned

from oneranker.errors import DataError
from oneranker.semantic_ids import IdSettings, Method, SemanticIds, fit
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.gaoq_tree import GaoqTree, assign_gaoq
from oneranker.semantic_ids.rq_kmeans import add_items
from oneranker.semantic_ids.rq_kmeans_plus import RqKmeansPlus
from oneranker.trie import Trie

ROOM = {Method.RQ_KMEANS: 5**3, Method.RQ_KMEANS_PLUS: 5**3, Method.GAOQ: 3 * 4 * 4, Method.RESID: 3 * 4 * 4}


@pytest.fixture(scope="module", params=list(Method), ids=lambda method: method.value)
def ids(request: pytest.FixtureRequest) -> SemanticIds:
    return fitted(request.param)


def through(weights: dict[str, np.ndarray], points: np.ndarray, scale: float) -> np.ndarray:
    """x + W2 max(W1 x + b1, 0) + b2, where the MLP sees points divided by the scale."""
    out = []
    for point in points.astype(np.float64) / scale:
        hidden = np.maximum(weights["0.weight"] @ point + weights["0.bias"], 0)
        out.append(scale * (point + weights["2.weight"] @ hidden + weights["2.bias"]))
    return np.array(out)


def leaf(trie: Trie, path: list[int]) -> int:
    """The place of a path's item, found by asking every child in turn."""
    node = 0
    for code in path:
        children = range(trie.trie_children_begin[node], trie.trie_children_end[node])
        (node,) = [child for child in children if trie.trie_code[child] == code]
    assert trie.trie_items_end[node] == trie.trie_items_begin[node] + 1
    return int(trie.trie_items_begin[node])


def test_every_item_has_a_path_of_its_own_within_the_widths(ids: SemanticIds) -> None:
    assert len({tuple(path) for path in ids.codes.tolist()}) == N
    assert ids.codes.shape == (N, 3)
    assert ids.codes.dtype == np.int32
    assert ids.codebooks.shape == (3, max(ids.widths), D)
    for level, width in enumerate(ids.widths):
        assert set(ids.codes[:, level].tolist()) <= set(range(width))
    if ids.settings.method in (Method.GAOQ, Method.RESID):
        assert ids.widths == (3, 4, 4)  # 40 items under 12 prefixes are 4 under the largest
    else:
        assert ids.widths == (5, 5, 5)
    assert ids.item_ids == tuple(str(row) for row in range(N))
    assert ids.seconds.keys() == {"embedding", "quantisation"}


def test_the_same_input_gives_the_same_codes_and_another_seed_others(ids: SemanticIds) -> None:
    again = fitted(ids.settings.method)
    np.testing.assert_array_equal(again.codes, ids.codes)
    np.testing.assert_array_equal(again.codebooks, ids.codebooks)
    other = fit(ids.embeddings, replace(ids.settings, seed=1), famae=ids.famae)
    assert not np.array_equal(other.codes, ids.codes)


def test_the_order_of_memory_and_the_float_type_of_the_embeddings_change_nothing(ids: SemanticIds) -> None:
    other = fit(np.asfortranarray(ids.embeddings.astype(np.float64)), ids.settings, famae=ids.famae)
    np.testing.assert_array_equal(other.codes, ids.codes)
    np.testing.assert_array_equal(other.embeddings, ids.embeddings)


def test_reconstructions_are_sums_along_paths_taken_back_to_the_embeddings(ids: SemanticIds) -> None:
    total = np.zeros((N, D))
    for item, path in enumerate(ids.codes.tolist()):
        for level, code in enumerate(path):
            total[item] += ids.codebooks[level, code]
    points = ids.embeddings.astype(np.float64)
    if isinstance(ids.quantiser, RqKmeansPlus):
        assert any(weight.any() for weight in (ids.quantiser.encoder["2.weight"], ids.quantiser.decoder["2.weight"]))
        total = through(ids.quantiser.decoder, total, ids.quantiser.scale)
        points = through(ids.quantiser.encoder, points, ids.quantiser.scale)
    np.testing.assert_allclose(ids.reconstruct(), total, atol=1e-5)
    np.testing.assert_allclose(ids.points, points, atol=1e-5)


def test_the_trie_leads_from_every_path_to_its_item(ids: SemanticIds) -> None:
    trie, order = ids.trie()
    assert sorted(order.tolist()) == list(range(N))
    for item, path in enumerate(ids.codes.tolist()):
        assert order[leaf(trie, path)] == item


def quantisers_own(ids: SemanticIds, new: np.ndarray) -> np.ndarray:
    if isinstance(ids.quantiser, CodePaths):
        return add_items(ids.quantiser, new).codes
    if isinstance(ids.quantiser, GaoqTree):
        return assign_gaoq(ids.quantiser, new).ids.codes
    return ids.quantiser.add_items(new).codes


def test_new_items_come_after_the_known_ones_which_keep_their_paths(ids: SemanticIds) -> None:
    before, new = ids.codes.copy(), drawn(4, seed=7)
    grown = ids.assign(["d", "c", "b", "a"], new)
    assert grown.item_ids == (*ids.item_ids, "d", "c", "b", "a")
    np.testing.assert_array_equal(grown.codes[:N], before)
    np.testing.assert_array_equal(grown.codes, quantisers_own(ids, new))
    np.testing.assert_array_equal(grown.embeddings, np.concatenate([ids.embeddings, new]))
    np.testing.assert_array_equal(grown.codebooks, ids.codebooks)
    assert grown.points.shape == grown.reconstruct().shape == (N + 4, D)
    again = grown.assign(["e"], new[:1])
    np.testing.assert_array_equal(again.codes[: N + 4], grown.codes)
    assert len({tuple(path) for path in again.codes.tolist()}) == N + 5
    np.testing.assert_array_equal(ids.codes, before)
    assert len(ids.item_ids) == N
    trie, order = again.trie()
    assert order[leaf(trie, again.codes[-1].tolist())] == N + 4


def test_a_tree_can_be_filled_to_the_last_path_and_no_further(ids: SemanticIds) -> None:
    free = ROOM[ids.settings.method] - N
    names, new = [f"new {row}" for row in range(free + 1)], drawn(free + 1, seed=3)
    with pytest.raises(DataError, match=r"got .*expected at most .*\. (Fit again|Raise)"):
        ids.assign(names, new)
    full = ids.assign(names[:-1], new[:-1])
    np.testing.assert_array_equal(full.codes[:N], ids.codes)
    assert len({tuple(path) for path in full.codes.tolist()}) == ROOM[ids.settings.method]


@pytest.mark.parametrize(
    ("names", "new", "message"),
    [
        (["7"], drawn(1), r"\['7'\] more than once"),
        (["a", "a"], drawn(2), r"\['a'\] more than once"),
        (["a"], drawn(2), f"got {N + 1} item ids.* for {N + 2} embeddings"),
        (
            ["a", "b"],
            np.where(np.arange(2)[:, None] == 1, np.nan, drawn(2)),
            "1 rows hold NaN or infinity, first row 1",
        ),
        (["a"], np.full((1, D), np.inf), "NaN or infinity"),
        (["a"], np.zeros((1, D + 1)), rf"expected width {D}"),
        (["a"], np.zeros(D), r"expected \[N, D\]"),
        ([], np.zeros((0, D)), r"N, D >= 1"),
    ],
    ids=["known", "twice", "too few names", "NaN", "infinity", "another width", "one row flat", "nothing"],
)
def test_what_cannot_be_assigned_is_refused(ids: SemanticIds, names: list[str], new: np.ndarray, message: str) -> None:
    before = ids.codes.copy()
    with pytest.raises(DataError, match=message):
        ids.assign(names, new)
    np.testing.assert_array_equal(ids.codes, before)


def test_names_must_be_one_for_each_row() -> None:
    for names, message in ((["a"] * N, r"\['a'\] more than once"), (["a"], f"got 1 item ids.*for {N} embeddings")):
        with pytest.raises(DataError, match=message):
            fit(drawn(), IdSettings(codes=5), item_ids=names)


def test_famae_belongs_to_resid_alone() -> None:
    with pytest.raises(DataError, match=r"resid without famae.*choose gaoq"):
        fit(drawn(), SETTINGS[Method.RESID])
    with pytest.raises(DataError, match="gaoq with famae"):
        fit(drawn(), SETTINGS[Method.GAOQ], famae=learned())


def test_new_items_of_resid_are_embedded_by_what_is_known_of_them() -> None:
    ids = fitted(Method.RESID)
    assert ids.famae is not None
    sort = np.array(["s0", "s4", "unheard of", None, "s1"], object)
    new = ids.famae.embed({"item_id": np.array(["3", *(f"new {row}" for row in range(4))], object), "sort": sort})
    np.testing.assert_array_equal(new[0, D // 2 :], ids.embeddings[0, D // 2 :])
    np.testing.assert_array_equal(new[0, : D // 2], ids.embeddings[3, : D // 2])
    np.testing.assert_array_equal(new[1, D // 2 :], ids.embeddings[4, D // 2 :])
    mean = np.mean([ids.embeddings[row, D // 2 :] for row in range(5)], axis=0)  # of the five sorts
    np.testing.assert_allclose(new[2:4, D // 2 :], np.stack([mean, mean]), atol=1e-6)
    grown = ids.assign(["3 again", "n0", "n1", "n2", "n3"], new)
    np.testing.assert_array_equal(grown.codes[:N], ids.codes)
    assert len({tuple(path) for path in grown.codes.tolist()}) == N + 5
    with pytest.raises(DataError, match=r"colour.*expected some of \['item_id', 'sort'\]"):
        ids.famae.embed({"colour": sort})
