from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import assembly, engine_stages, verify
from export.build import build_bundle, main
from export.engine_module import CudaFound
from export.engine_stages import open_engines, why_not
from export.settings import BuildSettings, Engine, Precision
from export.stages import StageSpec
from runtime.manifest import STAGES, Manifest, PlanEntry, ProfileEntry
from runtime.onnx_stage import OnnxStage

DEVICE = "cuda:0 (a device of the test)"
PLAN = PlanEntry(
    file="ranker/model.plan",
    sha256="",
    bytes=1,
    engine="tensorrt_rtx",
    version="1.7.1.116",
    compute_capabilities=("8.9", "12.0"),
    profiles=(ProfileEntry(name="single", letters={"B": (1, 1, 1)}),),
    verified="not run on a GPU",
)


class GraphAsEngine:
    """The stage's own graph on the CPU in an engine's place, off by a factor where that is asked for."""

    def __init__(self, folder: Path, spec: StageSpec, factor: float) -> None:
        self.name, self.inputs, self.outputs, self.factor = spec.name, spec.inputs, spec.outputs, factor
        self.graph = OnnxStage.load(spec.name, folder / spec.name / "model.onnx", spec.inputs, spec.outputs)

    def run(self, feed):
        answer = self.graph.run(feed)
        return {k: a * np.asarray(self.factor, a.dtype) if a.dtype.kind == "f" else a for k, a in answer.items()}

    def close(self) -> None:
        self.graph.close()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch):
    """A device that runs every engine; returns a function that makes one stage answer wrongly."""
    wrong: dict[str, float] = {}

    @contextmanager
    def opened(specs: Mapping[str, StageSpec], folder: Path, plans: Mapping[str, PlanEntry]) -> Iterator[object]:
        assert set(plans) == set(STAGES)
        yield {name: GraphAsEngine(folder, specs[name], wrong.get(name, 1.0)) for name in plans}, DEVICE

    monkeypatch.setattr(verify, "open_engines", opened)
    monkeypatch.setattr(assembly, "cuda_device", lambda: CudaFound("8.9", ""))
    return wrong


@pytest.fixture
def bundle(tiny_engine_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_engine_bundle, tmp_path / "bundle"))


SETTINGS = {"preset": "tiny", "precision": Precision.FP16, "engine": Engine.TENSORRT_RTX}


@pytest.mark.trt
def test_where_a_device_runs_the_engines_they_are_compared_and_the_device_is_named(bundle: Path, device) -> None:
    report = build_bundle(BuildSettings(out=bundle, **SETTINGS))
    manifest = Manifest.read(bundle)
    assert not report.verification["reused"]  # the old bundle was compared where there was no device
    for stage in STAGES:
        plan = manifest.stages[stage].plan
        assert plan is not None
        assert plan.verified == DEVICE
        assert json.loads((bundle / stage / "engine_report.json").read_text())["verified"] == DEVICE
        assert report.stages[stage].plan.verified == DEVICE
    proof = manifest.parity["engine"]
    assert proof["device"] == DEVICE
    graphs = {
        name: {k: v for k, v in row.items() if k in proof["stages"][name]}
        for name, row in manifest.parity["stages"].items()
    }
    assert proof["stages"] == graphs  # the graphs stood in for the engines
    assert proof["chain"] == manifest.parity["chain"]


@pytest.mark.trt
@pytest.mark.parametrize("stage", ["generator", "ranker"])
def test_an_engine_that_answers_wrongly_exits_4_and_leaves_the_old_bundle(
    bundle: Path, device, stage: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    device[stage] = 1.05
    before = (bundle / "manifest.json").read_bytes()
    code = main(["--preset", "tiny", "--precision", "fp16", "--engine", "tensorrt_rtx", "--out", str(bundle)])
    assert (code, capsys.readouterr().out) == (4, "")
    assert f"engine {stage}: '" in caplog.text
    assert "verification: engine" in caplog.text  # nothing is said of the graphs, which are right
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("found", "plan", "reason"),
    [
        (CudaFound("", "no driver"), PLAN, "no driver"),
        (CudaFound("9.0", ""), PLAN, "tensorrt_rtx does not serve compute capability 9.0"),
        (CudaFound("8.6", ""), PLAN, "built for 8.9, 12.0, the device here is 8.6"),
        (CudaFound("8.9", ""), PLAN, ""),
        (CudaFound("8.6", ""), replace(PLAN, compute_capabilities=()), ""),
        (CudaFound("9.0", ""), replace(PLAN, engine="tensorrt", compute_capabilities=("9.0",)), ""),
    ],
)
def test_a_device_that_cannot_run_the_plans_is_told_why(
    found: CudaFound, plan: PlanEntry, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_stages, "cuda_device", lambda: found)
    assert why_not({"ranker": plan}) == reason
    if reason:
        with open_engines({}, Path(), {"ranker": plan}) as (stages, where):
            assert (stages, where) == ({}, reason)
