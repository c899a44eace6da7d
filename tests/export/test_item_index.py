"""The item index writer: the folder is sorted, whole, and a function of its content alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export.item_index
from export.item_index import write_item_index
from oneranker.trie import Trie
from runtime.errors import BuildError
from runtime.items import ItemIndex

N, L, V, D, A = 9, 3, 5, 4, 2


def catalogue(seed: int = 0, items: int = N) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    codes = np.stack(np.unravel_index(rng.choice(V**L, items, replace=False), (V,) * L), axis=1)
    return {
        "ids": [str(1000 + i) for i in range(items)],
        "names": [f"name of {1000 + i}" for i in range(items)],
        "codes": codes,
        "codebooks": rng.normal(size=(L, V, D)).astype(np.float32),
        "anchors": rng.normal(size=(A, D)).astype(np.float32),
        "item_table": rng.normal(size=(items, D)).astype(np.float32),
        "item_vectors": rng.normal(size=(items, D + A)).astype(np.float32),
        "item_fields": rng.integers(0, 50, (items, 6)),
        "listed": rng.random(items) < 0.7,
    }


def shuffled(items: dict[str, Any], seed: int) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(items["ids"]))
    whole = {"codebooks", "anchors"}
    texts = {name: [items[name][i] for i in order] for name in ("ids", "names")}
    return {
        name: table if name in whole else table[order] for name, table in items.items() if name not in texts
    } | texts


def test_every_row_travels_with_its_id(tmp_path: Path) -> None:
    items = catalogue()
    write_item_index(tmp_path / "items", **items)
    index = ItemIndex.read(tmp_path / "items")
    rows = index.rows(items["ids"])
    assert sorted(rows.tolist()) == list(range(N))
    for name in ("codes", "item_table", "item_vectors", "item_fields"):
        np.testing.assert_array_equal(index.tables[name][rows], items[name], err_msg=name)
    np.testing.assert_array_equal(index.listed[rows], items["listed"])
    assert [index.name(row) for row in rows] == items["names"]
    assert [tuple(row) for row in index.tables["codes"]] == sorted(tuple(row) for row in items["codes"])


def test_texts_of_several_bytes_are_cut_where_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.item_index, "_TEXTS_AT_ONCE", 2)
    items = catalogue()
    items["names"] = ["", "é", "ab", "c", "漢字", "🧀", "d", "", "é"]
    items["ids"] = [f"{name}-{row}" for row, name in enumerate(items["names"])]
    write_item_index(tmp_path / "items", **items)
    index = ItemIndex.read(tmp_path / "items")
    rows = index.rows(items["ids"])
    assert [index.name(row) for row in rows] == items["names"]
    assert [index.id(row) for row in rows] == items["ids"]


def test_the_trie_on_disk_is_the_trie_of_the_codes(tmp_path: Path) -> None:
    write_item_index(tmp_path / "items", **catalogue())
    tables = ItemIndex.read(tmp_path / "items").tables
    for name, table in Trie.from_codes(tables["codes"]).tables().items():
        np.testing.assert_array_equal(tables[name], table, err_msg=name)


def test_version_is_the_hash_of_the_file_and_header_counts_are_right(tmp_path: Path) -> None:
    items = catalogue()
    version = write_item_index(tmp_path / "items", **items)
    header = json.loads((tmp_path / "items" / "index.json").read_text())
    assert version == hashlib.sha256((tmp_path / "items" / "items.safetensors").read_bytes()).hexdigest()
    code_space = hashlib.sha256(items["codebooks"].tobytes() + items["anchors"].tobytes()).hexdigest()
    prefixes = {tuple(row[:depth]) for row in items["codes"].tolist() for depth in range(L + 1)}
    assert header == {
        "schema_version": 1, "version": version, "code_space": code_space, "items": N, "levels": L, "codes": V,
        "width": D, "anchors": A, "nodes": len(prefixes),
    }  # fmt: skip


def test_the_order_of_the_rows_does_not_change_the_bytes(tmp_path: Path) -> None:
    versions = {
        write_item_index(tmp_path / str(seed), **(shuffled(catalogue(), seed) if seed else catalogue()))
        for seed in range(4)
    }
    assert len(versions) == 1


@pytest.mark.parametrize("name", ["item_table", "codebooks", "item_fields"])
def test_one_other_number_is_another_version(tmp_path: Path, name: str) -> None:
    items = catalogue()
    first = write_item_index(tmp_path / "items", **items)
    items[name] = items[name].copy()
    items[name][0] += 1
    assert write_item_index(tmp_path / "items", **items) != first


def test_without_flags_every_item_is_listed(tmp_path: Path) -> None:
    items = catalogue()
    items["listed"] = None
    write_item_index(tmp_path / "items", **items)
    assert ItemIndex.read(tmp_path / "items").default_eligible().tolist() == list(range(N + 1))


def test_a_catalogue_of_one_item_can_be_read(tmp_path: Path) -> None:
    write_item_index(tmp_path / "items", **catalogue(items=1))
    assert ItemIndex.read(tmp_path / "items").header.nodes == 1 + L


def test_an_older_index_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_item_index(tmp_path / "items", **catalogue(0))
    version = write_item_index(tmp_path / "items", **catalogue(1))
    assert ItemIndex.read(tmp_path / "items").version == version
    assert [path.name for path in tmp_path.iterdir()] == ["items"]


@pytest.mark.parametrize("older", [False, True], ids=["first index", "older index there"])
@pytest.mark.parametrize("step", ["write_tensors", "check_tables"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, older: bool
) -> None:
    before = write_item_index(tmp_path / "items", **catalogue(0)) if older else None

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(export.item_index, step, fail)
    with pytest.raises(BuildError, match="disk full"):
        write_item_index(tmp_path / "items", **catalogue(1))
    assert [path.name for path in tmp_path.iterdir()] == (["items"] if older else [])
    if older:
        assert ItemIndex.read(tmp_path / "items").version == before


def test_a_failed_rename_puts_the_older_index_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_item_index(tmp_path / "items", **catalogue(0))
    rename = Path.rename

    def fail_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError("no rename today")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(BuildError, match="no rename today"):
        write_item_index(tmp_path / "items", **catalogue(1))
    assert ItemIndex.read(tmp_path / "items").version == before
    assert [path.name for path in tmp_path.iterdir()] == ["items"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match=r"holds other files, expected an item index.*another folder"):
        write_item_index(tmp_path / "items", **catalogue())
    assert (tmp_path / "items" / "thesis.txt").exists()


def with_value(table: np.ndarray, at: Any, value: float) -> np.ndarray:
    table = table.copy()
    table[at] = value
    return table


ITEMS = catalogue()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"ids": ["1000"] * N}, "id '1000' of row 1 stands twice, expected unique ids. Drop"),
        ({"ids": [*ITEMS["ids"][:-1], "1003"]}, f"id '1003' of row {N - 1} stands twice"),
        ({"ids": ["", *ITEMS["ids"][1:]]}, "id of row 0 is '', expected a non-empty string"),
        ({"ids": [7, *ITEMS["ids"][1:]]}, "id of row 0 is 7, expected a non-empty string"),
        ({"ids": ["\ud800", *ITEMS["ids"][1:]]}, "UTF-8"),
        ({"names": ITEMS["names"][1:]}, f"got {N} ids, {N - 1} names and {N} rows of codes"),
        ({"codes": ITEMS["codes"][:0], "ids": [], "names": []}, "got 0 ids, .*at least 1"),
        ({"codes": np.repeat(ITEMS["codes"][:1], N, axis=0)}, "share the codes .*unique leaves"),
        ({"codes": ITEMS["codes"] + V}, r"codes within 0 \.\. V-1"),
        ({"codes": ITEMS["codes"] - V}, "expected codes >= 0"),
        ({"codes": ITEMS["codes"].astype(float)}, r"'codes' is float64 \[9, 3\], expected integers"),
        ({"codebooks": ITEMS["codebooks"][:2]}, r"'codes' is int32 \[9, 3\], expected int32 \[N, L\]"),
        ({"item_table": ITEMS["item_table"][1:]}, "'item_table' has 8 rows, expected 9"),
        ({"item_table": with_value(ITEMS["item_table"], (3, 1), np.nan)}, r"'item_table' has nan at \[3, 1\]"),
        ({"codebooks": with_value(ITEMS["codebooks"], 1, np.inf)}, r"'codebooks' has inf at \[1, 0, 0\]"),
        ({"codebooks": ITEMS["codebooks"][0]}, r"codebooks \[5, 4\] .*expected \[L, V, D\]"),
        ({"anchors": ITEMS["anchors"][:, :3]}, r"'anchors' is float32 \[2, 3\], expected float32 \[A, D\]"),
        ({"item_vectors": ITEMS["item_table"]}, r"'item_vectors' is .*expected float32 \[N, D\+A\]"),
        ({"item_fields": ITEMS["item_fields"] + 2**31}, "'item_fields' reaches .*expected int32"),
        ({"listed": np.full(N, 2)}, "'listed' is .*expected one flag 0 or 1"),
    ],
)
def test_a_catalogue_that_breaks_a_rule_is_not_written(tmp_path: Path, edit: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        write_item_index(tmp_path / "items", **(catalogue() | edit))
    assert list(tmp_path.iterdir()) == []
