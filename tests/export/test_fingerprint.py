from __future__ import annotations

from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from tiny import tiny_source

import oneranker
from export import fingerprint
from export.fingerprint import NO_STAGE_FIELDS, STAGE_FIELDS, imported_files, stage_fingerprint
from export.model_source import ModelSource
from export.settings import GraphSettings, Precision
from export.stages import stage_specs
from oneranker.config import OneRankerConfig, RelativeBias, TaskMask
from runtime.manifest import STAGES


def fingerprints(
    source: ModelSource, config: OneRankerConfig | None = None, precision: Precision = Precision.FP32, **settings: Any
) -> dict[str, str]:
    config = config or source.model.config
    specs, graph = stage_specs(config, precision), GraphSettings(precision=precision, **settings)
    return {name: stage_fingerprint(getattr(source.model, name), specs[name], config, graph) for name in STAGES}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in STAGES if before[name] != after[name]}


def test_the_same_seed_gives_the_same_fingerprints_in_another_process_or_run() -> None:
    assert fingerprints(tiny_source()) == fingerprints(tiny_source())
    assert changed(fingerprints(tiny_source()), fingerprints(tiny_source(seed=1))) == set(STAGES)


@pytest.mark.parametrize(
    ("weight", "stages"),
    [
        ("generator.token_embedding.weight", {"generator"}),
        ("generator.blocks.1.bias.time", {"generator"}),
        ("enhancer.head_bias", {"enhancer"}),
        ("enhancer.anchors", {"enhancer"}),
        ("retriever.scorer.code_embedding", {"retriever"}),
        ("ranker.score_output.bias", {"ranker"}),
        ("item_encoder.output.weight", set()),  # the item index alone
    ],
)
def test_one_changed_weight_changes_the_stage_that_holds_it_and_no_other(weight: str, stages: set[str]) -> None:
    source = tiny_source()
    before = fingerprints(source)
    with torch.no_grad():
        source.model.state_dict()[weight].view(-1)[-1].add_(1e-3)
    assert changed(before, fingerprints(source)) == stages


@pytest.mark.parametrize(
    ("setting", "value", "stages"),
    [
        ("attention_block", 16, {"generator"}),
        ("attention_block", 20, set()),  # as long as the tiny history: one block, as before
        ("keep_fp32", ("ranker.layer.feed",), {"ranker"}),
    ],
)
def test_a_setting_of_one_stages_graph_changes_no_other(setting: str, value: Any, stages: set[str]) -> None:
    source = tiny_source()
    assert changed(fingerprints(source), fingerprints(source, **{setting: value})) == stages


@pytest.mark.parametrize(
    ("field", "value", "stages"),
    [
        ("max_history", 24, {"generator"}),
        ("relative_bias", RelativeBias.POSITION, {"generator"}),
        ("beams", 5, {"retriever"}),
        ("candidates", 12, {"retriever"}),
        ("candidate_features", 2, {"ranker"}),
        ("cross_first", False, {"enhancer", "ranker"}),
        ("task_mask", TaskMask.OPEN, set()),  # masks are inputs
        ("dropout", 0.5, set()),
    ],
)
def test_one_changed_flag_changes_the_stages_that_read_it(field: str, value: object, stages: set[str]) -> None:
    source = tiny_source()
    config = replace(source.model.config, **{field: value})
    assert changed(fingerprints(source), fingerprints(source, config)) == stages


def test_precision_changes_every_stage() -> None:
    source = tiny_source()
    assert changed(fingerprints(source), fingerprints(source, precision=Precision.FP16)) == set(STAGES)


def test_every_flag_of_the_config_is_known_to_belong_to_a_stage_or_to_none() -> None:
    known = frozenset().union(*STAGE_FIELDS.values()) | NO_STAGE_FIELDS
    assert known == {field.name for field in fields(OneRankerConfig)}


def test_code_that_a_stage_imports_is_part_of_its_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {stage: {path.name for path in imported_files(f"oneranker.{stage}")} for stage in STAGES}
    assert {"generator.py", "hstu.py", "layers.py", "config.py"} <= names["generator"]
    assert "hstu.py" not in names["ranker"]
    assert "ranker.py" not in names["generator"]
    source = tiny_source()
    before = fingerprints(source)
    read = Path.read_bytes

    def edited(path: Path) -> bytes:
        return read(path) + (b"#" if path.name == "hstu.py" else b"")

    monkeypatch.setattr(Path, "read_bytes", edited)
    fingerprint.code_digest.cache_clear()
    try:
        assert changed(before, fingerprints(source)) == {"generator"}
    finally:
        fingerprint.code_digest.cache_clear()


def test_another_torch_changes_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_source()
    before = fingerprints(source)
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert changed(before, fingerprints(source)) == set(STAGES)


def test_a_tree_that_is_not_installed_knows_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that a copy of the tree was carried to, with onnxruntime-gpu instead of onnxruntime."""
    found = metadata.version

    def version(name: str) -> str:
        if name in ("oneranker", "onnxruntime"):
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    told = fingerprint.versions()
    assert (told["oneranker"], told["onnxruntime"]) == (oneranker.__version__, onnxruntime.__version__)
