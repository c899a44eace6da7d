"""From an item's id to its row, over the bytes of all ids: eight bytes an item and no text of its own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_ROWS_AT_ONCE = 1 << 14  # four words of state each: they stay in the cache
_LOW = (1 << 32) - 1  # of a slot: its row
_ONE, _END, _LENGTH_AT = np.uint64(1), np.uint64(0xFF), np.uint64(56)
_SIZE, _HALF = np.array(64, np.uint64), np.array(32, np.uint64)
_FIRST_TURNS, _SECOND_TURNS = np.array([[13], [16]], np.uint64), np.array([[17], [21]], np.uint64)


class IdLookup:
    """Rows by id: the upper half of each id's hash, its row below, sorted; the bytes themselves decide. Read-only.

    The key of the hash is drawn anew for each lookup, so that no author of ids can make one slow on purpose.

    Shapes: id_bytes uint8 [bytes], id_offsets int64 [N+1], N at most 2^32
    """

    def __init__(
        self, id_bytes: NDArray[np.uint8], id_offsets: NDArray[np.int64], key: tuple[int, int] | None = None
    ) -> None:
        self._bytes, self._offsets = id_bytes, id_offsets
        self._key = key or (secrets.randbits(64), secrets.randbits(64))
        self._longest = int(np.diff(id_offsets).max(initial=0))
        slots = np.empty(len(id_offsets) - 1, np.uint64)
        for begin in range(0, len(slots), _ROWS_AT_ONCE):
            cuts = id_offsets[begin : begin + _ROWS_AT_ONCE + 1]
            rows = np.arange(begin, begin + len(cuts) - 1, dtype=np.uint64)
            tags = siphash(id_bytes[cuts[0] : cuts[-1]], cuts - cuts[0], self._key) & np.uint64(_LOW << 32)
            slots[begin : begin + len(rows)] = tags | rows
        slots.sort()
        self._slots = slots

    def text(self, row: int) -> bytes:
        """The id of a row, in UTF-8."""
        begin, end = self._offsets[row : row + 2].tolist()
        return self._bytes[begin:end].tobytes()

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Look ids up; one that is not there gives -1.

        Shapes: item_ids [n] -> int64 [n]
        """
        found = np.full(len(item_ids), -1, np.int64)
        texts = [item_id.encode("utf-8", "surrogatepass") for item_id in item_ids]  # half a character is found nowhere
        asked = [position for position, text in enumerate(texts) if len(text) <= self._longest]
        if not asked or not len(self._slots):
            return found
        wanted = [texts[position] for position in asked]
        cuts = np.zeros(len(wanted) + 1, np.int64)
        np.cumsum([len(text) for text in wanted], out=cuts[1:])
        tags = siphash(np.frombuffer(b"".join(wanted), np.uint8), cuts, self._key) >> np.uint64(32)
        first = np.searchsorted(self._slots, tags << np.uint64(32))
        slots, ends, octets = self._slots.data, self._offsets.data, self._bytes.data  # quicker item by item
        for position, text, tag, at in zip(asked, wanted, tags.tolist(), first.tolist(), strict=True):
            while at < len(slots) and slots[at] >> 32 == tag:
                row = slots[at] & _LOW
                if octets[ends[row] : ends[row + 1]] == text:
                    found[position] = row
                    break
                at += 1
        return found

    def distinct(self) -> int:
        """Count different ids, by their bytes."""
        same_tag = np.flatnonzero((self._slots[1:] ^ self._slots[:-1]) <= np.uint64(_LOW))  # with the next slot's
        repeated = 0
        for run in np.split(same_tag, np.flatnonzero(np.diff(same_tag) > 1) + 1):
            rows = (self._slots[run[0] : run[-1] + 2] & np.uint64(_LOW)).tolist() if len(run) else []
            repeated += len(rows) - len({self.text(row) for row in rows})
        return len(self._slots) - repeated


def siphash(data: NDArray[np.uint8], cuts: NDArray[np.int64], key: tuple[int, int]) -> Words:
    """SipHash-1-3 (Aumasson and Bernstein) of many texts at once, a word of each per step.

    Shapes: data uint8 [bytes], cuts int64 [n+1] from 0 to the end of data -> uint64 [n]
    """
    lengths = np.diff(cuts)
    padded = np.zeros(len(data) + 8, np.uint8)
    padded[: len(data)] = data
    octets = np.ndarray((len(data) + 1, 8), np.uint8, padded, strides=(1, 1))  # from every byte on
    whole, rest = lengths // 8, (8 * (lengths % 8)).astype(np.uint64)
    even, odd = (np.repeat(np.array(lanes, np.uint64)[:, None], len(lengths), 1) for lanes in _start(key))
    rows = np.arange(len(lengths))
    for step in range(int(whole.max(initial=0)) + 1):
        rows = rows[whole[rows] >= step] if step else rows
        word = octets[cuts[rows] + 8 * step].view("<u8")[:, 0]
        last = np.flatnonzero(whole[rows] == step)
        tail = word[last] & ((_ONE << rest[rows[last]]) - _ONE)
        word[last] = tail | lengths[rows[last]].astype(np.uint64) << _LENGTH_AT
        all_go_on = len(rows) == len(lengths)
        v02, v13 = (even, odd) if all_go_on else (even[:, rows], odd[:, rows])
        v13[1] ^= word
        _round(v02, v13)
        v02[0] ^= word
        if not all_go_on:
            even[:, rows], odd[:, rows] = v02, v13
    even[1] ^= _END
    for _ in range(3):
        _round(even, odd)
    mixed: Words = even ^ odd
    folded: Words = mixed[0] ^ mixed[1]
    return folded


def _start(key: tuple[int, int]) -> tuple[list[int], list[int]]:
    """The letters "somepseudorandomlygeneratedbytes" under the key: lanes 0 and 2, lanes 1 and 3."""
    v0, v1, v2, v3 = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573
    return [v0 ^ key[0], v2 ^ key[0]], [v1 ^ key[1], v3 ^ key[1]]


def _round(v02: Words, v13: Words) -> None:
    """One SipRound in place, both halves of it side by side.

    Shapes: v02 uint64 [2, n] = lanes 0 and 2, v13 uint64 [2, n] = lanes 1 and 3
    """
    v31 = v13[::-1]
    v02 += v13
    _rotate(v13, _FIRST_TURNS)
    v13 ^= v02
    _rotate(v02[0], _HALF)
    v02 += v31
    _rotate(v13, _SECOND_TURNS)
    v31 ^= v02
    _rotate(v02[1], _HALF)


def _rotate(lanes: Words, turns: Words) -> None:
    high = lanes >> (_SIZE - turns)
    lanes <<= turns
    lanes |= high
