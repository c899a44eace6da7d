"""Placing items of one level against the same rule written as slow loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from oneranker.semantic_ids import unique_leaves
from oneranker.semantic_ids.rq_kmeans import add_items, fit_rq_kmeans
from oneranker.semantic_ids.unique_leaves import nearest_with_room, place


def place_slowly(
    points: np.ndarray, parent: np.ndarray, centres: np.ndarray, capacity: int, taken: Sequence[int] = ()
) -> list[int]:
    """Rounds of asking: every waiting item asks its nearest open code; a code keeps the nearest, then the earliest.

    Items whose code is `taken` already (>= 0) ask for that one, and are nearer to it than any other.
    """
    distance = ((points[:, None] - centres) ** 2).sum(axis=2)
    for item, own in enumerate(taken):
        if own >= 0:
            distance[item], distance[item, own] = np.inf, -1
    code = [-1] * len(points)
    room = {(p, c): capacity for p in parent.tolist() for c in range(len(centres))}
    while -1 in code:
        asked: dict[tuple[int, int], list[tuple[float, int]]] = {}
        for i in range(len(points)):
            if code[i] < 0:
                open_codes = [c for c in range(len(centres)) if room[int(parent[i]), c]]
                best = min(open_codes, key=lambda c: (distance[i, c], c))
                asked.setdefault((int(parent[i]), best), []).append((float(distance[i, best]), i))
        for slot, items in asked.items():
            for _, i in sorted(items)[: room[slot]]:
                code[i] = slot[1]
                room[slot] -= 1
    return code


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("items", "parents", "codes", "capacity"), [(40, 5, 12, 1), (30, 1, 6, 5), (24, 2, 12, 1)])
def test_items_are_placed_as_the_slow_rule_places_them(
    items: int, parents: int, codes: int, capacity: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unique_leaves, "_SLOTS_AT_ONCE", 2 * codes)  # several chunks of parents
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(items, 3)).astype(np.float32)
    centres = rng.normal(size=(codes, 3)).astype(np.float32)
    parent = np.arange(items) % parents
    found = place(points, parent, centres, capacity)
    assert found.tolist() == place_slowly(points, parent, centres, capacity)


@pytest.mark.parametrize(("items", "levels", "codes", "new"), [(40, 3, 4, 20), (20, 3, 3, 7), (50, 2, 9, 31)])
@pytest.mark.parametrize("seed", range(4))
def test_new_items_get_the_paths_that_a_look_at_every_known_item_gives(
    items: int, levels: int, codes: int, new: int, seed: int
) -> None:
    points = np.random.default_rng(seed).normal(size=(items + new, 3)).astype(np.float32)
    known = fit_rq_kmeans(points[:items], levels, codes)
    slow = np.concatenate([known.codes, np.full((new, levels), -1)])
    left = points.copy()
    for level, book in enumerate(known.codebooks):
        prefixes = [tuple(path) for path in slow[:, :level].tolist()]
        parent = np.array([sorted(set(prefixes)).index(prefix) for prefix in prefixes])
        slow[:, level] = place_slowly(left, parent, book, codes ** (levels - 1 - level), slow[:, level].tolist())
        left -= book[slow[:, level]]
    np.testing.assert_array_equal(add_items(known, points[items:]).codes, slow)


def test_codes_that_stand_stay_even_where_a_newcomer_is_nearer() -> None:
    centres = np.array([[0.0], [1.0], [5.0]], np.float32)
    points = np.array([[0.1], [0.0]], np.float32)
    assert place(points, np.zeros(2, int), centres, 1, np.array([0])).tolist() == [1, 2]


def test_places_are_given_to_the_nearest_who_ask() -> None:
    distance = np.array([[1, 5, 9], [2, 3, 9], [0, 9, 9], [1, 2, 9]], np.float32)
    one = np.zeros(4, int)
    assert nearest_with_room(distance, one, np.array([[1, 1, 2]])).tolist() == [2, 2, 0, 1]
    assert nearest_with_room(distance, one, np.array([[0, 4, 0]])).tolist() == [1, 1, 1, 1]
    two = np.array([0, 1, 1, 0])
    assert nearest_with_room(distance, two, np.array([[1, 1, 0], [1, 0, 1]])).tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_full_place_is_never_asked_whatever_the_distances_are(value: float) -> None:
    distance = np.full((4, 3), value, np.float32)
    found = nearest_with_room(distance, np.zeros(4, int), np.array([[0, 1, 3]]))
    assert sorted(found.tolist()) == [1, 2, 2, 2]
