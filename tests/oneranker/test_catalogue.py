"""The item side: rows are leaves in order, the file comes back whole or is refused, tables are what the stages read."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assertions import assert_close, tiny_world

from oneranker import synthetic
from oneranker.catalogue import Catalogue, check_catalogue, index_tensors
from oneranker.config import RetrieverMode, preset
from oneranker.errors import CheckpointError

CONFIG = preset("tiny")
N = 25


def unsorted_parts(seed: int = 0) -> dict[str, Any]:
    """Columns of a catalogue in no order, the id telling which row it was."""
    catalogue = synthetic.synthetic_catalogue(CONFIG, N, seed)
    order = np.random.default_rng(seed).permutation(N)
    return {
        "ids": [f"id{i}" for i in range(N)],
        "names": [f"näme {i}" for i in range(N)],
        "codes": catalogue.codes[order].astype(np.int64),
        "codebooks": catalogue.codebooks,
        "anchors": catalogue.anchors,
        "item_fields": catalogue.item_fields[order],
        "listed": np.arange(N) % 3 > 0,
    }


def assert_same(got: Catalogue, expected: Catalogue) -> None:
    for field in fields(Catalogue):
        one, other = getattr(got, field.name), getattr(expected, field.name)
        if isinstance(other, list):
            assert one == other, field.name
        else:
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)


def test_rows_come_in_lexicographic_order_of_codes_and_stay_together() -> None:
    parts = unsorted_parts()
    catalogue = Catalogue.sorted(**parts)
    expected = sorted(range(N), key=lambda row: tuple(parts["codes"][row].tolist()))
    for row, was in enumerate(expected):
        assert catalogue.ids[row] == parts["ids"][was]
        assert catalogue.names[row] == parts["names"][was]
        assert catalogue.codes[row].tolist() == parts["codes"][was].tolist()
        assert catalogue.item_fields[row].tolist() == parts["item_fields"][was].tolist()
        assert catalogue.listed[row] == parts["listed"][was]
    assert (catalogue.codes.dtype, catalogue.item_fields.dtype) == (np.int32, np.int32)


def test_items_are_listed_unless_told_otherwise() -> None:
    parts = unsorted_parts()
    del parts["listed"]
    assert Catalogue.sorted(**parts).listed.tolist() == [True] * N


def test_file_round_trip_keeps_every_column(tmp_path: Path) -> None:
    catalogue = Catalogue.sorted(**unsorted_parts())
    catalogue.save(tmp_path / "catalogue.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.safetensors"]
    assert_same(Catalogue.load(tmp_path / "catalogue.safetensors"), catalogue)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "text"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "catalogue.safetensors"
    if damage != "missing":
        Catalogue.sorted(**unsorted_parts()).save(path)
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not a table"}[damage])
    with pytest.raises(CheckpointError, match=r"catalogue\.safetensors: not a readable catalogue .*train again"):
        Catalogue.load(path)


def test_only_keeps_rows_and_the_code_space() -> None:
    catalogue, keep = Catalogue.sorted(**unsorted_parts()), np.arange(N) % 4 == 1
    part = catalogue.only(keep)
    rows = [row for row in range(N) if keep[row]]
    assert part.ids == [catalogue.ids[row] for row in rows]
    assert part.names == [catalogue.names[row] for row in rows]
    for name in ("codes", "item_fields", "listed"):
        assert getattr(part, name).tolist() == [getattr(catalogue, name)[row].tolist() for row in rows]
    assert part.codebooks is catalogue.codebooks
    assert part.anchors is catalogue.anchors


def test_reconstruction_is_the_sum_of_the_centroids_along_the_path() -> None:
    catalogue = Catalogue.sorted(**unsorted_parts())
    got = catalogue.reconstruction()
    assert got.shape == (N, CONFIG.width)
    for row, path in enumerate(catalogue.codes.tolist()):
        expected = sum(catalogue.codebooks[level, code].astype(np.float64) for level, code in enumerate(path))
        np.testing.assert_allclose(got[row], expected, atol=1e-5)


def test_a_catalogue_of_the_models_code_space_is_accepted() -> None:
    check_catalogue(CONFIG, Catalogue.sorted(**unsorted_parts()))


@pytest.mark.parametrize("change", [{"codes": 12}, {"code_levels": 4}, {"width": 64}, {"anchors": 8}, {"anchors": 0}])
def test_a_catalogue_of_another_code_space_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=r"codebooks \(3, 11, 32\), anchors \(7, 32\); expected .*fit semantic"):
        check_catalogue(replace(CONFIG, **change), Catalogue.sorted(**unsorted_parts()))


def test_eligible_counts_run_over_listed_items_or_the_rows_given() -> None:
    world = tiny_world(items=N)
    catalogue = replace(world.catalogue, listed=np.arange(N) % 3 > 0)
    eligible = np.random.default_rng(0).random((4, N)) < 0.5
    for rows, given in ((catalogue.listed[None], None), (eligible, eligible)):
        counts = index_tensors(world.model, catalogue, given)["item_eligible"]
        assert counts.dtype == torch.int32
        assert counts.tolist() == [[int(row[:i].sum()) for i in range(N + 1)] for row in rows]


@pytest.mark.parametrize("mode", list(RetrieverMode))
def test_tables_are_named_shaped_and_typed_as_the_stages_read_them(mode: RetrieverMode) -> None:
    world = tiny_world(items=N, retriever=mode, dtype=torch.float64)
    nodes = 1 + sum(len({tuple(row[: level + 1]) for row in world.catalogue.codes.tolist()}) for level in range(3))
    expected: dict[str, tuple[list[int], torch.dtype]] = {
        "trie_code": ([nodes], torch.int32),
        "trie_children_begin": ([nodes], torch.int32),
        "trie_children_end": ([nodes], torch.int32),
        "trie_items_begin": ([nodes], torch.int32),
        "trie_items_end": ([nodes], torch.int32),
        "codebooks": ([3, 11, 32], torch.float64),
        "anchors": ([7, 32], torch.float64),
        "item_eligible": ([1, N + 1], torch.int32),
        "item_table": ([N, 32], torch.float64),
    }
    if mode is RetrieverMode.DENSE:
        expected["item_vectors"] = ([N, 39], torch.float64)
    assert {name: (list(t.shape), t.dtype) for name, t in world.index.items()} == expected


def test_delisted_items_are_never_found() -> None:
    world = tiny_world(items=N)
    catalogue = replace(world.catalogue, listed=np.arange(N) % 3 > 0)
    index = index_tensors(world.model, catalogue) | {"eligible_row": torch.zeros(2, dtype=torch.int32)}
    with torch.no_grad():
        found = world.model(world.batch([9, 5]), index)["candidate_items"]
    assert (found[found >= 0] % 3 > 0).all()
    assert (found >= 0).any()


def test_a_smaller_catalogue_leaves_the_scores_of_the_kept_items_alone() -> None:
    world, keep = tiny_world(items=N), np.arange(N) % 2 == 0
    with torch.no_grad():
        table = index_tensors(world.model, world.catalogue.only(keep))["item_table"]
    assert_close(table, world.index["item_table"][torch.from_numpy(keep)])
