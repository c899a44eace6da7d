"""FAMAE end to end: what its metrics say where the answer is known, and what odd data do to it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from oneranker.errors import DataError
from oneranker.semantic_ids.famae import FamaeSettings, fit_famae
from oneranker.semantic_ids.famae_batches import Sequences
from oneranker.semantic_ids.famae_embeddings import FamaeEmbeddings
from oneranker.semantic_ids.famae_metrics import Evaluation, evaluate, recalled
from oneranker.semantic_ids.famae_model import Famae

ITEMS, STORES, CATEGORIES = 24, 12, 3
SHELF = ITEMS // CATEGORIES
QUICK = FamaeSettings(
    width=16,
    layers=1,
    heads=2,
    history=4,
    learning_rate=1e-2,
    batch_size=64,
    max_steps=12,
    evaluate_every=4,
    recall_at=2,
)


def shop(users: int = 60, events: int = 12, seed: int = 0) -> tuple[Sequences, dict[str, np.ndarray]]:
    """Users mostly stay in their category, where every item is as likely; a store has two items of two categories."""
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {
        "item_id": np.array([f"item {i}" for i in range(ITEMS)], object),
        "store": np.arange(ITEMS) % STORES,
        "category": np.array([f"category {i}" for i in range(CATEGORIES)], object)[np.arange(ITEMS) // SHELF],
    }
    taste = rng.integers(0, CATEGORIES, users)
    stays = rng.random((users, events)) < 0.8
    category = np.where(stays, taste[:, None], rng.integers(0, CATEGORIES, (users, events)))
    rows = category * SHELF + rng.integers(0, SHELF, (users, events))
    return Sequences(np.arange(users + 1) * events, rows.ravel()), columns


@pytest.fixture(scope="module")
def fitted() -> FamaeEmbeddings:
    return fit_famae(*shop(), QUICK)


def test_the_other_fields_say_far_more_of_an_item_than_its_history() -> None:
    """Conformance d. A store has two items, so its R@2 is 1; the history says the category: two of eight items."""
    learned = dataclasses.replace(QUICK, batch_size=256, max_steps=150, evaluate_every=150)
    last = fit_famae(*shop(users=200), learned).evaluations[-1]
    assert last.metric2 > 0.95
    assert 0.12 < last.metric1 < 0.35  # a quarter of the 80-90 % that lie in it
    assert last.metric2 > 2.5 * last.metric1


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_rows(fitted: FamaeEmbeddings) -> None:
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = fit_famae(*shop(), QUICK)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's
    np.testing.assert_array_equal(again.embeddings, fitted.embeddings)
    assert [each.step for each in fitted.evaluations] == [4, 8, 12]
    assert fitted.evaluations[-1].loss < fitted.evaluations[0].loss
    other = fit_famae(*shop(), dataclasses.replace(QUICK, seed=1))
    assert not np.array_equal(other.embeddings, fitted.embeddings)


def test_embeddings_are_each_items_own_rows_side_by_side(fitted: FamaeEmbeddings) -> None:
    assert (fitted.embeddings.dtype, fitted.embeddings.shape) == (np.float32, (ITEMS, 3 * 16))
    parts = fitted.embeddings.reshape(ITEMS, 3, 16)
    category = np.arange(ITEMS) // SHELF
    for item in range(ITEMS):
        np.testing.assert_array_equal(parts[item, 1], parts[item % STORES, 1])
        np.testing.assert_array_equal(parts[item, 2], parts[category[item] * SHELF, 2])
    assert len(np.unique(parts[:, 0], axis=0)) == ITEMS
    np.testing.assert_array_equal(fitted.embed(shop()[1]), fitted.embeddings)


def test_an_item_that_no_training_row_holds_is_as_unknown_as_a_new_one() -> None:
    each, columns = shop()
    rows = np.where(each.rows == 5, 6, each.rows)
    alone = Sequences(np.append(each.offsets, len(rows) + 1), np.append(rows, 5))  # a user with one event
    done = fit_famae(alone, columns, dataclasses.replace(QUICK, max_steps=3))
    np.testing.assert_array_equal(done.embeddings[5, :16], done.tables[0][0])
    np.testing.assert_array_equal(done.embeddings[5, 16:32], done.embeddings[5 + STORES, 16:32])
    assert len(np.unique(done.embeddings[:, :16], axis=0)) == ITEMS


def test_a_field_with_one_value_and_numbers_in_buckets() -> None:
    each, columns = shop()
    columns["currency"] = np.array(["EUR"] * ITEMS, object)
    columns["price"] = np.append(np.arange(ITEMS - 1) / 7, np.nan)
    done = fit_famae(each, columns, dataclasses.replace(QUICK, max_steps=3), {"price": "number"})
    parts = done.embeddings.reshape(ITEMS, 5, 16)
    assert np.isfinite(parts).all()
    assert len(np.unique(parts[:, 3], axis=0)) == 1
    assert len(np.unique(parts[:-1, 4], axis=0)) == 16
    np.testing.assert_array_equal(parts[-1, 4], done.tables[4][0])  # no price
    near = done.embed({"price": np.array([0.001, 1e9])}).reshape(2, 5, 16)
    np.testing.assert_array_equal(near[:, 4], parts[[0, -2], 4])


def test_without_item_ids_nothing_is_measured_and_the_whole_budget_is_used() -> None:
    each, columns = shop()
    del columns["item_id"]
    done = fit_famae(each, columns, dataclasses.replace(QUICK, patience=1))
    assert [each.step for each in done.evaluations] == [4, 8, 12]
    assert all(math.isnan(each.metric1) and math.isnan(each.metric2) for each in done.evaluations)
    assert done.embeddings.shape == (ITEMS, 32)


def test_a_field_without_any_value_is_zero_and_a_missing_item_id_is_never_found() -> None:
    each, columns = shop()
    columns["colour"] = np.array([None] * ITEMS, object)
    columns["item_id"][3] = None
    done = fit_famae(each, columns, dataclasses.replace(QUICK, max_steps=3))
    parts = done.embeddings.reshape(ITEMS, 4, 16)
    assert not parts[:, 3].any()
    np.testing.assert_array_equal(parts[3, 0], done.tables[0][0])
    assert 0 <= done.evaluations[-1].metric2 < 1


def test_sampled_softmax_trains_too() -> None:
    sampled = dataclasses.replace(
        QUICK, batch_size=256, max_steps=100, evaluate_every=100, full_softmax_up_to=10, negatives=8
    )
    assert fit_famae(*shop(), sampled).evaluations[-1].metric2 > 0.5


def test_without_validation_rows_the_whole_budget_is_used() -> None:
    done = fit_famae(*shop(), dataclasses.replace(QUICK, validation_rows=0, patience=1))
    assert [each.step for each in done.evaluations] == [4, 8, 12]
    assert all(math.isnan(each.score()) for each in done.evaluations)


def test_epochs_bound_the_steps() -> None:
    done = fit_famae(*shop(), dataclasses.replace(QUICK, epochs=1, batch_size=300))
    assert done.evaluations[-1].step == math.ceil(60 * 10 / 300)  # 12 events: one held out, 10 targets


def test_training_stops_after_patience_and_keeps_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.29, 0.9])
    kept: list[torch.Tensor] = []

    def scored(model: Famae, *_: Any) -> tuple[float, float]:
        kept.append(model.value_rows(1).detach().clone())
        return (score := next(scores)), score

    monkeypatch.setattr("oneranker.semantic_ids.famae.evaluate", scored)
    done = fit_famae(*shop(), dataclasses.replace(QUICK, max_steps=100, evaluate_every=2, patience=3))
    assert [each.metric1 for each in done.evaluations] == [0.1, 0.3, 0.2, 0.25, 0.29]
    np.testing.assert_array_equal(done.tables[1][1:], kept[1].numpy())


def test_field_weights_decide_what_is_learned() -> None:
    silent = dataclasses.replace(QUICK, field_weights={"item_id": 0.0, "store": 0.0})
    assert fit_famae(*shop(), silent).evaluations[-1].loss < fit_famae(*shop(), QUICK).evaluations[-1].loss / 2


def test_metrics_are_what_a_loop_over_items_counts() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes = np.stack([np.append(rng.permutation(12) + 1, 0), np.append(rng.integers(1, 4, 12), 0)], axis=1)
    model = Famae((12, 3), width=8, history=3, heads=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    windows = rng.integers(0, 12, (40, 4))
    windows[:9, :2] = -1
    found = evaluate(model, torch.from_numpy(codes), windows, 0, at=3)

    hits = [0, 0]
    for window in windows:
        tokens, present = torch.from_numpy(codes[window])[None], torch.from_numpy(window >= 0)[None]
        for metric, masked in enumerate(([[True, True]], [[True, False]])):
            with torch.no_grad():
                h = model(tokens, present, torch.tensor(masked))[0].numpy()
                rows = model.tables[0].weight.numpy()[codes[:12, 0]]
            cosine = rows @ h / np.linalg.norm(rows, axis=1)
            hits[metric] += int(window[-1] in np.argsort(-cosine)[:3])
    assert found == (pytest.approx(hits[0] / 40), pytest.approx(hits[1] / 40))
    assert 0 < hits[0] < 40


def test_ties_count_against_the_target() -> None:
    hidden, rows = torch.ones(1, 4), torch.ones(3, 4)
    assert [recalled(hidden, rows, torch.tensor([1]), at) for at in (1, 2, 3)] == [0, 0, 1]
    assert recalled(hidden, rows, torch.tensor([-1]), 3) == 0  # its item_id is missing


def test_the_score_weighs_relative_gains_alike() -> None:
    def score(metric1: float, metric2: float) -> float:
        return Evaluation(step=1, loss=0.0, metric1=metric1, metric2=metric2, rows=1_000_000).score()

    assert score(0.022, 0.5) == pytest.approx(score(0.02, 0.55), rel=1e-3)
    assert score(0.0, 0.5) > score(0.0, 0.4) > 0


def bad(**changes: Any) -> tuple[Sequences, dict[str, np.ndarray]]:
    each, columns = shop()
    rows = np.where(np.arange(len(each.rows)) == 4, changes.pop("row", each.rows[4]), each.rows)
    offsets = np.arange(len(rows) + 1) if changes.pop("alone", False) else each.offsets
    return Sequences(offsets, rows), columns | changes if changes.pop("columns", True) else {}


@pytest.mark.parametrize(
    ("given", "types", "words"),
    [
        ({"row": ITEMS}, {}, rf"item rows span 0 .. {ITEMS}, expected 0 .. {ITEMS - 1}. Use"),
        ({"row": -1}, {}, "item rows span -1"),
        ({"alone": True}, {}, "expected a user with two events"),
        ({"store": np.zeros(3)}, {}, r"'store': \[3\].*expected \[N\] each"),
        ({"columns": False}, {}, r"fields are \{\}, expected"),
        ({}, {"prize": "number"}, r"name \['prize'\], expected some of"),
        ({}, {"store": "list"}, "types are.*'store': 'list'.*expected one of"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], types: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit_famae(*bad(**given), QUICK, types)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 10, "heads": 4}, "width=10 with heads=4"),
        ({"max_steps": 0}, "max_steps=0, expected more than 0"),
        ({"full_softmax_up_to": 0}, "full_softmax_up_to=0, expected more than 0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"seed": -1}, "seed=-1"),
        ({"field_weights": {"a": -1.0}}, "field_weights"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FamaeSettings(**changes)
