"""The FAMAE network: what it hides, what it shares, what padding may not change, and its loss as a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneranker.semantic_ids.famae_model import Famae, QuickDropout, cosine_logits, famae_loss, sampled_cross_entropy

VALUES = (7, 3, 5)
D, B, T, J = 8, 6, 5, len(VALUES)


def model(dropout: float = 0.0, layers: int = 2) -> Famae:
    torch.manual_seed(0)
    made = Famae(VALUES, width=D, history=T - 1, layers=layers, heads=2, dropout=dropout)
    with torch.no_grad():
        for table in made.parameters():  # beyond the small start, so that every part has a say
            table.add_(0.3 * torch.randn_like(table))
        for j in range(J):
            made.tables[j].weight[0] = 0
    return made.eval()


def batch(samples: int = B, length: int = T) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(1)
    codes = np.stack([rng.integers(1, count + 1, (samples, length)) for count in VALUES], axis=2)
    masked = rng.random((samples, J)) < 0.5
    masked[:, 0] |= ~masked.any(axis=1)
    return torch.from_numpy(codes), torch.ones((samples, length), dtype=torch.bool), torch.from_numpy(masked)


def test_the_hidden_state_is_that_of_torchs_encoder_over_the_sums_of_rows() -> None:
    made, (codes, present, masked) = model(), batch()
    present[2, :3] = False
    tokens = torch.zeros(B, T, D)
    for b in range(B):
        for t in range(T):
            tokens[b, t] = made.positions[t]
            for j in range(J):
                hidden = t == T - 1 and masked[b, j]
                tokens[b, t] += made.tables[j].weight[-1 if hidden else codes[b, t, j]]
    whole = nn.TransformerEncoder(made.layers[0], 2, enable_nested_tensor=False)
    whole.layers = made.layers
    whole.train()  # torch's slow path, the one that is documented; without dropout the numbers are those of eval
    expected = whole(tokens, src_key_padding_mask=~present)[:, -1]
    torch.testing.assert_close(made(codes, present, masked), expected, rtol=1e-4, atol=1e-5)


def test_padding_never_changes_the_hidden_state() -> None:
    made, (codes, present, masked) = model(), batch(length=3)
    alone = made(codes, present, masked)
    for junk in (0, 1):
        padding = torch.full((B, 2, J), junk)
        there = torch.zeros((B, 2), dtype=torch.bool)
        padded = made(torch.cat([padding, codes], dim=1), torch.cat([there, present], dim=1), masked)
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_what_the_target_hides_cannot_be_seen() -> None:
    made, (codes, present, masked) = model(), batch()
    other = codes.clone()
    other[:, -1] = torch.where(masked, codes[:, -1] % torch.tensor(VALUES) + 1, codes[:, -1])
    assert not torch.equal(codes, other)
    torch.testing.assert_close(made(codes, present, masked), made(other, present, masked), rtol=0, atol=0)


def test_history_is_never_masked() -> None:
    made, (codes, present, _) = model(), batch()
    everything = torch.ones((B, J), dtype=torch.bool)
    before = made(codes, present, everything)
    for t in range(T - 1):
        for j in range(J):
            changed = codes.clone()
            changed[:, t, j] = codes[:, t, j] % VALUES[j] + 1
            assert ((made(changed, present, everything) - before).abs().amax(dim=1) > 1e-4).all(), (t, j)


def test_gradient_reaches_a_mask_vector_only_where_its_field_is_masked() -> None:
    made, (codes, present, masked) = model(), batch()
    masked[:, 1] = False
    masked[:, 2] = torch.arange(B) == 4
    hidden = made(codes, present, masked)
    hidden[torch.arange(B) != 4].square().sum().backward(retain_graph=True)
    gradients = [table.weight.grad[-1].abs().max().item() for table in made.tables]
    assert (gradients[0] > 0, gradients[1], gradients[2]) == (True, 0, 0)
    hidden[4].square().sum().backward()
    assert made.tables[2].weight.grad[-1].abs().max() > 0


def test_padding_rows_stay_zero_and_get_no_gradient() -> None:
    made, (codes, present, masked) = model(), batch()
    codes[:, 0] = 0
    famae_loss(made, made(codes, present, masked), codes[:, -1], masked, [1.0] * J, [None] * J).backward()
    for table in made.tables:
        assert not table.weight[0].any()
        assert not table.weight.grad[0].any()


def loop_loss(made: Famae, hidden: Tensor, target: Tensor, masked: Tensor, weights: list[float]) -> float:
    total = 0.0
    for b in range(len(hidden)):
        h = hidden[b].tolist()
        for k in range(J):
            if not masked[b, k] or target[b, k] == 0:
                continue
            logits = []
            for v in range(1, VALUES[k] + 1):
                e = made.tables[k].weight[v].tolist()
                dot = sum(x * y for x, y in zip(h, e, strict=True))
                logits.append(math.sqrt(D) * dot / math.hypot(*h) / math.hypot(*e))
            total += weights[k] * (math.log(sum(map(math.exp, logits))) - logits[int(target[b, k]) - 1])
    return total / len(hidden)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 0.0, 3.0]])
def test_the_loss_is_the_papers_as_a_loop(weights: list[float]) -> None:
    made, (codes, present, masked) = model(), batch()
    codes[3, -1, 0], masked[3, 0] = 0, True  # an unknown value is not asked for
    hidden = made(codes, present, masked)
    loss = famae_loss(made, hidden, codes[:, -1], masked, weights, [None] * J)
    assert loss.item() == pytest.approx(loop_loss(made, hidden, codes[:, -1], masked, weights), rel=1e-5)


def test_input_and_output_share_their_rows() -> None:
    made = model()
    assert len(list(made.tables.parameters())) == J
    for j, count in enumerate(VALUES):
        assert made.value_rows(j).shape == (count, D)
        assert made.value_rows(j).data_ptr() == made.tables[j].weight[1].data_ptr()


def test_a_field_with_one_value_costs_nothing() -> None:
    made = Famae((4, 1), width=D, history=2, heads=2)
    masked = torch.tensor([[False, True]] * B)
    loss = famae_loss(made, torch.randn(B, D), torch.ones((B, 2), dtype=torch.long), masked, [1.0] * 2, [None] * 2)
    assert loss.item() == 0


def sampled(hidden: Tensor, rows: Tensor, wanted: Tensor, negatives: int) -> float:
    drawn = np.random.default_rng(negatives).integers(0, len(rows) - 1, (len(hidden), negatives))
    return float(sampled_cross_entropy(hidden, rows, wanted, torch.from_numpy(drawn))) / len(hidden)


def test_the_sampled_softmax_goes_to_the_full_one_as_negatives_grow() -> None:
    hidden, rows, wanted = torch.randn(64, D), torch.randn(500, D), torch.randint(0, 500, (64,))
    full = float(torch.nn.functional.cross_entropy(cosine_logits(hidden, rows), wanted))
    errors = [abs(sampled(hidden, rows, wanted, n) - full) for n in (2, 32, 4096, 65536)]
    assert errors[0] > 4 * errors[1] > 0
    assert errors[1] > 4 * errors[2]
    assert errors[3] < 2e-3
    assert full > 5


def test_drawing_every_other_value_once_is_the_full_softmax() -> None:
    hidden, rows, wanted = torch.randn(5, D), torch.randn(9, D), torch.tensor([0, 8, 3, 3, 7])
    drawn = torch.arange(8).expand(5, -1)
    full = torch.nn.functional.cross_entropy(cosine_logits(hidden, rows), wanted, reduction="sum")
    torch.testing.assert_close(sampled_cross_entropy(hidden, rows, wanted, drawn), full)


def test_a_field_with_negatives_takes_the_sampled_softmax_and_no_other_field_does() -> None:
    made, (codes, present, masked) = model(), batch()
    hidden, target = made(codes, present, masked), codes[:, -1]
    few = torch.zeros((B, 1), dtype=torch.long)
    whole = famae_loss(made, hidden, target, masked, [1.0] * J, [None] * J)
    mixed = famae_loss(made, hidden, target, masked, [1.0] * J, [few, None, None])
    asked = masked[:, 0]
    first = sampled_cross_entropy(hidden[asked], made.value_rows(0), target[asked, 0] - 1, few[asked]) / B
    torch.testing.assert_close(mixed, first + famae_loss(made, hidden, target, masked, [0.0, 1.0, 1.0], [None] * J))
    assert abs(mixed.item() - whole.item()) > 0.01


def test_quick_dropout_drops_its_share_keeps_the_mean_and_is_off_in_eval() -> None:
    x = torch.ones(400, 500, requires_grad=True)
    layer = QuickDropout(0.1, np.random.default_rng(0))
    y = layer(x)
    assert float((y == 0).float().mean()) == pytest.approx(0.1, abs=0.003)  # 4.5 standard errors
    assert float(y.detach().mean()) == pytest.approx(1, abs=0.004)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    assert layer.eval()(x) is x
