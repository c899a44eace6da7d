"""How many codes the levels of a tree have: known from the numbers alone, before anything is clustered."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
import pytest

from oneranker.errors import DataError
from oneranker.semantic_ids import gaoq
from oneranker.semantic_ids.balanced_kmeans import MOST_CLUSTERS, BalancedKMeansSettings
from oneranker.semantic_ids.gaoq import GaoqSettings, Indexing, fit_gaoq, level_widths, rule_of_thumb


def test_branching_is_chosen_so_that_prefixes_are_ten_to_twenty_times_fewer_than_items() -> None:
    for items in (500, 23_742, 151_411):
        for levels in (2, 3, 4):
            factors = rule_of_thumb(items, levels, items)
            assert len(factors) == levels - 1
            assert 8 < items / np.prod(factors) < 25 or max(factors) == MOST_CLUSTERS
    assert rule_of_thumb(151_411, 3, 64) == (64, 64)
    assert rule_of_thumb(1, 3, 8) == (1, 1)


@pytest.mark.parametrize("indexing", list(Indexing))
@pytest.mark.parametrize(("items", "levels", "spare"), [(200, 3, 0), (31, 2, 3), (600, 4, 2)])
def test_the_widths_are_those_of_the_tree(indexing: Indexing, items: int, levels: int, spare: int) -> None:
    settings = GaoqSettings(
        levels=levels, indexing=indexing, spare_leaves=spare, kmeans=BalancedKMeansSettings(n_init=1)
    )
    points = np.random.default_rng(items).normal(size=(items, 32)).astype(np.float32)
    tree = fit_gaoq(points, settings)
    assert level_widths(items, 32, settings) == tree.widths
    _, leaf = np.unique(tree.ids.codes[:, :-1], axis=0, return_inverse=True)
    assert tree.widths[-1] == np.bincount(leaf.reshape(-1)).max() + spare


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_orthogonal_anchors_are_enough_wherever_equal_factors_can_make_them_so(levels: int, spare: int) -> None:
    width = 7
    settings = GaoqSettings(levels=levels, spare_leaves=spare)
    for items in range(1, width**levels + 9, levels**2):
        possible = any(ceil(items / each ** (levels - 1)) + spare <= width for each in range(1, width + 1))
        if possible:
            assert max(level_widths(items, width, settings)) <= width
        else:
            with pytest.raises(DataError, match=f"expected at most {width} in each after the first"):
                level_widths(items, width, settings)


def test_too_many_items_for_orthogonal_anchors_are_refused_at_once_with_the_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gaoq, "fit_balanced_kmeans", lambda *_: pytest.fail("items were clustered"))
    with pytest.raises(DataError, match=r"levels of \[2, 2, 25\] codes, expected at most 4.*anchors fitted"):
        fit_gaoq(np.random.default_rng(0).normal(size=(100, 4)), GaoqSettings(branching=(2, 2)))
    items, three = 485_218, GaoqSettings(levels=3)
    with pytest.raises(
        DataError, match=r"levels of \[64, 64, 119\].* at most 64.*more levels.*first is larger.*wider.*anchors fitted"
    ):
        level_widths(items, 64, three)
    ways_out = (
        (64, GaoqSettings(levels=4)),
        (64, GaoqSettings(branching=(128, 64))),  # the first level has no anchors
        (128, three),
        (64, GaoqSettings(indexing=Indexing.FITTED)),
    )
    for width, settings in ways_out:
        assert prod(level_widths(items, width, settings)) >= items


def test_the_width_of_the_embeddings_bounds_the_factors_of_orthogonal_anchors_alone() -> None:
    for indexing in Indexing:
        widths = level_widths(30_000, 32, GaoqSettings(levels=3, indexing=indexing))
        assert widths[0] == (32 if indexing is Indexing.ORTHOGONAL else 45)  # 45 * 45 is about a 15th
        bounded = level_widths(30_000, 32, GaoqSettings(levels=5, indexing=indexing, codes=11))
        assert max(bounded) <= 11
