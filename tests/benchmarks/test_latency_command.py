from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpp_library import KERNELS_FILE
from latency_command import QUICK, SHARED, latency, report_of

from benchmarks import torch_backend
from benchmarks.environment import Environment
from benchmarks.latency import main
from benchmarks.requests import random_requests
from benchmarks.row import (
    COMPILED,
    EAGER,
    ENGINE,
    KERNELS,
    Row,
)
from benchmarks.source import source_of
from oneranker import weights
from oneranker.tokens import SimpleItemLookup
from runtime.manifest import Manifest, file_sha256


@pytest.fixture(scope="module")
def done(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One run with two batch sizes, whose line goes to a file too."""
    out = tmp_path_factory.mktemp("latency") / "results.jsonl"
    run = latency("--bundle", tiny_bundle, "--batch", "1", "--batch", "2", "--no-compile", "--out", out, *QUICK)
    assert run.returncode == 0, run.stderr
    assert out.read_text(encoding="utf-8").splitlines() == [run.stdout.splitlines()[-1]]
    return run


def test_the_last_line_of_stdout_holds_the_documented_fields(done: subprocess.CompletedProcess[str]) -> None:
    report = report_of(done)
    assert set(report["environment"]) == {field.name for field in fields(Environment)}
    assert all(set(row) == {field.name for field in fields(Row)} for row in report["rows"])
    assert report["environment"]["command"].startswith("python -m benchmarks.latency --bundle")


def test_every_case_has_every_stage_and_the_chain_on_every_backend(done: subprocess.CompletedProcess[str]) -> None:
    found = [(row["batch"], row["engine"], row["stage"]) for row in report_of(done)["rows"]]
    wanted = [(batch, backend, stage) for batch in (1, 2) for backend in (EAGER, ENGINE) for stage in SHARED]
    wanted += [(batch, ENGINE, stage) for batch in (1, 2) for stage in ("tokens", "recommend")]
    assert sorted(found) == sorted(wanted)
    assert {row["samples"] for row in report_of(done)["rows"]} == {3}


def test_every_shared_row_of_the_runtime_is_within_the_parity_rule(done: subprocess.CompletedProcess[str]) -> None:
    rows = [row for row in report_of(done)["rows"] if row["engine"] == ENGINE and row["stage"] in SHARED]
    assert len(rows) == 2 * len(SHARED)
    assert all(0 <= row["max_error"] <= row["allowed_error"] for row in rows)


def test_times_are_told_before_the_json_for_people(done: subprocess.CompletedProcess[str]) -> None:
    assert "p50 vs eager" in done.stdout
    assert "recommend" in done.stdout
    assert done.stdout.count("\n{") == 1


def test_requests_of_a_file_with_filters_are_answered_alike(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    events = [{"item": "item3", "time": 5}, {"item": "never heard of", "time": 6}]
    requests: list[dict[str, Any]] = [
        {"now": 10, "events": events},
        {"now": 10, "events": [], "eligible": [f"item{i}" for i in range(9)]},
        {"now": 10, "events": events[:1], "excluded": ["item0", "item1"]},
    ]
    file.write_text("\n".join(map(json.dumps, requests)), encoding="utf-8")
    report = report_of(latency("--bundle", tiny_bundle, "--requests", file, "--batch", "2", "--no-compile", *QUICK))
    chain = next(row for row in report["rows"] if row["stage"] == "chain" and row["engine"] == ENGINE)
    assert chain["max_error"] <= chain["allowed_error"]


@pytest.mark.cpp
def test_the_kernels_are_one_backend_more_with_the_same_answers(tiny_bundle: Path) -> None:
    report = report_of(latency("--bundle", tiny_bundle, "--no-compile", "--kernels", KERNELS_FILE, *QUICK))
    rows = [row for row in report["rows"] if row["engine"] == KERNELS and row["stage"] in SHARED]
    assert [row["stage"] for row in rows] == SHARED
    assert all(0 <= row["max_error"] <= row["allowed_error"] for row in rows)


def test_kernels_that_are_not_there_end_the_run_before_anything_is_timed(tiny_bundle: Path) -> None:
    done = latency("--bundle", tiny_bundle, "--kernels", "absent.so", *QUICK)
    assert (done.returncode, done.stdout) == (1, "")
    assert "absent.so: no such file, expected the library of kernels" in done.stderr
    assert ", round 1" not in done.stderr


def test_kernels_are_for_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--bundle", "x", "--device", "cuda", "--kernels", "k.so"])
    assert stopped.value.code == 2
    assert "--kernels: got a file beside --device cuda, expected cpu" in capsys.readouterr().err


def test_a_bundle_of_other_weights_shows_its_error_and_exits_4(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["weights"]["seed"] += 1
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    run = latency("--bundle", bundle, "--no-compile", *QUICK)
    assert run.returncode == 4
    assert "unlike the weights" in run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["rows"]


@pytest.mark.slow
def test_torch_compile_answers_alike_and_tells_its_compile_time(tiny_bundle: Path) -> None:
    rows = [row for row in report_of(latency("--bundle", tiny_bundle, *QUICK))["rows"] if row["engine"] == COMPILED]
    assert [row["stage"] for row in rows] == SHARED
    for row in rows:
        assert row["note"] == ""
        assert row["compile_s"] > 0
        assert row["max_error"] <= 1e-3


@pytest.mark.slow
def test_half_precision_is_held_against_eager_pytorch_in_half_precision(tiny_fp16_bundle: Path) -> None:
    rows = report_of(latency("--bundle", tiny_fp16_bundle, "--no-compile", *QUICK))["rows"]
    chain = {row["engine"]: row for row in rows if row["stage"] == "chain"}
    assert chain[EAGER]["max_error"] == 0
    assert 1e-5 < chain[ENGINE]["max_error"] <= chain[ENGINE]["allowed_error"]


def test_without_a_compiler_the_reason_is_the_innermost_error() -> None:
    try:
        try:
            raise FileNotFoundError("g++ is not here\nSet CXX")
        except FileNotFoundError as error:
            raise RuntimeError("backend failed") from error
    except RuntimeError as error:
        reason = torch_backend.reason_of(error)
    assert reason == "torch.compile raised FileNotFoundError: g++ is not here"


@pytest.mark.parametrize(
    "words",
    [
        ["--batch", "0"],
        ["--iterations", "0"],
        ["--threads", "x"],
        ["--history", "2"],
        ["--device", "tpu"],
        ["--nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_bad_flags_exit_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--bundle", "b", *words] if words else [])
    assert stopped.value.code == 2


def test_a_missing_bundle_exits_3(tmp_path: Path) -> None:
    run = latency("--bundle", tmp_path / "none", "--no-compile")
    assert run.returncode == 3
    assert run.stdout == ""
    assert "manifest.json" in run.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "1000"], "--batch: got 1000"),
        (["--history", "1000"], "--history: got 1000"),
        (["--checkpoint", "somewhere"], "random weights"),
        (["--requests", "no such file"], "no such file"),
        (["--device", "cuda:99"], "device 'cuda:99' was asked for"),
    ],
)
def test_what_does_not_fit_the_bundle_exits_1(
    tiny_bundle: Path, words: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["--bundle", str(tiny_bundle), "--no-compile", *words]) == 1
    assert said in caplog.text


def test_a_checkpoint_that_cannot_be_found_is_asked_for(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["weights"] = {"source": "checkpoint", "detail": "gone/model.safetensors, sha256 00", "seed": None}
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["--bundle", str(bundle), "--no-compile"]) == 1
    assert "--checkpoint" in caplog.text


@pytest.fixture
def trained_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle as if built from the checkpoint beside it, which holds the same weights."""
    bundle, checkpoint = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle")), tmp_path / "trained"
    source = source_of(tiny_bundle, Manifest.read(tiny_bundle), None)
    weights.save(source.model, checkpoint)
    source.catalogue.save(checkpoint / weights.CATALOGUE_FILE)
    source.tokenizer.write(checkpoint / weights.TOKENIZER_FILE)
    digest = file_sha256(checkpoint / weights.WEIGHTS_FILE)[:16]
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    detail = f"trained/{weights.WEIGHTS_FILE}, sha256 {digest}"
    manifest["weights"] = {"source": "checkpoint", "detail": detail, "seed": None}
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return bundle


def test_the_checkpoint_that_the_manifest_names_is_found_beside_the_bundle(trained_bundle: Path) -> None:
    rows = report_of(latency("--bundle", trained_bundle, "--history", "15", "--no-compile", *QUICK))["rows"]
    chain = next(row for row in rows if row["stage"] == "chain" and row["engine"] == ENGINE)
    assert chain["max_error"] <= chain["allowed_error"]


def test_a_checkpoint_of_another_training_is_refused(trained_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = trained_bundle.parent / "trained" / weights.WEIGHTS_FILE
    model = weights.load(file.parent)
    with torch.no_grad():
        model.enhancer.task_tokens.add_(1)
    weights.save(model, file.parent)
    assert main(["--bundle", str(trained_bundle), "--no-compile"]) == 1
    assert "expected the same" in caplog.text


@pytest.mark.slow
def test_without_a_compiler_every_row_of_torch_compile_says_why_and_the_others_stay(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bare = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    rows = report_of(latency("--bundle", tiny_bundle, *QUICK, environment=bare))["rows"]
    missing = [row for row in rows if row["engine"] == COMPILED]
    assert [row["stage"] for row in missing] == SHARED
    for row in missing:
        assert row["note"].startswith("not run: torch.compile raised")
        assert row["p50_ms"] is row["max_error"] is row["peak_memory_mib"] is None
    assert all(row["p50_ms"] > 0 for row in rows if row["engine"] != COMPILED)


def test_synthetic_requests_of_a_checkpoint_fill_the_asked_history(tiny_bundle: Path) -> None:
    manifest = Manifest.read(tiny_bundle)
    source = source_of(tiny_bundle, manifest, None)
    trained = replace(manifest, weights=replace(manifest.weights, source="checkpoint"))
    lookup = SimpleItemLookup(source.catalogue.ids, source.catalogue.item_fields)
    for told in (manifest, trained):
        requests = random_requests(source, told, 5, 17)
        lengths = [len(source.tokenizer.encode(request, lookup, 100).token_kind) for request in requests]
        assert np.isin(lengths, [17] if told is manifest else [16, 17]).all()
