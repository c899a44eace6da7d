from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from tiny import tiny_source, write_checkpoint

from export import assembly
from export.build import build_bundle, main
from export.settings import BuildSettings
from oneranker import masks
from oneranker.config import TaskMask
from oneranker.tokens import Tokenizer
from runtime.errors import BuildError, ParityError
from runtime.items import ItemIndex
from runtime.manifest import STAGES, Manifest, check_file, file_sha256


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a build may replace."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def tiny(bundle: Path, **settings: Any) -> BuildSettings:
    return BuildSettings(preset="tiny", out=bundle, **settings)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_bundle_holds_what_its_manifest_says_and_nothing_else(tiny_bundle: Path) -> None:
    manifest = Manifest.read(tiny_bundle)
    files = [row.file for row in manifest.stages.values()]
    assert set(snapshot(tiny_bundle)) == {
        *files, "manifest.json", "tokenizer.json", "masks.safetensors", "items/index.json", "items/items.safetensors",
    }  # fmt: skip
    for row in manifest.stages.values():
        check_file(tiny_bundle, row.file, row.sha256, row.bytes)
    check_file(tiny_bundle, manifest.tokenizer.file, manifest.tokenizer.sha256)
    check_file(tiny_bundle, manifest.masks.file, manifest.masks.sha256)
    assert ItemIndex.read(tiny_bundle / "items").version == manifest.items.version


def test_the_manifest_names_model_weights_profile_and_proof(tiny_bundle: Path) -> None:
    manifest = Manifest.read(tiny_bundle)
    assert manifest.weights.source == "random"
    assert manifest.weights.seed == 0
    letters = tiny_source().model.config.letters()
    assert manifest.letters == letters
    assert manifest.model["retriever"] == "trie"
    assert (manifest.precision, manifest.engine, manifest.opset) == ("fp32", "onnxruntime", 23)
    assert manifest.profile == {"B": (1, 1, 8), "S": (3, 20, 20), "C": (1, 13, 13)}
    assert set(manifest.parity["stages"]) == set(STAGES)
    for row in [*manifest.parity["stages"].values(), manifest.parity["chain"]]:
        assert row["max_abs_error"] <= row["allowed"]


def test_items_tokenizer_and_masks_are_the_models_own(tiny_bundle: Path) -> None:
    source = tiny_source()
    index = ItemIndex.read(tiny_bundle / "items")
    with torch.no_grad():
        table = source.model.item_table(torch.from_numpy(source.catalogue.item_fields).long())
    assert [index.id(row) for row in range(len(index))] == source.catalogue.ids
    assert np.allclose(index.tables["item_table"], table.numpy(), atol=1e-6)
    assert Tokenizer.read(tiny_bundle / "tokenizer.json") == source.tokenizer
    written = load_file(tiny_bundle / "masks.safetensors")
    readable = {
        "causal_mask": masks.causal(20),
        "task_mask": masks.tasks(8, 7, TaskMask.HETEROGENEOUS),
        "candidate_mask": masks.candidates(13),
    }
    assert written.keys() == readable.keys()
    for name, mask in readable.items():
        assert written[name].dtype == np.uint8
        assert np.array_equal(written[name], mask.numpy())


def test_every_file_may_be_read_by_others(tiny_bundle: Path) -> None:
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tiny_bundle.rglob("*"))


