"""The GPU's SiLU attention against eager PyTorch, on Triton's interpreter: its arithmetic needs no GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from assertions import assert_close, assert_parity, tiny_world
from interpreted_attention import Interpreter
from torch import Tensor

from oneranker import masks
from oneranker.config import RelativeBias
from oneranker.fused_attention import Tiling, constants_of, tiling_of
from oneranker.hstu import (
    LARGEST_GAP,
    TIME_BUCKETS,
    AttentionForm,
    RelativeAttentionBias,
    TimeGaps,
    bucket_starts,
    silu_attention,
    time_buckets,
)

pytest.importorskip("triton", reason="triton is not installed; `make setup` installs it")
CLOCK = 10**9
NONE, TIMED = RelativeBias.NONE, RelativeBias.POSITION_TIME


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with Interpreter(tmp_path_factory.mktemp("interpreter")) as running:
        yield running


@dataclass
class Case:
    """Random tensors of one call; the second request has pads behind its real keys."""

    queries: int
    keys: int
    head: int = 24
    bias: RelativeBias = TIMED
    requests: int = 2
    heads: int = 2
    masked: bool = False
    lengths: tuple[int, ...] = ()  # real keys of each request; none: all, and three fewer of the last

    def __post_init__(self) -> None:
        torch.manual_seed(self.keys)
        B, H, Q, S, E = self.requests, self.heads, self.queries, self.keys, self.head
        self.n = S + 3
        self.scale = 1 / self.n
        self.query, self.key, self.value = torch.randn(B, H, Q, E), torch.randn(B, H, S, E), torch.randn(B, H, S, E)
        self.key_time = CLOCK + torch.randint(0, 10**7, (B, S)).sort(dim=1).values
        self.query_time = self.key_time.roll(-1, dims=1)[:, S - Q :]
        lengths = torch.tensor(self.lengths or (S,) * (B - 1) + (max(1, S - 3),))
        self.key_mask = masks.additive(masks.history(lengths, S))
        self.mask = masks.additive(masks.causal(S)[:, :, S - Q :])
        self.table = RelativeAttentionBias(self.n, self.bias)
        for parameter in self.table.parameters():
            parameter.data.normal_()

    @torch.no_grad()
    def eager(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """oneranker.hstu's own form, in the numbers that `dtype` can hold."""
        table = self.table.to(dtype)
        bias = table(self.queries, self.keys, time_buckets(self.query_time, self.key_time, bucket_starts()))
        mask = self.mask.to(dtype) + self.key_mask.to(dtype)
        products = (each.to(dtype) for each in (self.query, self.key, self.value))
        return silu_attention(*products, mask if bias is None else mask + bias, self.scale)

    def fused(self, interpreter: Interpreter, dtype: torch.dtype = torch.float32) -> Tensor:
        timed = {"query_time": self.query_time, "key_time": self.key_time, "starts": bucket_starts()}
        tables = {"position_bias": None, "time_bias": None, "mask": self.mask if self.masked else None}
        if self.bias is not NONE:
            tables["position_bias"] = self.table.position.data
        if self.bias is TIMED:
            tables["time_bias"] = self.table.time.data
        tables |= {"query": self.query, "key": self.key, "value": self.value, "key_mask": self.key_mask}
        floats = {name: None if each is None else each.to(dtype) for name, each in tables.items()}
        return interpreter.attention(floats | (timed if self.bias is TIMED else {}), self.scale)


SIZES = [(1, 1), (16, 16), (17, 17), (64, 64), (65, 65), (70, 70), (1, 40), (5, 130), (64, 97)]


@pytest.mark.parametrize("bias", list(RelativeBias))
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_it_is_the_eager_form_in_fp32(interpreter: Interpreter, queries: int, keys: int, bias: RelativeBias) -> None:
    case = Case(queries, keys, bias=bias)
    assert_close(case.fused(interpreter), case.eager(), atol=2e-6)


@pytest.mark.parametrize("head", [16, 24, 32, 40, 64, 104, 128, 256])
def test_every_width_of_a_head_is_answered(interpreter: Interpreter, head: int) -> None:
    case = Case(35, 35, head, requests=1)
    assert_close(case.fused(interpreter), case.eager(), atol=1e-5)


@pytest.mark.parametrize("bias", list(RelativeBias))
@pytest.mark.parametrize(("queries", "keys", "head"), [(70, 70, 24), (5, 130, 32), (40, 40, 128), (33, 33, 256)])
def test_in_fp16_it_rounds_no_worse_than_twice_the_eager_form(
    interpreter: Interpreter, queries: int, keys: int, head: int, bias: RelativeBias
) -> None:
    case = Case(queries, keys, head, bias)
    assert_parity(case.fused(interpreter, torch.float16), case.eager(torch.float16), case.eager().float())


