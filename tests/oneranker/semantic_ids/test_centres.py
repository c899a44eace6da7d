"""Centres and anchors: always as many as asked for, none equal, none without a direction."""

from __future__ import annotations

import numpy as np
import pytest

from oneranker.errors import DataError
from oneranker.semantic_ids import centres as centres_module
from oneranker.semantic_ids.anchors import fit_anchors
from oneranker.semantic_ids.centres import fit_centres, nearest, squared_distances


def points(items: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, width)).astype(np.float32)


SETS = {
    "many": points(60),
    "as many as centres": points(7),
    "fewer than centres": points(3),
    "one": points(1),
    "one zero": np.zeros((1, 4), np.float32),
    "equal": np.ones((20, 4), np.float32),
    "opposite, mean zero": np.array([[1, 0, 0, 0], [-1, 0, 0, 0]] * 5, np.float32),
}


@pytest.mark.parametrize("name", SETS)
def test_anchors_come_in_the_number_asked_for_each_with_its_own_direction(name: str) -> None:
    anchors = fit_anchors(SETS[name], 7)
    assert (anchors.dtype, anchors.shape) == (np.float32, (7, 4))
    norm = np.linalg.norm(anchors, axis=1)
    assert (norm > 1e-3).all()
    assert len(np.unique(anchors, axis=0)) == 7
    np.testing.assert_array_equal(anchors, fit_anchors(SETS[name], 7))


def test_one_anchor_of_items_that_cancel_out_still_has_a_direction() -> None:
    assert np.linalg.norm(fit_anchors(SETS["opposite, mean zero"], 1)) == pytest.approx(1, rel=1e-5)


def test_as_many_points_as_centres_are_their_own_centres() -> None:
    cloud = points(7)
    distance = np.linalg.norm(cloud[:, None] - fit_centres(cloud, 7, 0), axis=2)
    np.testing.assert_allclose(distance.min(axis=1), 0, atol=1e-5)


def test_centres_of_separate_crowds_are_their_means() -> None:
    crowds = np.repeat(np.eye(4, dtype=np.float32) * 9, 10, axis=0) + 0.1 * points(40)
    found = fit_centres(crowds, 4, 0)
    means = crowds.reshape(4, 10, 4).mean(axis=1)
    np.testing.assert_allclose(found[found.argmax(axis=1).argsort()], means, atol=1e-5)


def test_more_points_than_k_means_looks_at_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centres_module, "_MOST_FITTED", 50)
    crowds = np.repeat(np.eye(4, dtype=np.float32) * 9, 100, axis=0) + 0.1 * points(400)
    found = fit_centres(crowds, 4, 0)
    assert sorted(found.argmax(axis=1).tolist()) == [0, 1, 2, 3]


def test_nearest_equals_a_loop_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centres_module, "_DISTANCES_AT_ONCE", 40)
    cloud, centres = points(33), points(9, seed=1)
    code, distance = nearest(cloud, centres)
    by_hand = [[float(((p - c) ** 2).sum()) for c in centres] for p in cloud]
    assert code.tolist() == [int(np.argmin(row)) for row in by_hand]
    np.testing.assert_allclose(distance, [min(row) for row in by_hand], rtol=1e-4, atol=1e-5)


def test_distances_are_right_far_off_zero() -> None:
    cloud, centres = points(50) + np.float32(1000), points(9, seed=1) + np.float32(1000)
    exact = ((cloud.astype(np.float64)[:, None] - centres) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared_distances(cloud, centres), exact, rtol=1e-4, atol=1e-4)
    code, distance = nearest(cloud, centres)
    np.testing.assert_array_equal(code, exact.argmin(axis=1))
    np.testing.assert_allclose(distance, exact.min(axis=1), rtol=1e-4, atol=1e-4)


def test_items_without_finite_numbers_have_no_anchors() -> None:
    with pytest.raises(DataError, match="anchors: 1 rows hold NaN"):
        fit_anchors(np.full((1, 4), np.nan), 2)
    with pytest.raises(DataError, match=r"anchors: points are \[0, 4\], expected \[N, D\]"):
        fit_anchors(np.zeros((0, 4)), 2)
