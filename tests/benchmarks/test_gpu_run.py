"""A GPU run survives whatever its checks do, and says of every one of them what became of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_plan import LATENCY, MACHINE, ONNX, RTX, STAGES, TENSORRT, Group, groups
from benchmarks.gpu_run import FAILED, NOT_RUN, PASSED, Run, Settings
from benchmarks.row import BACKENDS
from runtime import manifest

GPU = {"device": "cuda:0 (fake)", "driver": "580", "versions": {"torch": "9"}, "commit": "c", "library_folders": ["/l"]}
CPU = GPU | {"device": "cpu", "driver": "unknown", "library_folders": []}


def line(check: str, status: str = PASSED, **other: Any) -> str:
    return f"echo '{json.dumps({'check': check, 'status': status, **other})}'"


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Makes a run whose python is a shell script: what each group does is a piece of shell."""

    def make(facts: dict[str, Any] = GPU, *, device: str = PASSED, **does: str) -> Run:
        python = tmp_path / "python"
        cases = {"machine": line("device", device, facts=facts), **does}
        body = "\n".join(f"{name.replace('_', chr(92) + ' ')}) {shell} ;;" for name, shell in cases.items())
        python.write_text(f'#!/bin/sh\ncase "$3" in\n{body}\nesac\n', encoding="utf-8")
        python.chmod(0o755)
        made = Run(
            Settings(
                root=tmp_path, work=tmp_path / "w", out=tmp_path / "o.jsonl", command="c", python=str(python), **options
            )
        )
        made.machine()
        return made

    options: dict[str, Any] = {}
    make.options = options  # type: ignore[attr-defined]
    return make


def told(run: Run, *keys: str) -> list[Any]:
    rows = [tuple(row[key] for key in keys) for row in run.rows[1:]]
    return [row[0] for row in rows] if len(keys) == 1 else rows


def test_every_row_is_stamped_with_the_machine_and_written_as_it_comes(run: Any) -> None:
    made = run(one=line("a", figures={"x": 1}))
    made.group(Group("one", ("a",), 30, "demo"))
    assert [json.loads(text) for text in made.settings.out.read_text().splitlines()] == made.rows
    row = made.rows[1]
    assert (row["device"], row["driver"], row["versions"], row["commit"]) == (
        "cuda:0 (fake)",
        "580",
        {"torch": "9"},
        "c",
    )
    assert (row["bundle"], row["status"], row["figures"], row["command"]) == ("demo", PASSED, {"x": 1}, "c")


def test_a_process_that_dies_fails_what_it_had_not_told_yet_and_stops_no_other(run: Any) -> None:
    made = run(dies=f"{line('a')}; kill -SEGV $$", lives=line("c"))
    made.group(Group("dies", ("a", "b"), 30))
    made.group(Group("lives", ("c",), 30))
    assert told(made, "check", "status") == [("a", PASSED), ("b", FAILED), ("c", PASSED)]
    assert made.rows[2]["reason"] == "its process ended with signal 11; see stderr"


def test_a_process_that_says_nothing_has_not_passed(run: Any) -> None:
    made = run(silent="true")
    made.group(Group("silent", ("a",), 30))
    assert told(made, "status", "reason") == [(FAILED, "its process ended with exit code 0; see stderr")]


def test_a_process_over_its_time_is_stopped_with_its_children(run: Any, tmp_path: Path) -> None:
    late = tmp_path / "late"
    made = run(hangs=f"{line('a')}; (sleep 3; touch {late}) & sleep 60")
    start = time.monotonic()
    made.group(Group("hangs", ("a", "b"), 1))
    assert time.monotonic() - start < 20
    assert told(made, "check", "status") == [("a", PASSED), ("b", FAILED)]
    assert made.rows[2]["reason"] == "its process was stopped after 1 s"
    time.sleep(max(0.0, 4 - (time.monotonic() - start)))
    assert not late.exists()


def test_the_end_of_a_probe_is_an_answer(run: Any) -> None:
    made = run(probe="kill -ABRT $$")
    made.group(Group("probe", ("p",), 30, answers=True))
    assert told(made, "status") == [PASSED]
    assert made.rows[1]["figures"] == {"runs": False, "answer": "its process ended with signal 6; see stderr"}


