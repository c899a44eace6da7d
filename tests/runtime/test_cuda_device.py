"""CudaDevice calls CUDA in the right order, frees what it took, and turns every error into one sentence."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import Error, FakeCuda, pointer

from runtime.cuda_device import BINDINGS, CudaDevice
from runtime.errors import DeviceError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, BINDINGS, fake)
    return fake


def message(caught: pytest.ExceptionInfo[DeviceError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_opening_takes_one_stream_that_waits_for_no_other(cuda: FakeCuda) -> None:
    device = CudaDevice.open(1)
    assert cuda.calls == [
        ("cudaGetDeviceCount",),
        ("cudaSetDevice", 1),
        ("cudaThreadExchangeStreamCaptureMode", "thread local"),
        ("cudaGetDeviceProperties", 1),
        ("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking),
    ]
    assert (device.name, device.compute_capability, device.stream) == ("cuda:1 (NVIDIA H200)", "9.0", 0x10000)


def test_a_capture_in_another_thread_forbids_nothing_in_a_thread_that_activated_the_device(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.calls.clear()
    device.activate()
    assert cuda.calls == [("cudaSetDevice", 0), ("cudaThreadExchangeStreamCaptureMode", "thread local")]


def test_memory_is_zeroed_on_the_stream_and_freed_by_its_address(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.calls.clear()
    address = device.allocate(300)
    device.free(address)
    assert cuda.calls == [
        ("cudaMalloc", 300),
        ("cudaMemsetAsync", address, 0, 300, device.stream),
        ("cudaFree", address),
    ]
    with pytest.raises(KeyError):
        device.free(address)


def test_copies_name_their_direction_and_the_stream(cuda: FakeCuda) -> None:
    device, host = CudaDevice.open(), np.arange(6, dtype=np.int32).reshape(2, 3)
    cuda.calls.clear()
    device.to_device(4096, host)
    device.to_host(host, 8192)
    device.copy(4096, 8192, 24)
    device.synchronize()
    assert cuda.calls == [
        ("cudaMemcpyAsync", 4096, pointer(host), 24, "to device", device.stream),
        ("cudaMemcpyAsync", pointer(host), 8192, 24, "to host", device.stream),
        ("cudaMemcpyAsync", 4096, 8192, 24, "within", device.stream),
        ("cudaStreamSynchronize", device.stream),
    ]


def test_page_locked_memory_is_an_array_and_can_be_given_back(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    memory = device.pinned(100)
    memory[:] = 7
    assert (memory.dtype, memory.shape, int(memory.sum())) == (np.uint8, (100,), 700)
    device.unpin(memory)
    assert cuda.calls[-1] == ("cudaFreeHost", pointer(memory))


def test_a_capture_records_between_begin_and_end_and_keeps_the_executable_alone(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.calls.clear()
    graph = device.capture(lambda: cuda.calls.append(("launched",)))
    graph.launch()
    graph.close()
    graph.close()
    assert cuda.names() == [
        "cudaStreamBeginCapture", "launched", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy",
        "cudaGraphLaunch", "cudaGraphExecDestroy",
    ]  # fmt: skip
    assert cuda.calls[0] == ("cudaStreamBeginCapture", device.stream, "thread local")
    captured, executable = cuda.calls[3][1], cuda.calls[5][1]
    assert captured != executable
    assert cuda.calls[4][1] == captured
    assert cuda.calls[5:] == [("cudaGraphLaunch", executable, device.stream), ("cudaGraphExecDestroy", executable)]


def test_a_launch_that_fails_ends_the_capture_so_that_the_stream_can_be_used(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.calls.clear()

    def fails() -> None:
        raise DeviceError("the engine said no")

    with pytest.raises(DeviceError, match="the engine said no"):
        device.capture(fails)
    assert cuda.names() == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphDestroy", "cudaGetLastError"]


def test_a_capture_that_cannot_be_ended_says_how_to_go_on(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.failing["cudaStreamEndCapture"] = Error.cudaErrorStreamCaptureInvalidated
    with pytest.raises(DeviceError) as caught:
        device.capture(lambda: None)
    assert message(caught) == (
        "cuda:0 (NVIDIA H200): cudaStreamEndCapture failed with cudaErrorStreamCaptureInvalidated (what 901 means), "
        "expected success. Load the bundle with cuda_graphs=False."
    )


def test_a_graph_that_does_not_fit_is_destroyed(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.failing["cudaGraphInstantiate"] = Error.cudaErrorMemoryAllocation
    with pytest.raises(DeviceError, match="cudaGraphInstantiate failed with cudaErrorMemoryAllocation"):
        device.capture(lambda: None)
    assert cuda.names()[-1] == "cudaGraphDestroy"


def test_out_of_memory_says_what_was_asked_for_and_what_there_is(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.failing["cudaMalloc"] = cuda.failing["cudaHostAlloc"] = Error.cudaErrorMemoryAllocation
    with pytest.raises(DeviceError) as caught:
        device.allocate(2_000_000)
    assert message(caught).startswith(
        "cuda:0 (NVIDIA H200): cudaMalloc got no 2,000,000 bytes, 1,000 of 64,000 bytes are free. End other processes"
    )
    assert cuda.names().count("cudaGetLastError") == 1  # or a library would find our error there
    with pytest.raises(DeviceError, match="cudaHostAlloc got no 5 bytes of page-locked host memory"):
        device.pinned(5)
    device.close()
    assert "cudaFree" not in cuda.names()


def test_a_lost_device_says_that_the_process_must_start_again(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    cuda.failing["cudaStreamSynchronize"] = Error.cudaErrorIllegalAddress
    with pytest.raises(DeviceError) as caught:
        device.synchronize()
    assert message(caught) == (
        "cuda:0 (NVIDIA H200): cudaStreamSynchronize failed with cudaErrorIllegalAddress (what 700 means), expected "
        "success. The device's state is lost: start the process again, and report the bundle if it happens twice."
    )
    assert cuda.names()[-1] == "cudaGetLastError"


def test_close_waits_then_frees_everything_once(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    kept = [device.allocate(10) for _ in range(3)]
    device.free(kept.pop())
    device.pinned(8)
    cuda.calls.clear()
    device.close()
    device.close()
    assert [name for name in cuda.names() if "Thread" not in name] == [
        "cudaSetDevice", "cudaStreamSynchronize", "cudaFree", "cudaFree", "cudaFreeHost", "cudaStreamDestroy",
    ]  # fmt: skip
    assert {call[1] for call in cuda.calls if call[0] == "cudaFree"} == set(kept)


def test_close_frees_what_it_can_of_a_lost_device_and_tells(cuda: FakeCuda) -> None:
    device = CudaDevice.open()
    device.allocate(10)
    cuda.failing["cudaStreamSynchronize"] = cuda.failing["cudaFree"] = Error.cudaErrorIllegalAddress
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        device.close()
    assert cuda.names()[-1] == "cudaStreamDestroy"


@pytest.mark.parametrize("error", [Error.cudaErrorInsufficientDriver, Error.cudaErrorNoDevice])
def test_a_machine_without_a_driver_is_told_to_install_one(cuda: FakeCuda, error: Error) -> None:
    cuda.failing["cudaGetDeviceCount"] = error
    with pytest.raises(DeviceError) as caught:
        CudaDevice.open(1)
    assert message(caught) == (
        f"cuda:1: cudaGetDeviceCount failed with {error.name} (what {int(error)} means), expected success. "
        "Install an NVIDIA driver for CUDA 13 (580 or newer) and check `nvidia-smi`, or ask for device='cpu'."
    )


def test_a_device_that_is_not_there_names_those_that_are(cuda: FakeCuda) -> None:
    with pytest.raises(DeviceError, match=r"cuda:2: no such device, expected one of cuda:0 \.\. cuda:1\."):
        CudaDevice.open(2)


def test_a_machine_without_cuda_bindings_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, BINDINGS, None)
    with pytest.raises(DeviceError, match=r"cannot be imported .* Run `pip install -e '\.\[gpu\]'` in the clone"):
        CudaDevice.open()


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_the_bindings_have_every_call_and_constant_that_is_used() -> None:
    from cuda.bindings import runtime as real

    text = (ROOT / "runtime" / "cuda_device.py").read_text()
    used = {name for pair in re.findall(r"\"(cuda[A-Z]\w+)\"|\.(cuda[A-Z]\w+)", text) for name in pair if name}
    errors = {name for name in used if name.startswith("cudaError")}
    assert len(used - errors) > 20
    assert {one for one in errors if not any(name.startswith(one) for name in real.cudaError_t.__members__)} == set()
    places = (real, real.cudaMemcpyKind, real.cudaStreamCaptureMode)
    assert {name for name in used - errors if not any(hasattr(place, name) for place in places)} == set()


def test_the_real_bindings_of_this_machine_answer_with_a_device_or_one_sentence() -> None:
    """In a process of its own: CUDA's libraries may do anything."""
    program = "from runtime.cuda_device import CudaDevice\nfrom runtime.errors import DeviceError\n"
    program += "try: CudaDevice.open().close()\nexcept DeviceError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not done.stdout or done.stdout.startswith("cuda:0: ")
