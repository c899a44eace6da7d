"""Training rows of FAMAE: windows over item sequences, made batch by batch, and the fields that each row masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oneranker.errors import DataError

Integers = NDArray[np.int64]
_POOL = 32  # batches whose rows are sorted by length together, so that short histories are not padded to long ones
_LEAST_EVENTS = 3  # of a user whose last event may be held out: a history, a target, and what is held out


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Item rows per user in time order (CSR): user u has rows[offsets[u] : offsets[u+1]].

    `groups` numbers baskets: neighbours with the same number (and user) were taken together, in no order.

    Shapes: offsets int64 [U+1], rows int64 [n], groups int64 [n] or None

    Raises: DataError when the offsets do not cover the rows, or lengths differ.
    """

    offsets: Integers
    rows: Integers
    groups: Integers | None = None

    def __post_init__(self) -> None:
        ends = (int(self.offsets[0]), int(self.offsets[-1])) if self.offsets.size else ()
        if ends != (0, len(self.rows)) or (np.diff(self.offsets) < 0).any():
            raise DataError(
                f"item sequences: offsets {list(self.offsets.shape)} run from {ends} over {len(self.rows)} rows, "
                "expected rising from 0 to the number of rows. Give one offset per user and the end."
            )
        if self.groups is not None and self.groups.shape != self.rows.shape:
            raise DataError(
                f"item sequences: groups are {list(self.groups.shape)}, expected {list(self.rows.shape)}, one per row. "
                "Give every event its basket, or leave groups out."
            )

    def users(self) -> Integers:
        """The user of each event.

        Shapes: -> int64 [n]
        """
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def keep(self, kept: NDArray[np.bool_]) -> Sequences:
        """The same users with some events left out.

        Shapes: kept bool [n]
        """
        offsets = np.concatenate([[0], np.cumsum(kept)])[self.offsets]
        return Sequences(offsets, self.rows[kept], None if self.groups is None else self.groups[kept])


class Windows:
    """One training row per event that has an earlier one: that event as target, up to `history` events before it.

    Rows are windows into one array and are made when a batch asks for them. The order inside a basket means nothing:
    it is drawn anew each epoch, so a target sees earlier baskets and a random part of its own.
    """

    def __init__(self, sequences: Sequences, history: int) -> None:
        self.rows, self.groups, self.history = sequences.rows, sequences.groups, history
        self.user = sequences.users()
        self.first = sequences.offsets[self.user]  # of the same user, per event
        self.targets = np.flatnonzero(np.arange(len(self.rows)) > self.first)

    def arranged(self, rng: np.random.Generator) -> Integers:
        """Item rows with the events of each basket in a random order.

        Shapes: -> int64 [n]
        """
        if self.groups is None:
            return self.rows
        opens = np.diff(self.groups, prepend=self.groups[:1]) != 0
        basket = np.cumsum(opens | (np.arange(len(self.rows)) == self.first))
        return self.rows[np.lexsort((rng.random(len(self.rows)), basket))]

    def at(self, events: Integers, rows: Integers) -> Integers:
        """Windows that end in these events, -1 on the left where there was nothing; as wide as the longest.

        Shapes: events int64 [b], rows int64 [n] -> int64 [b, T], T <= history + 1
        """
        first = self.first[events]
        longest = min(int((events - first).max(initial=0)), self.history)
        place = events[:, None] + np.arange(-longest, 1)
        return np.where(place >= first[:, None], rows[np.maximum(place, 0)], -1)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Integers]:
        """Epoch after epoch without end: every row once per epoch, rows of like length together.

        Shapes: yields int64 [b, T], b <= size
        """
        while True:
            rows, order = self.arranged(rng), rng.permutation(self.targets)
            for begin in range(0, len(order), size * _POOL):
                pool = order[begin : begin + size * _POOL]
                length = np.minimum(pool - self.first[pool], self.history)
                pool = pool[np.argsort(length, kind="stable")]
                for part in rng.permutation(-(-len(pool) // size)).tolist():
                    yield self.at(pool[part * size : (part + 1) * size], rows)


def hold_out(sequences: Sequences, most: int, seed: int) -> tuple[Sequences, Integers]:
    """Cut the last event off up to `most` users' sequences, for validation; of users with three events at least.

    An event whose item would not occur in training any more stays where it is. ReSID holds out the last but one event
    of every user; here the data are those of training already [inferred].

    Shapes: -> the rest, and int64 [v], the places of the events held out
    """
    length = np.diff(sequences.offsets)
    users = np.flatnonzero(length >= _LEAST_EVENTS)
    users = np.sort(np.random.default_rng(seed).permutation(users)[:most])
    last = sequences.offsets[users + 1] - 1
    kept = np.repeat(length >= 2, length)
    kept[last] = False
    remaining = np.unique(sequences.rows[kept])
    last = last[np.isin(sequences.rows[last], remaining)]
    kept = np.ones(len(sequences.rows), np.bool_)
    kept[last] = False
    return sequences.keep(kept), last


def draw_masks(samples: int, fields: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """K uniform in 1 .. J per sample, then K of the J fields without replacement (1.3): each is hidden (J+1)/2J times.

    Shapes: -> bool [B, J]
    """
    hidden = rng.integers(1, fields + 1, samples)
    rank = rng.random((samples, fields)).argsort(axis=1).argsort(axis=1)
    return rank < hidden[:, None]
