"""The manifest: whole, or a reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import fake_bundle
import pytest

from runtime.errors import BundleError
from runtime.manifest import Manifest


def raw(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_text())


def test_what_is_written_is_read_back(damaged: Path) -> None:
    manifest = Manifest.read(damaged)
    before = raw(damaged)
    manifest.write(damaged)
    assert raw(damaged) == before
    assert Manifest.read(damaged) == manifest
    assert next(iter(before)) == "schema_version"


def test_letters_are_the_models_one_letter_numbers(bundle: Path) -> None:
    assert Manifest.read(bundle).letters == fake_bundle.LETTERS


def test_another_schema_gets_the_rebuild_hint(damaged: Path) -> None:
    fake_bundle.edit_manifest(damaged, schema_version=99)
    with pytest.raises(BundleError, match=r"schema 99, this runtime reads schema 2\. Rebuild with `python -m export"):
        Manifest.read(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour', expected created, weights"),
        ({"precision": None}, "key 'precision' is missing"),
        ({"opset": "23"}, "'opset' is '23', expected int"),
        ({"opset": True}, "'opset' is True, expected int"),
        ({"items": {"folder": "items"}}, "items: key 'items' is missing"),
        ({"tokenizer": []}, "'tokenizer' is [], expected FileEntry"),
        ({"profile": {"B": [2, 1, 3], "S": [1, 2, 3], "C": [1, 1, 1]}}, "profile.B is [2, 1, 3], expected [min, opt"),
        ({"profile": {"B": [1, 1, 1], "S": [1, 2, 3]}}, "profile has no C"),
        ({"stages": {}}, "stages are [], expected ['generator'"),
    ],
)
def test_a_wrong_key_or_value_is_named(damaged: Path, changes: dict, message: str) -> None:
    fake_bundle.edit_manifest(damaged, **changes)
    with pytest.raises(BundleError) as caught:
        Manifest.read(damaged)
    assert message in str(caught.value)
    assert str(damaged / "manifest.json") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dtype", 3, "stages.ranker.inputs[0]: 'dtype' is 3, expected str"),
        ("shape", ["B", 1.5], "stages.ranker.inputs[0]: shape is ['B', 1.5]"),
        ("layout", "x", "stages.ranker.inputs[0]: unknown key 'layout'"),
    ],
)
def test_a_wrong_tensor_row_is_named(damaged: Path, key: str, value: object, message: str) -> None:
    stages = raw(damaged)["stages"]
    stages["ranker"]["inputs"][0][key] = value
    fake_bundle.edit_manifest(damaged, stages=stages)
    with pytest.raises(BundleError) as caught:
        Manifest.read(damaged)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe"])
def test_a_file_that_is_no_manifest_is_a_bundle_error(damaged: Path, text: str) -> None:
    (damaged / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"manifest\.json: "):
        Manifest.read(damaged)


def test_a_folder_without_a_manifest_is_an_interrupted_build(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="Was the build interrupted"):
        Manifest.read(tmp_path)
