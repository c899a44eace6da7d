"""FAMAE's training rows against the windows that a loop makes, and how often it hides what."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from oneranker.errors import DataError
from oneranker.semantic_ids.famae_batches import Sequences, Windows, draw_masks, hold_out

LENGTHS = (5, 1, 0, 9, 2)


def sequences(groups: bool = False) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    rows = np.arange(100, 100 + offsets[-1])  # every event another item
    return Sequences(offsets, rows, np.arange(offsets[-1]) // 3 if groups else None)


def loop_rows(each: Sequences, history: int) -> Counter[tuple[int, ...]]:
    rows: Counter[tuple[int, ...]] = Counter()
    for begin, end in zip(each.offsets[:-1].tolist(), each.offsets[1:].tolist(), strict=True):
        mine = each.rows[begin:end].tolist()
        for t in range(1, len(mine)):
            rows[tuple(mine[max(0, t - history) : t + 1])] += 1
    return rows


def unpadded(windows: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(item for item in row if item >= 0) for row in windows.tolist()]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_one_epoch_is_every_prefix_of_every_sequence_once(size: int) -> None:
    made = Windows(sequences(), history=3)
    batches = made.batches(size, np.random.default_rng(0))
    for _ in range(2):
        taken: Counter[tuple[int, ...]] = Counter()
        while sum(taken.values()) < len(made.targets):
            taken.update(unpadded(next(batches)))
        assert taken == loop_rows(sequences(), 3)


def test_padding_is_on_the_left_and_as_narrow_as_the_batch_allows() -> None:
    made = Windows(sequences(), history=4)
    windows = made.at(np.array([1, 3]), made.rows)
    np.testing.assert_array_equal(windows, [[-1, -1, 100, 101], [100, 101, 102, 103]])
    assert made.at(np.array([14]), made.rows).shape == (1, 5)


def test_baskets_are_shuffled_inside_and_never_across_baskets_or_users() -> None:
    each = sequences(groups=True)
    made, rng = Windows(each, history=4), np.random.default_rng(0)
    user = each.users()
    orders = set()
    for _ in range(50):
        arranged = made.arranged(rng) - 100
        np.testing.assert_array_equal(user[arranged], user)
        np.testing.assert_array_equal(each.groups[arranged], each.groups)
        orders.add(tuple(arranged[:3].tolist()))
    assert len(orders) == 6  # all orders of a basket of three


def test_a_batch_follows_from_the_seed() -> None:
    first, second = (Windows(sequences(True), 3).batches(4, np.random.default_rng(7)) for _ in range(2))
    for _ in range(9):
        np.testing.assert_array_equal(next(first), next(second))


def test_the_last_event_of_users_with_three_is_held_out() -> None:
    each = Sequences(np.array([0, 3, 5, 9]), np.array([0, 1, 2, 1, 2, 0, 2, 1, 0]))
    rest, held_out = hold_out(each, 10, seed=0)
    assert held_out.tolist() == [2, 8]
    assert rest.offsets.tolist() == [0, 2, 4, 7]
    assert rest.rows.tolist() == [0, 1, 1, 2, 0, 2, 1]


def test_an_item_is_never_held_out_for_good() -> None:
    each = Sequences(np.array([0, 3, 6, 7]), np.array([0, 1, 8, 0, 1, 9, 9]))  # 8 once, 9 elsewhere only alone
    rest, held_out = hold_out(each, 10, seed=0)
    assert held_out.tolist() == []
    assert rest.rows.tolist() == each.rows.tolist()


def test_no_more_is_held_out_than_asked_for() -> None:
    each = Sequences(np.arange(0, 401, 4), np.tile([0, 1, 2, 0], 100))
    rest, held_out = hold_out(each, 10, seed=0)
    assert len(held_out) == 10
    assert len(rest.rows) == 390
    assert hold_out(each, 0, seed=0)[1].tolist() == []
    assert hold_out(each, 10, seed=1)[1].tolist() != held_out.tolist()


@pytest.mark.parametrize("fields", [1, 2, 5])
def test_masks_have_the_papers_distribution(fields: int) -> None:
    samples = 40_000
    masked = draw_masks(samples, fields, np.random.default_rng(0))
    tolerance = 4.5 * 0.5 / samples**0.5
    np.testing.assert_allclose(masked.mean(axis=0), (fields + 1) / (2 * fields), atol=tolerance)  # 0.6 for J=5
    hidden = np.bincount(masked.sum(axis=1), minlength=fields + 1) / samples
    np.testing.assert_allclose(hidden, [0] + [1 / fields] * fields, atol=tolerance)  # all: 0.2 for J=5
    only_first = masked[:, 0] & (masked.sum(axis=1) == 1)
    assert only_first.mean() == pytest.approx(1 / fields**2, abs=tolerance)  # 0.04 for J=5


@pytest.mark.parametrize(
    ("offsets", "groups", "words"),
    [
        ([0, 2], None, r"run from \(0, 2\) over 3 rows"),
        ([1, 3], None, "expected rising from 0"),
        ([0, 3, 2, 3], None, "expected rising from 0"),
        ([], None, "expected rising from 0"),
        ([0, 3], [0, 0], r"groups are \[2\], expected \[3\]"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(offsets: list[int], groups: list[int] | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Sequences(np.array(offsets, np.int64), np.zeros(3, np.int64), None if groups is None else np.array(groups))
