from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import engine_scratch
from benchmarks.engine_scratch import main
from export.settings import GraphSettings


@pytest.mark.trt
@pytest.mark.usefixtures("rtx")
def test_both_forms_are_built_for_the_largest_profile_and_compared_on_one_line(
    tiny_fp16_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = []

    def export(model, spec, settings: GraphSettings, fingerprint, path: Path) -> None:
        exported.append((spec.name, settings.precision.value, settings.attention_block))
        path.parent.mkdir(parents=True)
        shutil.copyfile(tiny_fp16_bundle / "generator" / "model.onnx", path)

    monkeypatch.setattr(engine_scratch, "export_stage", export)
    results = tmp_path / "results.jsonl"
    code = main(["--preset", "tiny", "--attention-block", "16", "--batch", "4", "--results", str(results)])
    line = capsys.readouterr().out
    assert code == 0
    assert exported == [("generator", "fp16", 16), ("generator", "fp16", 0)]
    assert results.read_text() == line
    row = json.loads(line)
    assert row["largest"] == {"B": 4, "S": 20}
    assert row["profile"] == {"name": "batch-long", "letters": {"B": [2, 4, 4], "S": [11, 20, 20]}}
    assert row["blocked"]["scratch_bytes"] == row["unblocked"]["scratch_bytes"] > 0  # the same graph stood in for both
    assert row["ratio"] == 1.0
    assert row["blocked"]["kernels"] == row["unblocked"]["kernels"]
    assert row["engine"].startswith("tensorrt_rtx 1.")
