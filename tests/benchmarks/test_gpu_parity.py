"""The comparisons of a GPU run, tried on the CPU: right answers pass, wrong ones, copies and missing graphs do not."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from benchmarks import gpu_bundles, gpu_latency, gpu_parity, gpu_stages
from benchmarks.backend import NotRunError
from benchmarks.gpu_checks import GROUPS, GpuJob, Rows
from benchmarks.gpu_parity import chain_parity, copied, graphed, judged
from benchmarks.gpu_plan import AUTOTUNED, FUSED, LATENCY, MACHINE, groups
from benchmarks.gpu_stages import Yardsticks, open_onnx_stage, operators_of, require_cuda_provider
from benchmarks.row import BASELINES
from runtime import Pipeline
from runtime.buffers import Copies
from runtime.device import GraphCounts
from runtime.manifest import STAGES


@pytest.fixture(scope="module")
def job(tiny_fp16_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> GpuJob:
    folder = tmp_path_factory.mktemp("gpu")
    raw = {"bundle": "given", "given": str(tiny_fp16_bundle), "checkpoint": None, "work": str(folder), "device": "cpu"}
    return GpuJob.parse(json.dumps(raw | {"iterations": 2, "latency_out": str(folder / "l.jsonl"), "checks": []}))


@pytest.fixture(scope="module")
def yard(job: GpuJob) -> Yardsticks:
    return Yardsticks(job)


def told(run: Any, job: GpuJob) -> list[dict[str, Any]]:
    """The rows of one group."""
    stream = io.StringIO()
    run(job, Rows(stream))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_workload_has_the_longest_history_mixed_lengths_and_a_filter(yard: Yardsticks) -> None:
    lengths = [[len(one.tokens.token_kind) for one in batch] for batch in yard.workload.encoded]
    assert lengths[0] == [20]
    assert len(set(lengths[1])) > 2
    assert min(lengths[1]) == 3
    assert any(not one.item_filter.is_default for one in yard.workload.encoded[1])


@pytest.mark.parametrize("stage", STAGES)
def test_a_graphs_own_answers_pass_and_changed_ones_do_not(job: GpuJob, yard: Yardsticks, stage: str) -> None:
    graph = open_onnx_stage(job, stage)
    assert judged(yard.compare(graph))["max_abs_error"] > 0, "half precision cannot be exact"

    class Wrong:
        name, inputs, outputs = graph.name, graph.inputs, graph.outputs

        def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            answer = graph.run(feed)
            return {k: np.flip(a, 1) if a.ndim > 1 and a.dtype.kind == "f" else a for k, a in answer.items()}

    with pytest.raises(RuntimeError, match=r"is off by|is 0|is -"):
        judged(yard.compare(Wrong()))  # type: ignore[arg-type]


def test_the_pipelines_own_chain_passes_and_says_how_far_each_stage_is_off(job: GpuJob, yard: Yardsticks) -> None:
    figures: dict[str, Any] = {}
    with Pipeline.load(job.folder, threads=1) as pipeline:
        chain_parity(yard, pipeline, figures)
    assert set(figures) == {*STAGES, "chain"}
    assert all(0 <= row["max_error"] <= row["allowed"] for row in figures.values())


def test_a_chain_of_another_models_answers_does_not_pass(
    job: GpuJob, yard: Yardsticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline.load(job.folder, threads=1) as pipeline:
        read = pipeline.read
        monkeypatch.setattr(pipeline, "read", lambda name: read(name) * (-1 if name == "scores" else 1))
        with pytest.raises(RuntimeError, match="scores"):
            chain_parity(yard, pipeline, {})


def test_the_chain_group_counts_copies_before_it_reads_everything(job: GpuJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parity, "require_cuda_provider", lambda: None)
    rows = told(gpu_parity.onnxruntime_chain, replace(job, checks=("parity", "copies", "graphs")))
    status = {row["check"]: row["status"] for row in rows}
    assert (status["copies"], status["parity"]) == ("passed", "passed")
    assert status["graphs"] == "failed", "nothing is captured on the CPU"
    assert rows[0]["figures"]["stage_to_stage"] == {}


def pipeline_with(**copies: Counter[str]) -> Any:
    return SimpleNamespace(copies=Copies(**copies))


@pytest.mark.parametrize(
    ("ledger", "name"),
    [
        ({"host_to_stage": Counter(["enhancer_key_0"])}, "host_to_stage enhancer_key_0"),
        ({"results_read": Counter(["ranker_value_history"])}, "results_read ranker_value_history"),
        ({"stage_to_stage": Counter(["user_embedding"])}, "stage_to_stage user_embedding"),
    ],
)
def test_a_copied_key_or_value_fails(ledger: dict[str, Counter[str]], name: str) -> None:
    with pytest.raises(RuntimeError, match=f"copied: {name}; expected no keys"):
        copied(pipeline_with(**ledger))


def test_tokens_and_scores_may_be_copied() -> None:
    ledger = copied(pipeline_with(host_to_stage=Counter(["token_kind"]), results_read=Counter(["scores"])))
    assert ledger == {"host_to_stage": {"token_kind": 1}, "stage_to_stage": {}, "results_read": {"scores": 1}}


def test_every_stage_must_have_replayed_a_graph() -> None:
    keys = [f"{stage} B=1 S=64" for stage in STAGES]
    counts = GraphCounts(captured=Counter(keys), replayed=Counter(keys * 3))
    assert graphed(SimpleNamespace(graphs=counts))["replayed"] == dict.fromkeys(keys, 3)  # type: ignore[arg-type]
    del counts.replayed[keys[2]]
    with pytest.raises(RuntimeError, match="no CUDA graph was replayed for retriever"):
        graphed(SimpleNamespace(graphs=counts))  # type: ignore[arg-type]


def test_the_profile_names_the_provider_of_every_operator(job: GpuJob, yard: Yardsticks) -> None:
    ran = operators_of(job, "ranker", yard.feed("ranker"))
    assert set(ran) == {"CPUExecutionProvider"}
    assert ran["CPUExecutionProvider"]["MatMul"] + ran["CPUExecutionProvider"]["FusedMatMul"] >= 3


def test_copies_inside_a_graph_fail_its_placement(job: GpuJob, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = SimpleNamespace(placement=SimpleNamespace(on_device=3, on_host=("a (Shape)",)))
    counts = {"CUDAExecutionProvider": Counter({"MatMul": 2, "MemcpyToHost": 1})}
    monkeypatch.setattr(gpu_parity, "require_cuda_provider", lambda: None)
    monkeypatch.setattr(gpu_parity, "open_onnx_stage", lambda job, stage: placed)
    monkeypatch.setattr(gpu_parity, "operators_of", lambda job, stage, feed: counts)
    checks = tuple(f"{kind} {stage}" for kind in ("parity", "placement") for stage in STAGES)
    rows = told(gpu_parity.onnxruntime_stages, replace(job, checks=checks))[4:]
    assert {row["status"] for row in rows} == {"failed"}
    assert "1 copies between device and host" in rows[0]["reason"]
    counts["CUDAExecutionProvider"]["MemcpyToHost"] = 0
    rows = told(gpu_parity.onnxruntime_stages, replace(job, checks=checks))[4:]
    assert {row["status"] for row in rows} == {"passed"}
    assert rows[0]["figures"]["on_host"] == ["a (Shape)"]


def test_a_package_without_cuda_was_not_run_and_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(NotRunError, match="was not built for CUDA"):
        require_cuda_provider()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    require_cuda_provider()


def test_tensorrt_that_is_not_installed_was_not_run(job: GpuJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_bundles.importlib.util.find_spec", lambda name: None)
    checks = ("plans", *(f"parity {stage}" for stage in STAGES))
    rows = told(gpu_parity.tensorrt_stages, replace(job, checks=checks))
    assert [row["status"] for row in rows] == ["not run"] * 5
    assert rows[0]["reason"] == "tensorrt cannot be imported"


def test_any_answer_of_tensorrt_rtx_is_written_down(
    job: GpuJob, tiny_fp16_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise RuntimeError("compute capability 9.0 is not supported")

    monkeypatch.setattr(gpu_bundles, "with_plans", lambda job, engine: tiny_fp16_bundle)
    monkeypatch.setattr(gpu_stages, "Yardsticks", lambda job: None)
    monkeypatch.setattr(gpu_bundles, "open_bundle", refuse)
    (row,) = told(gpu_bundles.rtx_probe, replace(job, device="cuda", checks=("probe",)))
    assert row["status"] == "passed"
    assert row["figures"] == {"runs": False, "answer": "RuntimeError: compute capability 9.0 is not supported"}


def test_a_bundle_that_is_not_there_fails(job: GpuJob, tmp_path: Path) -> None:
    (row,) = told(gpu_bundles.bundle, replace(job, given=tmp_path / "none", checks=("bundle",)))
    assert row["status"] == "failed"
    assert "manifest.json" in row["reason"]


CASE = {"case": "chain-b1", "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0, "p50_vs_eager": 2.0, "max_error": 0.1}
CASE |= {"allowed_error": 0.2, "device_memory_mib": 5.0, "compile_s": None, "note": ""}


def test_latency_rows_pass_fail_or_say_why_not() -> None:
    figures: dict[str, Any] = {}
    gpu_latency._judge("onnxruntime", [CASE], 0, figures)
    assert figures["chain-b1"]["p50_ms"] == 1.0
    with pytest.raises(NotRunError, match=r"^no compiler$"):
        gpu_latency._judge("pytorch-compile", [CASE | {"note": "not run: no compiler"}], 0, {})
    with pytest.raises(RuntimeError, match="exit code 1 and no row of onnxruntime"):
        gpu_latency._judge("onnxruntime", [], 1, {})
    with pytest.raises(RuntimeError, match="unlike the weights"):
        gpu_latency._judge("onnxruntime", [CASE], 4, {})
    gpu_latency._judge("pytorch-eager", [CASE | {"max_error": 9.0}], 4, {})


@pytest.mark.parametrize("backend", FUSED)
def test_the_fused_forms_are_held_to_the_parity_rule(backend: str) -> None:
    gpu_latency._judge(backend, [CASE, CASE], 0, {})
    for wrong in ({"max_error": 0.3}, {"max_error": math.nan}, {"max_error": None}, {"allowed_error": None}):
        figures: dict[str, Any] = {}
        with pytest.raises(RuntimeError, match=r"^chain-b1: max_error is .*, expected a number of at most"):
            gpu_latency._judge(backend, [CASE, CASE | wrong], 0, figures)
        assert figures["chain-b1"]["p50_ms"] == 1.0


@pytest.mark.parametrize("backend", FUSED)
def test_a_fused_form_that_crashes_has_failed_and_one_that_lacks_a_gpu_was_not_run(backend: str) -> None:
    assert backend not in BASELINES, "its process's end is the command's error"
    with pytest.raises(RuntimeError, match=r"^torch\.cuda\.graph raised"):
        gpu_latency._judge(backend, [CASE | {"note": "not run: torch.cuda.graph raised AcceleratorError: no"}], 0, {})
    with pytest.raises(NotRunError, match="expected a GPU"):
        gpu_latency._judge(backend, [CASE | {"note": "not run: fused attention: expected a GPU"}], 0, {})


def test_what_may_crash_or_take_long_is_timed_apart_from_the_others(
    job: GpuJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def process(command: list[str], **named: Any) -> subprocess.CompletedProcess[str]:
        engines = ["pytorch-eager", *(command[i + 1] for i, word in enumerate(command) if word == "--engine")]
        ran.append((command[command.index("--batch") + 1], engines))
        if AUTOTUNED in engines:
            raise subprocess.TimeoutExpired(command, named["timeout"])
        found = [] if FUSED[0] in engines else [CASE | {"engine": name, "stage": "chain"} for name in engines]
        return subprocess.CompletedProcess(command, int(not found), json.dumps({"rows": found}) if found else "")

    monkeypatch.setattr(gpu_latency.subprocess, "run", process)
    found = told(gpu_latency.latency, replace(job, checks=tuple(f"latency {name}" for name in LATENCY)))
    status = {row["check"].removeprefix("latency "): row["status"] for row in found}
    others = [name for name in LATENCY if name not in (*FUSED, AUTOTUNED)]
    assert [names for _, names in ran] == [
        others,
        others,
        *[["pytorch-eager", *FUSED]] * 2,
        ["pytorch-eager", AUTOTUNED],
    ]
    assert status == dict.fromkeys(others, "passed") | dict.fromkeys(FUSED, "failed") | {AUTOTUNED: "not run"}


def test_every_group_of_the_plan_has_a_function() -> None:
    assert {group.name for group in [MACHINE, *groups(["demo"], latency=True)]} == set(GROUPS)


def test_a_group_that_cannot_begin_says_why_in_every_row(job: GpuJob, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "__init__.py").write_text("raise ImportError('no onnx here')")
    words = asdict(replace(job, checks=("plans", "parity")))
    command = [sys.executable, "-m", "benchmarks.gpu_checks", "cpu", json.dumps(words, default=str)]
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, check=False)
    rows = [json.loads(text) for text in done.stdout.splitlines()]
    assert [(row["check"], row["status"]) for row in rows] == [("plans", "failed"), ("parity", "failed")]
    assert all("no onnx here" in row["reason"] for row in rows)


def test_latency_that_is_late_keeps_the_figures_of_the_batch_that_ended(
    job: GpuJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = CASE | {"engine": "onnxruntime", "stage": "chain"}

    def process(command: list[str], **named: Any) -> subprocess.CompletedProcess[str]:
        if command[command.index("--batch") + 1] != "1":
            raise subprocess.TimeoutExpired(command, named["timeout"])
        return subprocess.CompletedProcess(command, 0, json.dumps({"rows": [row]}) + "\n")

    monkeypatch.setattr(gpu_latency.subprocess, "run", process)
    (told_row,) = told(gpu_latency.latency, replace(job, checks=("latency onnxruntime",)))
    assert told_row["status"] == "not run"
    assert "did not end" in told_row["reason"]
    assert told_row["figures"]["chain-b1"]["p50_ms"] == 1.0


def test_a_batch_size_that_has_no_rows_fails_beside_one_that_has(job: GpuJob, monkeypatch: pytest.MonkeyPatch) -> None:
    row = CASE | {"engine": "onnxruntime", "stage": "chain"}

    def process(command: list[str], **named: Any) -> subprocess.CompletedProcess[str]:
        first = command[command.index("--batch") + 1] == "1"
        return subprocess.CompletedProcess(command, 0 if first else 1, json.dumps({"rows": [row]}) if first else "")

    monkeypatch.setattr(gpu_latency.subprocess, "run", process)
    (told_row,) = told(gpu_latency.latency, replace(job, checks=("latency onnxruntime",)))
    assert (told_row["status"], "1 of 2 batch sizes" in told_row["reason"]) == ("failed", True)
