from __future__ import annotations

from pathlib import Path

import pytest
from latency_command import QUICK, SHARED, latency, report_of

from benchmarks.latency import main
from benchmarks.row import AOTI, EAGER, EAGER_BF16, ENGINE, KERNELS_RECOMPUTE, NAIVE, OPEN, RECOMPUTE
from benchmarks.worker import LEAST_ARRIVALS


def test_named_engines_take_turns_and_those_of_the_bundles_graphs_answer_right(tiny_bundle: Path) -> None:
    words = [word for name in (EAGER_BF16, NAIVE, ENGINE, RECOMPUTE) for word in ("--engine", name)]
    run = latency("--bundle", tiny_bundle, *words, "--rounds", "2", "--utilisation", "0.5", "--batch", "2", *QUICK)
    rows = {(row["engine"], row["stage"]): row for row in report_of(run)["rows"]}
    assert {name for name, _ in rows} == {EAGER, EAGER_BF16, NAIVE, ENGINE, RECOMPUTE}
    for name in (NAIVE, ENGINE, RECOMPUTE):
        assert all(0 <= rows[name, stage]["max_error"] <= rows[name, stage]["allowed_error"] for stage in SHARED)
    assert rows[EAGER_BF16, "chain"]["precision"] == "bf16"
    assert rows[EAGER_BF16, "generator"]["max_error"] > 1e-4, "bf16 that rounds nothing is not bf16"
    samples = {stage: {row["samples"] for (_, name), row in rows.items() if name == stage} for stage in (*SHARED, OPEN)}
    assert samples == {stage: {6} for stage in SHARED} | {OPEN: {2 * LEAST_ARRIVALS}}
    assert all(row["spread"] >= 0 and row["rounds"] == 2 for row in rows.values())
    assert rows[ENGINE, OPEN]["offered_per_s"] > 0
    turns = [line.split(": ")[1].split(",")[0] for line in run.stderr.splitlines() if ", round " in line]
    assert turns == [EAGER, EAGER_BF16, NAIVE, ENGINE, RECOMPUTE] * 2


def test_a_recomputed_ranking_gives_the_very_answer_that_keys_and_values_handed_on_give(tiny_bundle: Path) -> None:
    rows = report_of(latency("--bundle", tiny_bundle, "--engine", RECOMPUTE, "--engine", ENGINE, *QUICK))["rows"]
    errors = {name: [row["max_error"] for row in rows if row["engine"] == name and row["stage"] in SHARED]
              for name in (ENGINE, RECOMPUTE)}  # fmt: skip
    assert errors[RECOMPUTE] == errors[ENGINE]


def test_shares_of_the_roofline_are_there_when_they_are_asked_for(tiny_bundle: Path) -> None:
    rows = report_of(latency("--bundle", tiny_bundle, "--no-compile", "--roofline", *QUICK))["rows"]
    assert all(0 < row["roofline"] < 1 for row in rows if row["stage"] in SHARED)
    assert all(row["roofline"] is None for row in rows if row["stage"] not in SHARED)


@pytest.mark.slow
def test_aotinductors_packages_answer_alike_and_the_second_round_finds_them(tiny_bundle: Path) -> None:
    run = latency("--bundle", tiny_bundle, "--engine", AOTI, "--rounds", "2", *QUICK)
    rows = [row for row in report_of(run)["rows"] if row["engine"] == AOTI]
    assert [row["stage"] for row in rows] == SHARED
    assert all(row["note"] == "" and row["max_error"] <= 1e-3 and row["compile_s"] > 0 for row in rows)
    told = [float(line.split(" after ")[1].split()[0]) for line in run.stderr.splitlines() if "4 of 4 stages" in line]
    assert len(told) == 2
    assert told[1] < told[0] / 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "onnx"], "--engine: got 'onnx' with --device cpu, expected pytorch-eager, "),
        (["--engine", KERNELS_RECOMPUTE], "which needs --kernels"),
        (["--rounds", "0"], "--rounds: got 0, expected at least 1"),
        (["--utilisation", "1"], "expected seconds from 0 on and a share from 0 to below 1"),
        (["--device", "cuda", "--roofline"], "--roofline: got it with --device cuda, expected cpu"),
    ],
)
def test_words_that_no_run_can_use_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--bundle", "x", *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