def test_a_long_sum_is_kept_in_fp32(interpreter: Interpreter) -> None:
    """900 equal terms: a sum in fp16 would be off by a hundredth."""
    case = Case(1, 900, 32, RelativeBias.POSITION, requests=1)
    case.query.zero_()
    case.value.fill_(1.0)
    case.table.position.data.fill_(1.0)
    case.key_mask.zero_()
    expected = torch.full((1, 2, 1, 32), 900 * case.scale / (1 + math.exp(-1)))
    assert_close(case.fused(interpreter, torch.float16).float(), expected, atol=1e-3)


@pytest.mark.parametrize("bias", [NONE, TIMED])
@pytest.mark.parametrize(("queries", "keys"), [(70, 70), (5, 130)])
def test_a_mask_that_is_given_is_added_whatever_it_blocks(
    interpreter: Interpreter, queries: int, keys: int, bias: RelativeBias
) -> None:
    case = Case(queries, keys, bias=bias, masked=True)
    assert_close(case.fused(interpreter), case.eager(), atol=2e-6)
    case.mask = masks.additive(torch.rand(case.requests, 1, queries, keys) < 0.3) + torch.rand(queries, keys)
    assert_close(case.fused(interpreter), case.eager(), atol=2e-6)


def test_a_mask_of_keys_may_block_any_of_them(interpreter: Interpreter) -> None:
    case = Case(70, 70)
    case.key_mask = masks.additive(torch.rand(2, 1, 1, 70) < 0.4) + torch.rand(70)
    assert_close(case.fused(interpreter), case.eager(), atol=2e-6)


def test_a_blocked_key_is_left_out_whatever_its_score_is(interpreter: Interpreter) -> None:
    """A score of a million would overcome -1e4."""
    case = Case(20, 20, bias=NONE)
    case.key_mask[:, :, :, 5] = masks.BLOCKED
    case.query[..., 0] = case.key[..., 0] = 0.0
    expected = case.eager()
    case.query[..., 0] = case.key[:, :, 5, 0] = 1e3  # which changes the score of key 5 alone
    assert_close(case.fused(interpreter), expected, atol=2e-6)


def test_where_no_key_may_be_read_the_answer_is_zero(interpreter: Interpreter) -> None:
    case = Case(20, 20)
    case.key_mask = torch.full((2, 1, 1, 20), masks.BLOCKED)
    assert not case.fused(interpreter).any()


