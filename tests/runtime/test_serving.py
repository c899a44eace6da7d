"""Which engine and device serve: what was asked for by name or an error, "auto" as it is documented, told once."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from fake_bundle import make_request
from fake_onnx_cuda import FakeOnnxruntime
from fake_plans import Machine, edit_plan
from fake_trt import EngineValidity

from runtime import BundleError, DeviceError, Pipeline
from runtime.items import ItemIndex
from runtime.manifest import STAGES

GPU = "cuda:0 (fake)"


@pytest.mark.parametrize(
    ("engine", "device", "served"),
    [
        ("auto", "auto", ("tensorrt", GPU)),
        ("auto", "cuda", ("tensorrt", GPU)),
        ("auto", "cuda:0", ("tensorrt", GPU)),
        ("auto", "cuda:3", ("tensorrt", "cuda:3 (fake)")),
        ("auto", "cpu", ("onnxruntime", "cpu")),
        ("onnxruntime", "auto", ("onnxruntime", "cpu")),
        ("onnxruntime", "cpu", ("onnxruntime", "cpu")),
        ("tensorrt", "auto", ("tensorrt", GPU)),
        ("tensorrt", "cuda:1", ("tensorrt", "cuda:1 (fake)")),
    ],
)
def test_a_bundle_with_plans_on_a_machine_with_a_device(
    planned: Path, machine: Machine, index: ItemIndex, engine: str, device: str, served: tuple[str, str]
) -> None:
    with Pipeline.load(planned, engine, device, threads=1) as pipeline:
        assert (pipeline.engine, pipeline.device) == served
        assert pipeline.recommend([make_request(index, 3)])


def test_what_was_chosen_and_why_is_logged_once(
    bundle: Path, planned: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "runtime.bundle"):
        Pipeline.load(planned).close()
        Pipeline.load(bundle).close()
    assert [record.getMessage() for record in caplog.records] == [
        "engine tensorrt on cuda:0 (fake): the bundle has its plans and cuda:0 (fake) takes them",
        "engine onnxruntime on cpu: the bundle has no plans",
    ]


def test_without_a_device_the_cpu_serves_and_says_why(
    planned: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()
    machine = Machine(monkeypatch, "tensorrt")

    def nothing_here(ordinal: int = 0) -> None:
        raise DeviceError(f"cuda:{ordinal}: no driver.")

    monkeypatch.setattr(machine, "open", nothing_here)
    monkeypatch.setattr("runtime.serving.CudaDevice.open", nothing_here)
    with caplog.at_level(logging.INFO, "runtime.bundle"), Pipeline.load(planned) as pipeline:
        assert (pipeline.engine, pipeline.device) == ("onnxruntime", "cpu")
    assert "no device takes the plans: cuda:0: no driver." in caplog.text
    for asked in ({"device": "cuda"}, {"engine": "tensorrt"}, {"engine": "onnxruntime", "device": "cuda"}):
        with pytest.raises(DeviceError, match="cuda:0: no driver"):
            Pipeline.load(planned, **asked)


def test_without_the_engines_module_the_cpu_serves_and_says_what_to_install(
    planned: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(monkeypatch)
    with caplog.at_level(logging.INFO, "runtime.bundle"), Pipeline.load(planned) as pipeline:
        assert (pipeline.engine, pipeline.device) == ("onnxruntime", "cpu")
    assert "pip install tensorrt-cu13" in caplog.text
    with pytest.raises(DeviceError, match="engine 'tensorrt' cannot be imported"):
        Pipeline.load(planned, "tensorrt")
    assert machine.opened == []


def test_a_device_that_the_plans_are_not_for_is_left_to_the_cpu_unless_they_were_asked_for(
    planned: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.options = {"compute_capability": "9.0"}
    with caplog.at_level(logging.INFO, "runtime.bundle"), Pipeline.load(planned) as pipeline:
        assert (pipeline.engine, pipeline.device) == ("onnxruntime", "cpu")
        machine.check_freed()
    assert "built for compute capability 8.6, 8.9, cuda:0 (fake) has 9.0" in caplog.text
    with pytest.raises(DeviceError, match="built for compute capability"):
        Pipeline.load(planned, "tensorrt")


def test_plans_that_tensorrt_rtx_refuses_on_this_device_are_left_to_onnxruntime_unless_they_were_asked_for(
    damaged_plans: Path, machine: Machine, index: ItemIndex, caplog: pytest.LogCaptureFixture
) -> None:
    for stage in STAGES:
        edit_plan(damaged_plans, stage, engine="tensorrt_rtx", compute_capabilities=[])
    sys.modules["tensorrt_rtx"].Runtime.validity = (EngineValidity.INVALID, 2)  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO, "runtime.bundle"), Pipeline.load(damaged_plans) as pipeline:
        assert (pipeline.engine, pipeline.device) == ("onnxruntime", "cpu")
        assert len(pipeline.recommend([make_request(index, 3)])) == 1
        machine.check_freed()
    assert "takes this plan for invalid on cuda:0 (fake) (unsupported cc)" in caplog.text
    with pytest.raises(DeviceError, match="unsupported cc"):
        Pipeline.load(damaged_plans, "tensorrt_rtx")
    machine.check_freed()


def test_plans_of_another_version_are_an_error_where_a_device_could_serve_them(
    damaged_plans: Path, machine: Machine
) -> None:
    edit_plan(damaged_plans, "ranker", version="98")
    for engine, device in (("auto", "auto"), ("auto", "cuda"), ("tensorrt", "auto")):
        with pytest.raises(BundleError, match=r"ranker: .*built by tensorrt 98, here is tensorrt 99\.1\.2"):
            Pipeline.load(damaged_plans, engine, device)
    with Pipeline.load(damaged_plans, device="cpu") as pipeline:
        assert pipeline.engine == "onnxruntime"


@pytest.mark.parametrize(
    ("engine", "device", "message"),
    [
        ("tensorrt", "cpu", "engine 'tensorrt' was asked for on the CPU"),
        ("tensorrt_rtx", "auto", r"has plans of tensorrt\. Ask for that engine"),
        ("openvino", "auto", "engine 'openvino' was asked for, expected one of auto, onnxruntime"),
        ("auto", "tpu", "device 'tpu' was asked for, expected auto, cpu, cuda or cuda:N"),
        ("auto", "cuda:", "device 'cuda:' was asked for"),
    ],
)
def test_what_cannot_be_served_is_an_error(
    planned: Path, machine: Machine, engine: str, device: str, message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        Pipeline.load(planned, engine, device)


def test_a_bundle_without_plans_has_none_to_ask_for(bundle: Path, machine: Machine) -> None:
    with pytest.raises(DeviceError, match="has no plan of generator, enhancer, retriever, ranker"):
        Pipeline.load(bundle, "tensorrt")
    with Pipeline.load(bundle) as pipeline:
        assert (pipeline.engine, pipeline.device) == ("onnxruntime", "cpu")
    assert machine.opened == []


def test_onnx_runtime_on_a_device_answers_as_on_the_cpu(
    bundle: Path, machine: Machine, index: ItemIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [make_request(index, 3), make_request(index, 30, 1) | {"excluded": [index.id(2)]}]
    with Pipeline.load(bundle, "onnxruntime", "cpu", threads=1) as cpu:
        wanted = cpu.recommend(requests)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxruntime())
    machine.options = {"eager": True}
    with Pipeline.load(bundle, "onnxruntime", "cuda", threads=1) as pipeline:
        assert (pipeline.engine, pipeline.device) == ("onnxruntime", GPU)
        for _ in range(3):
            assert pipeline.recommend(requests) == wanted
        assert pipeline.copies.stage_to_stage == {}
        assert {key.split()[0]: count for key, count in pipeline.graphs.replayed.items()} == dict.fromkeys(STAGES, 1)