def test_what_a_library_prints_is_no_row(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(one=f"echo loading libraries; {line('a')}")
    made.group(Group("one", ("a",), 30))
    assert told(made, "check") == ["a"]
    assert "loading libraries" in capsys.readouterr().err


def test_without_a_gpu_what_needs_one_is_not_started(run: Any, tmp_path: Path) -> None:
    made = run(CPU, device=NOT_RUN, gpu=f"touch {tmp_path / 'started'}", cpu=line("c"))
    made.group(Group("gpu", ("g",), 30))
    made.group(Group("cpu", ("c",), 30, needs_gpu=False))
    assert told(made, "check", "status") == [("g", NOT_RUN), ("c", PASSED)]
    assert not (tmp_path / "started").exists()


def test_with_a_gpu_its_stand_in_is_left_out(run: Any) -> None:
    made = run()
    made.group(Group("cpu", ("c",), 30, needs_gpu=False, without_gpu_only=True))
    assert told(made, "check") == []


def test_require_gpu_turns_what_was_not_run_into_a_failure_but_for_the_optional(run: Any) -> None:
    run.options["require_gpu"] = True
    made = run(one=line("a", NOT_RUN, reason="no CUDA provider"), two=line("b", NOT_RUN), three=line("c", NOT_RUN))
    made.group(Group("one", ("a",), 30))
    made.group(Group("two", ("b",), 30, optional=True))
    made.group(Group("three", ("c",), 30, needs_gpu=False))
    assert told(made, "check", "status") == [("a", FAILED), ("b", NOT_RUN), ("c", NOT_RUN)]
    assert made.rows[1]["reason"] == "no CUDA provider"


def test_require_gpu_fails_where_there_is_none(run: Any) -> None:
    run.options["require_gpu"] = True
    made = run(CPU, device=NOT_RUN)
    made.group(Group("gpu", ("g",), 30))
    assert [row["status"] for row in made.rows] == [FAILED, FAILED]


def test_a_spent_budget_is_said_for_every_check_that_it_leaves_out(run: Any) -> None:
    run.options["budget_seconds"] = 7.0
    made = run(slow=f"sleep 3; {line('a')}", late=line("b"))
    made.group(Group("slow", ("a",), 30))
    made.group(Group("late", ("b", "c"), 30))
    assert told(made, "check", "status") == [("a", PASSED), ("b", NOT_RUN), ("c", NOT_RUN)]
    assert made.rows[2]["reason"] == "the budget of 7 s is spent"


def test_processes_see_the_carried_packages_and_nvidias_libraries(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    made = run(one='echo "{\\"check\\": \\"$PYTHONPATH $LD_LIBRARY_PATH\\", \\"status\\": \\"passed\\"}"')
    made.install(lambda: (Path("/site"), ["x.whl"]), RuntimeError)
    made.group(Group("one", (), 30))
    assert told(made, "check") == ["install", f"/site:{tmp_path}:/mine /l"]


def test_wheels_that_cannot_be_installed_are_a_failed_check(run: Any) -> None:
    def refuse() -> tuple[Path, list[str]]:
        raise RuntimeError("another Python")

    made = run()
    made.install(refuse, RuntimeError)
    assert told(made, "check", "status", "reason") == [("install", FAILED, "another Python")]


def test_the_plan_names_every_check_once_and_the_largest_model_first_in_latency() -> None:
    plan = groups(["demo", "paper"], latency=True)
    names = [(group.bundle, check) for group in plan for check in group.checks]
    assert len(names) == len(set(names))
    assert [group.bundle for group in plan if group.name == "latency"] == ["paper", "demo"]
    wanted = [f"{engine}: {what}" for engine in (ONNX, TENSORRT) for what in ("parity chain", "copies", "graphs")]
    wanted += [f"{engine}: parity {stage}" for engine in (ONNX, TENSORRT) for stage in STAGES]
    assert {("paper", check) for check in [*wanted, f"{RTX}: plans"]} <= set(names)
    assert (("demo", f"{RTX}: probe")) in names
    assert not [group for group in groups(["demo"], latency=False) if group.name == "latency"]
    assert MACHINE not in plan


def test_the_plan_knows_the_stages_without_importing_the_runtime() -> None:
    assert manifest.STAGES == STAGES
    assert BACKENDS["cuda"] == LATENCY


def test_require_gpu_does_not_ask_for_the_latency_of_tensorrt_that_is_not_installed(run: Any) -> None:
    run.options["require_gpu"] = True
    (group,) = (group for group in groups(["demo"], latency=True) if group.name == "latency")
    made = run(latency="; ".join(line(check, NOT_RUN) for check in group.checks))
    made.group(group)
    status = dict(told(made, "check", "status"))
    assert status.pop("latency tensorrt") == NOT_RUN
    assert set(status.values()) == {FAILED}
