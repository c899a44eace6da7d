"""Gives every item of one level a code so that no prefix ever holds more items than it has leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oneranker.semantic_ids.centres import Floats, nearest, squared_distances

Integers = NDArray[np.int64]
_SLOTS_AT_ONCE = 1 << 23


def place(points: Floats, parent: Integers, centres: Floats, capacity: int, taken: Integers | None = None) -> Integers:
    """Choose each item's code: its nearest one, or the nearest with room where that one is full.

    A code under a parent has room for `capacity` items; the nearest items keep it, ties go to the earlier row. The last
    level has capacity 1, level l has V**(L-l): so whatever is placed here can be placed on all levels below.

    Shapes: points float32 [N, D], parent int64 [N] (number of the prefix so far), centres float32 [V, D],
        taken int64 [N] (codes that stand already, -1 where free to choose) -> int64 [N]
    """
    code, distance = nearest(points, centres)
    if taken is not None:
        fixed = taken >= 0
        code[fixed], distance[fixed] = taken[fixed], -1
    full = _beyond(parent * len(centres) + code, distance, capacity)
    homeless, homeless_parent = np.flatnonzero(full), np.unique(parent[full])
    step = max(1, _SLOTS_AT_ONCE // len(centres))
    for begin in range(0, len(homeless_parent), step):
        parents = homeless_parent[begin : begin + step]
        here = homeless[np.isin(parent[homeless], parents)]
        room = np.full((len(parents), len(centres)), capacity, np.int64)
        settled = np.flatnonzero(~full & np.isin(parent, parents))
        np.subtract.at(room, (np.searchsorted(parents, parent[settled]), code[settled]), 1)
        code[here] = _move(points[here], np.searchsorted(parents, parent[here]), centres, room)
    return code


def _move(points: Floats, parent: Integers, centres: Floats, room: Integers) -> Integers:
    """Let every item ask its nearest code with room, round after round; each round fills a code or settles all."""
    code = np.full(len(points), -1, np.int64)
    distance = squared_distances(points, centres)  # [n, V]
    waiting = np.arange(len(points))
    while len(waiting):
        open_to = np.where(room[parent[waiting]] > 0, distance[waiting], np.inf)
        asked = open_to.argmin(axis=1)
        slot = parent[waiting] * len(centres) + asked
        refused = _beyond(slot, open_to[np.arange(len(waiting)), asked], room.ravel()[slot])
        code[waiting[~refused]] = asked[~refused]
        np.subtract.at(room, (parent[waiting[~refused]], asked[~refused]), 1)
        waiting = waiting[refused]
    return code


def _beyond(slot: Integers, distance: Floats, capacity: Integers | int) -> NDArray[np.bool_]:
    """Mark the items that come after the first `capacity` of their slot, in order of distance, then of row.

    Shapes: slot int64 [n], distance float32 [n], capacity int or int64 [n] -> bool [n]
    """
    order = np.lexsort((distance, slot))
    ordered = slot[order]
    opens = np.append(True, ordered[1:] != ordered[:-1])
    first = np.maximum.accumulate(np.where(opens, np.arange(len(slot)), 0))
    rank = np.empty(len(slot), np.int64)
    rank[order] = np.arange(len(slot)) - first
    return rank >= capacity
