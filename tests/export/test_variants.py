from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export import model_source
from export.build import build_bundle
from export.settings import BuildSettings
from oneranker.config import PRESETS, DualChannel, RelativeBias, RetrieverMode
from runtime.items import ItemIndex
from runtime.manifest import Manifest

DENSE = {"retriever": RetrieverMode.DENSE, "candidate_features": 3, "relative_bias": RelativeBias.NONE}
ABLATED = {
    "relative_bias": RelativeBias.POSITION, "cross_first": False, "task_decoupling": False, "prefix_conditioned": False,
    "ranker_reads_tasks": False, "dual_channel": DualChannel.DIAG, "enhancer_layers": 1, "code_levels": 1, "codes": 200,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("flags", [DENSE, ABLATED], ids=["dense with features", "ablated"])
def test_other_architectures_build_and_answer_as_the_model_does(
    flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "preset", lambda name: replace(PRESETS[name], **flags))
    build_bundle(BuildSettings(preset="tiny", out=tmp_path / "bundle", items=150))  # a failed check raises ParityError
    manifest = Manifest.read(tmp_path / "bundle")
    names = {row.name for row in manifest.stages["retriever"].inputs + manifest.stages["ranker"].inputs}
    dense = flags is DENSE
    assert ({"item_vectors", "candidate_features"} <= names) is dense
    assert ("item_vectors" in ItemIndex.read(tmp_path / "bundle" / "items").tables) is dense
