from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from export import engine_log, engine_plans
from export.build import build_bundle, main
from export.engine_from_onnx import BuiltEngine, EngineOptions, _configure, build_engine
from export.engine_precision import PrecisionProof
from export.engine_report import EngineReport, ProfileReport
from export.profiles import EngineProfile
from export.settings import BuildSettings, Engine, Precision
from runtime.errors import BuildError
from runtime.manifest import STAGES, Manifest, PlanEntry, check_file

pytestmark = pytest.mark.trt

HALF = EngineOptions(precision=Precision.FP16)


@pytest.fixture
def bundle(tiny_engine_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_engine_bundle, tmp_path / "bundle"))


def plan_of(bundle: Path, stage: str) -> PlanEntry:
    plan = Manifest.read(bundle).stages[stage].plan
    assert plan is not None
    return plan


def report_of(bundle: Path, stage: str):
    return json.loads((bundle / stage / "engine_report.json").read_text())


def profiles_of(bundle: Path, stage: str, first: int = 2) -> list[EngineProfile]:
    return [EngineProfile(row.name, row.letters) for row in plan_of(bundle, stage).profiles][:first]


def tiny(bundle: Path, **settings) -> BuildSettings:
    return BuildSettings(preset="tiny", out=bundle, precision=Precision.FP16, **settings)


def test_an_rtx_engine_allocates_nothing_while_it_runs_so_that_a_cuda_graph_can_hold_it(rtx) -> None:
    config = rtx.Builder(engine_log.builder_log(rtx)).create_builder_config()
    _configure(rtx, "generator", config, HALF)
    assert config.get_flag(rtx.BuilderFlag.REQUIRE_USER_ALLOCATION)


def test_every_stage_has_an_engine_that_the_manifest_describes(tiny_engine_bundle: Path, rtx) -> None:
    manifest = Manifest.read(tiny_engine_bundle)
    assert (manifest.engine, manifest.precision) == ("tensorrt_rtx", "fp16")
    for stage in STAGES:
        plan = plan_of(tiny_engine_bundle, stage)
        check_file(tiny_engine_bundle, plan.file, plan.sha256, plan.bytes)
        assert (plan.file, plan.engine, plan.version) == (f"{stage}/model.plan", "tensorrt_rtx", rtx.__version__)
        assert [row.name for row in plan.profiles] == ["single", "batch"]
        assert (tiny_engine_bundle / stage / "build.log").stat().st_size > 10_000
    assert set(manifest.profile) == {"B", "S", "C"}
    assert plan_of(tiny_engine_bundle, "retriever").profiles[1].letters["N"] == (1, 100_000, 10_000_000)


@pytest.mark.parametrize("stage", STAGES)
def test_a_report_tells_kernels_memory_types_and_the_proof(tiny_engine_bundle: Path, stage: str) -> None:
    report, row = report_of(tiny_engine_bundle, stage), Manifest.read(tiny_engine_bundle).stages[stage]
    assert [profile["name"] for profile in report["profiles"]] == ["single", "batch"]
    for profile in report["profiles"]:
        assert profile["scratch_bytes"] > 0
        assert sum(profile["kernels"].values()) > 10
    assert report["weight_bytes"] > 0
    assert report["plan_sha256"] == row.plan.sha256
    tensors = report["tensors"]
    assert tensors["inputs"] == {tensor.name: tensor.dtype for tensor in row.inputs}
    assert tensors["outputs"] == {tensor.name: tensor.dtype for tensor in row.outputs}
    assert tensors["inside"]["float16"] > 50
    assert sum(profile["kernels"][name] for profile in report["profiles"] for name in profile["kernels"]) == len(
        report["kernels"]
    )
    proof = report["precision"]
    assert proof["asked"] == "float16"
    assert proof["graph"] == proof["network"]
    assert set(proof["kernels"]) == {"float16"} if stage != "retriever" else {"float16", "float32"}
    assert bool(proof["islands"]) == (stage == "retriever")


def test_the_attention_of_enhancer_and_ranker_is_fused_in_every_profile(tiny_engine_bundle: Path) -> None:
    layers = {stage: report_of(tiny_engine_bundle, stage)["attention_layers"] for stage in STAGES}
    assert layers == {"generator": 0, "enhancer": 4, "retriever": 0, "ranker": 2}  # cross and self, of each layer
    for stage in ("enhancer", "ranker"):
        for profile in report_of(tiny_engine_bundle, stage)["profiles"]:
            assert profile["fused_attention"] == ["_gemm_mha_v2"] * layers[stage]


