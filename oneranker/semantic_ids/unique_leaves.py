"""Gives every item of one level a code so that no prefix ever holds more items than it has leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oneranker.semantic_ids.centres import Floats, nearest, squared_distances

Integers = NDArray[np.int64]
_SLOTS_AT_ONCE = 1 << 23


def place(
    points: Floats, parent: Integers, centres: Floats, capacity: int, standing: Integers | None = None
) -> Integers:
    """Choose each item's code: its nearest one, or the nearest with room where that one is full.

    A code under a parent has room for `capacity` items; the nearest items keep it, ties go to the earlier row. The last
    level has capacity 1, level l has V**(L-l): so whatever is placed here can be placed on all levels below. Slots
    (parent * V + code) that items known before hold are `standing`, one entry for each; these have their room first.

    Shapes: points float32 [N, D], parent int64 [N] (number of the prefix so far), centres float32 [V, D],
        standing int64 [M] -> int64 [N]
    """
    standing = np.zeros(0, np.int64) if standing is None else np.sort(standing)
    capacity = min(capacity, len(points) + len(standing))  # V**(L-l) may be beyond int64
    code, distance = nearest(points, centres)
    slot = parent * len(centres) + code
    full = _beyond(slot, distance, capacity - _times(slot, standing))
    homeless, homeless_parent = np.flatnonzero(full), np.unique(parent[full])
    step = max(1, _SLOTS_AT_ONCE // len(centres))
    for begin in range(0, len(homeless_parent), step):
        parents = homeless_parent[begin : begin + step]
        here = homeless[np.isin(parent[homeless], parents)]
        room = capacity - _times(parents[:, None] * len(centres) + np.arange(len(centres)), standing)
        settled = np.flatnonzero(~full & np.isin(parent, parents))
        np.subtract.at(room, (np.searchsorted(parents, parent[settled]), code[settled]), 1)
        distances = squared_distances(points[here], centres)
        code[here] = nearest_with_room(distances, np.searchsorted(parents, parent[here]), room)
    return code


def nearest_with_room(distance: Floats, parent: Integers, room: Integers) -> Integers:
    """Let every item ask its nearest place with room, round after round; each round fills a place or settles all.

    Of too many who ask, the nearest win, then the earlier rows. A place that is full is never asked, whatever the
    distances are.

    Shapes: distance float32 [n, V], parent int64 [n] (below P), room int64 [P, V], the room of each parent at least the
        number of its items -> int64 [n]
    """
    distance = np.fmin(distance, np.finfo(np.float32).max)  # infinity marks full places alone
    room, code, waiting = room.copy(), np.full(len(distance), -1, np.int64), np.arange(len(distance))
    while len(waiting):
        open_to = np.where(room[parent[waiting]] > 0, distance[waiting], np.inf)
        asked = open_to.argmin(axis=1)
        slot = parent[waiting] * room.shape[1] + asked
        refused = _beyond(slot, open_to[np.arange(len(waiting)), asked], room.ravel()[slot])
        assert not refused.all(), "there is room for all"
        code[waiting[~refused]] = asked[~refused]
        np.subtract.at(room, (parent[waiting[~refused]], asked[~refused]), 1)
        waiting = waiting[refused]
    return code


def _times(slot: Integers, ordered: Integers) -> Integers:
    """Count how often each slot stands in the sorted slots `ordered`."""
    return np.searchsorted(ordered, slot, "right") - np.searchsorted(ordered, slot, "left")


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
