"""What the retriever and the ranker rely on in the tables of an item index, checked before anything is served."""

from __future__ import annotations

import codecs
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError
from runtime.item_header import OPTIONAL_TABLES, REWRITE, TABLE_SPECS, TRIE_TABLES, ItemIndexHeader

_BYTES_AT_ONCE = 1 << 20


def code_space_of(codebooks: NDArray[np.float32], anchors: NDArray[np.float32]) -> str:
    """Name a code space by its numbers: two indexes with the same name can serve the same trained model.

    Shapes: codebooks float32 [L, V, D], anchors float32 [A, D]
    """
    digest = hashlib.sha256()
    for table in (codebooks, anchors):
        digest.update(np.ascontiguousarray(table, "<f4").tobytes())
    return digest.hexdigest()


def check_tables(tables: dict[str, NDArray[Any]], header: ItemIndexHeader, *, where: str) -> None:
    """Check names, dtypes, shapes and the facts that the retriever and the ranker rely on.

    Raises:
        BundleError: something does not fit.
    """
    required = TABLE_SPECS.keys() - OPTIONAL_TABLES
    if not required <= tables.keys() <= TABLE_SPECS.keys():
        raise BundleError(
            f"{where}: got the tables {sorted(tables)}, expected {sorted(required)} and at most "
            f"{sorted(OPTIONAL_TABLES)} more. {REWRITE}"
        )
    n, d, a = header.items, header.width, header.anchors
    bound = {
        "N": n,
        "L": header.levels,
        "V": header.codes,
        "D": d,
        "A": a,
        "P": header.nodes,
        "N+1": n + 1,
        "D+A": d + a,
    }
    for name, table in tables.items():
        dtype, letters = TABLE_SPECS[name]
        fits = table.ndim == len(letters) and all(
            bound.setdefault(letter, size) == size for letter, size in zip(letters, table.shape, strict=True)
        )
        if table.dtype != dtype or not fits:
            raise BundleError(
                f"{where}: '{name}' is {table.dtype} {list(table.shape)}, expected {dtype} [{', '.join(letters)}] "
                f"(bound so far: {', '.join(f'{k}={v}' for k, v in bound.items())}). {REWRITE}"
            )
    if (found := code_space_of(tables["codebooks"], tables["anchors"])) != header.code_space:
        raise BundleError(
            f"{where}: codebooks and anchors have code space {found[:12]}…, expected {header.code_space[:12]}… "
            f"(index.json). {REWRITE}"
        )
    for fact, holds in _facts(tables, header):
        if not holds:
            raise BundleError(f"{where}: got tables that break a rule, expected {fact}. {REWRITE}")


def _facts(tables: dict[str, NDArray[Any]], header: ItemIndexHeader) -> list[tuple[str, bool]]:
    """List what shapes cannot say, in words and as found."""
    codes = tables["codes"]
    facts = [
        ("codes within 0 .. V-1", bool(codes.min() >= 0 and codes.max() < header.codes)),
        ("item_listed of 0 and 1", bool(tables["item_listed"].max() <= 1)),
        ("a trie that spells the rows of codes, level by level", _trie_spells(codes, tables)),
    ]
    for kind in ("id", "name"):
        data, offsets = tables[f"{kind}_bytes"], tables[f"{kind}_offsets"]
        cut = offsets[0] == 0 and bool((np.diff(offsets) >= 0).all()) and offsets[-1] == len(data)
        facts.append((f"{kind}_offsets that rise from 0 to the end of {kind}_bytes", cut))
        facts.append((f"{kind}_bytes of UTF-8 text, cut between characters", cut and _is_text(data, offsets)))
    return facts


def _trie_spells(codes: NDArray[np.int32], tables: dict[str, NDArray[Any]]) -> bool:
    """Walk the trie depth by depth: nodes tile the items, children tile the next depth, codes are the items' codes."""
    code, children_begin, children_end, items_begin, items_end = (tables[name] for name in TRIE_TABLES)
    nodes = slice(0, 1)
    for depth in range(codes.shape[1] + 1):
        begin, end = items_begin[nodes], items_end[nodes]
        if not _tiles(begin, end, 0, len(codes)):
            return False
        if depth and not np.array_equal(np.repeat(code[nodes], end - begin), codes[:, depth - 1]):
            return False
        below, stop = children_begin[nodes], children_end[nodes]
        if depth == codes.shape[1]:
            return nodes.stop == len(code) and not below.any() and not stop.any() and len(begin) == len(codes)
        if stop[-1] > len(code) or not _tiles(below, stop, nodes.stop, int(stop[-1])):
            return False
        nodes = slice(nodes.stop, int(stop[-1]))
        rises = np.diff(code[nodes]) > 0
        rises[below[1:] - nodes.start - 1] = True  # between the last child of one node and the first of the next
        if not rises.all() or not np.array_equal(items_begin[below], begin):
            return False
    return False


def _tiles(begin: NDArray[np.int32], end: NDArray[np.int32], start: int, stop: int) -> bool:
    joined = begin[0] == start and end[-1] == stop and np.array_equal(begin[1:], end[:-1])
    return bool(joined and (begin < end).all())


def _is_text(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for begin in range(0, len(data), _BYTES_AT_ONCE):
            decoder.decode(data[begin : begin + _BYTES_AT_ONCE].tobytes())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    firsts = data[offsets[offsets < len(data)]]
    return not bool((firsts & 0xC0 == 0x80).any())  # 10xxxxxx continues a character
