"""What FAMAE leaves behind: rows for new items, and files that read back or are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneranker.errors import DataError
from oneranker.semantic_ids.famae import FamaeSettings, fit_famae
from oneranker.semantic_ids.famae_batches import Sequences
from oneranker.semantic_ids.famae_embeddings import FamaeEmbeddings

QUICK = FamaeSettings(width=16, layers=1, heads=2, history=4, max_steps=3, batch_size=64)


@pytest.fixture(scope="module")
def fitted() -> FamaeEmbeddings:
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {
        "item_id": np.array([f"item {i}" for i in range(24)], object),
        "store": np.arange(24) % 12,
        "category": np.array(["odd", "even"], object)[np.arange(24) % 2],
    }
    return fit_famae(Sequences(np.arange(31) * 8, rng.permutation(240) % 24), columns, QUICK)


def test_a_new_item_is_the_mean_where_it_is_new(fitted: FamaeEmbeddings) -> None:
    new = {
        "item_id": np.array(["never seen"], object),
        "store": np.array([3.0]),  # 3.0 and 3 are one value
        "category": np.array([None], object),
    }
    item, store, category = fitted.embed(new).reshape(3, 16)
    np.testing.assert_allclose(item, fitted.tables[0][1:].mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(store, fitted.embeddings[3, 16:32])
    np.testing.assert_allclose(category, fitted.tables[2][1:].mean(axis=0), rtol=1e-5, atol=1e-7)
    only_store = fitted.embed({"store": np.array([3])})
    np.testing.assert_array_equal(only_store, fitted.embed(new))


def test_it_comes_back_from_disk(fitted: FamaeEmbeddings, tmp_path: Path) -> None:
    fitted.write(tmp_path / "famae")
    again = FamaeEmbeddings.read(tmp_path / "famae")
    np.testing.assert_array_equal(again.embeddings, fitted.embeddings)
    np.testing.assert_array_equal(again.embed({"store": np.array([1])}), fitted.embed({"store": np.array([1])}))
    assert (again.fields, again.evaluations) == (fitted.fields, fitted.evaluations)
    assert again.settings == dataclasses.asdict(QUICK)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "famae.json").unlink(), "FileNotFoundError.*expected famae.safetensors"),
        (lambda folder: (folder / "famae.json").write_text("[]"), r"expected famae.safetensors and famae.json"),
        (lambda folder: (folder / "famae.safetensors").write_bytes(b"no"), "Fit it again"),
        (lambda folder: edit(folder, schema_version=9), "of schema 9.*expected"),
        (lambda folder: edit(folder, fields=[]), r"expected \{\}"),
        (lambda folder: edit(folder, fields=[{"name": "x", "type": "category", "values": []}] * 3), "got tables"),
    ],
)
def test_a_damaged_folder_is_refused(fitted: FamaeEmbeddings, tmp_path: Path, damage: Any, words: str) -> None:
    fitted.write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        FamaeEmbeddings.read(tmp_path)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "famae.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("columns", "words"),
    [({}, r"got columns \{\}"), ({"colour": [1]}, "colour"), ({"store": [1], "category": [1, 2]}, "of one length")],
)
def test_new_items_that_do_not_fit_are_refused(fitted: FamaeEmbeddings, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fitted.embed({name: np.array(values) for name, values in columns.items()})
