"""gpu-check from end to end on a machine without a GPU: as far as it goes, and the rest by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import main
from benchmarks.gpu_plan import ATTENTION, LATENCY, STAGES

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
ENGINES = [
    f"{engine}: {what}" for engine in ("onnxruntime", "tensorrt") for what in ("parity chain", "copies", "graphs")
]
ENGINES += [f"{engine}: parity {stage}" for engine in ("onnxruntime", "tensorrt") for stage in STAGES]
PLACED = [f"onnxruntime: placement {stage}" for stage in STAGES]
TIMED = [f"latency {backend}" for backend in LATENCY]
ON_CPU = [f"onnxruntime on the CPU: parity {what}" for what in (*STAGES, "chain")]


def gpu_check(tmp_path: Path, *words: str | Path) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, Any]]]:
    """The finished command, and its rows by check."""
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", out, "--work", tmp_path / "work", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len({row["check"] for row in rows}) == len(rows)
    return done, {row["check"]: row for row in rows}


def test_without_a_gpu_the_cpu_part_passes_and_all_else_is_named_with_a_reason(
    tiny_fp16_bundle: Path, tmp_path: Path
) -> None:
    done, rows = gpu_check(tmp_path, "--bundle", tiny_fp16_bundle)
    assert done.returncode == 0, done.stderr
    passed = {name for name, row in rows.items() if row["status"] == "passed"}
    assert passed == {"bundle", *ON_CPU}
    missing = {name for name, row in rows.items() if row["status"] == "not run"}
    plans = {"tensorrt_rtx: plans", "tensorrt_rtx: probe", "tensorrt: plans"}
    assert missing == {"device", *ENGINES, *PLACED, *ATTENTION, *TIMED, *plans}
    assert all(rows[name]["reason"] for name in missing)
    assert rows[ON_CPU[0]]["figures"]["max_abs_error"] <= rows[ON_CPU[0]]["figures"]["allowed"]
    assert {row["device"] for row in rows.values()} == {"cpu"}
    assert all(row["versions"]["torch"] == torch.__version__ for row in rows.values())
    assert all(row["command"].startswith("python -m benchmarks.gpu_check --out") for row in rows.values())
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["passed"], summary["failed"], set(summary["not_run"])) == (6, [], {
        name if name in ("device", *ATTENTION) else f"given: {name}" for name in missing
    })  # fmt: skip


def test_required_and_missing_a_gpu_is_a_failure(tiny_fp16_bundle: Path, tmp_path: Path) -> None:
    done, rows = gpu_check(tmp_path, "--bundle", tiny_fp16_bundle, "--require", "gpu", "--no-latency")
    assert done.returncode == 1
    failed = {name for name, row in rows.items() if row["status"] == "failed"}
    assert failed == {"device", *PLACED, *ATTENTION, *(name for name in ENGINES if name.startswith("onnxruntime"))}
    assert all(rows[name]["status"] == "passed" for name in ON_CPU)
    assert "torch has no CUDA" in rows["device"]["reason"] or "sees 0 CUDA devices" in rows["device"]["reason"]


@pytest.mark.slow
def test_a_presets_bundle_is_built_and_tensorrt_rtx_builds_its_plans(tiny_fp16_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    shutil.copytree(
        tiny_fp16_bundle, tmp_path / "work" / "tiny"
    )  # an earlier run's: whatever would be the same is kept
    done, rows = gpu_check(tmp_path, "--preset", "tiny", "--no-latency")
    assert done.returncode == 0, done.stderr
    assert rows["bundle"]["figures"]["precision"] == "fp16"
    plans = rows["tensorrt_rtx: plans"]
    assert plans["status"] == "passed"
    assert set(plans["figures"]) == set(STAGES)
    assert all(plan["bytes"] > 10_000 for plan in plans["figures"].values())
    assert rows["tensorrt_rtx: probe"]["status"] == "not run"
    assert "no CUDA device" in rows["tensorrt_rtx: probe"]["reason"]


@pytest.mark.parametrize(
    "words",
    [["--nonsense"], ["--require", "tpu"], ["--budget-seconds", "0"], ["--bundle", "b", "--preset", "tiny"]],
    ids=" ".join,
)
def test_bad_flags_exit_2(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "o"), "--work", str(tmp_path / "w"), *words])
    assert stopped.value.code == 2
