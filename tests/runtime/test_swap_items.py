"""Swapping the item index: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import fake_bundle
import numpy as np
import pytest
from fake_bundle import expected_retrieval, expected_scores, make_request, tokens_of

from runtime import BundleError, Pipeline, UsageError
from runtime.items import ItemIndex


def test_a_swapped_index_is_served_from_the_next_call_on(pipeline: Pipeline, tmp_path: Path) -> None:
    fake_bundle.write_items(tmp_path / "new", items=13, seed=7)
    new = ItemIndex.read(tmp_path / "new")
    pipeline.recommend([make_request(new, 2)])
    pipeline.swap_items(tmp_path / "new")
    request = make_request(new, 5)
    (tokens,) = tokens_of(pipeline, [request])
    (answer,) = pipeline.recommend([request], 4)
    rows = np.array(expected_retrieval(tokens, new, new.listed))
    scores = expected_scores(tokens, new, rows)
    best = np.argsort(-scores, kind="stable")[:4]
    assert [item.id for item in answer.items] == [f"item-7-{row}" for row in rows[best]]
    np.testing.assert_allclose([item.score for item in answer.items], scores[best], rtol=1e-5)
    assert (answer.index_version, answer.unknown_items) == (new.version, 0)
    assert pipeline.index_version == new.version


def test_candidates_of_the_old_index_are_not_ranked_by_the_new(
    pipeline: Pipeline, index: ItemIndex, tmp_path: Path
) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 2)]))
    pipeline.enhance()
    pipeline.retrieve()
    fake_bundle.write_items(tmp_path / "new", seed=7)
    pipeline.swap_items(tmp_path / "new")
    with pytest.raises(UsageError, match="no candidates of the served index"):
        pipeline.rank()
    pipeline.retrieve()
    pipeline.rank()


@pytest.mark.parametrize("damage", ["missing", "cut", "code space", "item_fields"])
def test_a_failed_swap_leaves_the_old_index_serving(
    pipeline: Pipeline, index: ItemIndex, tmp_path: Path, damage: str
) -> None:
    new = tmp_path / "new"
    if damage != "missing":
        other = {"code space": {"code_seed": 1}, "item_fields": {"shift": 100}}.get(damage, {})
        fake_bundle.write_items(new, seed=7, **other)
    if damage == "cut":
        path = new / "items.safetensors"
        path.write_bytes(path.read_bytes()[:-3])
    before = pipeline.recommend([make_request(index, 6)])
    with pytest.raises(BundleError, match=damage if damage in ("code space", "item_fields") else "new"):
        pipeline.swap_items(new)
    assert pipeline.index_version == index.version
    assert pipeline.recommend([make_request(index, 6)]) == before
