"""Step 1 reads backwards only, forgets padding, and continues from cached keys and values as if never interrupted."""

from __future__ import annotations

import itertools

import pytest
import torch
from assertions import World, assert_close, tiny_world
from torch import Tensor

from oneranker import masks
from oneranker.config import RelativeBias
from oneranker.generator import Past, reading_time
from oneranker.tokens import CONTENT, CONTEXT, ITEM, PAD, USER

NAMES = ("token_fields", "token_kind", "token_time")
LENGTH = 17


def run(world: World, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    padded = batch["token_kind"].shape[1]
    history_mask = world.model.additive(masks.history(batch["history_length"], padded))
    with torch.no_grad():
        return world.model.generator(
            *(batch[n] for n in NAMES), world.model.additive(masks.causal(padded)), history_mask
        )


def test_a_row_looks_back_from_its_successor_but_a_request_token_from_its_own_time() -> None:
    kinds = [
        [USER, CONTEXT, ITEM, ITEM, CONTENT, CONTEXT, PAD],
        [USER, ITEM, CONTENT, ITEM, ITEM, ITEM, ITEM],
        [USER, CONTEXT, ITEM, PAD, PAD, PAD, PAD],
    ]
    kind, expected = torch.tensor(kinds), torch.zeros(3, 7, dtype=torch.int64)
    time = torch.tensor([[10, 20, 30, 40, 50, 60, 99], [1, 2, 3, 4, 5, 6, 7], [5, 6, 7, 88, 90, 92, 94]])
    for row, column in itertools.product(range(3), range(7)):
        last = column == 6 or kind[row, column + 1] == PAD
        own = last or kind[row, column] == CONTEXT
        expected[row, column] = time[row, column if own else column + 1]
    assert torch.equal(reading_time(time, kind), expected)
    assert expected[0, :6].tolist() == [20, 20, 40, 50, 60, 60]
    assert expected[2, :3].tolist() == [6, 6, 7], "a pad's time is nobody's"


def test_token_is_the_sum_of_its_field_rows_and_kind_and_absent_fields_add_nothing() -> None:
    world = tiny_world(dtype=torch.float64, generator_layers=0)
    generator, batch = world.model.generator, world.batch([LENGTH])
    got = run(world, batch)["history_hidden"][0]
    for position in range(LENGTH):
        x = generator.kind_embedding.weight[batch["token_kind"][0, position]].clone()
        for row in batch["token_fields"][0, position].tolist():
            x += generator.token_embedding.weight[row] if row else 0
        assert_close(got[position], generator.final_norm(x * 32**0.5), 1e-10)


@pytest.mark.parametrize("mode", list(RelativeBias))
def test_padding_further_changes_no_real_row(mode: RelativeBias) -> None:
    world = tiny_world(dtype=torch.float64, relative_bias=mode)
    short, long = run(world, world.batch([9, 7])), run(world, world.batch([9, 7], padded=20))
    for name, (request, length) in itertools.product(short, [(0, 9), (1, 7)]):
        assert_close(long[name][request][..., :length, :], short[name][request][..., :length, :], 1e-12)


@pytest.mark.parametrize("changed", range(LENGTH))
def test_a_changed_token_changes_no_earlier_row(changed: int) -> None:
    world = tiny_world()
    batch = world.batch([LENGTH])
    before = run(world, batch)["history_hidden"]
    batch["token_fields"][0, changed] = torch.tensor([3, 5, 7, 9, 11])
    after = run(world, batch)["history_hidden"]
    assert torch.equal(after[:, :changed], before[:, :changed])
    assert (after[:, changed:] != before[:, changed:]).any(-1).all(), "every later row reads it"


def test_a_changed_time_reaches_back_one_row_and_no_further() -> None:
    world = tiny_world()
    batch = world.batch([LENGTH])
    before = run(world, batch)["history_hidden"]
    for changed in range(2, LENGTH):
        moved = batch["token_time"].clone()
        moved[0, changed] += 10**7
        after = run(world, batch | {"token_time": moved})["history_hidden"]
        reach = changed if batch["token_kind"][0, changed - 1] == CONTEXT else changed - 1
        assert torch.equal(after[:, :reach], before[:, :reach]), changed
        assert not torch.equal(after[:, reach], before[:, reach]), changed


def piecewise(world: World, batch: dict[str, Tensor], splits: list[int]) -> tuple[Tensor, Past]:
    """Encode in pieces, each from the keys and values of those before it."""
    mask = world.model.additive(masks.causal(LENGTH))
    past, hidden = None, []
    for begin, end in itertools.pairwise([0, *splits, LENGTH]):
        piece = [batch[name][:, begin:end] for name in NAMES]
        rows, past = world.model.generator.encode(*piece, mask[:, :, begin:end, :end], past)
        hidden.append(rows)
    assert past is not None
    return torch.cat(hidden, dim=1), past


def assert_continues(world: World, batch: dict[str, Tensor], splits: list[int]) -> None:
    whole, whole_past = piecewise(world, batch, [])
    pieces, past = piecewise(world, batch, splits)
    assert_close(pieces, whole, 1e-12)
    assert torch.equal(past.time, whole_past.time)
    for got, expected in zip(past.blocks, whole_past.blocks, strict=True):
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other, 1e-12)


