"""The prefix tree over the catalogue's semantic IDs, as five flat integer tables (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from oneranker.errors import DataError

_MOST_NODES = int(np.iinfo(np.int32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trie:
    """Nodes in breadth-first order: root = node 0, then depth 1, ..., then the N leaves of depth L.

    Children of a node are the contiguous nodes [children_begin, children_end), in rising code; a leaf has the empty
    range [0, 0). Items below a node are the contiguous rows [items_begin, items_end). The root's code is 0, unread.

    Shapes: every table int32 [P]

        codes 0 0     node   0      1 2    3 4 5      code            0  0 2  0 1 2
              0 1            root -> 0 -> 0 1         children_begin  1  3 5  0 0 0
              2 2                 -> 2 -> 2           items_end       3  2 3  1 2 3
    """

    trie_code: NDArray[np.int32]
    trie_children_begin: NDArray[np.int32]
    trie_children_end: NDArray[np.int32]
    trie_items_begin: NDArray[np.int32]
    trie_items_end: NDArray[np.int32]

    @property
    def nodes(self) -> int:
        return len(self.trie_code)  # P

    def tables(self) -> dict[str, NDArray[np.int32]]:
        """Name the tables as the retriever's inputs are named."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_codes(cls, codes: NDArray[np.integer]) -> Self:
        """Build the tables of a catalogue whose rows stand in lexicographic order.

        Shapes: codes int [N, L], sorted, no row twice -> tables int32 [P]

        Raises:
            DataError: there are no items, codes are negative, or rows are unsorted or repeated.
        """
        fresh = _first_of_prefix(codes)  # [N, L]
        starts = [np.zeros(1, np.int64), *(np.flatnonzero(fresh[:, level]) for level in range(codes.shape[1]))]
        first_node = np.cumsum([0, *map(len, starts)])  # of each depth, then P
        if first_node[-1] > _MOST_NODES:
            raise DataError(
                f"trie: {codes.shape[0]} items make {first_node[-1]} nodes, expected at most {_MOST_NODES} (int32). "
                "Split the catalogue into several item indexes."
            )
        tables = np.zeros((5, int(first_node[-1])), np.int32)
        for depth, start in enumerate(starts):
            here = slice(int(first_node[depth]), int(first_node[depth + 1]))
            if depth:
                tables[0, here] = codes[start, depth - 1]
            if depth + 1 < len(starts):
                begin = first_node[depth + 1] + np.searchsorted(starts[depth + 1], start)
                tables[1, here] = begin
                tables[2, here] = np.append(begin[1:], first_node[depth + 2])
            tables[3, here] = start
            tables[4, here] = np.append(start[1:], codes.shape[0])
        return cls(**dict(zip(cls.__slots__, tables, strict=True)))


def lexicographic_order(codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Order rows by their first code, then the second, ...; equal rows keep their order.

    Shapes: codes int [N, L] -> int64 [N]
    """
    keys = _path_numbers(codes)
    order = np.lexsort(codes.T[::-1]) if keys is None else np.argsort(keys, kind="stable")
    return order.astype(np.int64, copy=False)


def _path_numbers(codes: NDArray[np.integer]) -> NDArray[np.int64] | None:
    """One number for each row, in the order of the rows; None where int64 has not enough of them."""
    if codes.ndim != 2 or 0 in codes.shape or codes.min() < 0:
        return None
    base = int(codes.max()) + 1
    if base ** codes.shape[1] > np.iinfo(np.int64).max:
        return None
    numbers = np.zeros(len(codes), np.int64)
    for column in codes.T:
        numbers *= base
        numbers += column
    return numbers


def _first_of_prefix(codes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark in column l the rows that open a new prefix of length l + 1; checks everything that is assumed of codes."""
    if codes.ndim != 2 or 0 in codes.shape or not np.issubdtype(codes.dtype, np.integer):
        raise DataError(
            f"trie: codes are {codes.dtype} {list(codes.shape)}, expected integers [N, L] with N, L >= 1. "
            "Give every item one row of codes."
        )
    if codes.min() < 0:
        row = int(np.argmax((codes < 0).any(axis=1)))
        raise DataError(
            f"trie: row {row} has the codes {codes[row].tolist()}, expected codes >= 0. "
            "Every item needs a full semantic ID; fit them again."
        )
    differs = codes[1:] != codes[:-1]  # [N-1, L]
    repeated = ~differs.any(axis=1)
    if repeated.any():
        row = int(np.argmax(repeated))
        raise DataError(
            f"trie: rows {row} and {row + 1} share the codes {codes[row].tolist()}, expected one item per leaf "
            f"({int(repeated.sum())} such pairs). Fit the semantic IDs with unique leaves."
        )
    at = np.arange(len(differs)), differs.argmax(axis=1)  # the first column that differs decides the order
    falling = codes[1:][at] < codes[:-1][at]
    if falling.any():
        row = int(np.argmax(falling))
        raise DataError(
            f"trie: row {row + 1} {codes[row + 1].tolist()} stands after row {row} {codes[row].tolist()}, "
            "expected lexicographic order. Sort the rows by lexicographic_order(codes) first."
        )
    fresh = np.ones(codes.shape, np.bool_)
    np.logical_or.accumulate(differs, axis=1, out=fresh[1:])
    return fresh
