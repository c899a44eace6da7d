from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from oneranker.errors import DataError
from oneranker.semantic_ids.code_anchors import fitted_anchors, match, orthogonal_anchors


@pytest.mark.parametrize(("count", "width"), [(1, 1), (5, 5), (7, 64), (40, 640), (128, 128)])
def test_orthogonal_anchors_are_orthonormal_to_a_millionth(count: int, width: int) -> None:
    anchors = orthogonal_anchors(count, width, 0).astype(np.float64)
    np.testing.assert_allclose(anchors @ anchors.T, np.eye(count), atol=1e-6)


def test_anchors_come_from_their_seed_alone() -> None:
    np.testing.assert_array_equal(orthogonal_anchors(4, 9, [3, 1]), orthogonal_anchors(4, 9, [3, 1]))
    assert not np.allclose(orthogonal_anchors(4, 9, [3, 1]), orthogonal_anchors(4, 9, [3, 2]))


def test_more_orthogonal_anchors_than_dimensions_are_refused() -> None:
    with pytest.raises(DataError, match=r"9 anchors of width 8.*fitted anchors"):
        orthogonal_anchors(9, 8, 0)


@pytest.mark.parametrize(("children", "anchors"), [(1, 1), (3, 3), (3, 6), (6, 6)])
def test_the_matching_is_the_best_of_all(children: int, anchors: int) -> None:
    rng = np.random.default_rng(children * anchors)
    for _ in range(20):
        directions = rng.normal(size=(children, 5)).astype(np.float32)
        targets = rng.normal(size=(anchors, 5)).astype(np.float32)
        targets /= np.linalg.norm(targets, axis=1, keepdims=True)
        cosine = directions @ targets.T / np.linalg.norm(directions, axis=1, keepdims=True)
        codes = match(directions, targets)
        assert len(set(codes.tolist())) == children
        best = max(sum(cosine[i, j] for i, j in enumerate(way)) for way in permutations(range(anchors), children))
        assert cosine[np.arange(children), codes].sum() == pytest.approx(best, abs=1e-5)


def test_directions_of_length_zero_get_codes_of_their_own() -> None:
    directions = np.zeros((4, 6), np.float32)
    directions[2, 1] = 1
    codes = match(directions, np.eye(6, dtype=np.float32))
    assert codes[2] == 1
    assert len(set(codes.tolist())) == 4


def test_fitted_anchors_find_directions_that_all_families_share() -> None:
    rng = np.random.default_rng(0)
    shared = np.linalg.qr(rng.normal(size=(16, 16)))[0][:6]
    families = [(shared[rng.permutation(6)] + 0.05 * rng.normal(size=(6, 16))).astype(np.float32) for _ in range(9)]
    anchors = fitted_anchors(families, 6, 0)
    np.testing.assert_allclose(np.linalg.norm(anchors, axis=1), 1, atol=1e-5)
    assert (anchors @ shared.T).max(axis=0).min() > 0.99


@pytest.mark.parametrize("count", [5, 12])
def test_fitted_anchors_are_never_further_off_than_orthogonal_ones(count: int) -> None:
    rng = np.random.default_rng(count)
    families = [rng.normal(size=(int(rng.integers(1, count + 1)), 12)).astype(np.float32) for _ in range(8)]
    total = {}
    for kind, anchors in (("fitted", fitted_anchors(families, count, 7)), ("drawn", orthogonal_anchors(count, 12, 7))):
        units = [family / np.linalg.norm(family, axis=1, keepdims=True) for family in families]
        total[kind] = sum(float((unit * anchors[match(unit, anchors)]).sum()) for unit in units)
    assert total["fitted"] > total["drawn"]


def test_there_may_be_more_fitted_anchors_than_dimensions() -> None:
    families = [np.random.default_rng(f).normal(size=(7, 3)).astype(np.float32) for f in range(4)]
    anchors = fitted_anchors(families, 8, 0)
    assert anchors.shape == (8, 3)
    assert len(set(match(families[0], anchors).tolist())) == 7