def test_every_gap_falls_into_the_integers_bucket(interpreter: Interpreter) -> None:
    """The table holds each bucket's own number and values are unit vectors: the answer is SiLU of the bucket itself."""
    edges = torch.cat([bucket_starts()[1:73].long() + offset for offset in (-1, 0, 1)])
    gaps = torch.cat([edges, torch.tensor([0, 1, 2, LARGEST_GAP, 2**31, 2**40, 2**62])]).clamp(min=0)
    S, head = 128, 128
    rows = -(-len(gaps) // (S - 1))
    padded = torch.zeros(rows * (S - 1), dtype=torch.int64)
    padded[: len(gaps)] = gaps
    case = Case(1, S, head, requests=rows, heads=1)
    case.query_time = torch.full((rows, 1), CLOCK)
    signs = torch.where(torch.arange(S - 1) % 2 == 0, 1, -1)
    case.key_time = torch.cat([CLOCK - signs * padded.view(rows, S - 1), torch.full((rows, 1), CLOCK)], dim=1)
    case.query, case.key_mask, case.scale = torch.zeros_like(case.query), torch.zeros(rows, 1, 1, S), 1.0
    case.value = torch.eye(S).expand(rows, 1, S, head)
    case.table.time.data, case.table.position.data = torch.arange(TIME_BUCKETS) + 1.0, torch.zeros(2 * case.n - 1)
    answer = case.fused(interpreter)[:, 0, 0]  # [rows, S]: one key a cell
    buckets = time_buckets(case.query_time, case.key_time, bucket_starts())[:, 0]
    assert set(buckets.unique().tolist()) == {0, *range(2, 72)}, "all that int32 reaches; no integer is in bucket 1"
    assert_close(answer, torch.nn.functional.silu(buckets + 1.0), atol=1e-5)


def poisoned(case: Case, at: Tensor) -> None:
    """Not a number in keys and values [.., at, ..]."""
    for tensor in (case.key, case.value):
        tensor.masked_fill_(at.view(-1, 1, case.keys, 1), math.nan)


def test_tiles_behind_the_last_row_of_a_block_are_never_read(interpreter: Interpreter) -> None:
    """Rows 0 to 15 are a block in fp32: what lies behind row 15 is poison, and would make them so were it loaded."""
    case, rows = Case(70, 70), tiling_of(24, torch.float32).rows
    expected = case.eager()
    poisoned(case, torch.arange(70) >= rows)
    answer = case.fused(interpreter)
    assert_close(answer[:, :, :rows], expected[:, :, :rows], atol=2e-6)
    assert answer[0, :, rows:].isnan().all(), "the poison is real: rows that read it show it"


def test_pads_are_never_read(interpreter: Interpreter) -> None:
    case = Case(70, 70)
    expected = case.eager()
    poisoned(case, (case.key_mask < -1).view(2, 70))
    assert_close(case.fused(interpreter), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("queries", "keys", "lengths"), [(1, 1100, (700, 1024, 1025, 1100)), (5, 2050, (700, 1024, 1025, 2050))]
)
def test_the_last_real_key_is_found_in_whichever_chunk_it_stands(
    interpreter: Interpreter, queries: int, keys: int, lengths: tuple[int, ...]
) -> None:
    """Masks of keys are looked at 1,024 at a time; pads are poison, and a real key left out is missed."""
    case = Case(queries, keys, 16, NONE, requests=4, heads=1, lengths=lengths)
    case.scale = 1.0  # no key is too light to be missed
    expected = case.eager(torch.float64).float()
    poisoned(case, (case.key_mask < -1).view(4, keys))
    assert_close(case.fused(interpreter), expected, atol=2e-3)


def test_tiles_that_a_given_mask_blocks_are_never_read(interpreter: Interpreter) -> None:
    case = Case(64, 64, masked=True)
    case.mask = masks.additive(torch.arange(64) < 32).expand(1, 1, 64, 64).clone()
    expected = case.eager()
    poisoned(case, torch.arange(64) >= 32)
    assert_close(case.fused(interpreter), expected, atol=2e-6)


@pytest.mark.parametrize("bias", list(RelativeBias))
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_model_answers_alike_in_both_forms(interpreter: Interpreter, bias: RelativeBias, half: bool) -> None:
    world = tiny_world(relative_bias=bias)
    batch = world.batch([11, 18, 4], padded=20)
    found = interpreter.model(batch, preset_changes={"relative_bias": bias}, half=half)
    with torch.inference_mode():
        real = world.model(batch, world.index_for(3))
    names = [name for name in real if name.startswith(("history_", "enhancer_", "ranker_", "user_"))]
    assert len(names) > 8
    for name in names:
        fused, eager = found[f"{AttentionForm.FUSED}.{name}"], found[f"{AttentionForm.EAGER}.{name}"]
        assert not torch.equal(fused, eager), "the forms add in another order: equal bits were one form twice"
        assert_parity(fused, eager, real[name])


def test_a_new_event_reads_a_known_history_in_both_forms(interpreter: Interpreter) -> None:
    """Query row r stands at S-Q+r: position, mask and time of the last rows alone are those of the whole."""
    whole = Case(70, 70)
    last = Case(9, 70)
    for name in ("key", "value", "key_time", "key_mask", "table"):
        setattr(last, name, getattr(whole, name))
    last.query, last.query_time = whole.query[:, :, -9:], whole.query_time[:, -9:]
    assert_close(last.fused(interpreter), whole.fused(interpreter)[:, :, -9:], atol=2e-6)


def test_without_a_mask_the_generator_is_causal() -> None:
    world = tiny_world()
    batch = world.batch([11, 18], padded=20)
    tokens = [batch[name] for name in ("token_fields", "token_kind", "token_time")]
    history_mask = masks.additive(masks.history(batch["history_length"], 20))
    with torch.inference_mode():
        given = world.model.generator(*tokens, masks.additive(masks.causal(20)), history_mask)
        made = world.model.generator(*tokens, None, history_mask)
    for name, tensor in given.items():
        assert torch.equal(made[name], tensor), name


def test_a_head_is_padded_to_what_tensor_cores_take() -> None:
    assert [constants_of(head, torch.float16)["E_PADDED"] for head in (16, 24, 32, 40, 128, 136, 256)] == [
        *(16, 32, 32, 64, 128, 256, 256)
    ]
    assert tiling_of(32, torch.float16) == Tiling(64, 32, 4, 3)


def test_gaps_without_a_table_by_time_are_not_read(interpreter: Interpreter) -> None:
    case = Case(20, 20, bias=RelativeBias.POSITION)
    tensors = {"query": case.query, "key": case.key, "value": case.value, "key_mask": case.key_mask}
    tensors |= {"position_bias": case.table.position.data, "query_time": case.query_time, "key_time": case.key_time}
    assert_close(interpreter.attention({**tensors, "starts": bucket_starts()}, case.scale), case.eager(), atol=2e-6)
    assert TimeGaps(case.query_time, case.key_time, bucket_starts()).buckets.shape == (2, 20, 20)
