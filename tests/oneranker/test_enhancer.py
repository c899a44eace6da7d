"""Step 2: who reaches whom (E13, E14), Eq. 1 and Eq. 2 as loops, and the value tokens' bagging (E10)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from assertions import World, assert_close, tiny_world
from torch import Tensor, nn

from oneranker import masks
from oneranker.config import DualChannel, TaskMask
from oneranker.enhancer import TargetChannel, retrieval_heads
from oneranker.layers import CrossAttention, FeedForward, SelfAttention

D, T, A, LENGTH = 32, 8, 7, 9


def history(world: World, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Keys and values of one request of 9 tokens padded to 12, and their mask."""
    batch = world.batch([LENGTH], padded=12, seed=seed)
    history_mask = world.model.additive(masks.history(batch["history_length"], 12))
    causal_mask = world.model.additive(masks.causal(12))
    names = ("token_fields", "token_kind", "token_time")
    with torch.no_grad():
        return world.model.generator(*(batch[n] for n in names), causal_mask, history_mask), history_mask


def states(world: World) -> tuple[Tensor, dict[str, Tensor]]:
    """What the final norm leaves in every token, and what the enhancer says."""
    seen: list[Tensor] = []
    hook = world.model.enhancer.final_norm.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        out = world.model.enhance(*history(world))
    hook.remove()
    return seen[0], out


# -- Building blocks ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_attention_is_softmax_head_by_head_over_what_the_mask_allows() -> None:
    attention = CrossAttention(D, 2).double()
    queries = torch.randn(2, 3, D, dtype=torch.float64)
    key, value = torch.randn(2, 2, 5, 16, dtype=torch.float64), torch.randn(2, 2, 5, 16, dtype=torch.float64)
    readable = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    got = attention(queries, key, value, masks.additive(readable[None, None], torch.float64))
    q = attention.query(queries)
    for request in range(2):
        for row in range(3):
            mixed = torch.zeros(D, dtype=torch.float64)
            for head in range(2):
                at = slice(16 * head, 16 * head + 16)
                weight = [
                    math.exp(q[request, row, at] @ key[request, head, k] / 4) if readable[row, k] else 0.0
                    for k in range(5)
                ]
                for k in range(5):
                    mixed[at] += weight[k] / sum(weight) * value[request, head, k]
            assert_close(got[request, row], attention.output(mixed), 1e-10)


@torch.no_grad()
def test_self_attention_reads_its_own_keys_and_values_and_feed_forward_is_a_4d_gelu() -> None:
    attention, feed, x = SelfAttention(D, 2), FeedForward(D), torch.randn(2, 5, D)
    mask = masks.additive(masks.causal(5))
    key = attention.key_value.key(x).unflatten(-1, (2, 16)).transpose(1, 2)
    value = attention.key_value.value(x).unflatten(-1, (2, 16)).transpose(1, 2)
    assert_close(attention(x, mask), attention.attention(x, key, value, mask))
    hidden = x @ feed.up.weight.T + feed.up.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    assert hidden.shape[-1] == 4 * D
    assert_close(feed(x), gelu @ feed.down.weight.T + feed.down.bias, 1e-5)


@pytest.mark.parametrize("cross_first", [True, False])
def test_the_user_is_read_before_the_other_tokens_only_when_cross_comes_first(cross_first: bool) -> None:
    world = tiny_world(cross_first=cross_first, enhancer_layers=1)
    seen: list[Tensor] = []
    layer = world.model.enhancer.layers[0]
    hook = layer.self_attention.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    with torch.no_grad():
        outs = [world.model.enhance(*history(world, seed=seed))["user_embedding"] for seed in (0, 1)]
    hook.remove()
    assert torch.equal(seen[0], seen[1]) is not cross_first
    assert not torch.equal(*outs), "both orders read the user"


# -- Who reaches whom --------------------------------------------------------------------------------------------------


