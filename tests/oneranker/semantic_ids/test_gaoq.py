from __future__ import annotations

from math import log2
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from oneranker.errors import DataError
from oneranker.semantic_ids import gaoq
from oneranker.semantic_ids.balanced_kmeans import BalancedKMeansSettings
from oneranker.semantic_ids.gaoq import GaoqSettings, Indexing, fit_gaoq
from oneranker.semantic_ids.gaoq_tree import GaoqTree, assign_gaoq
from oneranker.semantic_ids.quality import (
    code_coherence,
    code_overlap,
    collisions,
    explained_variance,
    level_use,
    prefix_counts,
    reconstruction_errors,
)

ONE_START = BalancedKMeansSettings(n_init=1)


def toy(*, shared: bool, seed: int = 0, leaf: int = 4) -> NDArray[np.float32]:
    """Six parents with eight children each, d = 64 (resid.md §2.6): the children's directions are shared or not."""
    rng = np.random.default_rng(seed)
    parents, common = 3 * rng.normal(size=(6, 64)), rng.normal(size=(8, 64))
    points = [
        parent + (common[child] if shared else own[child]) + 0.25 * rng.normal(size=(leaf, 64))
        for parent in parents
        for own in [rng.normal(size=(8, 64))]
        for child in range(8)
    ]
    return np.concatenate(points).astype(np.float32)


def fit(
    points: NDArray[np.floating], branching: tuple[int, ...], indexing: str = "orthogonal", **more: int
) -> GaoqTree:
    settings = GaoqSettings(
        levels=len(branching) + 1, branching=branching, indexing=Indexing(indexing), kmeans=ONE_START, **more
    )
    return fit_gaoq(points, settings)


