from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench as bench_module
from benchmarks.bench import BenchSettings, bench, main
from benchmarks.ceilings import Ceilings
from benchmarks.latency import LatencySettings
from benchmarks.matrix import MATRIX
from benchmarks.retrieval_row import RetrievalRow
from benchmarks.row import CHAIN, CPU_ENGINES, EAGER, ENGINE, NEED_KERNELS, PASS_THROUGH, RECOMPUTE, Row, timed
from benchmarks.row_set import RowSet
from runtime.errors import OneRankerError, ParityError

CEILINGS = Ceilings(gemm_fp32_gflops=100.0, gemm_bf16_gflops=50.0, copy_gb_s=10.0)
NAME = "demo-b1-s256-c128-n10000"


class Told:
    """What was asked of the programs and of the latency benchmark, whose rows are made up."""

    def __init__(self) -> None:
        self.programs: list[tuple[str, ...]] = []
        self.latency: list[LatencySettings] = []
        self.wrong: OneRankerError | None = None

    def program(self, module: str, *words: str) -> str:
        self.programs.append((module, *words))
        return json.dumps(asdict(RetrievalRow(case="trie-n10000", retriever="trie", items=10_000, p50_ms=3.0))) + "\n"

    def run_in_turn(self, runs: Any) -> list[tuple[dict[str, Any], OneRankerError | None]]:
        return [self.run(settings) for settings, _ in runs]

    def run(self, settings: LatencySettings) -> tuple[dict[str, Any], OneRankerError | None]:
        self.latency.append(settings)
        times = {name: [[40.0], [60.0]] if name == RECOMPUTE else [[20.0], [20.0]] for name in settings.engines}
        rows = [
            timed(
                Row(case=f"chain-b{settings.batch[0]}-s{settings.history}", stage=CHAIN, engine=name, batch=1), rounds
            )
            for name, rounds in times.items()
        ]
        return {"rows": [asdict(row) for row in rows]}, self.wrong


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told()
    monkeypatch.setattr(bench_module, "_program", found.program)
    monkeypatch.setattr(bench_module, "run_in_turn", found.run_in_turn)
    monkeypatch.setattr(bench_module, "ceilings_apart", lambda threads: CEILINGS)
    return found


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "liboneranker_kernels.so"
    path.write_bytes(b"")
    return path


def test_a_run_writes_every_case_with_its_preset_its_ceilings_and_the_ratios(
    told: Told, library: Path, tmp_path: Path
) -> None:
    answer = bench(BenchSettings(out=tmp_path / "out", kernels=library, threads=2), ["--threads", "2"])
    found = RowSet.read(Path(answer["rows"]))
    assert found.run["ceilings"] == asdict(CEILINGS)
    assert found.run["command"] == "python -m benchmarks.bench --threads 2"
    assert {(row.case, row.engine) for row in found.rows} == {
        (f"{case.preset}-chain-b{case.batch}-s{case.history}", engine) for case in MATRIX for engine in case.engines
    }
    assert [row["case"] for row in found.retrieval] == ["trie-n10000"]
    handed_on = [ratio for ratio in found.ratios if ratio.name == "pass-through" and ratio.engine == ENGINE]
    assert len(handed_on) == len(MATRIX)
    assert {ratio.value for ratio in handed_on} == {2.5}
    assert [words[0] for words in told.programs][-3:] == [
        "benchmarks.retrieval_scale", "benchmarks.page", "benchmarks.trace",
    ]  # fmt: skip


def test_one_case_without_kernels_and_scale_asks_for_no_more(told: Told, tmp_path: Path) -> None:
    bench(BenchSettings(out=tmp_path, kernels=None, cases=(NAME,), scale=False, rounds=2))
    (settings,) = told.latency
    assert set(settings.engines) == {*CPU_ENGINES} - {*NEED_KERNELS}
    assert (settings.batch, settings.history, settings.rounds) == ((1,), 256, 2)
    assert settings.ceilings == CEILINGS
    assert "benchmarks.retrieval_scale" not in [words[0] for words in told.programs]


def test_kernels_that_are_not_built_are_an_error_before_anything_is_timed(told: Told, tmp_path: Path) -> None:
    with pytest.raises(OneRankerError, match=r"absent\.so: no such file, expected the library of kernels\. Build"):
        bench(BenchSettings(out=tmp_path, kernels=tmp_path / "absent.so"))
    assert not told.programs
    assert not told.latency


def test_wrong_answers_end_the_run_and_what_was_measured_stays(told: Told, library: Path, tmp_path: Path) -> None:
    told.wrong = ParityError("answers unlike the weights")
    with pytest.raises(ParityError):
        bench(BenchSettings(out=tmp_path / "out", kernels=library))
    assert {path.stem for path in (tmp_path / "out" / "reports").iterdir()} == {case.name for case in MATRIX}
    assert not (tmp_path / "out" / "bench-cpu.jsonl").exists()


def test_what_was_timed_is_written_before_retrieval_at_scale_may_fail(
    told: Told, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(module: str, *words: str) -> str:
        if module == "benchmarks.retrieval_scale":
            raise OneRankerError("no room")
        return ""

    monkeypatch.setattr(bench_module, "_program", fails)
    with pytest.raises(OneRankerError, match="no room"):
        bench(BenchSettings(out=tmp_path / "out", kernels=library))
    assert len(RowSet.read(tmp_path / "out" / "bench-cpu.jsonl").rows) == sum(len(case.engines) for case in MATRIX)


def test_every_program_takes_the_words_that_it_is_given(told: Told, library: Path, tmp_path: Path) -> None:
    bench(BenchSettings(out=tmp_path / "out", kernels=library, threads=2))
    parsers = {
        module: importlib.import_module(module)._parser()
        for module in ("export.build", "benchmarks.page", "benchmarks.trace", "benchmarks.retrieval_scale")
    }
    assert {words[0] for words in told.programs} == {*parsers}
    for module, *words in told.programs:
        parsers[module].parse_args(words)  # exits where it takes them not


def test_every_case_can_be_judged_against_eager_pytorch_and_without_pass_through() -> None:
    for case in MATRIX:
        assert case.engines[0] == EAGER
        assert {*PASS_THROUGH, *PASS_THROUGH.values()} <= {*case.engines}
    assert len({case.name for case in MATRIX}) == len(MATRIX)


def test_the_paper_at_full_length_is_in_the_matrix_with_every_engine() -> None:
    """S = 2048, B = 1, C = 512, N = 100,000."""
    case = next(case for case in MATRIX if case.name == "paper-b1-s2048-c512-n100000")
    assert case.engines == CPU_ENGINES
    assert case.precision == "fp32"


@pytest.mark.parametrize(("words", "said"), [(["--case", "huge"], "--case: got 'huge', expected one of demo-b1"),
                                              (["--rounds", "0"], "expected at least 1")])  # fmt: skip
def test_words_that_no_run_can_use_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
