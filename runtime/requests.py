"""Raw requests and callers' candidates, checked and laid out as the stages read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from oneranker.tokens import ItemLookup, TokenError, Tokenizer, Tokens, name_of
from runtime.errors import FeedError, RequestError
from runtime.item_tables import ItemFilter
from runtime.items import ItemIndex
from runtime.stage import Array

SMALLEST_HISTORY = 64  # S is rounded up to a power of two from here on
SMALLEST_CANDIDATES = 16  # so is C of callers who bring their own candidates


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """One request, ready for a batch."""

    tokens: Tokens
    item_filter: ItemFilter
    unknown_filter_ids: int


def encode_requests(
    requests: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, index: ItemIndex, max_history: int
) -> list[EncodedRequest]:
    """Tokenise raw requests and look their filters up.

    Raises:
        RequestError: At the first malformed request, with its position.
    """
    lookup = cast(ItemLookup, index)  # read-only there, settable in the protocol
    encoded = []
    for position, request in enumerate(requests):
        if not isinstance(request, Mapping):
            raise RequestError(
                position,
                f"is a {type(request).__name__}, expected an object with 'events' and 'now'. "
                "Send one object for each request.",
            )
        raw = dict(request)
        only, unknown_only = _filter_rows(raw.pop("eligible", None), "eligible", index, position)
        without, unknown_without = _filter_rows(raw.pop("excluded", None), "excluded", index, position)
        try:
            tokens = tokenizer.encode(raw, lookup, max_history)
        except ValueError as error:  # TokenError and the conversions beneath it
            raise RequestError(position, str(error)) from error
        encoded.append(EncodedRequest(tokens, ItemFilter(only, without), unknown_only + unknown_without))
    return encoded


def _filter_rows(item_ids: Any, key: str, index: ItemIndex, position: int) -> tuple[npt.NDArray[np.int64] | None, int]:
    """The known rows of a filter, and the number of ids that the index does not know."""
    if item_ids is None:
        return None, 0
    if not isinstance(item_ids, Sequence) or isinstance(item_ids, str):
        raise RequestError(
            position, f"{key!r} is a {type(item_ids).__name__}, expected a list of item ids. Send [] for none."
        )
    try:
        names = [
            item_id if type(item_id) is str else name_of(item_id, f"request.{key}[{i}]")
            for i, item_id in enumerate(item_ids)
        ]
    except TokenError as error:
        raise RequestError(position, str(error)) from error
    rows = index.rows(names)
    return rows[rows >= 0], int((rows < 0).sum())


def bucket(size: int, smallest: int, largest: int) -> int:
    """Round up to the next power of two from `smallest` on, at most `largest`."""
    rounded = smallest
    while rounded < size:
        rounded *= 2
    return min(rounded, largest)


def buckets(smallest: int, largest: int) -> list[int]:
    """Every size that `bucket` rounds up to."""
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(2 * sizes[-1])
    return [min(size, largest) for size in sizes]


def empty_tokens(length: int, fields: int) -> Tokens:
    """A history of tokens that say nothing.

    Shapes: -> token_fields int32 [S, F], token_kind int32 [S], token_time int64 [S]
    """
    kind = np.zeros(length, np.int32)
    return Tokens(np.zeros((length, fields), np.int32), kind, kind.astype(np.int64), 0, 0)


def check_tokens(batch: Sequence[Tokens], fields: int, max_history: int) -> None:
    """Check what a caller of `generate` hands in.

    Raises:
        RequestError: If one of them is empty, too long, or of another shape or dtype.
    """
    for position, tokens in enumerate(batch):
        length = len(tokens.token_kind)
        if not 1 <= length <= max_history:
            raise RequestError(
                position, f"has {length} tokens, expected 1 .. {max_history}. Encode it with this limit."
            )
        shapes = (
            ("token_fields", tokens.token_fields, "int32", (length, fields)),
            ("token_kind", tokens.token_kind, "int32", (length,)),
            ("token_time", tokens.token_time, "int64", (length,)),
        )
        for name, array, dtype, shape in shapes:
            if array.dtype != dtype or array.shape != shape:
                raise RequestError(
                    position,
                    f"{name} is {array.dtype} {list(array.shape)}, expected {dtype} {list(shape)}. "
                    "Encode it with this bundle's tokenizer.",
                )


def fill_tokens(batch: Sequence[Tokens], fields: Array, kind: Array, time: Array) -> None:
    """Lay a batch out, real tokens first; pads are zeros at the time of the last real token.

    Shapes: fields int32 [B, S, F], kind int32 [B, S], time int64 [B, S]
    """
    for row, tokens in enumerate(batch):
        length = len(tokens.token_kind)
        fields[row, :length], fields[row, length:] = tokens.token_fields, 0
        kind[row, :length], kind[row, length:] = tokens.token_kind, 0
        time[row, :length], time[row, length:] = tokens.token_time, tokens.token_time[-1]


def candidate_rows(
    candidates: Sequence[Sequence[str | int]] | Array, index: ItemIndex, batch: int, most: int
) -> npt.NDArray[np.int32]:
    """Turn callers' candidates, ids or rows of the index, into one padded array.

    Shapes: -> int32 [B, longest], -1 = padding

    Raises:
        RequestError: If a list is empty, too long, or names an item that the index does not have.
        FeedError: If there is not one list for each request.
    """
    if len(candidates) != batch:
        raise FeedError(f"rank: got candidates for {len(candidates)} requests, expected {batch}. Give one list each.")
    rows = [_rows_of(given, index, position, most) for position, given in enumerate(candidates)]
    padded = np.full((batch, max(len(row) for row in rows)), -1, np.int32)
    for position, row in enumerate(rows):
        padded[position, : len(row)] = row
    return padded


def _rows_of(given: Sequence[str | int] | Array, index: ItemIndex, position: int, most: int) -> npt.NDArray[np.int64]:
    """The rows of one request's candidates; in an array, -1 stays padding."""
    if not 1 <= len(given) <= most:
        raise RequestError(
            position, f"has {len(given)} candidates, expected 1 .. {most}. Send the rest in another call."
        )
    if isinstance(given, np.ndarray) and given.dtype.kind in "iu":
        rows, lowest = given.astype(np.int64), -1
    elif all(isinstance(item, str) for item in given):
        rows, lowest = index.rows([str(item) for item in given]), 0
    elif all(isinstance(item, int | np.integer) and not isinstance(item, bool) for item in given):
        rows, lowest = np.asarray(given, np.int64), 0
    else:
        raise RequestError(
            position, f"candidates are {given!r:.60}, expected item ids (str) or rows (int), not both. Send one kind."
        )
    bad = np.flatnonzero((rows < lowest) | (rows >= len(index)))
    if bad.size:
        raise RequestError(
            position,
            f"candidate {bad[0]} is {given[bad[0]]!r}, expected one of the {len(index)} items of index "
            f"{index.version[:12]}…. Leave it out, or swap in an index that has it.",
        )
    if lowest < 0 and (rows < 0).all():
        raise RequestError(position, "has padding only, expected at least one candidate. Send what to score.")
    return rows
