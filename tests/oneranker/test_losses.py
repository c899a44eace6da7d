"""The losses against slow loops, the optimum of Eq. 10 against Eq. 9 (E29), and who is taught by whom (E30)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from assertions import World, assert_close, tiny_world
from torch import Tensor

from oneranker.enhancer import retrieval_heads
from oneranker.losses import ConsistencyWarmup, bpr_loss, dc_loss, mtp_loss, standardised, value_weights

B, M, K, L, V, C = 3, 4, 2, 3, 5, 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_softmax(numbers: list[float]) -> list[float]:
    total = math.log(sum(math.exp(number) for number in numbers))
    return [number - total for number in numbers]


# -- Eq. 6-7 -----------------------------------------------------------------------------------------------------------


def test_mtp_is_eq_6_head_by_head_and_level_by_level() -> None:
    logits = [random(B, M, K, V, seed=level) for level in range(L)]
    codes = torch.randint(0, V, (B, M, K, L), generator=torch.Generator().manual_seed(0))
    weight = random(B, M, K, seed=9).abs() * (random(B, M, K, seed=8) > 0)
    weight[:, 2] = 0  # a head without a target in this batch
    expected = 0.0
    for head in range(M):
        total, mass = 0.0, 0.0
        for b in range(B):
            for k in range(K):
                path = codes[b, head, k].tolist()
                nll = -sum(log_softmax(logits[i][b, head, k].tolist())[code] for i, code in enumerate(path))
                total += weight[b, head, k].item() * nll
                mass += weight[b, head, k].item()
        expected += total / mass if mass else 0.0
    assert mtp_loss(logits, codes, weight).item() == pytest.approx(expected, abs=1e-12)


def test_a_target_of_weight_0_teaches_nothing() -> None:
    logits, codes = random(B, M, K, V).requires_grad_(), torch.zeros(B, M, K, 1, dtype=torch.long)
    weight = torch.ones(B, M, K, dtype=torch.float64)
    weight[1, 2, 0] = 0
    mtp_loss([logits], codes, weight).backward()
    assert logits.grad is not None
    silent = (logits.grad == 0).all(-1)
    assert silent.nonzero().tolist() == [[1, 2, 0]]


def test_value_weights_are_value_over_its_mean_clipped_and_0_where_absent() -> None:
    value, present = torch.tensor([1.0, 3.0, 100.0, 7.0, -2.0, 0.0]), torch.tensor([1, 1, 1, 0, 1, 1]).bool()
    mean = (1 + 3 + 100 - 2 + 0) / 5
    expected = [1 / mean, 3 / mean, min(100 / mean, 4.0), 0.0, 0.0, 0.0]
    assert value_weights(value, present, clip=4.0).tolist() == pytest.approx(expected)


def test_unclipped_value_weights_sample_in_proportion_to_value_in_expectation() -> None:
    value, loss = random(50).abs(), random(50, seed=1)
    weight = value_weights(value, torch.ones(50).bool(), clip=1e9)
    assert ((weight * loss).sum() / weight.sum()).item() == pytest.approx(((value / value.sum()) * loss).sum().item())


@pytest.mark.parametrize("value", [torch.zeros(4), torch.tensor([-1.0, -2.0, 0.0, 0.0])])
def test_values_without_a_positive_one_weigh_nothing_and_are_no_nan(value: Tensor) -> None:
    assert value_weights(value, torch.ones(4).bool()).tolist() == [0.0] * 4
    assert value_weights(value, torch.zeros(4).bool()).tolist() == [0.0] * 4


# -- Eq. 8 -------------------------------------------------------------------------------------------------------------


def test_bpr_is_eq_8_pair_by_pair_without_ties_and_absent_candidates() -> None:
    scores, value = random(B, C), torch.tensor([[3, 1, 1, 0, 0, 2], [5, 5, 5, 5, 5, 5], [0, 1, 0, 0, 0, 9]]).double()
    present = torch.tensor([[1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    losses, pairs, right = [], 0, 0
    for b in range(B):
        terms = []
        for i in range(C):
            for j in range(C):
                if present[b, i] and present[b, j] and value[b, i] > value[b, j]:
                    difference = (scores[b, i] - scores[b, j]).item()
                    terms.append(math.log(1 + math.exp(-difference)))
                    pairs, right = pairs + 1, right + (difference > 0)
        if terms:
            losses.append(sum(terms) / len(terms))
    assert len(losses) == 2, "the request of ties has no pair"
    loss, share = bpr_loss(scores, value, present)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-12)
    assert share.item() == pytest.approx(right / pairs)


def test_ties_and_absent_candidates_get_no_gradient() -> None:
    scores = random(2, 3).requires_grad_()
    value, present = torch.tensor([[2.0, 2.0, 2.0], [1.0, 0.0, 5.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    bpr_loss(scores, value, present)[0].backward()
    assert scores.grad is not None
    assert (scores.grad == 0).tolist() == [[True, True, True], [False, False, True]]


def test_the_rankers_pads_make_no_nan() -> None:
    scores = torch.tensor([[0.3, -1e30, 0.1, -1e30]], requires_grad=True)
    present = torch.tensor([[True, False, True, False]])
    loss, _ = bpr_loss(scores, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), present)
    (loss + dc_loss(scores * 2, scores, present)).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 1] == scores.grad[0, 3] == 0


# -- Eq. 9-10 ----------------------------------------------------------------------------------------------------------


def naive_standardised(scores: list[float]) -> list[float]:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    return [(score - mean) / deviation for score in scores]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("with_reference", [False, True])
def test_dc_is_eq_10_candidate_by_candidate(with_reference: bool, temperature: float) -> None:
    path, scores, reference = random(B, C), random(B, C, seed=1) * 40 + 7, random(B, C, seed=2)
    present = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 0, 0]]).bool()
    expected = 0.0
    for b in range(B):
        at = [c for c in range(C) if present[b, c]]
        target = [score / temperature for score in naive_standardised([scores[b, c].item() for c in at])]
        if with_reference:
            target = [t + reference[b, c].item() for t, c in zip(target, at, strict=True)]
        policy = log_softmax([path[b, c].item() for c in at])
        expected -= sum(math.exp(t) * p for t, p in zip(log_softmax(target), policy, strict=True)) / B
    got = dc_loss(path, scores, present, temperature, reference if with_reference else None)
    assert got.item() == pytest.approx(expected, abs=1e-12)


def test_candidates_outside_the_set_and_equal_scores_do_no_harm() -> None:
    path = random(2, 4).requires_grad_()
    scores, present = torch.full((2, 4), 3.0, dtype=torch.float64), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    loss = dc_loss(path, scores, present)
    loss.backward()
    assert torch.isfinite(loss)
    assert path.grad is not None
    assert torch.isfinite(path.grad).all()
    assert (path.grad[~present] == 0).all()
    half = 0.5 * -sum(log_softmax(path[0, :2].tolist()))
    assert loss.item() == pytest.approx(half / 2), "equal scores are a uniform teacher; an empty request adds 0"


def test_standardised_is_shift_and_scale_free_within_the_set() -> None:
    scores, present = random(2, C), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    got = standardised(scores, present)
    for b, count in ((0, 6), (1, 3)):
        assert got[b, :count].tolist() == pytest.approx(naive_standardised(scores[b, :count].tolist()))
    assert (got[~present] == 0).all()
    assert_close(standardised(scores * 50 - 4, present), got, 1e-12)


def optimum(objective: Any) -> Tensor:
    """Distribution over C whose free logits minimise the objective."""
    logits = torch.zeros(1, C, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = objective(logits)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach().softmax(-1)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_minimiser_of_eq_10_is_the_softmax_of_the_standardised_scores(temperature: float) -> None:
    scores, present = random(1, C, seed=3) * 10, torch.ones(1, C).bool()
    got = optimum(lambda logits: dc_loss(logits, scores, present, temperature))
    expected = [math.exp(x) for x in log_softmax([s / temperature for s in naive_standardised(scores[0].tolist())])]
    assert got[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_with_a_reference_the_minimiser_of_eq_10_maximises_eq_9(temperature: float) -> None:
    scores, reference, present = random(1, C, seed=3), random(1, C, seed=4).log_softmax(-1), torch.ones(1, C).bool()
    student = optimum(lambda logits: dc_loss(logits, scores, present, temperature, reference))
    value = torch.tensor([naive_standardised(scores[0].tolist())], dtype=torch.float64)

    def minus_eq_9(logits: Tensor) -> Tensor:  # E_π[s] - λ KL(π || π_ref)
        policy = logits.log_softmax(-1)
        return -(policy.exp() * (value - temperature * (policy - reference))).sum()

    assert_close(student, optimum(minus_eq_9), 1e-5)


# -- Who is taught by whom ---------------------------------------------------------------------------------------------


def whole_model(world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Path log-probabilities under the value head, scores and presence for 5 candidates of two requests."""
    model, batch, index = world.model, world.batch([9, 6]), world.index_for(2)
    candidates = torch.tensor([[3, 40, 7, 22, 51], [9, 8, 58, 0, -1]])
    index["item_table"] = model.item_table(torch.from_numpy(world.catalogue.item_fields).long())
    out = model(batch | {"candidate_items": candidates}, index)
    codes = torch.from_numpy(world.catalogue.codes)[candidates.clamp(min=0)].long()
    value_head = retrieval_heads(out["user_embedding"], 5)[:, -1]
    logits = model.retriever.scorer.path_logits(value_head, codes, index["codebooks"], index["anchors"])
    steps = [level.log_softmax(-1).gather(-1, codes[..., i : i + 1])[..., 0] for i, level in enumerate(logits)]
    return sum(steps, torch.zeros(2, 5)), out["scores"], candidates >= 0


