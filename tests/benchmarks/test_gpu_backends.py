"""What a latency run does on a GPU, as far as a machine without one can tell: order, waiting, refusals, captures."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from benchmarks import cases, gpu, runtime_backend, timed_case, torch_graph, worker
from benchmarks.backend import NotRunError, Work
from benchmarks.gpu import Gpu
from benchmarks.measure import Laps, Unsplit
from benchmarks.requests import random_requests
from benchmarks.row import BACKENDS, CHAIN, ENGINE, KERNELS, RUNTIME, TENSORRT, Row, not_run, timed
from benchmarks.source import source_of
from benchmarks.torch_backend import TorchBackend
from benchmarks.torch_graph import GraphBackend
from benchmarks.worker import REFERENCE, ROUNDED, time_backend
from benchmarks.workload import Job, Workload, in_batches
from runtime.bundle import open_bundle
from runtime.errors import DeviceError, ParityError
from runtime.manifest import STAGES, Manifest
from runtime.requests import encode_requests


def job(bundle: Path, device: str = "cpu", **other: Any) -> Job:
    sizes = {"batch": 2, "iterations": 2, "warmup": 1, "threads": 1, "smallest_history": 3, "largest_history": 20}
    return Job(**{"bundle": str(bundle), "checkpoint": None, "device": device, **sizes, **other})


@pytest.fixture(scope="module")
def workload(tiny_fp16_bundle: Path) -> Workload:
    """Batches of two lengths, one of them with a filter, so that shapes differ."""
    manifest = Manifest.read(tiny_fp16_bundle)
    bundle = open_bundle(tiny_fp16_bundle, threads=1)
    source = source_of(tiny_fp16_bundle, manifest, None)
    requests = random_requests(source, manifest, 4, 7) + random_requests(source, manifest, 2, 19)
    requests[2] |= {"eligible": [f"item{i}" for i in range(9)]}
    raw = in_batches(requests, 2)
    encoded = [encode_requests(batch, bundle.tokenizer, bundle.index, 20) for batch in raw]
    return Workload(job(tiny_fp16_bundle), raw, encoded)


class FakeBackend:
    """Takes no time and notes what its chain was called with."""

    precision = "fp16"

    def __init__(self, *, staged: bool) -> None:
        self.staged = staged
        self.calls: list[type[Laps]] = []

    def prepare(self, workload: Workload) -> Mapping[str, float]:
        return {}

    def chain(self, position: int, laps: Laps) -> None:
        self.calls.append(type(laps))
        for name in STAGES:
            laps.lap(name)

    def extras(self) -> Mapping[str, Work]:
        return {}

    def outputs(self) -> Mapping[str, np.ndarray]:
        return {}


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretends that every device but "cpu" is here; one entry for each wait."""
    waits: list[str] = []

    def settle_of(device: str) -> Callable[[], None] | None:
        return None if device == "cpu" else lambda: waits.append(device)

    monkeypatch.setattr(worker, "settle_of", settle_of)
    return waits


def test_on_a_gpu_the_chain_is_timed_in_one_piece_and_the_stages_apart(workload: Workload, settled: list[str]) -> None:
    backend = FakeBackend(staged=True)
    on_gpu = replace(workload, job=replace(workload.job, device="cuda:0"))
    measured = time_backend(backend, on_gpu, ENGINE)
    assert {name: len(samples) for name, samples in measured.samples_ms.items()} == dict.fromkeys((CHAIN, *STAGES), 2)
    assert backend.calls == [Unsplit] * 3 + [Laps] * 3
    chain_waits, stage_waits = 2 + 1 + 2, 2 * (1 + 4) + 4  # every timed begin and lap, warm-up laps too
    assert len(settled) == chain_waits + stage_waits


def test_on_a_cpu_nothing_waits_and_the_stages_add_up_to_the_chain(workload: Workload, settled: list[str]) -> None:
    backend = FakeBackend(staged=True)
    samples = time_backend(backend, workload, ENGINE).samples_ms
    assert backend.calls == [Laps] * 3
    assert samples[CHAIN] == pytest.approx(np.sum([samples[name] for name in STAGES], 0).tolist())
    assert not settled


def test_a_backend_that_is_one_piece_has_a_row_for_the_chain_alone(workload: Workload, settled: list[str]) -> None:
    on_gpu = replace(workload, job=replace(workload.job, device="cuda:0"))
    assert set(time_backend(FakeBackend(staged=False), on_gpu, "x").samples_ms) == {CHAIN}


