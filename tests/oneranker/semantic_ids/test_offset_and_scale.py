"""Codes do not depend on where zero is, nor on the unit of the embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from oneranker.semantic_ids.balanced_kmeans import BalancedKMeansSettings
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.gaoq import GaoqSettings, fit_gaoq
from oneranker.semantic_ids.gaoq_tree import assign_gaoq
from oneranker.semantic_ids.quality import reconstruction_errors
from oneranker.semantic_ids.rq_kmeans import add_items, fit_rq_kmeans

ITEMS = 500
CHANGES = {"offset 1000": (1.0, 1000.0), "scale 1e-3": (1e-3, 0.0), "scale 1e3": (1e3, 0.0)}


def cloud(items: int = ITEMS, seed: int = 0) -> np.ndarray:
    """Points about twelve places, on a grid of 1/256, so that adding 1000 rounds nothing."""
    places = 3 * np.random.default_rng(9).normal(size=(12, 16))
    points = places[np.arange(items) % 12] + np.random.default_rng(seed).normal(size=(items, 16))
    return (np.round(256 * points) / 256).astype(np.float32)


def by_rq_kmeans(points: np.ndarray) -> CodePaths:
    return add_items(fit_rq_kmeans(points[:ITEMS], 3, 10), points[ITEMS:])


def by_gaoq(points: np.ndarray) -> CodePaths:
    settings = GaoqSettings(branching=(6, 7), spare_leaves=3, kmeans=BalancedKMeansSettings(n_init=1))
    return assign_gaoq(fit_gaoq(points[:ITEMS], settings), points[ITEMS:]).ids


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("quantise", [by_rq_kmeans, by_gaoq])
def test_codes_of_fitted_and_of_new_items_are_the_same_after(change: str, quantise: object) -> None:
    assert callable(quantise)
    scale, offset = CHANGES[change]
    points = np.concatenate([cloud(), cloud(100, seed=1)])
    plain = quantise(points)
    moved = quantise(points * np.float32(scale) + np.float32(offset))
    for rows in (slice(0, ITEMS), slice(ITEMS, None)):
        same = (plain.codes[rows] == moved.codes[rows]).all(axis=1).mean()
        assert same > 0.95  # rounding may decide a near tie


@pytest.mark.parametrize("change", CHANGES)
def test_spare_codes_of_equal_items_are_as_near_as_before(change: str) -> None:
    scale, offset = CHANGES[change]
    points = np.repeat(cloud(6), 8, axis=0)
    moved = points * np.float32(scale) + np.float32(offset)
    before, after = fit_rq_kmeans(points, 3, 5), fit_rq_kmeans(moved, 3, 5)
    np.testing.assert_array_equal(after.codes, before.codes)
    expected = reconstruction_errors(before, points)
    np.testing.assert_allclose(reconstruction_errors(after, moved), expected, rtol=0.2, atol=1e-3)