def touched(world: World) -> set[str]:
    return {name for name, p in world.model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}


@pytest.mark.parametrize("with_reference", [False, True])
def test_dc_teaches_steps_1_and_2_and_never_the_ranker(with_reference: bool) -> None:
    world = tiny_world()
    path, scores, present = whole_model(world)
    dc_loss(path, scores, present, 1.0, path if with_reference else None).backward()
    names = touched(world)
    assert not [name for name in names if name.startswith(("ranker.", "item_encoder."))]
    assert not [name for name in names if "ranker_key_value" in name], "nor what only the ranker reads"
    for part in (
        "generator.token_embedding", "generator.blocks.0", "generator.enhancer_key_value.1", "enhancer.task_tokens",
        "enhancer.layers.0", "enhancer.head_weight", "enhancer.target_channel", "retriever.scorer.code_embedding",
        "retriever.scorer.prefix.1",
    ):  # fmt: skip
        assert [name for name in names if name.startswith(part)], part


def test_ranking_loss_teaches_all_three_steps_but_not_the_paths() -> None:
    world = tiny_world()
    _, scores, present = whole_model(world)
    value = torch.tensor([[3.0, 0.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0, 0.0]])
    bpr_loss(scores, value, present)[0].backward()
    names = touched(world)
    for part in ("generator.blocks.0", "enhancer.layers.0", "ranker.layer", "item_encoder.output"):
        assert [name for name in names if name.startswith(part)], part
    assert not [name for name in names if name.startswith("retriever.")]