@pytest.mark.parametrize("indexing", list(Indexing))
@pytest.mark.parametrize(
    ("items", "branching"), [(240, (4, 5)), (251, (4, 5)), (67, (3,)), (300, (3, 4, 5)), (30, (5, 6))]
)
def test_sizes_counts_and_entropies_follow_from_the_balance_alone(
    indexing: Indexing, items: int, branching: tuple[int, ...]
) -> None:
    points = np.random.default_rng(items).normal(size=(items, 24)).astype(np.float32)
    tree = fit(points, branching, indexing.value)
    codes = tree.ids.codes
    assert collisions(codes) == 0
    counts = prefix_counts(codes)
    assert counts == (*np.cumprod(branching).tolist(), items)
    groups = [np.arange(items)]  # split them as the promise says, and compare sizes
    for depth in range(1, len(branching) + 1):
        found = np.unique(codes[:, :depth], axis=0, return_inverse=True)[1].reshape(-1)
        for rows in groups:
            sizes = np.unique(found[rows], return_counts=True)[1]
            assert len(sizes) == branching[depth - 1]
            assert sizes.sum() == len(rows)
            assert sizes.max() - sizes.min() <= 1
        groups = [np.flatnonzero(found == number) for number in range(counts[depth - 1])]
    largest = max(len(rows) for rows in groups)
    assert tree.widths == (*branching, largest)
    assert largest == -(-items // int(np.prod(branching)))
    for use, width in zip(level_use(tree.ids, tree.widths), tree.widths, strict=True):
        assert (use.used, use.codes) == (width, width)
        assert use.entropy_bits == pytest.approx(log2(width), abs=0.02 if items % int(np.prod(branching)) else 1e-9)


@pytest.mark.parametrize("shared", [True, False])
def test_anchors_change_what_a_code_says_alone_and_nothing_else(shared: bool) -> None:
    """Conformance test c, and the caution of resid.md §2.6."""
    coherent, explained, same = [], [], []
    for seed in range(3):
        points = toy(shared=shared, seed=seed)
        trees = [fit(points, (6, 8), indexing) for indexing in ("local", "orthogonal", "fitted")]
        for tree in trees:
            parts = np.unique(tree.ids.codes[:, :2], axis=0, return_inverse=True)[1].reshape(-1)
            same.append(parts[:, None] == parts)
            assert [use.entropy_bits for use in level_use(tree.ids, tree.widths)] == pytest.approx([log2(6), 3, 2])
        assert all((one == same[-1]).all() for one in same[-3:]), "the partition is the same under every numbering"
        coherent.append([code_coherence(tree.ids, points)[1] for tree in trees])
        explained.append([explained_variance(tree.ids, points)[1] for tree in trees])
    for measure, ratio in ((np.mean(coherent, axis=0), 4), (np.mean(explained, axis=0), 2)):
        local, orthogonal, fitted = measure.tolist()
        assert local < orthogonal <= fitted
        if shared:
            assert orthogonal > ratio * local
            assert fitted > 0.8


def test_aligned_codes_are_shared_by_history_and_target_more_often() -> None:
    """Users who like one direction under every parent: the aligned second code says so (resid.md §4, Table 9)."""
    points = toy(shared=True)
    liked = (np.arange(192) // 4) % 8  # the direction of each item
    rng = np.random.default_rng(0)
    target = np.arange(192)
    history = np.stack([rng.choice(np.flatnonzero(liked == liked[item]), 5) for item in target])
    row = np.repeat(target, 5)
    shares = {
        kind: code_overlap(fit(points, (6, 8), kind).ids.codes, history.ravel(), target, row).shares[1]
        for kind in ("local", "orthogonal")
    }
    assert shares["orthogonal"] > shares["local"] + 0.2


def test_the_same_input_gives_the_same_tree_and_the_seed_other_anchors() -> None:
    points = toy(shared=False)
    one, again, other = fit(points, (6, 8)), fit(points, (6, 8)), fit(points, (6, 8), seed=1)
    np.testing.assert_array_equal(one.ids.codes, again.ids.codes)
    np.testing.assert_array_equal(one.ids.codebooks, again.ids.codebooks)
    np.testing.assert_array_equal(one.ids.codes[:, 0], other.ids.codes[:, 0])
    assert not np.array_equal(one.ids.codes[:, 1], other.ids.codes[:, 1])


@pytest.mark.parametrize("level", [0, 1])
def test_stored_anchors_of_every_level_are_orthonormal(level: int) -> None:
    anchors = fit(toy(shared=True), (6, 8)).anchors[level].astype(np.float64)
    np.testing.assert_allclose(anchors @ anchors.T, np.eye(len(anchors)), atol=1e-6)


def test_centroids_are_means_and_codebooks_are_means_of_what_the_levels_above_leave() -> None:
    points = toy(shared=True)
    tree = fit(points, (6, 8))
    for prefixes, centroids in zip(tree.prefixes, tree.centroids, strict=True):
        for prefix, centroid in zip(prefixes, centroids, strict=True):
            rows = (tree.ids.codes[:, : len(prefix)] == prefix).all(axis=1)
            np.testing.assert_allclose(centroid, points[rows].mean(axis=0), atol=1e-5)
    left = points.astype(np.float64)
    for level, width in enumerate(tree.widths):
        for code in range(width):
            rows = tree.ids.codes[:, level] == code
            np.testing.assert_allclose(tree.ids.codebooks[level, code], left[rows].mean(axis=0), atol=1e-5)
        left = left - tree.ids.codebooks[level, tree.ids.codes[:, level]]
        assert not tree.ids.codebooks[level, width:].any()
    np.testing.assert_allclose(tree.ids.reconstruct(), points - left, atol=1e-4)
    errors = reconstruction_errors(tree.ids, points)
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("indexing", list(Indexing))
def test_equal_items_and_tiny_groups_get_paths_of_their_own(indexing: Indexing) -> None:
    points = np.repeat(np.random.default_rng(0).normal(size=(3, 8)), [20, 1, 2], axis=0)
    tree = fit(points, (3, 8), indexing.value)  # more children asked for than a parent has items: one item each
    assert collisions(tree.ids.codes) == 0
    assert tree.widths == (3, 8, 1)
    assert fit(points[:1], (1, 1), indexing.value).ids.codes.tolist() == [[0, 0, 0]]


def test_an_only_item_of_a_prefix_has_last_code_0() -> None:
    points = np.random.default_rng(0).normal(size=(41, 16))
    tree = fit(points, (4, 9))
    table, which, count = np.unique(tree.ids.codes[:, :2], axis=0, return_inverse=True, return_counts=True)
    assert len(table) == 36
    assert (tree.ids.codes[count[which.reshape(-1)] == 1, 2] == 0).all()


def test_what_cannot_be_fitted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(60, 8))
    with pytest.raises(
        DataError, match=r"levels of \[2, 2, 15\] codes, expected at most 8 in each after the first.*fitted"
    ):
        fit(points, (2, 2))
    assert fit(points, (2, 2), "fitted").widths == (2, 2, 15)
    with pytest.raises(DataError, match="60 points for 61 clusters"):
        fit(points, (61, 2))
    points[7] = np.inf
    with pytest.raises(DataError, match="GAOQ: 1 rows hold NaN or infinity, first row 7"):
        fit(points, (2, 8))
    with pytest.raises(DataError, match=r"levels of \[2, 65537, 1\] codes, expected at most 65536"):
        fit(points[:5], (2, 65_537))
    monkeypatch.setattr(gaoq, "WIDEST_LEVEL", 10)
    with pytest.raises(DataError, match=r"levels of \[2, 15\] codes, expected at most 10"):
        fit(points[8:38], (2,))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="levels=1"):
        GaoqSettings(levels=1)
    with pytest.raises(ValueError, match="expected 2 factors"):
        GaoqSettings(branching=(4,))
    with pytest.raises(ValueError, match="factors >= 1"):
        GaoqSettings(branching=(4, 0))
    with pytest.raises(ValueError, match="codes=0"):
        GaoqSettings(codes=0)
    with pytest.raises(ValueError, match="spare_leaves=-1"):
        GaoqSettings(spare_leaves=-1)


