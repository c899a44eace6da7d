"""Step 3: one candidate's score is its own affair, and everything it reads is what Steps 1 and 2 left behind."""

from __future__ import annotations

import math

import pytest
import torch
from assertions import World, assert_close, tiny_world
from torch import Tensor

from oneranker import masks
from oneranker.ranker import item_vectors
from oneranker.retriever import NOTHING

LENGTHS, PADDED = [9, 5], 12
CANDIDATES = torch.tensor([[3, 40, 7, 22, 51], [9, 8, 58, 0, 14]])


def earlier(world: World) -> tuple[dict[str, Tensor], Tensor]:
    """What Steps 1 and 2 hand to Step 3."""
    batch = world.batch(LENGTHS, PADDED)
    history_mask = world.model.additive(masks.history(batch["history_length"], PADDED))
    causal_mask = world.model.additive(masks.causal(PADDED))
    names = ("token_fields", "token_kind", "token_time")
    with torch.no_grad():
        out = world.model.generator(*(batch[n] for n in names), causal_mask, history_mask)
        return out | world.model.enhance(out, history_mask), history_mask


@torch.no_grad()
def score(world: World, candidates: Tensor, features: Tensor | None = None) -> Tensor:
    out, history_mask = earlier(world)
    return world.model.rank(candidates, world.index["item_table"], out, history_mask, features)


@pytest.mark.parametrize("cross_first", [True, False])
def test_a_score_does_not_depend_on_the_other_candidates_their_number_or_order(cross_first: bool) -> None:
    world = tiny_world(cross_first=cross_first)
    together = score(world, CANDIDATES)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert_close(score(world, CANDIDATES[:, order]), together[:, order])
    for column in range(5):
        assert_close(score(world, CANDIDATES[:, column : column + 1]), together[:, column : column + 1])
    others = torch.cat([CANDIDATES[:, :1], torch.randint(0, 60, (2, 11))], dim=1)
    assert_close(score(world, others)[:, 0], together[:, 0])
    assert together.std() > 1e-3, "scores differ from each other"


def test_pads_score_nothing_and_change_no_score() -> None:
    world = tiny_world()
    padded = torch.full((2, 9), -1)
    padded[:, [0, 3, 4, 6, 8]] = CANDIDATES
    scores = score(world, padded)
    assert_close(scores[:, [0, 3, 4, 6, 8]], score(world, CANDIDATES))
    assert torch.equal(scores[:, [1, 2, 5, 7]], torch.full((2, 4), NOTHING))


def test_repeated_candidates_score_the_same() -> None:
    scores = score(tiny_world(), torch.tensor([[7, 3, 7], [1, 1, 1]]))
    assert_close(scores[0, 0], scores[0, 2])
    assert_close(scores[1], scores[1, :1].expand(3))


@pytest.mark.parametrize("reads_tasks", [True, False])
@torch.no_grad()
def test_steps_1_and_2_are_read_as_the_flag_says_and_pads_never(reads_tasks: bool) -> None:
    world = tiny_world(ranker_reads_tasks=reads_tasks)
    out, history_mask = earlier(world)

    def scores_with(name: str, begin: int) -> Tensor:
        changed = out[name].clone()
        changed[0, :, begin] += 5.0
        return world.model.rank(CANDIDATES, world.index["item_table"], out | {name: changed}, history_mask)

    before = world.model.rank(CANDIDATES, world.index["item_table"], out, history_mask)
    for what in ("key", "value"):
        for row in range(LENGTHS[0]):
            assert not torch.equal(scores_with(f"ranker_{what}_history", row)[0], before[0]), row
        for row in range(LENGTHS[0], PADDED):
            assert torch.equal(scores_with(f"ranker_{what}_history", row), before), row
        for row in range(15):
            assert torch.equal(scores_with(f"ranker_{what}_tasks", row)[0], before[0]) is not reads_tasks, row
        assert torch.equal(scores_with(f"ranker_{what}_tasks", 0)[1], before[1]), "the other request"


def softmax_read(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One query [D] over some keys [D], two heads of 16, number by number."""
    out = torch.zeros_like(query)
    for at in (slice(0, 16), slice(16, 32)):
        weight = [math.exp(float(query[at] @ key[at]) / 4) for key in keys]
        for w, value in zip(weight, values, strict=True):
            out[at] += w / sum(weight) * value[at]
    return out


def naive_score(world: World, out: dict[str, Tensor], request: int, item: int) -> Tensor:
    """One candidate, one request: cross-attention over [history ; tasks], then T_r and itself, then the MLP."""
    ranker, layer = world.model.ranker, world.model.ranker.layer
    rows = {
        what: [
            *out[f"ranker_{what}_history"][request, :, : LENGTHS[request]].transpose(0, 1).flatten(1),
            *out[f"ranker_{what}_tasks"][request].transpose(0, 1).flatten(1),
        ]
        for what in ("key", "value")
    }
    pair = [ranker.ranking_token, ranker.candidate(world.index["item_table"][item]) + ranker.candidate_type]
    pair = [
        x + layer.cross.output(softmax_read(layer.cross.query(layer.cross_norm(x)), rows["key"], rows["value"]))
        for x in pair
    ]
    own = layer.self_attention
    normed = [layer.self_norm(x) for x in pair]
    keys, values = [own.key_value.key(x) for x in normed], [own.key_value.value(x) for x in normed]
    x = pair[1] + own.attention.output(softmax_read(own.attention.query(normed[1]), keys, values))
    x = x + layer.feed(layer.feed_norm(x))
    return ranker.score_output(torch.nn.functional.gelu(ranker.score_hidden(ranker.final_norm(x))))[0]


@torch.no_grad()
def test_scores_are_the_r_decoder_candidate_by_candidate() -> None:
    world = tiny_world(dtype=torch.float64)
    out, _ = earlier(world)
    scores = score(world, CANDIDATES)
    for request in range(2):
        for column in range(5):
            expected = naive_score(world, out, request, int(CANDIDATES[request, column]))
            assert_close(scores[request, column], expected)


def test_scores_are_fp32_whatever_the_model_is() -> None:
    assert score(tiny_world(dtype=torch.float64), CANDIDATES).dtype == torch.float32


def test_candidate_features_move_their_own_candidate_only() -> None:
    world = tiny_world(candidate_features=2)
    features = torch.zeros(2, 5, 2)
    before = score(world, CANDIDATES, features)
    features[0, 3, 1] = 4.0
    moved = (score(world, CANDIDATES, features) - before).abs() > 1e-6
    assert moved.nonzero().tolist() == [[0, 3]]


@torch.no_grad()
def test_item_embedding_is_the_mapped_sum_of_the_generators_rows() -> None:
    world = tiny_world(dtype=torch.float64)
    table, encoder = world.model.generator.token_embedding.weight, world.model.item_encoder
    for row, item_fields in enumerate(world.catalogue.item_fields.tolist()):
        total = sum((table[field] for field in item_fields if field), torch.zeros(32, dtype=torch.float64))
        assert_close(world.index["item_table"][row], encoder.output(total * 32**0.5), 1e-10)


def test_item_vectors_are_eq_3_item_by_item() -> None:
    generator = torch.Generator().manual_seed(0)
    table, recon, anchors = (torch.randn(n, 32, generator=generator) for n in (6, 6, 7))
    got = item_vectors(table, recon, anchors)
    for item in range(6):
        cosines = [float(recon[item] @ a) / (float(recon[item].norm()) * float(a.norm())) for a in anchors]
        assert_close(got[item], torch.cat([table[item], torch.tensor(cosines)]))