def test_reference_is_stop_gradient_too() -> None:
    reference = random(1, C).requires_grad_()
    loss = dc_loss(random(1, C, seed=1).requires_grad_(), random(1, C), torch.ones(1, C).bool(), 1.0, reference)
    loss.backward()
    assert reference.grad is None


# -- Warm-up -----------------------------------------------------------------------------------------------------------


def test_gamma_waits_for_a_ranker_better_than_random_then_rises_linearly_and_stays() -> None:
    warmup = ConsistencyWarmup(gamma=0.1, steps=10, better_than=0.55)
    assert [warmup.at(step, 0.5) for step in range(50)] == [0.0] * 50, "a random ranker never starts it"
    smoothed, started = 0.5, -1
    for step in range(50, 90):
        smoothed = 0.95 * smoothed + 0.05 * 0.9
        started = step if started < 0 and smoothed > 0.55 else started
        expected = 0.0 if started < 0 else 0.1 * min(1.0, (step - started) / 10)
        assert warmup.at(step, 0.9) == pytest.approx(expected), step
    assert started > 50
    assert warmup.at(90, 0.0) == pytest.approx(0.1), "once started it does not stop"


def test_no_warm_up_steps_is_full_weight_at_the_first_step_after_the_start() -> None:
    warmup = ConsistencyWarmup(gamma=0.2, steps=0, right=0.9)
    assert [warmup.at(step, 0.9) for step in range(3)] == [0.0, 0.2, 0.2]
