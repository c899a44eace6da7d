"""The exhaustive search against a loop over items, and the beams against the exhaustive search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import exhaustive_search
from benchmarks.exhaustive_search import CodeTables, best_candidates, best_per_head, recall
from oneranker.catalogue import index_tensors
from oneranker.config import OneRankerConfig, preset
from oneranker.enhancer import retrieval_heads
from oneranker.model import OneRanker
from oneranker.synthetic import synthetic_catalogue, synthetic_model

ITEMS = 60
CONFIG = replace(preset("tiny"), codes=6)


def drawn(config: OneRankerConfig, items: int = ITEMS) -> tuple[OneRanker, CodeTables, dict[str, Tensor], Tensor]:
    """A model, its catalogue in both forms, and user embeddings that tell the heads apart."""
    catalogue = synthetic_catalogue(config, items)
    model = synthetic_model(config, catalogue)
    tables = CodeTables(
        torch.from_numpy(catalogue.codes).long(),
        torch.from_numpy(catalogue.codebooks),
        torch.from_numpy(catalogue.anchors),
    )
    index = index_tensors(model, catalogue) | {"eligible_row": torch.zeros(3, dtype=torch.int32)}
    generator = torch.Generator().manual_seed(1)
    user = 2 * torch.randn(3, config.task_tokens, config.width + config.anchors, generator=generator)
    return model, tables, index, user


def by_items(model: OneRanker, heads: Tensor, tables: CodeTables) -> np.ndarray:
    """Log-probability of every item for every head: the training's own logits, one item at a time, level by level."""
    out = np.zeros((len(heads), len(tables.codes)))
    for x, head in enumerate(heads):
        for row, path in enumerate(tables.codes):
            logits = model.retriever.scorer.path_logits(head, path[None], tables.codebooks, tables.anchors)
            for level, code in enumerate(path.tolist()):
                of_level = logits[level][0].double()
                out[x, row] += float(of_level[code] - of_level.exp().sum().log())
    return out


@pytest.mark.parametrize("prefix_conditioned", [True, False])
@pytest.mark.parametrize("logits_at_once", [1, 1 << 23], ids=["a parent at a time", "all at once"])
@torch.inference_mode()
def test_the_best_of_every_head_are_those_of_a_loop_over_items(
    monkeypatch: pytest.MonkeyPatch, logits_at_once: int, prefix_conditioned: bool
) -> None:
    monkeypatch.setattr(exhaustive_search, "_LOGITS_AT_ONCE", logits_at_once)
    model, tables, _, user = drawn(replace(CONFIG, prefix_conditioned=prefix_conditioned))
    heads = retrieval_heads(user, CONFIG.interest_tokens)[0, :3]
    scores = by_items(model, heads, tables)
    items, logp = best_per_head(model.retriever.scorer, heads, tables, 7)
    assert items.tolist() == np.argsort(-scores, axis=1)[:, :7].tolist()
    np.testing.assert_allclose(logp, -np.sort(-scores, axis=1)[:, :7], atol=1e-4)


@torch.inference_mode()
def test_candidates_are_the_union_of_the_heads_best_without_repeats() -> None:
    model, tables, _, user = drawn(CONFIG)
    found = best_candidates(model.retriever.scorer, user, CONFIG.interest_tokens, tables, beams=5, candidates=11)
    for one, heads in zip(found, retrieval_heads(user, CONFIG.interest_tokens), strict=True):
        best: dict[int, float] = {}
        for scores in by_items(model, heads, tables):
            for row in np.argsort(-scores)[:5].tolist():
                best[row] = max(best.get(row, -np.inf), float(scores[row]))
        assert one.tolist() == sorted(best, key=lambda row: -best[row])[:11]


@pytest.mark.parametrize(("beams", "expected"), [(ITEMS, 1.0), (2, None)], ids=["W covers everything", "W = 2"])
@torch.inference_mode()
def test_beams_that_cover_everything_find_all_of_the_exhaustive_search(beams: int, expected: float | None) -> None:
    config = replace(CONFIG, beams=beams, candidates=20)
    model, tables, index, user = drawn(config)
    served = model.retriever(user, index)["candidate_items"].numpy().astype(np.int64)
    best = best_candidates(model.retriever.scorer, user, config.interest_tokens, tables, ITEMS, config.candidates)
    share = recall([row[row >= 0] for row in served], best, config.candidates)
    brute = np.mean([len({*row.tolist()} & {*one.tolist()}) / len(one) for row, one in zip(served, best, strict=True)])
    assert share == pytest.approx(brute)
    assert share == expected if expected is not None else share < 1


def test_recall_looks_at_the_first_places_only() -> None:
    found, best = [np.array([1, 2, 3, 4]), np.array([5])], [np.array([2, 1, 9, 3]), np.array([5, 6])]
    assert recall(found, best, 2) == pytest.approx((1 + 0.5) / 2)
    assert recall(found, best, 4) == pytest.approx((0.75 + 0.5) / 2)


@torch.inference_mode()
def test_a_catalogue_smaller_than_the_beams_is_found_whole() -> None:
    model, tables, _, user = drawn(CONFIG, items=4)
    items, logp = best_per_head(model.retriever.scorer, retrieval_heads(user, CONFIG.interest_tokens)[0], tables, 6)
    assert [sorted(row) for row in items.tolist()] == [[-1, -1, 0, 1, 2, 3]] * CONFIG.retrieval_heads
    assert bool(torch.isneginf(logp[:, 4:]).all())