def test_where_nothing_can_run_an_engine_that_is_said_everywhere(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if plan_of(bundle, "ranker").verified != "not run on a GPU":
        pytest.skip("needs a machine without a CUDA device that runs the engines")
    for stage in STAGES:
        assert report_of(bundle, stage)["verified"] == "not run on a GPU"
        assert plan_of(bundle, stage).verified == "not run on a GPU"
    assert "not run on a GPU" in Manifest.read(bundle).parity["engine"]
    build_bundle(tiny(bundle, engine=Engine.TENSORRT_RTX, max_shapes={"C": 14}))  # which is verified again
    assert "the engines were not run on a GPU: " in caplog.text


def test_the_command_builds_engines_and_reports_them_on_one_line(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_plans, "build_engine", None)  # everything is reused
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    code = main(
        ["--preset", "tiny", "--precision", "fp16", "--engine", "tensorrt_rtx", "--out", str(bundle)],
    )
    out = capsys.readouterr().out
    report = json.loads(out)
    assert (code, out.count("\n")) == (0, 1)
    assert (report["engine"], report["changed"]) == ("tensorrt_rtx", False)
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before
    for stage, row in report["stages"].items():
        plan, entry = row["plan"], plan_of(bundle, stage)
        assert plan["reused"]
        assert (plan["file"], plan["sha256"], plan["bytes"]) == (entry.file, entry.sha256, entry.bytes)
        assert plan["scratch_bytes"] == max(row["scratch_bytes"] for row in report_of(bundle, stage)["profiles"])
    assert report["stages"]["enhancer"]["plan"]["fused_attention"] == ["_gemm_mha_v2"] * 4


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tiny_engine_bundle: Path) -> list[tuple[str, EngineOptions]]:
    """The stages that are built, with what the tiny bundle's engines hold instead of new ones."""
    calls: list[tuple[str, EngineOptions]] = []
    real = build_engine

    def build(module, graph: Path, profiles, options: EngineOptions) -> BuiltEngine:
        stage = graph.parent.name
        calls.append((stage, options))
        ranker = real(module, graph, profiles[:1], options) if stage == "ranker" else None
        plan = (tiny_engine_bundle / stage / "model.plan").read_bytes()
        return ranker or BuiltEngine(plan, ["[INFO] a log"], calls_report(stage))

    def calls_report(stage: str) -> EngineReport:
        raw = report_of(tiny_engine_bundle, stage)
        raw["precision"] = PrecisionProof(**raw["precision"])
        raw["profiles"] = tuple(ProfileReport(**row) for row in raw["profiles"])
        return EngineReport(**raw)

    monkeypatch.setattr(engine_plans, "build_engine", build)
    return calls


def test_another_profile_or_option_builds_every_engine_again_and_no_graph(bundle: Path, built) -> None:
    report = build_bundle(tiny(bundle, engine=Engine.TENSORRT_RTX, builder_level=1, workspace_mib=64))
    assert [stage for stage, _ in built] == list(STAGES)
    assert {(options.builder_level, options.workspace_mib) for _, options in built} == {(1, 64)}
    assert all(row.reused and row.plan is not None and not row.plan.reused for row in report.stages.values())


def test_an_edited_engine_or_a_lost_report_is_built_again_alone(bundle: Path, built) -> None:
    plan = bundle / "ranker" / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    (bundle / "enhancer" / "engine_report.json").unlink()
    report = build_bundle(tiny(bundle, engine=Engine.TENSORRT_RTX))
    assert [stage for stage, _ in built] == ["enhancer", "ranker"]
    assert report.changed
    entry = plan_of(bundle, "ranker")
    check_file(bundle, entry.file, entry.sha256, entry.bytes)


def test_one_stage_alone_cannot_replace_the_engines_of_others(bundle: Path, built) -> None:
    with pytest.raises(BuildError, match=r"generator: the engine of .* was built from another .*--stage all"):
        build_bundle(tiny(bundle, engine=Engine.TENSORRT_RTX, stage="ranker", builder_level=1))
    assert not built
    assert plan_of(bundle, "generator").verified


def test_a_bundle_without_engines_drops_them(bundle: Path) -> None:
    report = build_bundle(tiny(bundle, engine=Engine.NONE))
    manifest = Manifest.read(bundle)
    assert manifest.engine == "onnxruntime"
    assert all(row.plan is None for row in manifest.stages.values())
    assert all(row.reused and row.plan is None for row in report.stages.values())
    assert not [path for path in bundle.rglob("*") if path.name in ("model.plan", "engine_report.json", "build.log")]


def test_an_fp32_attention_is_taken_apart_because_no_kernel_holds_it(
    tiny_bundle: Path, tiny_engine_bundle: Path, rtx
) -> None:
    profiles = profiles_of(tiny_engine_bundle, "ranker", 1)
    built = build_engine(rtx, tiny_bundle / "ranker" / "model.onnx", profiles, EngineOptions(precision=Precision.FP32))
    assert built.report.attention_layers == 2
    assert built.report.profiles[0].fused_attention == []
    assert set(built.report.precision.kernels) == {"float32"}


