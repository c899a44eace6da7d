"""What a token is, how an item is looked up and how events fall into groups (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

PAD, USER, CONTENT, CONTEXT, ITEM = range(5)  # token kinds
UNKNOWN_ITEM, NO_ITEM = -1, -2  # in place of an item row: an id that is not in the index; an event without an item


class ItemLookup(Protocol):
    """Item ids to rows, and what the tokenizer knows of each row.

    Shapes: item_fields int32 [N, Fi], rows() -> int64 [n], -1 = unknown
    """

    item_fields: np.ndarray

    def rows(self, item_ids: Sequence[str]) -> np.ndarray: ...


class SimpleItemLookup:
    """Item ids in row order, looked up in a dict; for training and tests.

    Shapes: item_fields int32 [N, Fi]
    """

    def __init__(self, ids: Sequence[str], item_fields: np.ndarray) -> None:
        if len(ids) != len(item_fields) or len(set(ids)) != len(ids):
            raise ValueError(
                f"item lookup: {len(ids)} ids ({len(set(ids))} different) for {len(item_fields)} rows of item_fields, "
                "expected one different id per row. Pass both in the order of the item rows."
            )
        self.ids = list(ids)
        self.item_fields = item_fields
        self._row = {item: row for row, item in enumerate(self.ids)}

    def rows(self, item_ids: Sequence[str]) -> np.ndarray:
        get = self._row.get
        return np.array([get(item, UNKNOWN_ITEM) for item in item_ids], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Tokens:
    """One request's tokens, oldest first, not padded.

    Shapes: token_fields int32 [s, F], token_kind int32 [s], token_time int64 [s]
    """

    token_fields: np.ndarray
    token_kind: np.ndarray
    token_time: np.ndarray
    unknown_items: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Tokens of many users, one after the other; `group_token` is the first token of each group (its X, or its C).

    Shapes: token_fields int32 [n, F], token_kind int32 [n], token_time int64 [n], user_offset int64 [U+1],
        group_token int64 [G]
    """

    token_fields: np.ndarray
    token_kind: np.ndarray
    token_time: np.ndarray
    user_offset: np.ndarray
    group_token: np.ndarray


def group_events(label: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups are runs of one label: what comes after another group is a group of its own; no history holds its future.

    Events of one moment have no order among themselves, so those that share a label come together there first.

    Shapes: label int64 [n], moment [n] rising -> order int64 [n], group of each ordered event int64 [n], first event of
        each group [G]
    """
    _, code = np.unique(label, return_inverse=True)
    step = np.cumsum(np.diff(moment, prepend=moment[:1]) != 0)
    _, first, inverse = np.unique(step * (len(label) + 1) + code, return_index=True, return_inverse=True)
    order = np.argsort(first[inverse.reshape(-1)], kind="stable")
    starts = np.diff(code[order], prepend=-1) != 0
    return order, np.cumsum(starts) - 1, np.flatnonzero(starts)


def newest(total: int, max_history: int) -> np.ndarray:
    """Which tokens of a history are kept: U and the newest others.

    Shapes: -> int64 [min(total, max_history)]
    """
    if max_history < 2:
        raise ValueError(f"max_history is {max_history}, expected at least 2: the user's token and the request's.")
    if total <= max_history:
        return np.arange(total)
    return np.concatenate(([0], np.arange(total - max_history + 1, total)))
