"""The HSTU block against its equations, written as one loop per head, row and key."""

from __future__ import annotations

import math

import pytest
import torch
from assertions import assert_close
from torch import Tensor

from oneranker import masks
from oneranker.config import OneRankerConfig, RelativeBias
from oneranker.hstu import (
    BUCKET_WIDTH,
    TIME_BUCKETS,
    HSTUBlock,
    RelativeAttentionBias,
    TimeGaps,
    bucket_starts,
    silu_attention,
    time_buckets,
)

S, D, H = 6, 32, 2
CONFIG = {"max_history": 9, "width": D, "heads": H, "dropout": 0.0}
LARGEST = 2**31 - 2


def block_of(mode: RelativeBias, seed: int = 0) -> HSTUBlock:
    torch.manual_seed(seed)
    block = HSTUBlock(OneRankerConfig(**CONFIG, relative_bias=mode)).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block


def python_bucket(gap: int) -> int:
    return min(max(math.floor(math.log(max(gap, 1)) / 0.301), 0), 128)


def edges() -> list[int]:
    """Integers on both sides of every step, and powers of two on both sides."""
    near = [math.ceil(math.exp(bucket * 0.301)) for bucket in range(72)] + [2**power for power in range(31)]
    around = {gap + offset for gap in near for offset in (-2, -1, 0, 1, 2)}
    return sorted(gap for gap in around | {0, 1, 2, LARGEST} if 0 <= gap <= LARGEST)


def buckets_of(gaps: Tensor) -> Tensor:
    """|query - key| = gap, half of them with the key in the future."""
    query = torch.where(torch.arange(len(gaps)) % 2 == 0, gaps, -gaps)
    return time_buckets(query[:, None], torch.zeros(len(gaps), 1, dtype=torch.int64), bucket_starts())[:, 0, 0]


def test_bucket_is_the_floor_of_the_logarithm_at_every_edge() -> None:
    gaps = edges()
    assert buckets_of(torch.tensor(gaps)).tolist() == [python_bucket(gap) for gap in gaps]


def test_bucket_is_the_floor_of_the_logarithm_for_many_integers() -> None:
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(20_000, generator=generator, dtype=torch.float64) * math.log(LARGEST)
    gaps = torch.cat([torch.arange(5000), exponents.exp().long().clamp(max=LARGEST)])
    assert buckets_of(gaps).tolist() == [python_bucket(gap) for gap in gaps.tolist()]


def test_a_gap_beyond_int32_seconds_shares_the_last_bucket_int32_reaches() -> None:
    assert buckets_of(torch.tensor([2**31, 2**40, 2**62])).tolist() == [python_bucket(LARGEST)] * 3


def naive_bias(bias: RelativeAttentionBias, mode: RelativeBias, row: int, key: int, gap: int) -> float:
    total = 0.0
    if mode is not RelativeBias.NONE:
        total += bias.position[(bias.max_history - 1) + (key - row)].item()
    if mode is RelativeBias.POSITION_TIME:
        total += bias.time[python_bucket(gap)].item()
    return total


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (2, 6), (1, 9), (9, 9), (1, 1)])
@pytest.mark.parametrize("mode", [RelativeBias.POSITION, RelativeBias.POSITION_TIME])
def test_bias_is_looked_up_cell_by_cell(mode: RelativeBias, queries: int, keys: int) -> None:
    bias = block_of(mode).bias
    generator = torch.Generator().manual_seed(1)
    reading = torch.randint(0, 10**6, (2, queries), generator=generator)
    time = torch.randint(0, 10**6, (2, keys), generator=generator)
    got = bias(queries, keys, time_buckets(reading, time, bucket_starts()))
    for request in range(got.shape[0]):
        for row in range(queries):
            for key in range(keys):
                gap = abs(int(reading[request, row]) - int(time[request, key]))
                expected = naive_bias(bias, mode, keys - queries + row, key, gap)
                assert got[request, 0, row, key].item() == pytest.approx(expected, abs=1e-12), (request, row, key)


def test_no_bias_is_none_and_has_no_tables() -> None:
    bias = RelativeAttentionBias(9, RelativeBias.NONE)
    assert bias(6, 6, None) is None
    assert not list(bias.parameters())


def test_tables_have_the_reference_sizes() -> None:
    bias = RelativeAttentionBias(9, RelativeBias.POSITION_TIME)
    assert (len(bias.position), len(bias.time), BUCKET_WIDTH) == (17, 129, 0.301)
    assert bucket_starts().shape == (TIME_BUCKETS + 1,)


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean()) / math.sqrt(x.var(unbiased=False).item() + 1e-6)


def naive_block(block: HSTUBlock, mode: RelativeBias, x: Tensor, reading: Tensor, time: Tensor) -> Tensor:
    """x [S, D] of one request; C.1 word by word."""
    uvqk = torch.stack([torch.nn.functional.silu(block.input.weight @ normalised(row)) for row in x])
    u, v, q, k = uvqk[:, :D], uvqk[:, D : 2 * D], uvqk[:, 2 * D : 3 * D], uvqk[:, 3 * D :]
    out = torch.zeros_like(x)
    for head in range(H):
        at = slice(head * D // H, (head + 1) * D // H)
        for row in range(len(x)):
            for key in range(row + 1):
                gap = abs(int(reading[row]) - int(time[key]))
                logit = float(q[row, at] @ k[key, at]) + naive_bias(block.bias, mode, row, key, gap)
                out[row, at] += logit / (1 + math.exp(-logit)) / 9 * v[key, at]
    gated = torch.stack([u[row] * normalised(out[row]) for row in range(len(x))])
    return x + gated @ block.output.weight.T + block.output.bias


@pytest.mark.parametrize("mode", list(RelativeBias))
@torch.no_grad()
def test_block_is_the_papers_equations_head_by_head(mode: RelativeBias) -> None:
    block = block_of(mode)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, S, D, generator=generator, dtype=torch.float64)
    time = torch.randint(0, 10**6, (2, S), generator=generator).sort(dim=1).values
    reading = torch.cat([time[:, 1:], time[:, -1:]], dim=1)
    mask = masks.additive(masks.causal(S), torch.float64)
    got, _, _ = block(x, mask, TimeGaps(reading, time, bucket_starts()))
    for request in range(2):
        assert_close(got[request], naive_block(block, mode, x[request], reading[request], time[request]), 1e-10)


def test_attention_divides_by_n_and_never_normalises() -> None:
    query, key = torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 3, 8)
    value = torch.ones(1, 1, 3, 8)
    bias = torch.tensor([1.0, 2.0, masks.BLOCKED])[None, None, None]
    expected = (1 / (1 + math.exp(-1)) + 2 / (1 + math.exp(-2))) / 10
    assert_close(silu_attention(query, key, value, bias, 0.1), torch.full((1, 1, 1, 8), expected))


@torch.no_grad()
def test_returned_keys_and_values_are_the_past_then_the_new_ones() -> None:
    block = block_of(RelativeBias.POSITION)
    x = torch.randn(1, S, D, dtype=torch.float64)
    mask = masks.additive(masks.causal(S), torch.float64)
    full, key, value = block(x, mask, None)
    for split in range(1, S):
        _, *past = block(x[:, :split], mask[:, :, :split, :split], None)
        new, new_key, new_value = block(x[:, split:], mask[:, :, split:], None, tuple(past))
        assert_close(new, full[:, split:], 1e-12)
        assert_close(new_key, key, 1e-12)
        assert_close(new_value, value, 1e-12)