def request_ends(batch: dict[str, Tensor]) -> list[int]:
    """Positions right behind a request token: nothing a request token has computed hangs on what follows it."""
    return [i + 1 for i in range(LENGTH - 1) if batch["token_kind"][0, i] == CONTEXT]


@pytest.mark.parametrize("mode", list(RelativeBias))
@torch.no_grad()
def test_continuing_behind_a_request_token_equals_the_full_forward(mode: RelativeBias) -> None:
    world = tiny_world(dtype=torch.float64, relative_bias=mode)
    batch = world.batch([LENGTH])
    ends = request_ends(batch)
    assert len(ends) >= 3
    for splits in ([end] for end in ends):
        assert_continues(world, batch, splits)
    assert_continues(world, batch, ends)


@pytest.mark.parametrize("mode", [RelativeBias.NONE, RelativeBias.POSITION])
@torch.no_grad()
def test_without_time_any_split_equals_the_full_forward(mode: RelativeBias) -> None:
    world = tiny_world(dtype=torch.float64, relative_bias=mode)
    batch = world.batch([LENGTH])
    for split in range(1, LENGTH):
        assert_continues(world, batch, [split])
    assert_continues(world, batch, list(range(1, LENGTH)))


@torch.no_grad()
def test_with_time_a_row_is_not_final_before_its_successor_is_known() -> None:
    """An item looks back from the time of the next token: cached as the last one, it looked back from its own."""
    world = tiny_world(dtype=torch.float64)
    batch = world.batch([LENGTH])
    kind, time = batch["token_kind"][0], batch["token_time"][0]
    early = [i + 1 for i in range(2, LENGTH - 1) if kind[i] != CONTEXT and time[i] != time[i + 1]]
    assert early
    whole, _ = piecewise(world, batch, [])
    for split in early:
        pieces, _ = piecewise(world, batch, [split])
        assert not torch.allclose(pieces[:, split - 1], whole[:, split - 1], atol=1e-9), split


def test_keys_and_values_of_every_reader_come_from_the_hidden_states() -> None:
    world = tiny_world(dtype=torch.float64)
    out = run(world, world.batch([LENGTH]))
    assert list(out) == [
        "history_hidden", "enhancer_key_0", "enhancer_value_0", "enhancer_key_1", "enhancer_value_1",
        "ranker_key_history", "ranker_value_history",
    ]  # fmt: skip
    readers = {"enhancer_{}_0": 0, "enhancer_{}_1": 1}
    linears = {name: world.model.generator.enhancer_key_value[i] for name, i in readers.items()}
    linears["ranker_{}_history"] = world.model.generator.ranker_key_value
    for name, reader in linears.items():
        for what, linear in (("key", reader.key), ("value", reader.value)):
            flat = linear(out["history_hidden"])  # [B, S, D]
            for head in range(2):
                assert_close(out[name.format(what)][:, head], flat[..., head * 16 : head * 16 + 16], 1e-12)
