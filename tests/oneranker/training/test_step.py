from dataclasses import replace

import pytest
import torch
from assertions import assert_close

from oneranker import masks
from oneranker.losses import ConsistencyWarmup
from oneranker.model import OneRanker
from oneranker.train import new_model
from oneranker.training.batches import Batch, BatchSampler, BatchSettings
from oneranker.training.preparation import Prepared
from oneranker.training.step import (
    ItemSide,
    LossSettings,
    candidate_value,
    encode_requests,
    joint_loss,
    retrieve_candidates,
)  # fmt: skip

SETTINGS = BatchSettings(windows=4, positions=3, targets=2, ranked=2)


@pytest.fixture
def model(prepared: Prepared) -> OneRanker:
    return new_model(prepared, seed=1)


@pytest.fixture
def batch(prepared: Prepared) -> Batch:
    sampler = BatchSampler(prepared.streams, prepared.config, SETTINGS, items=60, until=0, seed=0)
    return sampler.batch(0)


def test_request_inside_a_window_is_encoded_as_if_it_stood_alone(model: OneRanker, batch: Batch) -> None:
    """The window holds later purchases; a forward pass over the request's own past alone gives the same states."""
    out, ranked = encode_requests(model, batch)
    place = {row: i for i, row in enumerate(batch.ranked.tolist())}
    for row, position in enumerate(batch.position.tolist()):
        window = row // SETTINGS.positions
        cut = [t[window : window + 1, :position] for t in (batch.token_fields, batch.token_kind, batch.token_time)]
        mask = model.additive(masks.history(torch.tensor([position]), position))
        alone = model.generator(*cut, model.additive(masks.causal(position)), mask)
        alone |= model.enhance(alone, mask)
        assert_close(out["user_embedding"][row], alone["user_embedding"][0], atol=1e-5)
        if row in place:
            states = ranked["ranker_key_history"][place[row]][:, :position]
            assert_close(states, alone["ranker_key_history"][0], atol=1e-5)
            assert int((ranked["history_mask"][place[row]] == 0).sum()) == position


def test_ranker_learns_on_what_the_model_would_serve(model: OneRanker, prepared: Prepared, batch: Batch) -> None:
    """The candidates are those of a forward pass over the request's own past, their value what was paid then."""
    items = ItemSide(prepared.catalogue)
    out, ranked = encode_requests(model, batch)
    candidates = retrieve_candidates(model, batch, items, ranked["user_embedding"], None)
    index = items.tables | {"item_eligible": batch.item_eligible}
    value = candidate_value(candidates, batch)
    for row, at in enumerate(batch.ranked.tolist()):
        alone = index | {"eligible_row": torch.tensor([row], dtype=torch.int32)}
        wanted = model.retriever(out["user_embedding"][at : at + 1], alone)["candidate_items"][0]
        assert torch.equal(candidates[row], wanted.long())
        paid = dict(zip(batch.bought_items[row].tolist(), batch.bought_value[row].tolist(), strict=True))
        paid[-1] = 0.0
        assert value[row].tolist() == pytest.approx([paid.get(item, 0.0) for item in candidates[row].tolist()])


def gradients(prepared: Prepared, batch: Batch, loss: LossSettings, **flags: bool) -> dict[str, float]:
    config = replace(prepared.config, **flags)  # type: ignore[arg-type]
    model = new_model(replace(prepared, config=config), seed=1)
    warmup = ConsistencyWarmup(loss.gamma, 1, started=0)
    total, _ = joint_loss(model, batch, ItemSide(prepared.catalogue), loss, warmup, step=5)
    total.backward()
    return {
        name: sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        for name, part in model.named_children()
    }


def test_dc_alone_trains_the_generator_and_never_the_ranker(prepared: Prepared, batch: Batch) -> None:
    found = gradients(prepared, batch, LossSettings(alpha=0, beta=0, gamma=1))
    assert found["ranker"] == 0.0
    assert found["item_encoder"] == 0.0
    assert found["generator"] > 0
    assert found["enhancer"] > 0


def test_ranking_loss_reaches_the_generator_through_the_keys_and_values_unless_detached(
    prepared: Prepared, batch: Batch
) -> None:
    ranking = LossSettings(alpha=0, beta=1, gamma=0)
    assert gradients(prepared, batch, ranking)["enhancer"] > 0
    assert gradients(prepared, batch, ranking, ranker_detached=True)["enhancer"] == 0.0


def test_total_is_the_weighted_sum_of_its_parts(model: OneRanker, prepared: Prepared, batch: Batch) -> None:
    settings = LossSettings(alpha=0.5, beta=2.0, gamma=0.3)
    warmup = ConsistencyWarmup(0.3, 1, started=0)
    total, parts = joint_loss(model, batch, ItemSide(prepared.catalogue), settings, warmup, step=9)
    assert total.item() == pytest.approx(0.5 * parts["mtp"] + 2.0 * parts["rank"] + 0.3 * parts["dc"], rel=1e-5)
