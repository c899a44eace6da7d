"""Placing items of one level against the same rule written as slow loops."""

from __future__ import annotations

import numpy as np
import pytest

from oneranker.semantic_ids import unique_leaves
from oneranker.semantic_ids.unique_leaves import place


def place_slowly(points: np.ndarray, parent: np.ndarray, centres: np.ndarray, capacity: int) -> list[int]:
    """Rounds of asking: every waiting item asks its nearest open code; a code keeps the nearest, then the earliest."""
    distance = ((points[:, None] - centres) ** 2).sum(axis=2)
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


def test_codes_that_stand_stay_even_where_a_newcomer_is_nearer() -> None:
    centres = np.array([[0.0], [1.0], [5.0]], np.float32)
    points = np.array([[4.0], [0.1], [0.0]], np.float32)
    taken = np.array([0, -1, -1])
    assert place(points, np.zeros(3, int), centres, 1, taken).tolist() == [0, 1, 2]
