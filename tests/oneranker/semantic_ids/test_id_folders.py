"""What `save` writes reads back bit for bit; whatever else lies there is refused, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fitted_ids import SETTINGS, N, drawn, files_below, fitted

from oneranker.errors import DataError
from oneranker.semantic_ids import IdSettings, Method, SemanticIds, fit
from oneranker.semantic_ids.gaoq_tree import GaoqTree
from oneranker.semantic_ids.rq_kmeans_plus import RqKmeansPlus

FILES = {
    Method.RQ_KMEANS: (),
    Method.RQ_KMEANS_PLUS: ("rq_vae.safetensors",),
    Method.GAOQ: (),
    Method.RESID: ("famae/famae.json", "famae/famae.safetensors"),
}
ALWAYS = ("semantic_ids.json", "codes.parquet", "embeddings.safetensors", "semantic_ids.safetensors")


@pytest.fixture(scope="module", params=list(Method), ids=lambda method: method.value)
def ids(request: pytest.FixtureRequest) -> SemanticIds:
    return fitted(request.param)


@pytest.fixture(scope="module")
def other(ids: SemanticIds) -> SemanticIds:
    """Of the same method, shape and names."""
    return fitted(ids.settings.method, seed=1)


def arrays(ids: SemanticIds) -> dict[str, np.ndarray]:
    found = {"embeddings": ids.embeddings, "codes": ids.codes, "codebooks": ids.codebooks}
    if isinstance(ids.quantiser, GaoqTree):
        for name in ("prefixes", "centroids", "anchors"):
            found |= {f"{name} {level}": table for level, table in enumerate(getattr(ids.quantiser, name))}
    if isinstance(ids.quantiser, RqKmeansPlus):
        found |= ids.quantiser.encoder | {f"decoder {name}": w for name, w in ids.quantiser.decoder.items()}
        found["scale"] = np.array(ids.quantiser.scale)
    if ids.famae is not None:
        found |= {f"famae {field}": table for field, table in enumerate(ids.famae.tables)}
        found["famae codes"] = ids.famae.codes
    return found


def assert_same(read: SemanticIds, ids: SemanticIds) -> None:
    assert (read.item_ids, read.settings, read.seconds) == (ids.item_ids, ids.settings, ids.seconds)
    found, expected = arrays(read), arrays(ids)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    if ids.famae is not None:
        assert read.famae is not None
        assert read.famae.fields == ids.famae.fields


def test_what_was_saved_reads_back_bit_for_bit_and_goes_on(ids: SemanticIds, tmp_path: Path) -> None:
    ids.save(tmp_path / "new" / "ids")
    read = SemanticIds.load(tmp_path / "new" / "ids")
    assert_same(read, ids)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ids"]
    grown = read.assign(["a", "b"], drawn(2, seed=5))
    assert_same(grown, ids.assign(["a", "b"], drawn(2, seed=5)))
    grown.save(tmp_path / "new" / "ids")
    assert_same(SemanticIds.load(tmp_path / "new" / "ids"), grown)


def test_the_folder_holds_these_files_and_a_table_for_anyone(ids: SemanticIds, tmp_path: Path) -> None:
    ids.save(tmp_path / "ids")
    files = {path.relative_to(tmp_path / "ids").as_posix() for path in (tmp_path / "ids").rglob("*") if path.is_file()}
    assert files == {*ALWAYS, *FILES[ids.settings.method]}
    table = pd.read_parquet(tmp_path / "ids" / "codes.parquet")
    assert list(table.columns) == ["item_id", "code_1", "code_2", "code_3"]
    assert table["item_id"].tolist() == list(ids.item_ids)
    np.testing.assert_array_equal(table[["code_1", "code_2", "code_3"]].to_numpy(), ids.codes)
    notes = json.loads((tmp_path / "ids" / "semantic_ids.json").read_text(), parse_constant=pytest.fail)
    assert (notes["items"], notes["widths"], notes["embedding_width"]) == (N, list(ids.widths), ids.embeddings.shape[1])
    assert notes["sha256"].keys() == files - {"semantic_ids.json"}


def test_a_folder_may_be_named_by_text(tmp_path: Path) -> None:
    ids = fit(np.eye(5, dtype=np.float32), IdSettings(codes=3))
    ids.save(str(tmp_path / "ids"))
    np.testing.assert_array_equal(SemanticIds.load(str(tmp_path / "ids")).codes, ids.codes)


def test_names_of_every_kind_come_back(tmp_path: Path) -> None:
    names = ["nan", "None", "007", "7", "7.0", "", " a", "ü", "商品", "a\nb", "a\x85b", "true"]
    fit(drawn(len(names)), IdSettings(codes=4), item_ids=names).save(tmp_path / "ids")
    assert SemanticIds.load(tmp_path / "ids").item_ids == tuple(names)


def test_an_earlier_folder_is_replaced_whole(ids: SemanticIds, tmp_path: Path) -> None:
    for method in Method:
        fitted(method).save(tmp_path / "ids")
        ids.save(tmp_path / "ids")
        fresh = {path.relative_to(tmp_path / "ids").as_posix() for path in (tmp_path / "ids").rglob("*.*")}
        assert fresh == {*ALWAYS, *FILES[ids.settings.method]}
    assert_same(SemanticIds.load(tmp_path / "ids"), ids)
    assert [path.name for path in tmp_path.iterdir()] == ["ids"]


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    ids = fitted(Method.GAOQ)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "codes.parquet").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = files_below(tmp_path)
    for name in ("mine", "file"):
        with pytest.raises(DataError, match=rf"{name}: exists and has no semantic_ids.json, expected .*remove it"):
            ids.save(tmp_path / name)
    assert files_below(tmp_path) == before


def test_a_save_that_fails_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(Method.GAOQ).save(tmp_path / "ids")
    before = files_below(tmp_path)

    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        fitted(Method.RQ_KMEANS).save(tmp_path / "ids")
    assert files_below(tmp_path) == before


def truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def deleted(path: Path, other: Path) -> None:
    path.unlink()


def of_another_build(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def one_byte_changed(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1  # in the values of a safetensors file, whose shapes stay right
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage", [truncated, emptied, deleted, of_another_build, one_byte_changed], ids=lambda damage: damage.__name__
)
def test_a_damaged_missing_or_mixed_up_file_is_one_error(
    damage: Callable[[Path, Path], None], ids: SemanticIds, other: SemanticIds, tmp_path: Path
) -> None:
    other.save(tmp_path / "other")
    names = (*ALWAYS, *FILES[ids.settings.method])
    for name in names[1:] if damage is one_byte_changed else names:  # a digit of the notes' seconds is nobody's loss
        folder = tmp_path / name.replace("/", " ")
        ids.save(folder)
        damage(folder / name, tmp_path / "other" / name)
        with pytest.raises(DataError, match=rf"^{re.escape(str(folder))}.*: got .*, expected .*\. Build .* again\.$"):
            SemanticIds.load(folder)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '"text"', "\xff", '{"schema_version": 1, "settings": {}}'],
)
def test_notes_that_say_something_else_are_refused(text: str, tmp_path: Path) -> None:
    fitted(Method.GAOQ).save(tmp_path / "ids")
    (tmp_path / "ids" / "semantic_ids.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"semantic_ids\.json: got .*, expected the notes that `save` writes"):
        SemanticIds.load(tmp_path / "ids")


def test_notes_of_another_schema_are_refused_by_its_number(tmp_path: Path) -> None:
    fit(drawn(), SETTINGS[Method.GAOQ]).save(tmp_path / "ids")
    path = tmp_path / "ids" / "semantic_ids.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(DataError, match="got schema_version 2, expected 1"):
        SemanticIds.load(tmp_path / "ids")
    with pytest.raises(DataError, match="nowhere"):
        SemanticIds.load(tmp_path / "nowhere")
