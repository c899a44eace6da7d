"""The flat trie tables against a tree of Python dicts."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from oneranker.errors import DataError
from oneranker.trie import Trie, lexicographic_order


def random_catalogue(seed: int, items: int, levels: int, codes: int) -> np.ndarray:
    leaves = np.random.default_rng(seed).choice(codes**levels, items, replace=False)
    rows = np.stack(np.unravel_index(leaves, (codes,) * levels), axis=1).astype(np.int32)
    return rows[lexicographic_order(rows)]


def dict_trie(codes: np.ndarray) -> dict[int, Any]:
    root: dict[int, Any] = {}
    for row in codes.tolist():
        node = root
        for code in row:
            node = node.setdefault(code, {})
    return root


def dict_levels(codes: np.ndarray) -> list[tuple[tuple[int, ...], dict[int, Any]]]:
    """Every prefix with its node, breadth first, children in rising code."""
    queue: list[tuple[tuple[int, ...], dict[int, Any]]] = [((), dict_trie(codes))]
    for prefix, node in queue:  # grows while it is read
        queue.extend(((*prefix, code), node[code]) for code in sorted(node))
    return queue


CATALOGUES = {
    "one item": (1, 3, 5),
    "one item, one level": (1, 1, 1),
    "one level": (4, 1, 7),
    "sparse": (11, 4, 6),
    "a node with V children": (60, 2, 8),
    "full": (27, 3, 3),
    "large codes": (200, 3, 256),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CATALOGUES)
def test_tables_are_the_dict_trie_breadth_first(case: str, seed: int) -> None:
    items, levels, width = CATALOGUES[case]
    codes = random_catalogue(seed, items, levels, width)
    trie = Trie.from_codes(codes)
    nodes = dict_levels(codes)
    number = {prefix: i for i, (prefix, _) in enumerate(nodes)}
    rows = [tuple(row) for row in codes.tolist()]
    assert trie.nodes == len(nodes)
    for j, (prefix, node) in enumerate(nodes):
        children = range(trie.trie_children_begin[j], trie.trie_children_end[j])
        assert [trie.trie_code[c] for c in children] == sorted(node), prefix
        assert list(children) == [number[(*prefix, code)] for code in sorted(node)], prefix
        below = [row for row, path in enumerate(rows) if path[: len(prefix)] == prefix]
        assert list(range(trie.trie_items_begin[j], trie.trie_items_end[j])) == below, prefix


def test_a_leafs_rank_is_its_item_row() -> None:
    trie = Trie.from_codes(random_catalogue(0, 20, 3, 5))
    assert trie.trie_items_begin[-20:].tolist() == list(range(20))


def test_every_table_is_int32_and_named_as_the_retriever_input() -> None:
    tables = Trie.from_codes(random_catalogue(0, 9, 2, 5)).tables()
    assert list(tables) == [
        "trie_code", "trie_children_begin", "trie_children_end", "trie_items_begin", "trie_items_end",
    ]  # fmt: skip
    assert {(table.dtype.name, table.shape) for table in tables.values()} == {("int32", tables["trie_code"].shape)}


@pytest.mark.parametrize("factor", [1, 2**29], ids=["small", "codes beyond one int64 a row"])
def test_order_is_pythons_order_of_tuples_and_keeps_ties(factor: int) -> None:
    codes = np.random.default_rng(3).integers(0, 3, (50, 3)).astype(np.int32) * np.int32(factor)
    by_python = sorted(range(50), key=lambda i: tuple(codes[i].tolist()))
    assert lexicographic_order(codes).tolist() == by_python


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([[0, 1], [0, 1]], r"rows 0 and 1 share the codes \[0, 1\], expected .*Fit"),
        ([[0, 1], [2, 0], [1, 5]], r"row 2 \[1, 5\] stands after row 1 \[2, 0\], expected .*Sort"),
        ([[0, 2], [0, 1]], r"row 1 \[0, 1\] stands after row 0"),
        ([[0, 1], [-1, 0]], r"row 1 has the codes \[-1, 0\], expected codes >= 0.*fit"),
        ([[0.0, 1.0]], r"codes are float64 \[1, 2\], expected integers"),
        ([1, 2], r"codes are int64 \[2\], expected integers"),
        (np.zeros((0, 3), int), r"codes are int64 \[0, 3\], expected .*N, L >= 1"),
    ],
)
def test_codes_that_make_no_trie_are_refused_with_the_row(codes: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Trie.from_codes(np.asarray(codes))


def test_a_million_items_take_seconds() -> None:
    codes = random_catalogue(0, 1_000_000, 3, 256)
    start = time.perf_counter()
    trie = Trie.from_codes(codes)
    assert time.perf_counter() - start < 5
    assert int(trie.trie_items_end[0]) == 1_000_000