def test_a_node_without_a_body_is_named_with_what_to_do(tiny_engine_bundle: Path, tmp_path: Path, rtx) -> None:
    graph = onnx.load(tiny_engine_bundle / "generator" / "model.onnx")
    del graph.functions[:]
    (tmp_path / "generator").mkdir()
    path = tmp_path / "generator" / "model.onnx"
    onnx.save(graph, path)
    with pytest.raises(
        BuildError,
        match=r"generator: node 'node__symbolic' is rec::SiluAttention, for which the graph holds no function body "
        r"and tensorrt_rtx no plugin.*python -m export.build.*plugin named SiluAttention in the namespace rec",
    ):
        build_engine(rtx, path, profiles_of(tiny_engine_bundle, "generator"), HALF)


def test_a_graph_that_is_no_onnx_for_the_parser_is_refused_in_its_own_words(
    tiny_engine_bundle: Path, tmp_path: Path, rtx
) -> None:
    graph = onnx.load(tiny_engine_bundle / "ranker" / "model.onnx")
    node = next(row for row in graph.graph.node if row.op_type == "MatMul")
    node.op_type = "MatMulInteger"
    (tmp_path / "ranker").mkdir()
    onnx.save(graph, tmp_path / "ranker" / "model.onnx")
    with pytest.raises(BuildError, match=r"tensorrt_rtx 1\..* cannot read .*MatMulInteger.*Build with --engine none"):
        build_engine(rtx, tmp_path / "ranker" / "model.onnx", profiles_of(tiny_engine_bundle, "ranker"), HALF)


def test_a_profile_that_the_graph_cannot_take_fails_in_the_builders_own_words(tiny_engine_bundle: Path, rtx) -> None:
    graph = tiny_engine_bundle / "generator" / "model.onnx"
    letters = {"B": (1, 1, 1), "S": (3, 200, 200)}  # the model's positions end at 20
    with pytest.raises(BuildError, match=r"built no engine of .*Internal Error.*out of bounds.*expected a plan"):
        build_engine(rtx, graph, [EngineProfile("single", letters)], HALF)
    letters = {"B": (1, 1, 1), "S": (20, 3, 20)}
    with pytest.raises(BuildError, match=r"generator: the builder refuses profile 'single'.*expected rising sizes"):
        build_engine(rtx, graph, [EngineProfile("single", letters)], HALF)


def test_a_device_that_the_library_does_not_build_for_is_refused_with_those_that_it_does(
    tiny_engine_bundle: Path, rtx
) -> None:
    options = replace(HALF, compute_capabilities=("8.9", "9.0"))
    graph = tiny_engine_bundle / "ranker" / "model.onnx"
    with pytest.raises(BuildError, match=r"--compute-capability: got 9.0, expected some of .*8.9.*12.0"):
        build_engine(rtx, graph, profiles_of(tiny_engine_bundle, "ranker"), options)


def test_such_a_device_is_refused_before_anything_is_exported(
    rtx, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "export")
    with pytest.raises(BuildError, match=r"--compute-capability: got 9\.0"):
        build_bundle(tiny(tmp_path / "bundle", engine=Engine.TENSORRT_RTX, compute_capabilities=("8.9", "9.0")))
    assert "exported" not in caplog.text
    assert not (tmp_path / "bundle").exists()


def test_slow_phases_get_a_line_each_with_their_seconds(
    tiny_engine_bundle: Path, rtx, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_log, "WORTH_A_LINE", 0.05)
    options = replace(HALF, compute_capabilities=("8.9",), workspace_mib=256, builder_level=2)
    graph = tiny_engine_bundle / "ranker" / "model.onnx"
    with caplog.at_level("INFO", logger="export"):
        built = build_engine(rtx, graph, profiles_of(tiny_engine_bundle, "ranker", 1), options)
    lines = [record.getMessage() for record in caplog.records]
    assert 1 <= len(lines) < 30
    assert any(line.startswith("ranker engine: building engine: ") and line.endswith(" s") for line in lines)
    assert built.report.profiles[0].fused_attention == ["_gemm_mha_v2"] * 2


class TensorRT:
    """TensorRT-RTX under the other name, with a timing cache that remembers."""

    __name__ = "tensorrt"

    def __init__(self, rtx) -> None:
        self.rtx = rtx

    def __getattr__(self, name: str):
        return getattr(self.rtx, name)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations")
def test_tensorrts_timing_cache_is_read_and_written_whole(tiny_engine_bundle: Path, rtx, tmp_path: Path) -> None:
    cache = tmp_path / "caches" / "timing.cache"
    graph, profiles = tiny_engine_bundle / "ranker" / "model.onnx", profiles_of(tiny_engine_bundle, "ranker", 1)
    with pytest.raises(BuildError, match=r"--timing-cache: got .*timing.cache with tensorrt_rtx"):
        build_engine(rtx, graph, profiles, replace(HALF, timing_cache=cache))
    built = build_engine(TensorRT(rtx), graph, profiles, replace(HALF, timing_cache=cache))  # type: ignore[arg-type]
    assert built.report.engine == "tensorrt"
    assert [path.name for path in cache.parent.iterdir()] == ["timing.cache"]
