"""OnnxStage on a device: bound to device addresses on one stream, nothing left to the host, graphs counted."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from fake_onnx_cuda import CPU, CUDA, FakeOnnxruntime, HostDevice

from runtime.device import DeviceTensor
from runtime.errors import BundleError, DeviceError, FeedError
from runtime.onnx_stage import OnnxStage
from runtime.stage import TensorSpec

INPUTS = [TensorSpec("left", "float32", ("B", 3)), TensorSpec("right", "float32", ("B", 3))]
OUTPUTS = [TensorSpec("total", "float32", ("B", 3)), TensorSpec("count", "int64", (2,))]
TEXT = """<ir_version: 10, opset_import: ["" : 23]>
adder (float[B, 3] left, float[B, 3] right) => (float[B, 3] total, int64[2] count)
{ total = Add (left, right)  count = Shape (left) }"""


@pytest.fixture
def onnxruntime(monkeypatch: pytest.MonkeyPatch) -> FakeOnnxruntime:
    fake = FakeOnnxruntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


@pytest.fixture
def device() -> HostDevice:
    return HostDevice()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def load(graph: Path, device: HostDevice | None, **options: bool) -> OnnxStage:
    return OnnxStage.load("adder", graph, INPUTS, OUTPUTS, device=device, threads=1, **options)


def feed(rows: int = 2) -> dict[str, np.ndarray]:
    left = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    return {"left": left, "right": left * 10}


def tensors(device: HostDevice, rows: int = 2) -> tuple[dict[str, DeviceTensor], dict[str, DeviceTensor]]:
    """Device buffers with the feed in them, and room for the answers."""
    inputs, outputs = {}, {}
    for name, array in feed(rows).items():
        inputs[name] = DeviceTensor(device.allocate(array.nbytes), array.dtype, array.shape)
        device.to_device(inputs[name].address, array)
    for spec in OUTPUTS:
        shape = spec.sized({"B": rows})
        size = int(np.prod(shape)) * spec.numpy_dtype.itemsize
        outputs[spec.name] = DeviceTensor(device.allocate(size), spec.numpy_dtype, shape)
    return inputs, outputs


def read(device: HostDevice, tensor: DeviceTensor) -> np.ndarray:
    array = np.empty(tensor.shape, tensor.dtype)
    device.to_host(array, tensor.address)
    return array


def test_every_session_runs_on_the_devices_own_stream(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    load(graph, device), load(graph, device)
    for session in onnxruntime.sessions:
        assert [name for name, _ in session.providers] == [CUDA]
        assert session.options["user_compute_stream"] == str(0xBEEF)
        assert session.options["device_id"] == "1"
        assert session.options["do_copy_in_default_stream"] == "1"
        assert session.options["enable_cuda_graph"] == "0"


def test_a_binding_hands_the_device_addresses_to_the_session(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    inputs, outputs = tensors(device)
    binding = load(graph, device).bind(inputs, outputs)
    binding.run()
    bound = onnxruntime.sessions[0].bindings[0]
    assert bound.inputs == {name: ("cuda", 1, tensor.address) for name, tensor in inputs.items()}
    assert bound.outputs == {name: ("cuda", 1, tensor.address) for name, tensor in outputs.items()}
    assert binding.inputs == inputs
    assert binding.outputs == outputs
    assert np.array_equal(read(device, outputs["total"]), feed()["left"] * 11)


def test_a_run_waits_for_nothing(onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path) -> None:
    load(graph, device).bind(*tensors(device)).run()
    assert onnxruntime.sessions[0].runs == [{"gpu_graph_id": "-1", "disable_synchronize_execution_providers": "1"}]
    assert device.synchronised == 0


def test_host_arrays_travel_through_buffers_that_are_freed(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    answer = load(graph, device, graphs=True).run(feed(5))
    assert np.array_equal(answer["total"], feed(5)["left"] * 11)
    assert answer["count"].tolist() == [5, 3]
    assert device.synchronised == 1
    assert not device.memory
    assert onnxruntime.sessions[0].runs[0]["gpu_graph_id"] == "-1", "a graph of buffers that are gone"


def test_buffers_are_freed_when_a_run_stops(onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path) -> None:
    stage = load(graph, device)
    onnxruntime.stops = "CUDA failure 700"
    with pytest.raises(DeviceError, match=r"adder: ONNX Runtime stopped on cuda:1 \(fake\) with CUDA failure 700"):
        stage.run(feed())
    assert not device.memory


def test_out_of_memory_says_what_to_do(onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path) -> None:
    stage = load(graph, device)
    onnxruntime.stops = "BFCArena: Failed to allocate memory for requested buffer of size 7"
    with pytest.raises(DeviceError, match=r"left \[2, 3\].*Free device memory"):
        stage.bind(*tensors(device)).run()


@pytest.mark.parametrize("wrong", ["shape", "dtype", "missing", "outputs"])
def test_device_tensors_are_held_against_the_manifest(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path, wrong: str
) -> None:
    inputs, outputs = tensors(device)
    if wrong == "shape":
        inputs["left"] = DeviceTensor(inputs["left"].address, inputs["left"].dtype, (3, 2))
    elif wrong == "dtype":
        inputs["left"] = DeviceTensor(inputs["left"].address, np.dtype("float16"), (2, 3))
    elif wrong == "missing":
        del inputs["right"]
    else:
        outputs = tensors(device, rows=4)[1]
    with pytest.raises(FeedError, match="adder"):
        load(graph, device).bind(inputs, outputs)


def test_a_silent_fallback_to_the_host_names_the_libraries(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime.falls_back = True

    def opened(name: str) -> None:
        if "cublas" in name:
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", opened)
    with pytest.raises(DeviceError) as caught:
        load(graph, device)
    assert f"fell back to {CPU}" in str(caught.value)
    assert "cannot be loaded: libcublas.so.13, libcublasLt.so.13. Install" in str(caught.value)


def test_a_package_without_cuda_is_told_how_to_replace_it(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    onnxruntime.offered = [CPU]
    with pytest.raises(DeviceError, match=r"serves CPUExecutionProvider, expected CUDA.*pip uninstall -y onnxruntime"):
        load(graph, device)


def test_shape_arithmetic_on_the_host_is_listed(onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path) -> None:
    onnxruntime.on_host = {"Shape"}
    placement = load(graph, device).placement
    assert placement is not None
    assert placement.on_device == 1
    assert [told.rpartition(" ")[2] for told in placement.on_host] == ["(Shape)"]


def test_work_on_the_host_is_refused_and_named(
    onnxruntime: FakeOnnxruntime, device: HostDevice, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(TEXT.replace("Add (", "PRelu (")), path)
    onnxruntime.on_host = {"PRelu", "Shape"}
    with pytest.raises(DeviceError, match=r"adder: 1 nodes run on the host.*\(PRelu\); expected shape arithmetic"):
        load(path, device)


def test_a_graph_with_nothing_on_the_device_is_refused(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    onnxruntime.on_host = {"Add", "Shape"}
    with pytest.raises(DeviceError, match="all nodes run on the host"):
        load(graph, device)


def test_the_null_stream_is_refused_for_onnx_runtime_would_take_its_own(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    device.stream = 0
    with pytest.raises(DeviceError, match="stream 0, expected a stream of its own"):
        load(graph, device)


def test_each_binding_runs_plain_then_captures_a_graph_of_its_own_once_and_then_replays(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    stage = load(graph, device, graphs=True)
    assert onnxruntime.sessions[0].options["enable_cuda_graph"] == "1"
    small, large = stage.bind(*tensors(device, 2)), stage.bind(*tensors(device, 4))
    for binding in (small, large, small, small, large, small):
        binding.run()
    ids = [run["gpu_graph_id"] for run in onnxruntime.sessions[0].runs]
    assert ids[:2] == ["-1", "-1"], "a capture may ask for no memory: it must be there before"
    assert ids[2] == ids[3] == ids[5] != ids[4]
    assert not {"-1", "0"} & set(ids[2:]), "0 is the graph of everybody who names none"
    assert stage.graph_counts.plain == {"adder B=2": 1, "adder B=4": 1}
    assert stage.graph_counts.captured == stage.graph_counts.plain
    assert stage.graph_counts.replayed == {"adder B=2": 2}


def test_a_capture_that_fails_is_told_once_and_its_sizes_run_plain_from_then_on(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    stage, (inputs, outputs) = load(graph, device, graphs=True), tensors(device)
    binding = stage.bind(inputs, outputs)
    binding.run()
    onnxruntime.stops = "CUDA failure 900"
    with pytest.raises(DeviceError, match=r"adder B=2: no CUDA graph could be captured.*failure 900.*run without a"):
        binding.run()
    onnxruntime.stops = None
    binding.run(), stage.bind(inputs, outputs).run()
    assert {run["gpu_graph_id"] for run in onnxruntime.sessions[0].runs} == {"-1"}
    assert stage.graph_counts.plain == {"adder B=2": 3}


def test_runs_without_graphs_are_counted_as_plain(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    stage = load(graph, device)
    binding = stage.bind(*tensors(device))
    binding.run(), binding.run()
    assert stage.graph_counts.plain == {"adder B=2": 2}
    assert not stage.graph_counts.captured


def test_another_thread_captures_anew(onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path) -> None:
    stage = load(graph, device, graphs=True)
    binding = stage.bind(*tensors(device))
    binding.run(), binding.run()
    thread = threading.Thread(target=binding.run)
    thread.start(), thread.join()
    assert stage.graph_counts.captured == {"adder B=2": 2}


def test_a_binding_that_nobody_holds_gives_its_graph_back(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    stage = load(graph, device, graphs=True)
    first, second = stage.bind(*tensors(device)), stage.bind(*tensors(device))
    first.run(), first.run(), second.run()
    del first
    gc.collect()
    assert onnxruntime.sessions[0].released == [int(onnxruntime.sessions[0].runs[1]["gpu_graph_id"])]
    second.run()


def test_graphs_that_cannot_be_captured_are_an_error_with_the_next_step(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path
) -> None:
    onnxruntime.refuses = "This session cannot use the graph capture feature as requested by the user"
    with pytest.raises(DeviceError, match=r"CUDA graphs were asked for.*Ask for no CUDA graphs"):
        load(graph, device, graphs=True)


def test_graphs_on_the_host_are_refused(graph: Path) -> None:
    with pytest.raises(DeviceError, match="got CUDA graphs for a stage on the host"):
        load(graph, None, graphs=True)


@pytest.mark.parametrize(
    ("said", "kind"), [("CUDA failure 35: driver version is insufficient", DeviceError), ("bad protobuf", BundleError)]
)
def test_a_session_that_cannot_be_made_blames_the_device_or_the_file(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path, said: str, kind: type[Exception]
) -> None:
    onnxruntime.refuses = said
    with pytest.raises(kind, match=said[:10]):
        load(graph, device)


def test_what_the_package_prints_about_libraries_stays_off_stdout(
    onnxruntime: FakeOnnxruntime, device: HostDevice, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime.preload_dlls = lambda: sys.stdout.write("Failed to load libcudnn.so.9") and None
    load(graph, device)
    assert capsys.readouterr().out == ""
