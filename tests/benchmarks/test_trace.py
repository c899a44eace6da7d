"""The trace of one request: valid, nested, in order, and every node inside of its stage."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from cpp_library import KERNELS_FILE

from benchmarks.trace import main
from runtime.manifest import STAGES

QUICK = ("--threads", "1", "--warmup", "2", "--iterations", "3")
STEPS = ["recommend", "tokens", *STAGES, "answers"]


@pytest.fixture(scope="module")
def trace(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("trace") / "new" / "trace.json"
    assert main(["--bundle", str(tiny_bundle), "--out", str(out), *QUICK]) == 0
    return dict(json.loads(out.read_text()))


def complete(trace: dict[str, Any], category: str) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X" and event["cat"] == category]


def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    """Times are microseconds: a thousandth is rounding."""
    ends = [event["ts"] + event["dur"] for event in (inner, outer)]
    return bool(outer["ts"] <= inner["ts"] + 1e-3 and ends[0] <= ends[1] + 1e-3)


def test_every_event_has_the_fields_that_the_format_asks_for(trace: dict[str, Any]) -> None:
    for event in trace["traceEvents"]:
        assert event["ph"] in {"X", "M"}
        assert {"name", "pid", "tid"} <= set(event)
        assert event["ph"] == "M" or (event["ts"] >= 0 and event["dur"] >= 0)


def test_the_steps_come_in_order_one_after_another_within_the_request(trace: dict[str, Any]) -> None:
    whole, *steps = spans = complete(trace, "pipeline")
    assert [span["name"] for span in spans] == STEPS
    assert all(within(step, whole) for step in steps)
    for before, after in itertools.pairwise(steps):
        assert before["ts"] + before["dur"] <= after["ts"]
    assert sum(step["dur"] for step in steps) <= whole["dur"]


def test_every_stage_has_nodes_within_it_that_do_not_overlap(trace: dict[str, Any]) -> None:
    stages = [span for span in complete(trace, "pipeline") if span["name"] in STAGES]
    nodes = complete(trace, "node")
    inside = {stage["name"]: [node for node in nodes if within(node, stage)] for stage in stages}
    assert all(len(found) > 5 for found in inside.values())
    assert sum(map(len, inside.values())) == len(nodes) == trace["otherData"]["nodes"]
    for stage in stages:
        found = sorted(inside[stage["name"]], key=lambda node: node["ts"])
        assert sum(node["dur"] for node in found) <= stage["dur"]
        for before, after in itertools.pairwise(found):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-3
        assert 0 <= stage["args"]["off_by_at_most_us"] <= stage["dur"] / 2
    assert {"MatMul", "Add"} <= {node["args"]["op_name"] for node in nodes}


def test_only_the_last_request_is_in_it(trace: dict[str, Any], tiny_bundle: Path, tmp_path: Path) -> None:
    longer = tmp_path / "trace.json"
    words = ["--bundle", str(tiny_bundle), "--out", str(longer), "--threads", "1", "--iterations", "1", "--warmup", "9"]
    assert main(words) == 0
    assert len(complete(json.loads(longer.read_text()), "node")) == len(complete(trace, "node"))


@pytest.mark.cpp
def test_with_the_kernels_the_fused_node_is_in_the_generator(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    assert main(["--bundle", str(tiny_bundle), "--out", str(out), "--kernels", str(KERNELS_FILE), *QUICK]) == 0
    trace = json.loads(out.read_text())
    generator = next(span for span in complete(trace, "pipeline") if span["name"] == "generator")
    fused = [node for node in complete(trace, "node") if node["args"]["op_name"] == "SiluAttention"]
    assert fused
    assert all(within(node, generator) for node in fused)


def test_the_request_of_a_file_is_traced_and_the_line_says_where(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requests.jsonl").write_text('{"now": 10, "events": [{"item": "item3", "time": 5}]}\n')
    out = tmp_path / "trace.json"
    words = ["--bundle", str(tiny_bundle), "--requests", str(tmp_path / "requests.jsonl"), "--out", str(out), *QUICK]
    assert main(words) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["out"] == str(out)
    assert sum(line["stages_ms"].values()) <= line["recommend_ms"]


def test_errors_and_usage_have_their_exit_codes(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["--bundle", str(tmp_path / "absent"), *QUICK]) == 3
    assert main(["--bundle", str(tiny_bundle), "--kernels", "absent.so", *QUICK]) == 1
    assert "absent.so: no such file" in caplog.text
    for words in (["--warmup", "0"], ["--history", "9", "--requests", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(["--bundle", "x", *words])
        assert stopped.value.code == 2
