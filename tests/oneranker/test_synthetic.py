"""Seeded catalogues, models and requests: the same everywhere, of the size asked for, with every kind of token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from assertions import assert_bitwise, tiny_world

from oneranker import synthetic
from oneranker.catalogue import check_catalogue
from oneranker.config import preset
from oneranker.tokens import CONTENT, CONTEXT, ITEM, PAD, USER

CONFIG = preset("tiny")


@pytest.mark.parametrize("items", [1, 60, 1331])
def test_catalogue_has_the_items_asked_for_with_distinct_codes_in_order(items: int) -> None:
    catalogue = synthetic.synthetic_catalogue(CONFIG, items)
    rows = [tuple(row) for row in catalogue.codes.tolist()]
    assert rows == sorted(set(rows))
    assert len(rows) == len(set(catalogue.ids)) == len(catalogue.names) == items
    assert 0 <= catalogue.codes.min() <= catalogue.codes.max() < CONFIG.codes
    check_catalogue(CONFIG, catalogue)


def test_codes_of_a_space_too_large_to_permute_are_distinct_too() -> None:
    wide = replace(CONFIG, codes=256)
    codes = synthetic.random_codes(wide, 5000, np.random.default_rng(0))
    assert codes.shape == (5000, 3)
    assert len({tuple(row) for row in codes.tolist()}) == 5000


def test_more_items_than_codes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1332 items, expected at most V\*\*L = 1331; ask for fewer"):
        synthetic.synthetic_catalogue(CONFIG, 1332)


def test_the_same_seed_gives_the_same_catalogue_and_the_space_hangs_on_its_own_seed() -> None:
    first, again, other = (synthetic.synthetic_catalogue(CONFIG, 30, seed) for seed in (0, 0, 1))
    assert first.ids == again.ids
    for name in ("codes", "codebooks", "anchors", "item_fields"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.codes, other.codes)
    np.testing.assert_array_equal(first.codebooks, other.codebooks)
    np.testing.assert_array_equal(first.anchors, other.anchors)
    elsewhere = synthetic.synthetic_catalogue(CONFIG, 30, space_seed=1)
    assert not np.array_equal(first.codebooks, elsewhere.codebooks)
    assert not np.array_equal(first.anchors, elsewhere.anchors)


def test_the_same_seed_gives_the_same_model_with_the_catalogues_anchors() -> None:
    one, again, other = tiny_world(), tiny_world(), tiny_world(seed=1)
    assert_bitwise(one.model.state_dict(), again.model.state_dict())
    assert not torch.equal(one.model.enhancer.task_tokens, other.model.enhancer.task_tokens)
    assert torch.equal(one.model.enhancer.anchors, torch.from_numpy(one.catalogue.anchors))
    assert not one.model.training


def test_no_weight_but_the_absent_row_is_left_at_0_or_1() -> None:
    for name, parameter in tiny_world().model.named_parameters():
        plain = ((parameter == 0) | (parameter == 1)).sum().item()
        assert plain == (parameter.shape[1] if name == "generator.token_embedding.weight" else 0), name
    assert (tiny_world().model.generator.token_embedding.weight[0] == 0).all()


@pytest.mark.parametrize("tokens", [2, 3, 4, 7, 20])
@pytest.mark.parametrize("seed", range(5))
def test_a_request_makes_exactly_the_tokens_asked_for(tokens: int, seed: int) -> None:
    world = tiny_world()
    [encoded] = world.tokens([tokens], seed)
    kinds = encoded.token_kind.tolist()
    assert len(kinds) == tokens
    assert encoded.dropped == 0
    assert (kinds[0], kinds[-1]) == (USER, CONTEXT)
    assert set(kinds[1:-1]) <= {CONTENT, CONTEXT, ITEM}
    assert (np.diff(encoded.token_time) >= 0).all()


def test_requests_hold_every_kind_of_token_and_every_field_fits_the_table() -> None:
    world = tiny_world()
    batch = world.batch([20] * 12)
    assert set(batch["token_kind"].unique().tolist()) == {USER, CONTENT, CONTEXT, ITEM}
    assert batch["token_fields"].max() < world.config.vocabulary
    assert batch["token_fields"].min() >= 0
    assert batch["token_fields"].shape[-1] == world.config.fields


def test_padding_stands_behind_without_fields_and_kind_at_the_last_time() -> None:
    world, lengths = tiny_world(), [9, 5, 2]
    requests = world.tokens(lengths)
    batch = synthetic.padded_batch(requests, 12)
    assert batch["history_length"].tolist() == lengths
    for row, (tokens, length) in enumerate(zip(requests, lengths, strict=True)):
        for name in ("token_fields", "token_kind", "token_time"):
            assert batch[name][row, :length].tolist() == getattr(tokens, name).tolist(), name
        assert (batch["token_fields"][row, length:] == 0).all()
        assert (batch["token_kind"][row, length:] == PAD).all()
        assert (batch["token_time"][row, length:] == int(tokens.token_time[-1])).all()
    assert synthetic.padded_batch(requests)["token_kind"].shape == (3, 9)