class FakeGraph:
    """`torch.cuda.CUDAGraph`: replaying computes again from whatever lies in the static inputs."""

    launch: Callable[[], dict[str, torch.Tensor]]
    made: dict[str, torch.Tensor]

    def replay(self) -> None:
        for name, tensor in self.launch().items():
            self.made[name].copy_(tensor)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """torch.cuda's graphs over plain CPU work."""
    graphs: list[FakeGraph] = []

    class Stream:
        def __init__(self, device: object = None) -> None: ...

        def wait_stream(self, other: Stream) -> None: ...

    @contextlib.contextmanager
    def nothing(what: object) -> Iterator[None]:
        yield

    class Captured(torch_graph._Captured):
        def __init__(self, graph: Any, static: Any, made: Any) -> None:
            names = [row.name for spec in backend_of[0]._eager._specs.values() for row in spec.outputs]
            graph.made = {name: made[name] for name in names}
            resident = {name: tensor for name, tensor in made.items() if name not in (*names, *static)}
            graph.launch = lambda: {k: v for k, v in backend_of[0]._forward(resident | static).items() if k in names}
            graphs.append(graph)
            super().__init__(graph, static, made)

    backend_of: list[GraphBackend] = []
    original = GraphBackend.__init__

    def init(self: GraphBackend, workload: Workload) -> None:
        original(self, workload)
        backend_of.append(self)

    monkeypatch.setattr(GraphBackend, "__init__", init)
    monkeypatch.setattr(torch_graph, "_Captured", Captured)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nothing)
    monkeypatch.setattr(torch.cuda, "graph", nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    return graphs


def test_a_captured_forward_answers_every_batch_as_eager_pytorch_does(
    workload: Workload, captured: list[FakeGraph]
) -> None:
    eager, graph = TorchBackend(workload, precision=workload.precision), GraphBackend(workload)
    assert graph.prepare(workload)[STAGES[0]] > 0
    assert len(captured) == 3, "two lengths, and the batch with a filter has another shape"
    for position in (0, 1, 2, 0):
        eager.chain(position, Laps()), graph.chain(position, Laps())
        for name, array in eager.outputs().items():
            assert np.array_equal(graph.outputs()[name], array), name
    assert len(captured) == 3


def test_a_forward_that_cannot_be_captured_is_a_row_with_the_reason(
    workload: Workload, captured: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(graph: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.raises(
        NotRunError, match=r"^torch.cuda.graph raised RuntimeError: operation not permitted when stream"
    ):
        GraphBackend(workload).prepare(workload)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How pipelines were asked for, none of which could be loaded."""
    asked: list[dict[str, Any]] = []

    def load(bundle: str, **given: Any) -> None:
        asked.append(given)
        raise DeviceError("no CUDA here")

    monkeypatch.setattr(runtime_backend.Pipeline, "load", load)
    monkeypatch.setattr(worker, "memory_taken_mib", lambda device: 0.0)
    return asked


@pytest.mark.parametrize("name", [name for name in RUNTIME if name != KERNELS])
def test_an_engine_that_cannot_run_on_the_gpu_is_a_row_and_no_crash(
    tiny_fp16_bundle: Path, workload: Workload, tmp_path: Path, refused: list[dict[str, Any]], name: str
) -> None:
    replace(workload, job=job(tiny_fp16_bundle, "cuda:1")).write(tmp_path)
    worker.work(tmp_path, name)
    told = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["not_run"]
    asked = {"engine": ENGINE, "device": "cuda:1", "threads": 1}
    if name == TENSORRT:
        assert "has no TensorRT plans" in told
        assert refused == []
    else:
        assert told == "no CUDA here"
        assert refused == [asked | {"cuda_graphs": name == ENGINE}]


def test_an_engine_that_cannot_run_on_the_cpu_is_an_error(
    workload: Workload, tmp_path: Path, refused: list[dict[str, Any]]
) -> None:
    workload.write(tmp_path)
    with pytest.raises(DeviceError):
        worker.work(tmp_path, ENGINE)


def rows(*samples: tuple[str, list[float]]) -> list[Row]:
    found = []
    for backend, times in samples:
        row = Row(case="chain-b1", stage=CHAIN, engine=backend, batch=1)
        found.append(timed(row, [times]) if times else not_run(row, f"no {backend}"))
    return found


def test_a_run_in_which_no_engine_of_the_runtime_ran_is_an_error() -> None:
    wrong = cases._what_is_wrong(Path("b"), rows(("pytorch-eager", [1.0]), (ENGINE, []), (TENSORRT, [])), [])
    assert isinstance(wrong, DeviceError)
    assert "onnxruntime not run: no onnxruntime; tensorrt not run: no tensorrt" in str(wrong)
    assert cases._what_is_wrong(Path("b"), rows((ENGINE, [1.0]), (TENSORRT, [])), []) is None
    assert isinstance(cases._what_is_wrong(Path("b"), rows((ENGINE, [1.0])), ["off"]), ParityError)


@pytest.mark.parametrize("own", [(), (ROUNDED,), (REFERENCE,)], ids=["fp32", "half on CPU", "half on GPU"])
def test_the_yardsticks_are_eager_in_both_precisions(tmp_path: Path, own: tuple[str, ...]) -> None:
    for mark, name in enumerate(("pytorch-eager", *own)):
        save_file({"x": np.array([mark])}, tmp_path / f"{name}.safetensors")
    rounded, reference = (answers["x"][0] for answers in timed_case._yardsticks(tmp_path))
    assert (rounded, reference) == (int(ROUNDED in own), int(REFERENCE in own))


def test_a_gpu_is_compared_with_more_than_a_cpu() -> None:
    assert set(RUNTIME) - {KERNELS} < set(BACKENDS["cuda"])
    assert set(BACKENDS["cpu"]) - {KERNELS} < set(BACKENDS["cuda"])


@pytest.mark.parametrize(("word", "ordinal"), [("cuda", 0), ("cuda:3", 3)])
def test_a_device_word_names_its_ordinal(word: str, ordinal: int) -> None:
    assert gpu.ordinal_of(word) == ordinal


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA"])
def test_another_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="expected cpu, cuda or cuda:N"):
        gpu.ordinal_of(word)


def test_the_gpu_that_was_asked_for_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Facts:
        name, major, minor, total_memory = "NVIDIA H200", 9, 0, 2**37

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.159.03\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda ordinal: Facts)
    found = gpu.find_gpu("cuda:1")
    assert replace(found, cuda="13.0") == Gpu(1, "NVIDIA H200", "9.0", 2**17, "580.159.03", "13.0")
    assert str(found) == "cuda:1 (NVIDIA H200, compute capability 9.0)"
    with pytest.raises(DeviceError, match="device 'cuda:2' was asked for"):
        gpu.find_gpu("cuda:2")


def test_an_error_code_of_cuda_is_an_error() -> None:
    assert gpu._answered((0, 1, 2)) == [1, 2]
    with pytest.raises(DeviceError, match="CUDA answered 35"):
        gpu._answered((35,))