def reaches(world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Does task token j reach e_task_i, s_target_i; does centre j reach fake token i (its ranker key).

    Shapes: -> bool [T, T], bool [T, T], bool [A, A]
    """
    enhancer = world.model.enhancer
    enhancer.anchors.requires_grad_(True)
    out = world.model.enhance(*history(world))
    embedding, fake_keys = out["user_embedding"][0], out["ranker_key_tasks"][0, :, T:]
    weight = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0), dtype=embedding.dtype)

    def flags(row: Tensor, source: Tensor) -> Tensor:
        return (torch.autograd.grad(row, source, retain_graph=True)[0] != 0).any(-1)

    by_task = [flags((embedding * weight)[i, :D].sum(), enhancer.task_tokens) for i in range(T)]
    by_channel = [flags((embedding * weight)[i, D:].sum(), enhancer.task_tokens) for i in range(T)]
    by_fake = [flags((fake_keys[:, i] ** 2).sum(), enhancer.anchors) for i in range(A)]
    return torch.stack(by_task), torch.stack(by_channel), torch.stack(by_fake)


CAUSAL, FULL, SELF = torch.ones(T, T).tril().bool(), torch.ones(T, T).bool(), torch.eye(A).bool()
EVERY_FAKE = torch.ones(A, A).bool()


@pytest.mark.parametrize(
    ("kind", "layers", "task", "channel", "fake"),
    [
        # the literal mask: in layer 2 a task reads later tasks through the fakes, and the channel reads them at once
        (TaskMask.HETEROGENEOUS, 1, CAUSAL, FULL, SELF),
        (TaskMask.HETEROGENEOUS, 2, FULL, FULL, EVERY_FAKE),
        # strict: nothing later reaches a task, however many layers
        (TaskMask.STRICT, 1, CAUSAL, CAUSAL, SELF),
        (TaskMask.STRICT, 2, CAUSAL, CAUSAL, SELF),
        (TaskMask.STRICT, 3, CAUSAL, CAUSAL, SELF),
        (TaskMask.OPEN, 1, FULL, FULL, EVERY_FAKE),
        (TaskMask.OPEN, 2, FULL, FULL, EVERY_FAKE),
    ],
    ids=lambda value: value if isinstance(value, TaskMask | int) else "",
)
def test_dependency_matrix_of_the_task_mask(
    kind: TaskMask, layers: int, task: Tensor, channel: Tensor, fake: Tensor
) -> None:
    world = tiny_world(dtype=torch.float64, task_mask=kind, enhancer_layers=layers)
    by_task, by_channel, by_fake = reaches(world)
    assert by_task.int().tolist() == task.int().tolist()
    assert by_channel.int().tolist() == channel.int().tolist()
    assert by_fake.int().tolist() == fake.int().tolist()


def test_pads_and_their_content_reach_no_task_token() -> None:
    world = tiny_world()
    key_value, history_mask = history(world)
    with torch.no_grad():
        before = world.model.enhance(key_value, history_mask)
        noisy = {name: tensor.clone() for name, tensor in key_value.items()}
        for tensor in noisy.values():
            tensor[..., LENGTH:, :] = 1e3
        after = world.model.enhance(noisy, history_mask)
    assert all(torch.equal(after[name], before[name]) for name in before)


# -- Eq. 1 and Eq. 2 ---------------------------------------------------------------------------------------------------


def pair_mlp(channel: TargetChannel, task: Tensor, fake: Tensor) -> Tensor:
    """The dedicated MLP of Eq. 1 on the concatenation [T_i ; F_j]."""
    first = nn.Linear(2 * D, D, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(torch.cat([channel.from_task.weight, channel.from_fake.weight], dim=1))
        first.bias.copy_(channel.from_task.bias)
        return channel.score(nn.functional.gelu(first(torch.cat([task, fake]))))


@pytest.mark.parametrize("anchor_mean", [False, True])
@pytest.mark.parametrize("mode", list(DualChannel))
@torch.no_grad()
def test_target_channel_is_eq_1_pair_by_pair(mode: DualChannel, anchor_mean: bool) -> None:
    world = tiny_world(dtype=torch.float64, dual_channel=mode, anchor_mean=anchor_mean)
    channel = world.model.enhancer.target_channel
    channel.scale.fill_(0.7)
    tasks, fakes = torch.randn(2, T, D, dtype=torch.float64), torch.randn(2, A, D, dtype=torch.float64)
    got = channel(tasks, fakes)
    for request in range(2):
        for i in range(T):
            expected = torch.zeros(A, dtype=torch.float64)
            for j in range(A):
                score = pair_mlp(channel, tasks[request, i], fakes[request, j])
                if mode is DualChannel.SUM:
                    expected += score / (A if anchor_mean else 1)
                else:
                    expected[j] = score.item()
            assert_close(got[request, i], expected * 0.7, 1e-10)


@torch.no_grad()
def test_user_embedding_is_eq_2_with_a_head_of_its_own_for_each_task() -> None:
    world = tiny_world(dtype=torch.float64)
    enhancer, (x, out) = world.model.enhancer, states(world)
    channel = enhancer.target_channel(x[:, :T], x[:, T:])
    for i in range(T):
        e_task = x[0, i] @ enhancer.head_weight[i] + enhancer.head_bias[i]
        assert_close(out["user_embedding"][0, i], torch.cat([e_task, channel[0, i]]), 1e-10)


@torch.no_grad()
def test_without_decoupling_every_task_has_the_same_embedding() -> None:
    _, out = states(tiny_world(dtype=torch.float64, task_decoupling=False))
    embedding = out["user_embedding"]
    assert_close(embedding, embedding[:, :1].expand_as(embedding), 1e-12)


@torch.no_grad()
def test_without_anchors_there_is_no_second_channel() -> None:
    _, out = states(tiny_world(anchors=0))
    assert out["user_embedding"].shape == (1, T, D)
    assert out["ranker_key_tasks"].shape == (1, 2, T, 16)


@torch.no_grad()
def test_queries_are_the_task_tokens_then_the_mapped_centres() -> None:
    world = tiny_world(dtype=torch.float64)
    enhancer, seen = world.model.enhancer, []
    hook = enhancer.layers[0].register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    states(world)
    hook.remove()
    for i in range(T):
        assert_close(seen[0][0, i], enhancer.task_tokens[i])
    for j in range(A):
        fake = enhancer.anchor_query.weight @ enhancer.anchors[j] + enhancer.anchor_query.bias + enhancer.anchor_type
        assert_close(seen[0][0, T + j], fake, 1e-12)


@torch.no_grad()
def test_keys_for_the_ranker_carry_what_kind_of_token_they_are() -> None:
    world = tiny_world(dtype=torch.float64)
    enhancer, (x, out) = world.model.enhancer, states(world)
    for row in range(T + A):
        kind = 0 if row < 5 else 1 if row < T else 2  # 5 interest tokens, 3 value tokens, then the fakes
        told = x[0, row] + enhancer.kind_embedding[kind]
        for name, linear in (("key", enhancer.ranker_key_value.key), ("value", enhancer.ranker_key_value.value)):
            assert_close(out[f"ranker_{name}_tasks"][0, :, row].flatten(), linear(told), 1e-12)


def test_centres_are_no_parameters() -> None:
    names: dict[str, Any] = dict(tiny_world().model.named_parameters())
    assert "enhancer.anchors" not in names
    assert "enhancer.anchors" in tiny_world().model.state_dict()


# -- Value tokens ------------------------------------------------------------------------------------------------------


def test_value_head_is_the_mean_of_the_value_tokens_and_the_others_are_untouched() -> None:
    embedding = torch.randn(2, T, D + A)
    heads = retrieval_heads(embedding, 5)
    assert heads.shape == (2, 6, D + A)
    assert torch.equal(heads[:, :5], embedding[:, :5])
    assert_close(heads[:, 5], (embedding[:, 5] + embedding[:, 6] + embedding[:, 7]) / 3)


def test_identical_value_tokens_give_the_single_tokens_result() -> None:
    single = torch.randn(2, 6, D + A)
    twice = torch.cat([single, single[:, 5:]], dim=1)
    assert torch.equal(retrieval_heads(twice, 5), retrieval_heads(single, 5))
