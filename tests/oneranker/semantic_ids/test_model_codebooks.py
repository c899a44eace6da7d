"""Codebooks of a model's width: the IDs' own, or means in the space of the principal components."""

from __future__ import annotations

import numpy as np
import pytest
from fitted_ids import D, N, drawn, fitted

from oneranker.errors import DataError
from oneranker.semantic_ids import IdSettings, Method, SemanticIds, fit
from oneranker.semantic_ids.model_codebooks import model_codebooks


@pytest.fixture(scope="module", params=list(Method), ids=lambda method: method.value)
def ids(request: pytest.FixtureRequest) -> SemanticIds:
    return fitted(request.param)


def principal_space(points: np.ndarray, width: int) -> np.ndarray:
    """By the singular vectors of the centred points, in double precision; signs are open."""
    centred = points.astype(np.float64) - points.astype(np.float64).mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found = centred @ axes[:width].T
    found /= np.sqrt(np.mean([row @ row for row in found]))
    return np.pad(found, ((0, 0), (0, width - found.shape[1])))


def loop_means(space: np.ndarray, codes: np.ndarray, widths: int) -> np.ndarray:
    books = np.zeros((codes.shape[1], widths, space.shape[1]))
    left = space.copy()
    for level in range(codes.shape[1]):
        for code in range(widths):
            rows = [row for row in range(len(codes)) if codes[row, level] == code]
            if rows:
                books[level, code] = left[rows].mean(axis=0)
        left -= books[level, codes[:, level]]
    return books


def test_of_the_same_width_they_are_the_own_ones_and_zeros(ids: SemanticIds) -> None:
    books = model_codebooks(ids, 3, 11, D)
    assert books.shape == (3, 11, D)
    assert books.dtype == np.float32
    np.testing.assert_array_equal(books[:, : max(ids.widths)], ids.codebooks)
    assert not books[:, max(ids.widths) :].any()


@pytest.mark.parametrize("width", [3, D - 1, D + 1, 20])
def test_of_another_width_they_are_means_among_the_principal_components(ids: SemanticIds, width: int) -> None:
    books = model_codebooks(ids, 3, 11, width)
    assert books.shape == (3, 11, width)
    assert books.dtype == np.float32
    wanted = loop_means(principal_space(ids.points, width), ids.codes, 11)
    signs = np.sign((books * wanted).sum(axis=(0, 1)))
    np.testing.assert_allclose(books, wanted * signs, atol=2e-4)


@pytest.mark.parametrize(("items", "width"), [(N, 3), (N, 20), (5, 20), (5, 6), (2, 3)])
def test_the_mean_squared_norm_is_1_and_nothing_is_turned_or_bent(items: int, width: int) -> None:
    """One level with a code for each item: the codebook is the space itself."""
    ids = fit(drawn(items), IdSettings(levels=1, codes=items))
    space = model_codebooks(ids, 1, items, width)[0, ids.codes[:, 0]].astype(np.float64)
    assert np.mean([row @ row for row in space]) == pytest.approx(1, abs=1e-5)
    if width >= min(D, items):
        centred = ids.points - ids.points.mean(axis=0)
        angles = centred @ centred.T
        np.testing.assert_allclose(space @ space.T, angles / np.trace(angles) * items, atol=1e-4)


def test_items_that_came_later_count(ids: SemanticIds) -> None:
    grown = ids.assign(["new"], 10 * drawn(1, seed=4))
    wanted = loop_means(principal_space(grown.points, 3), grown.codes, 5)
    found = model_codebooks(grown, 3, 5, 3)
    np.testing.assert_allclose(found, wanted * np.sign((found * wanted).sum(axis=(0, 1))), atol=2e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("points", [drawn(1), np.full((6, D), 0.1), np.zeros((3, D))], ids=["one", "equal", "zero"])
def test_items_that_do_not_differ_have_codes_of_zeros(points: np.ndarray) -> None:
    ids = fit(points, IdSettings(codes=3))
    np.testing.assert_array_equal(model_codebooks(ids, 3, 3, 5), np.zeros((3, 3, 5)))


def test_codes_that_the_model_has_no_room_for_are_refused(ids: SemanticIds) -> None:
    for levels, codes in ((2, 11), (4, 11), (3, max(ids.widths) - 1)):
        with pytest.raises(DataError, match=rf"expected {levels} levels of at most {codes}.*choose another model"):
            model_codebooks(ids, levels, codes, D)
    assert model_codebooks(ids, 3, max(ids.widths), D).shape[1] == max(ids.widths)
