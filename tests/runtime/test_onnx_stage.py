"""OnnxStage: bound to the caller's own memory, strict about what it is given, and never on another device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from runtime.errors import BundleError, DeviceError, FeedError, OneRankerError, UsageError
from runtime.memory import address
from runtime.onnx_stage import OnnxStage, provider_of
from runtime.stage import TensorSpec

INPUTS = [TensorSpec("left", "float32", ("B", 3)), TensorSpec("right", "float32", ("B", 3))]
OUTPUTS = [TensorSpec("total", "float32", ("B", 3)), TensorSpec("count", "int64", (2,))]
TEXT = """<ir_version: 10, opset_import: ["" : 23]>
adder (float[B, 3] left, float[B, 3] right) => (float[B, 3] total, int64[2] count)
{ total = Add (left, right)  count = Shape (left) }"""


def load(
    tmp_path: Path, text: str = TEXT, inputs: list = INPUTS, outputs: list = OUTPUTS, **options: object
) -> OnnxStage:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return OnnxStage.load("adder", path, inputs, outputs, **{"threads": 1, **options})


def feed(rows: int = 2) -> dict[str, np.ndarray]:
    left = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    return {"left": left, "right": left * 10}


def test_run_answers_with_arrays_that_no_later_call_overwrites(tmp_path: Path) -> None:
    stage = load(tmp_path)
    first = stage.run(feed())
    before = first["total"].copy()
    second = stage.run({name: array + 1 for name, array in feed().items()})
    assert np.array_equal(before, feed()["left"] * 11)
    assert np.array_equal(first["total"], before)
    assert np.array_equal(second["total"], before + 2)


def test_a_binding_reads_and_writes_the_callers_memory_in_place(tmp_path: Path) -> None:
    inputs, outputs = feed(), {"total": np.zeros((2, 3), np.float32), "count": np.zeros(2, np.int64)}
    binding = load(tmp_path).bind(inputs, outputs)
    binding.run()
    assert np.array_equal(outputs["total"], inputs["left"] * 11)
    inputs["left"] += 1  # no new binding: the session must look at the same memory again
    binding.run()
    assert np.array_equal(outputs["total"], inputs["left"] + inputs["right"])
    assert address(binding.outputs["total"]) == address(outputs["total"])


def test_an_output_that_is_not_bound_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="adder: output 'count' is missing, got total"):
        load(tmp_path).bind(feed(), {"total": np.zeros((2, 3), np.float32)})


def test_outputs_of_another_size_than_the_inputs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="outputs have B=4, inputs B=2"):
        load(tmp_path).bind(feed(), {"total": np.zeros((4, 3), np.float32), "count": np.zeros(2, np.int64)})


def test_strided_feeds_of_run_are_copied_straight(tmp_path: Path) -> None:
    wide = {name: np.repeat(array, 2, axis=1)[:, ::2] for name, array in feed().items()}
    assert np.array_equal(load(tmp_path).run(wide)["total"], feed()["left"] * 11)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (INPUTS[::-1], OUTPUTS, "the graph's inputs are left, right, the manifest says right, left"),
        (INPUTS[:1], OUTPUTS, "the graph's inputs are left, right, the manifest says left"),
        (INPUTS, OUTPUTS[:1], "the graph's outputs are total, count, the manifest says total"),
        ([INPUTS[0], TensorSpec("right", "float16", ("B", 3))], OUTPUTS, "input 'right' is tensor(float) ['B', 3]"),
        ([INPUTS[0], TensorSpec("right", "float32", ("B", 4))], OUTPUTS, "the manifest says float32 ['B', 4]"),
        ([INPUTS[0], TensorSpec("right", "float32", ("B", "S"))], OUTPUTS, "the manifest says float32 ['B', 'S']"),
        ([INPUTS[0], TensorSpec("right", "float32", (2, 3))], OUTPUTS, "the manifest says float32 [2, 3]"),
        ([INPUTS[0], TensorSpec("right", "float32", ("S", 3))], OUTPUTS, "the manifest says float32 ['S', 3]"),
        ([INPUTS[0], TensorSpec("right", "float32", (3,))], OUTPUTS, "the manifest says float32 [3]"),
    ],
    ids=["order", "input missing", "output missing", "dtype", "number", "fixed", "free", "letter", "rank"],
)
def test_a_graph_that_is_not_the_manifests_is_refused(
    tmp_path: Path, inputs: list, outputs: list, message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        load(tmp_path, inputs=inputs, outputs=outputs)
    assert message in str(caught.value)


def test_axis_names_of_an_exporter_are_no_letters(tmp_path: Path) -> None:
    load(tmp_path, text=TEXT.replace("B", "s71"))


def test_a_file_that_is_no_graph_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="cannot load this graph"):
        OnnxStage.load("adder", tmp_path / "model.onnx", INPUTS, OUTPUTS)


def test_a_graph_that_stops_is_told_with_its_shapes(tmp_path: Path) -> None:
    gather = "index = Cast <to = 7> (right)  total = GatherElements <axis = 0> (left, index)"
    stage = load(tmp_path, text=TEXT.replace("total = Add (left, right)", gather))
    with pytest.raises(OneRankerError, match=r"(?s)adder: ONNX Runtime stopped with .* left \[5, 3\]"):
        stage.run(feed(5))


def test_a_device_that_is_not_here_is_an_error_and_no_fallback() -> None:
    with pytest.raises(DeviceError, match="device 'cuda' was asked for, but this release"):
        provider_of("cuda")
    with pytest.raises(DeviceError, match="device 'tpu' was asked for"):
        provider_of("tpu")


def test_a_session_that_fails_is_not_tried_again_with_a_word_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: onnxruntime.InferenceSession, *given: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(BundleError, match="no memory"):
        load(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_session_on_another_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(DeviceError, match="the session runs on OtherExecutionProvider, expected CPUExecutionProvider"):
        load(tmp_path)


def test_a_stage_loaded_with_a_profile_says_which_nodes_each_run_had(tmp_path: Path) -> None:
    stage = load(tmp_path, profile=tmp_path / "nodes")
    for _ in range(3):
        stage.run(feed())
    path = stage.end_profiling()
    assert path.name.startswith("nodes")
    operators = [event["args"]["op_name"] for event in json.loads(path.read_text()) if event["cat"] == "Node"]
    assert sorted(operators) == ["Add"] * 3 + ["Shape"] * 3


def test_nodes_are_timed_only_when_asked_for_and_only_on_the_host(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="adder: got no timed nodes, expected a stage that is loaded with profile"):
        load(tmp_path).end_profiling()
    with pytest.raises(DeviceError, match=r"adder: got profile=.*nodes for a stage on a device, expected .* the host"):
        load(tmp_path, profile=tmp_path / "nodes", device=object())
    with pytest.raises(DeviceError, match="adder: got CUDA graphs for a stage on the host, expected them for one on a"):
        load(tmp_path, graphs=True)


def test_a_profile_can_be_ended_once_and_not_after_the_stage_is_closed(tmp_path: Path) -> None:
    stage = load(tmp_path, profile=tmp_path / "nodes")
    assert stage.end_profiling().is_file()
    with pytest.raises(UsageError, match="expected a stage that is loaded with profile=PATH and ended once"):
        stage.end_profiling()
    stage.close()
    with pytest.raises(UsageError, match=r"adder: got a closed stage, expected an open one.*before close"):
        stage.end_profiling()
