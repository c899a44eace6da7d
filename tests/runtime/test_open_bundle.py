"""Loading a bundle: every damage is found before anything is served from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fake_bundle
import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime import BundleError, DeviceError, Pipeline
from runtime.bundle import open_bundle
from runtime.manifest import Manifest, file_sha256
from runtime.stage import TensorSpec


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    """Change one byte in the middle, the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


FILES = [
    "generator/model.onnx",
    "enhancer/model.onnx",
    "retriever/model.onnx",
    "ranker/model.onnx",
    "tokenizer.json",
    "masks.safetensors",
    "items/items.safetensors",
    "items/index.json",
]


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "edited", "missing"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_before_anything_is_served(damaged: Path, file: str, damage: object) -> None:
    damage(damaged / file)  # type: ignore[operator]
    with pytest.raises(BundleError) as caught:
        Pipeline.load(damaged)
    assert Path(file).name in str(caught.value)


def resigned(bundle: Path, entry: str) -> None:
    """Make the manifest agree with an edited tokenizer or masks file."""
    raw = json.loads((bundle / "manifest.json").read_text())[entry]
    fake_bundle.edit_manifest(bundle, **{entry: raw | {"sha256": file_sha256(bundle / raw["file"])}})


def test_a_tokenizer_of_another_model_is_refused(damaged: Path) -> None:
    path = damaged / "tokenizer.json"
    path.write_text(path.read_text().replace('"codes":4', '"codes":5'))
    resigned(damaged, "tokenizer")
    with pytest.raises(BundleError, match="the tokenizer has V=5, the model V=4"):
        Pipeline.load(damaged)


def test_a_tokenizer_with_an_unknown_key_is_refused(damaged: Path) -> None:
    path = damaged / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": 1}))
    resigned(damaged, "tokenizer")
    with pytest.raises(BundleError, match=r"tokenizer\.json.*colour"):
        Pipeline.load(damaged)


def test_masks_too_small_for_the_profile_are_refused(damaged: Path) -> None:
    masks = fake_bundle.make_masks()
    masks["causal_mask"] = np.ascontiguousarray(masks["causal_mask"][:, :, :64, :64])
    save_file(masks, damaged / "masks.safetensors")
    resigned(damaged, "masks")
    with pytest.raises(BundleError, match="'causal_mask' has 64 rows, expected 80"):
        Pipeline.load(damaged)


def test_another_index_in_the_bundles_folder_is_refused(damaged: Path) -> None:
    shutil.rmtree(damaged / "items")
    fake_bundle.write_items(damaged / "items", seed=5)
    with pytest.raises(BundleError, match=r"items: version .* of 11 items, the manifest says"):
        Pipeline.load(damaged)


def test_an_index_given_at_load_replaces_the_bundles_own(bundle: Path, tmp_path: Path) -> None:
    fake_bundle.write_items(tmp_path / "new", items=13, seed=5)
    with Pipeline.load(bundle, items=tmp_path / "new", threads=1) as pipeline:
        assert pipeline.index_version == file_sha256(tmp_path / "new" / "items.safetensors")
        assert {item.id for item in pipeline.recommend([{"events": [], "now": 5}], 6)[0].items} < {
            f"item-5-{row}" for row in range(13)
        }


def test_a_graph_of_other_tensors_than_the_manifests_is_refused(damaged: Path) -> None:
    stages = json.loads((damaged / "manifest.json").read_text())["stages"]
    stages["ranker"]["outputs"][0]["dtype"] = "float16"
    fake_bundle.edit_manifest(damaged, stages=stages)
    with pytest.raises(BundleError, match="ranker: the graph's output 'scores' is "):
        Pipeline.load(damaged)


def test_a_file_outside_of_the_bundle_is_refused(damaged: Path) -> None:
    outside = damaged.parent / "tokenizer.json"
    shutil.copy(damaged / "tokenizer.json", outside)
    fake_bundle.edit_manifest(damaged, tokenizer={"file": "../tokenizer.json", "sha256": file_sha256(outside)})
    with pytest.raises(BundleError, match="lies outside of the bundle"):
        Pipeline.load(damaged)


@pytest.mark.parametrize("way", ["relative", "absolute", "link"])
def test_an_item_index_outside_of_the_bundle_is_refused(damaged: Path, way: str) -> None:
    outside = damaged.parent / "items"
    (damaged / "items").rename(outside)
    (damaged / "link").symlink_to(outside)
    folder = {"relative": "../items", "absolute": str(outside), "link": "link"}[way]
    items = json.loads((damaged / "manifest.json").read_text())["items"]
    fake_bundle.edit_manifest(damaged, items=items | {"folder": folder})
    with pytest.raises(BundleError, match="lies outside of the bundle"):
        Pipeline.load(damaged)


def test_an_unknown_schema_version_has_the_rebuild_hint(damaged: Path) -> None:
    fake_bundle.edit_manifest(damaged, schema_version=99)
    with pytest.raises(BundleError, match=r"schema 99, this runtime reads schema 2\. Rebuild with"):
        Pipeline.load(damaged)


def test_an_engine_or_device_that_is_not_here_is_an_error(bundle: Path) -> None:
    with pytest.raises(DeviceError, match="engine 'tensorrt' was asked for"):
        Pipeline.load(bundle, engine="tensorrt")
    with pytest.raises(DeviceError, match="device 'cuda' was asked for"):
        Pipeline.load(bundle, device="cuda")


def test_threads_below_one_are_a_value_error(bundle: Path) -> None:
    with pytest.raises(ValueError, match="threads=0, expected at least 1"):
        Pipeline.load(bundle, threads=0)


def test_a_whole_bundle_loads(bundle: Path) -> None:
    with Pipeline.load(bundle) as pipeline:
        assert pipeline.manifest == Manifest.read(bundle)
        assert (pipeline.max_batch, pipeline.max_history, pipeline.max_candidates) == (3, 80, 20)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec("ranker_key_tasks", "float32", ("B", 2, 9, 4)), "ranker: reads 'ranker_key_tasks' as float32"),
        (TensorSpec("ranker_key_tasks", "float16", ("B", 2, 8, 4)), "enhancer writes float32 ['B', 2, 8, 4]"),
    ],
    ids=["shape", "dtype"],
)
def test_a_consumer_that_reads_what_its_producer_does_not_write_is_refused(
    bundle: Path, spec: TensorSpec, message: str
) -> None:
    parts = open_bundle(bundle, threads=1)
    ranker = parts.stages["ranker"]
    ranker.inputs = tuple(spec if row.name == spec.name else row for row in ranker.inputs)
    with pytest.raises(BundleError) as caught:
        Pipeline(parts.manifest, parts.stages, parts.tokenizer, parts.masks, parts.index)
    assert message in str(caught.value)