def test_the_same_build_again_reuses_everything_and_touches_nothing(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, inode = snapshot(bundle), bundle.stat().st_ino
    code, out, _ = run(["--preset", "tiny", "--out", str(bundle)], capsys)
    report = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert all(row["reused"] for row in report["stages"].values())
    assert report["items"]["reused"]
    assert report["verification"]["reused"]
    assert not report["changed"]
    assert (snapshot(bundle), bundle.stat().st_ino) == (before, inode)
    assert report["peak_memory_mib"] > 0
    for name, row in report["stages"].items():
        assert row["sha256"] == before[f"{name}/model.onnx"]
        assert set(row["parity"]) >= {"max_abs_error", "max_rel_error", "allowed"}


def test_a_build_without_a_checkpoint_says_loudly_that_its_weights_are_random(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_bundle(tiny(bundle))
    assert "RANDOM weights" in caplog.text
    assert "random" in json.loads((bundle / "manifest.json").read_text())["weights"]["detail"]


def test_a_checkpoint_with_one_changed_ranker_weight_rebuilds_the_ranker_alone(bundle: Path, tmp_path: Path) -> None:
    source = tiny_source()
    before = snapshot(bundle)
    with torch.no_grad():
        source.model.ranker.score_output.bias.add_(0.25)
    checkpoint = write_checkpoint(source, tmp_path / "checkpoint")
    with pytest.raises(BuildError, match=r"the ranker of .* was built from other weights.*--stage all"):
        build_bundle(BuildSettings(stage="generator", checkpoint=checkpoint, out=bundle))
    assert snapshot(bundle) == before
    report = build_bundle(BuildSettings(stage="ranker", checkpoint=checkpoint, out=bundle))
    assert [name for name, row in report.stages.items() if not row.reused] == ["ranker"]
    assert report.items["reused"]
    assert not report.verification["reused"]
    after = snapshot(bundle)
    assert {name for name in before if before[name] != after[name]} == {"ranker/model.onnx", "manifest.json"}
    assert Manifest.read(bundle).weights.source == "checkpoint"
    assert str(tmp_path) not in (bundle / "manifest.json").read_text()


def test_a_changed_profile_keeps_every_graph_and_verifies_again(bundle: Path) -> None:
    report = build_bundle(tiny(bundle, max_shapes={"B": 4, "C": 21}))
    assert all(row.reused for row in report.stages.values())
    assert not report.verification["reused"]
    manifest = Manifest.read(bundle)
    assert (manifest.profile["B"], manifest.profile["C"]) == ((1, 1, 4), (1, 13, 21))
    assert load_file(bundle / "masks.safetensors")["candidate_mask"].shape == (1, 1, 22, 22)


def test_a_changed_task_mask_changes_a_file_and_no_graph(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_source()
    source.model.config = replace(source.model.config, task_mask=TaskMask.STRICT)
    monkeypatch.setattr(assembly, "read_source", lambda settings: source)
    report = build_bundle(tiny(bundle))
    assert all(row.reused for row in report.stages.values())
    written = load_file(bundle / "masks.safetensors")["task_mask"]
    assert np.array_equal(written, masks.tasks(8, 7, TaskMask.STRICT).numpy())


def test_an_edited_graph_is_built_again_though_its_fingerprint_fits(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (bundle / "ranker" / "model.onnx").read_bytes()
    (bundle / "ranker" / "model.onnx").write_bytes(good[:-1])
    built = []

    def export(model: Any, spec: Any, precision: Any, fingerprint: str, path: Path) -> None:
        built.append(spec.name)
        path.parent.mkdir()
        path.write_bytes(good)

    monkeypatch.setattr(assembly, "export_stage", export)
    build_bundle(tiny(bundle))
    assert built == ["ranker"]
    assert (bundle / "ranker" / "model.onnx").read_bytes() == good


def test_one_stage_needs_a_bundle_to_take_the_others_from(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no bundle there.*--stage all first"):
        build_bundle(tiny(tmp_path / "bundle", stage="ranker"))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def wrong_ranker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter moves one weight of the ranker a little."""
    real = assembly.export_stage

    def export(model: Any, spec: Any, precision: Any, fingerprint: str, path: Path) -> None:
        real(model, spec, precision, fingerprint, path)
        graph = onnx.load(path)
        weight = next(row for row in graph.graph.initializer if row.name == "ranker.candidate_type")
        values = onnx.numpy_helper.to_array(weight).copy()
        values[3] += 0.05  # one feature: a shift of all of them is what the norms take out
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(graph, path)

    monkeypatch.setattr(assembly, "export_stage", export)


@pytest.mark.usefixtures("wrong_ranker")
def test_a_graph_that_answers_wrongly_exits_4_and_leaves_the_old_bundle(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "ranker" / "model.onnx").write_bytes(b"")  # so that it is exported again
    before = snapshot(bundle)
    code, out, _ = run(["--stage", "ranker", "--preset", "tiny", "--out", str(bundle)], capsys)
    assert (code, out) == (4, "")
    assert snapshot(bundle) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_graph_that_answers_wrongly_leaves_no_bundle_where_none_was(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(model: Any, spec: Any, precision: Any, fingerprint: str, path: Path) -> None:
        path.parent.mkdir()
        graph = onnx.load(tiny_bundle / spec.name / "model.onnx")
        if spec.name == "generator":
            for node in graph.graph.node:
                if node.op_type == "SiluAttention":
                    node.attribute[0].f *= 1.01
        onnx.save(graph, path)

    monkeypatch.setattr(assembly, "export_stage", swapped)
    with pytest.raises(ParityError, match=r"generator: 'history_hidden' is off by .*, allowed"):
        build_bundle(tiny(tmp_path / "bundle"))
    assert not list(tmp_path.iterdir())
