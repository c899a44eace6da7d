"""The whole model: encoded once (E40), blind to what follows the request (E21), indifferent to company and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from assertions import World, assert_bitwise, assert_close, tiny_world
from torch import Tensor

from oneranker import masks
from oneranker.catalogue import index_tensors
from oneranker.config import DualChannel, RelativeBias, RetrieverMode, TaskMask
from oneranker.tokens import CONTEXT

Answer = Callable[[World, dict[str, Tensor]], dict[str, Tensor]]
HISTORY = ("token_fields", "token_kind", "token_time")
ROW_PER_TOKEN = (
    "history_hidden", "enhancer_key_0", "enhancer_value_0", "enhancer_key_1", "enhancer_value_1",
    "ranker_key_history", "ranker_value_history",
)  # fmt: skip
GIVEN = torch.tensor([[3, 40, 7, 22, 51, -1], [9, 8, 58, 0, 14, 1], [30, 2, -1, -1, -1, -1]])


def answers_of(out: dict[str, Tensor], lengths: Any) -> dict[str, Tensor]:
    """What a caller may look at: every output, rows of tokens only as far as the request goes."""
    kept = {}
    for name, tensor in out.items():
        if name in ROW_PER_TOKEN:
            for request, length in enumerate(lengths):
                kept[f"{name}[{request}]"] = tensor[request][..., : int(length), :]
        else:
            kept[name] = tensor
    return kept


# -- E40: the serving path is the training forward ---------------------------------------------------------------------


@torch.no_grad()
def stage_by_stage(world: World, batch: dict[str, Tensor], given: Tensor | None) -> dict[str, Tensor]:
    """Every stage called once, each with the tensors of those before it, as a server does."""
    model, config = world.model, world.config
    index, padded = world.index_for(len(batch["history_length"])), batch["token_kind"].shape[1]
    history_mask = masks.additive(masks.history(batch["history_length"], padded))
    causal_mask = masks.additive(masks.causal(padded))
    out = dict(model.generator(*(batch[name] for name in HISTORY), causal_mask, history_mask))
    layers = [f"enhancer_{what}_{i}" for i in range(config.enhancer_layers) for what in ("key", "value")]
    task_mask = masks.additive(masks.tasks(config.task_tokens, config.anchors, config.task_mask))
    out |= model.enhancer({name: out[name] for name in layers}, history_mask, task_mask)
    out |= model.retriever(out["user_embedding"], index)
    candidates = out["candidate_items"] if given is None else given
    candidate_mask = masks.additive(masks.candidates(candidates.shape[1]))
    kept = {f"ranker_{what}_{whose}" for what in ("key", "value") for whose in ("history", "tasks")}
    out["scores"] = model.ranker(
        candidates, index["item_table"], None, {name: out[name] for name in kept}, history_mask, candidate_mask
    )
    return out


@pytest.mark.parametrize("given", [None, GIVEN], ids=["retrieved", "given"])
def test_stages_run_once_and_chained_give_the_forward(given: Tensor | None) -> None:
    world = tiny_world()
    batch = world.batch([20, 5, 11])
    expected = world.answer(batch if given is None else batch | {"candidate_items": given})
    got = stage_by_stage(world, batch, given)
    assert list(got) == list(expected)
    for name in expected:
        assert_close(got[name], expected[name], 1e-5)


def test_every_stage_encodes_a_request_once() -> None:
    world, calls = tiny_world(), []
    for name in ("generator", "enhancer", "retriever", "ranker"):
        module = getattr(world.model, name)
        module.register_forward_hook(lambda _m, _i, _o, name=name: calls.append(name))
    world.answer(world.batch([9, 6]))
    assert calls == ["generator", "enhancer", "retriever", "ranker"]


def test_given_candidates_are_ranked_instead_of_those_found_which_are_still_reported() -> None:
    world = tiny_world()
    batch = world.batch([20, 5, 11])
    own, given = world.answer(batch), world.answer(batch | {"candidate_items": GIVEN})
    assert torch.equal(given["candidate_items"], own["candidate_items"])
    again = world.answer(batch | {"candidate_items": own["candidate_items"]})
    assert_bitwise(again, own)
    assert given["scores"].shape == GIVEN.shape
    assert torch.equal(given["scores"] == -1e30, GIVEN < 0)


# -- E21: nothing at or after the target is read -----------------------------------------------------------------------


def stream_cut_at_a_request(world: World, seed: int) -> tuple[dict[str, Tensor], int]:
    """A full stream [U X I I X I ...] whose history ends with a request token in the middle."""
    batch = world.batch([19], padded=20, seed=seed)
    kinds = batch["token_kind"][0].tolist()
    cut = next(i for i in range(8, 19) if kinds[i] == CONTEXT and kinds[i + 1] != 0)
    return batch | {"history_length": torch.tensor([cut + 1])}, cut


@torch.no_grad()
def answer_within_a_window(world: World, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """As in training: the whole stream is encoded at once, Steps 2 and 3 read as far as the request."""
    window = world.model.additive(masks.history(torch.tensor([19]), 20))
    cut_mask = world.model.additive(masks.history(batch["history_length"], 20))
    out = world.model.generator(*(batch[n] for n in HISTORY), world.model.additive(masks.causal(20)), window)
    out |= world.model.enhance(out, cut_mask)
    out |= world.model.retriever(out["user_embedding"], world.index_for(1))
    return out | {"scores": world.model.rank(out["candidate_items"], world.index["item_table"], out, cut_mask)}


def later_changes(batch: dict[str, Tensor], cut: int) -> Iterator[dict[str, Tensor]]:
    """Tokens behind the request with other fields, of another kind (none among them), at another time."""
    for later in (cut + 1, cut + 2, 18, 19):
        for name, value in (("token_fields", 17), ("token_kind", 0), ("token_kind", 2), ("token_kind", 3)):
            changed = batch[name].clone()
            changed[0, later] = value
            yield batch | {name: changed}
        moved = batch["token_time"].clone()
        moved[0, later:] += 10**7
        yield batch | {"token_time": moved}


@pytest.mark.parametrize("answer", [World.answer, answer_within_a_window], ids=["cut", "window"])
@pytest.mark.parametrize("mode", list(RelativeBias))
@pytest.mark.parametrize("seed", range(2))
def test_nothing_behind_the_request_token_changes_any_answer(seed: int, mode: RelativeBias, answer: Answer) -> None:
    world = tiny_world(relative_bias=mode)
    batch, cut = stream_cut_at_a_request(world, seed)
    before = answers_of(answer(world, batch), [cut + 1])
    for changed in later_changes(batch, cut):
        assert_bitwise(answers_of(answer(world, changed), [cut + 1]), before)


def test_the_stream_cut_at_a_request_is_the_request_alone() -> None:
    world = tiny_world()
    batch, cut = stream_cut_at_a_request(world, 0)
    alone = {name: batch[name][:, : cut + 1] for name in HISTORY} | {"history_length": batch["history_length"]}
    got, expected = (answers_of(world.answer(b), [cut + 1]) for b in (batch, alone))
    for name in expected:
        assert_close(got[name], expected[name], 1e-5)


def test_everything_up_to_the_request_token_changes_the_answer() -> None:
    world = tiny_world()
    batch, cut = stream_cut_at_a_request(world, 0)
    before = world.answer(batch)
    for earlier in range(cut + 1):
        changed = batch["token_fields"].clone()
        changed[0, earlier] = torch.tensor([3, 5, 7, 9, 11])
        after = world.answer(batch | {"token_fields": changed})
        assert not torch.equal(after["user_embedding"], before["user_embedding"]), earlier
        moved = batch["token_time"].clone()
        moved[0, earlier] += 10**7
        after = world.answer(batch | {"token_time": moved})
        assert earlier == 0 or not torch.equal(after["user_embedding"], before["user_embedding"]), earlier


# -- Company, padding and order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("retriever", list(RetrieverMode))
def test_a_request_alone_unpadded_gets_the_answer_it_gets_padded_in_a_batch(retriever: RetrieverMode) -> None:
    world = tiny_world(retriever=retriever)
    lengths = [20, 5, 11, 2]
    requests = world.batch(lengths)
    together = world.answer(requests)
    for request, length in enumerate(lengths):
        alone = {name: requests[name][request : request + 1, :length] for name in HISTORY}
        got = world.answer(alone | {"history_length": torch.tensor([length])})
        assert torch.equal(got["candidate_items"][0], together["candidate_items"][request])
        assert torch.equal(got["candidate_head"][0], together["candidate_head"][request])
        for name in ("user_embedding", "candidate_logp", "scores"):
            assert_close(got[name][0], together[name][request], 1e-5)


def test_padding_further_changes_no_answer() -> None:
    world = tiny_world()
    got, expected = (answers_of(world.answer(world.batch([9, 6], padded)), [9, 6]) for padded in (20, 9))
    for name in expected:
        assert_close(got[name], expected[name], 1e-5)


def test_order_of_the_requests_is_only_the_order_of_the_answers() -> None:
    world, order = tiny_world(), torch.tensor([2, 0, 1])
    batch = world.batch([9, 6, 12])
    got, expected = world.answer({name: t[order] for name, t in batch.items()}), world.answer(batch)
    for name in expected:
        assert_close(got[name], expected[name][order], 1e-5)


def test_permuted_candidates_get_permuted_scores() -> None:
    world, order = tiny_world(), torch.tensor([4, 0, 5, 2, 1, 3])
    batch = world.batch([20, 5, 11])
    got = world.answer(batch | {"candidate_items": GIVEN[:, order]})["scores"]
    assert_close(got, world.answer(batch | {"candidate_items": GIVEN})["scores"][:, order])


# -- E2: relabelling the anchors ---------------------------------------------------------------------------------------


def relabelled(world: World, order: Tensor) -> World:
    """The same centres under other numbers, in the model and in the catalogue."""
    catalogue = replace(world.catalogue, anchors=world.catalogue.anchors[order.numpy()])
    model = type(world.model)(world.config)
    model.load_state_dict(world.model.state_dict())
    model.enhancer.anchors.copy_(world.model.enhancer.anchors[order])
    with torch.no_grad():
        return World(world.config, catalogue, model.eval(), index_tensors(model, catalogue))


@pytest.mark.parametrize("retriever", list(RetrieverMode))
@pytest.mark.parametrize("channel", list(DualChannel))
def test_only_diag_survives_a_relabelling_of_the_centres(channel: DualChannel, retriever: RetrieverMode) -> None:
    world = tiny_world(dual_channel=channel, retriever=retriever)
    batch = world.batch([20, 5, 11])
    got, expected = relabelled(world, torch.tensor([3, 0, 6, 1, 5, 2, 4])).answer(batch), world.answer(batch)
    shift = (got["candidate_logp"] - expected["candidate_logp"]).abs().max()
    if channel is DualChannel.DIAG:
        assert torch.equal(got["candidate_items"], expected["candidate_items"])
        assert shift < 1e-5
        assert_close(got["scores"], expected["scores"], 1e-5)
    else:
        assert shift > 1e-2


# -- Flags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"ranker_reads_tasks": False},
        {"task_mask": TaskMask.OPEN},
        {"task_mask": TaskMask.STRICT},
        {"cross_first": False},
        {"anchors": 0},
        {"anchors": 0, "task_decoupling": False},
        {"prefix_conditioned": False},
        {"dual_channel": DualChannel.DIAG},
        {"retriever": RetrieverMode.DENSE},
        {"retriever": RetrieverMode.DENSE, "anchors": 0},
        {"relative_bias": RelativeBias.NONE},
        {"relative_bias": RelativeBias.POSITION},
        {"anchor_mean": True},
    ],
    ids=str,
)
def test_every_ablation_answers_and_answers_differently(changes: dict[str, Any]) -> None:
    world, plain = tiny_world(**changes), tiny_world()
    batch = world.batch([20, 5, 11]) | {"candidate_items": GIVEN}
    out = world.answer(batch)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in out.values())
    count = 13 if world.config.task_decoupling else world.config.beams  # equal heads find the same paths
    assert out["candidate_count"].tolist() == [count] * 3
    with torch.no_grad():  # the weights both have, so that only the flag differs
        shared = plain.model.state_dict()
        for name, tensor in world.model.state_dict().items():
            if name in shared and shared[name].shape == tensor.shape:
                tensor.copy_(shared[name])
    reference = plain.answer(batch)
    out = world.answer(batch)
    same = ("candidate_logp", "user_embedding", "scores")
    assert any(out[n].shape != reference[n].shape or not torch.equal(out[n], reference[n]) for n in same)


def test_candidate_features_of_the_batch_reach_the_ranker() -> None:
    world = tiny_world(candidate_features=2)
    batch = world.batch([20, 5, 11]) | {"candidate_items": GIVEN}
    plain, moved = torch.zeros(3, 6, 2), torch.zeros(3, 6, 2)
    moved[1, 4, 0] = 3.0
    scores = [world.answer(batch | {"candidate_features": features})["scores"] for features in (plain, moved)]
    assert (scores[0] != scores[1]).nonzero().tolist() == [[1, 4]]