@pytest.mark.parametrize("indexing", list(Indexing))
def test_new_items_get_free_paths_and_old_ones_keep_theirs(indexing: Indexing) -> None:
    points = np.random.default_rng(0).normal(size=(130, 16)).astype(np.float32)
    known = fit(points[:100], (4, 5), indexing.value, spare_leaves=2)
    grown = assign_gaoq(known, points[100:])
    assert grown.ids.codes.shape == (130, 3)
    assert grown.ids.codes.dtype == np.int32
    np.testing.assert_array_equal(grown.ids.codes[:100], known.ids.codes)
    assert collisions(grown.ids.codes) == 0
    assert (grown.ids.codes < known.widths).all()
    assert prefix_counts(grown.ids.codes)[:2] == (4, 20)
    again = assign_gaoq(grown, points[:10])
    np.testing.assert_array_equal(again.ids.codes[:130], grown.ids.codes)
    assert collisions(again.ids.codes) == 0


def test_a_new_item_goes_where_its_like_are_and_to_the_best_free_anchor() -> None:
    points = toy(shared=True)
    known = fit(points, (6, 8), spare_leaves=3)
    new = points[::5] + np.float32(0.001)
    grown = assign_gaoq(known, new)
    np.testing.assert_array_equal(grown.ids.codes[192:, :2], known.ids.codes[::5, :2])
    alone = assign_gaoq(known, new[:1])
    prefix = (known.prefixes[-1] == known.ids.codes[0, :2]).all(axis=1)
    residual = new[0] - known.centroids[-1][prefix][0]
    taken = known.ids.codes[(known.ids.codes[:, :2] == known.ids.codes[0, :2]).all(axis=1), 2]
    cosine = known.anchors[-1] @ residual
    cosine[taken] = -np.inf
    assert alone.ids.codes[-1, 2] == cosine.argmax()


def test_a_full_prefix_sends_new_items_to_the_next_nearest() -> None:
    points = toy(shared=True)
    known = fit(points, (6, 8), spare_leaves=1)  # one free leaf per prefix
    new = np.repeat(known.centroids[-1][:1], 10, axis=0)  # nine prefixes are needed, eight are under the nearest
    codes = assign_gaoq(known, new).ids.codes[192:]
    distance = ((known.centroids[-1] - new[0]) ** 2).sum(axis=1)
    family = known.prefixes[-1][:, 0] == known.prefixes[-1][0, 0]
    assert codes[:8, :2].tolist() == known.prefixes[-1][family][np.argsort(distance[family])].tolist()
    assert (codes[8:, 0] != known.prefixes[-1][0, 0]).all()
    assert codes[0, :2].tolist() == known.prefixes[-1][0].tolist()


def test_more_items_than_leaves_say_how_many_would_fit() -> None:
    known = fit(toy(shared=True), (6, 8), spare_leaves=1)
    assert collisions(assign_gaoq(known, toy(shared=False, seed=1)[:48]).ids.codes) == 0
    with pytest.raises(DataError, match=r"49 new items beside 192, expected at most 48.*spare_leaves"):
        assign_gaoq(known, toy(shared=False, seed=1)[:49])
    with pytest.raises(DataError, match="expected width 64"):
        assign_gaoq(known, np.zeros((1, 8)))
    with pytest.raises(DataError, match="NaN"):
        assign_gaoq(known, np.full((1, 64), np.nan))


def test_a_tree_reads_back_as_it_was(tmp_path: Path) -> None:
    for indexing in Indexing:
        known = fit(toy(shared=True), (6, 8), indexing.value, spare_leaves=2)
        known.write(tmp_path / "sub" / "tree.safetensors")
        read = GaoqTree.read(tmp_path / "sub" / "tree.safetensors")
        assert read.widths == known.widths
        for one, other in (
            ((read.ids.codes, read.ids.codebooks), (known.ids.codes, known.ids.codebooks)),
            (read.prefixes, known.prefixes),
            (read.centroids, known.centroids),
            (read.anchors, known.anchors),
        ):
            for found, expected in zip(one, other, strict=True):
                np.testing.assert_array_equal(found, expected)
                assert found.dtype == expected.dtype
        new = toy(shared=False)[:5]
        np.testing.assert_array_equal(assign_gaoq(read, new).ids.codes, assign_gaoq(known, new).ids.codes)


def test_a_damaged_tree_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tree.safetensors"
    with pytest.raises(DataError, match="expected a GAOQ tree"):
        GaoqTree.read(path)
    known = fit(toy(shared=True), (6, 8))
    known.ids.write(path)
    with pytest.raises(DataError, match="expected a GAOQ tree"):
        GaoqTree.read(path)
    known.ids.codes[3, 1] = 8
    known.write(path)
    with pytest.raises(DataError, match="do not fit each other"):
        GaoqTree.read(path)
