"""The item index reader: what it answers, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.item_index import write_item_index
from runtime.errors import BundleError
from runtime.item_checks import code_space_of
from runtime.items import ItemIndex

N, L, V, D, A = 7, 3, 4, 6, 2
Tables = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    codes = np.array([[2, 0, 3], [0, 3, 1], [0, 0, 2], [3, 3, 3], [0, 0, 0], [1, 1, 1], [2, 0, 1]])
    write_item_index(
        tmp_path / "items",
        ids=[f"id-{i}" for i in range(N)],
        names=["Milk, 1 l", "", "Käse 🧀", "d", "e", "f", "g"],
        codes=codes,
        codebooks=rng.normal(size=(L, V, D)),
        anchors=rng.normal(size=(A, D)),
        item_table=rng.normal(size=(N, D)),
        item_vectors=rng.normal(size=(N, D + A)),
        item_fields=codes + 1,
        listed=[1, 1, 0, 1, 0, 1, 1],
    )
    return tmp_path / "items"


def rewrite(folder: Path, edit: Callable[[Tables], Any]) -> None:
    """Change the tables as someone would who also mends both hashes."""
    tables = load_file(folder / "items.safetensors")
    edit(tables)
    save_file(tables, folder / "items.safetensors")
    header = json.loads((folder / "index.json").read_text())
    header["version"] = hashlib.sha256((folder / "items.safetensors").read_bytes()).hexdigest()
    header["nodes"] = len(tables["trie_code"])
    if "codebooks" in tables and "anchors" in tables:
        header["code_space"] = code_space_of(tables["codebooks"], tables["anchors"])
    (folder / "index.json").write_text(json.dumps(header))


def test_ids_and_names_come_back_by_row(folder: Path) -> None:
    index = ItemIndex.read(folder)
    rows = index.rows(["id-2", "nobody", "id-0", ""])
    assert rows.dtype == np.int64
    assert (rows[1], rows[3]) == (-1, -1)
    assert (index.id(rows[0]), index.name(rows[0])) == ("id-2", "Käse 🧀")
    assert (index.id(rows[2]), index.name(rows[2])) == ("id-0", "Milk, 1 l")
    assert sorted(index.id(row) for row in range(len(index))) == [f"id-{i}" for i in range(N)]


def test_rows_outside_the_catalogue_have_no_name(folder: Path) -> None:
    index = ItemIndex.read(folder)
    for row in (-1, N):
        with pytest.raises(IndexError, match=rf"got row {row}, expected 0 \.\. {N - 1}"):
            index.name(row)


@pytest.mark.parametrize("seed", range(5))
def test_eligible_counts_equal_a_loop(folder: Path, seed: int) -> None:
    index = ItemIndex.read(folder)
    mask = np.random.default_rng(seed).random(N) < 0.5
    counts = index.eligible_counts(mask)
    assert counts.dtype == np.int32
    assert counts.tolist() == [sum(mask[:i].tolist()) for i in range(N + 1)]


def test_delisted_items_are_known_but_not_eligible(folder: Path) -> None:
    index = ItemIndex.read(folder)
    steps = np.diff(index.default_eligible()).tolist()
    assert {index.id(row) for row in range(N) if not steps[row]} == {"id-2", "id-4"}
    assert index.listed.tolist() == [step == 1 for step in steps]


@pytest.mark.parametrize("mask", [np.ones(N, np.int8), np.ones(N + 1, bool)], ids=["dtype", "length"])
def test_a_mask_that_is_not_one_flag_per_row_is_refused(folder: Path, mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf"expected bool \[{N}\]"):
        ItemIndex.read(folder).eligible_counts(mask)


def test_tables_cannot_be_written_to(folder: Path) -> None:
    index = ItemIndex.read(folder)
    with pytest.raises(ValueError, match="read-only"):
        index.tables["codes"][0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        index.default_eligible()[0] = 1


def test_one_flipped_bit_is_found(folder: Path) -> None:
    path = folder / "items.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"items\.safetensors: got sha256 .*expected .*Write the item index again"):
        ItemIndex.read(folder)


def test_a_cut_file_is_found(folder: Path) -> None:
    path = folder / "items.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match="got sha256"):
        ItemIndex.read(folder)


def test_a_file_of_another_format_is_found_behind_its_hash(folder: Path) -> None:
    path = folder / "items.safetensors"
    path.write_bytes(b"not tensors")
    header = json.loads((folder / "index.json").read_text())
    header["version"] = hashlib.sha256(b"not tensors").hexdigest()
    (folder / "index.json").write_text(json.dumps(header))
    with pytest.raises(BundleError, match="expected a safetensors file"):
        ItemIndex.read(folder)


@pytest.mark.parametrize("name", ["index.json", "items.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: got .*expected .*Write the item index again"):
        ItemIndex.read(folder)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"schema_version": 2}, "got schema 2, expected schema 1.*install the runtime"),
        ({"colour": 1}, r"got the keys .*colour.*expected"),
        ({"items": "7"}, r"got items='7', expected an integer >= 1"),
        ({"items": True}, r"got items=True, expected an integer"),
        ({"nodes": 0}, r"got nodes=0, expected an integer >= 1"),
        ({"version": 3}, "got version=3, expected a string"),
        ({"items": 8}, r"'\w+' is \w+ \[.*expected \w+ \[N.*N=8"),
        ({"width": 5}, r"\[.*6\], expected float32 \[.*D\]"),
        ({"codes": 5}, r"\[3, 4, 6\], expected float32 \[L, V, D\]"),
        ({"code_space": "0" * 64}, "code space .*expected 000000"),
    ],
)
def test_an_edited_header_is_refused(folder: Path, edit: dict[str, Any], words: str) -> None:
    header = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(header | edit))
    with pytest.raises(BundleError, match=words):
        ItemIndex.read(folder)


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{"])
def test_a_header_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "index.json").write_text(text)
    with pytest.raises(BundleError, match=r"index\.json: got .*expected"):
        ItemIndex.read(folder)


def put(name: str, at: Any, value: int) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        tables[name][at] = value

    return edit


def swap_two_items(tables: Tables) -> None:
    tables["codes"][[0, 1]] = tables["codes"][[1, 0]]


def two_leaves_of_one_code(tables: Tables) -> None:
    tables["codes"][1, 2] = tables["codes"][0, 2]
    tables["trie_code"][-N + 1] = tables["trie_code"][-N]


def one_node_too_many(tables: Tables) -> None:
    for name in ("trie_code", "trie_children_begin", "trie_children_end", "trie_items_begin", "trie_items_end"):
        tables[name] = np.append(tables[name], tables[name][-1:])


def cut_inside_a_character(tables: Tables) -> None:
    at = int(np.argmax(tables["name_bytes"] > 0xC0)) + 1
    tables["name_offsets"][np.searchsorted(tables["name_offsets"], at)] = at


def same_id_twice(tables: Tables) -> None:
    tables["id_bytes"][:4] = tables["id_bytes"][4:8]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("anchors"), r"got the tables .*expected .*anchors"),
        (lambda t: t.update(extra=np.zeros(1)), r"got the tables .*extra"),
        (lambda t: t.update(codes=t["codes"].astype(np.int64)), r"'codes' is int64 \[7, 3\], expected int32 \[N, L\]"),
        (lambda t: t.update(item_vectors=t["item_table"]), r"'item_vectors' is float32 \[7, 6\].*\[N, D\+A\]"),
        (put("codes", (0, 0), V), r"codes within 0 \.\. V-1"),
        (put("codes", (1, 0), 1), "trie that spells"),
        (two_leaves_of_one_code, "trie that spells"),
        (one_node_too_many, "trie that spells"),
        (swap_two_items, "trie that spells"),
        (put("trie_code", -1, -1), "trie that spells"),
        (put("trie_code", 1, 3), "trie that spells"),
        (put("trie_children_begin", 0, 2), "trie that spells"),
        (put("trie_children_end", 0, 1000), "trie that spells"),
        (put("trie_children_end", -1, 1), "trie that spells"),
        (put("trie_items_end", 0, N - 1), "trie that spells"),
        (put("trie_items_begin", 2, -5), "trie that spells"),
        (put("item_listed", 0, 2), "item_listed of 0 and 1"),
        (put("id_offsets", -1, 1000), "id_offsets that rise"),
        (put("name_offsets", 1, 10_000), "name_offsets that rise"),
        (same_id_twice, "got 6 different ids, expected 7"),
        (put("id_bytes", 0, 0xFF), "id_bytes of UTF-8"),
        (put("name_bytes", -1, 0xFF), "name_bytes of UTF-8"),
        (cut_inside_a_character, "name_bytes of UTF-8"),
    ],
)
def test_tables_that_break_the_contract_are_refused_even_with_right_hashes(
    folder: Path, edit: Callable[[Tables], Any], words: str
) -> None:
    rewrite(folder, edit)
    with pytest.raises(BundleError, match=words) as caught:
        ItemIndex.read(folder)
    assert str(folder) in str(caught.value)
    assert "Write the item index again" in str(caught.value)


def test_the_dense_table_may_be_absent(folder: Path) -> None:
    rewrite(folder, lambda tables: tables.pop("item_vectors"))
    assert "item_vectors" not in ItemIndex.read(folder).tables
