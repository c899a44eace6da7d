"""A CUDA device through NVIDIA's cuda-bindings: one stream, memory, captured graphs. Not run on a GPU."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from runtime.device import Array
from runtime.errors import DeviceError
from runtime.memory import address

BINDINGS = "cuda.bindings.runtime"
_INSTALL = "Run `pip install -e '.[gpu]'` in the clone"
_DRIVER = "Install an NVIDIA driver for CUDA 13 (580 or newer) and check `nvidia-smi`, or ask for device='cpu'"
_LOST = "The device's state is lost: start the process again, and report the bundle if it happens twice"
_NO_GRAPH = "Load the bundle with cuda_graphs=False"
_NEXT = {  # by the name of CUDA's error
    "cudaErrorInsufficientDriver": _DRIVER,
    "cudaErrorNoDevice": _DRIVER,
    "cudaErrorInitializationError": _DRIVER,
    "cudaErrorSystemDriverMismatch": _DRIVER,
    "cudaErrorSystemNotReady": _DRIVER,
    "cudaErrorInvalidDevice": "Ask for a device that `nvidia-smi -L` lists",
    "cudaErrorDevicesUnavailable": "Another process has the device for itself: end it, or ask for another device",
    "cudaErrorIllegalAddress": _LOST,
    "cudaErrorLaunchFailure": _LOST,
    "cudaErrorLaunchTimeout": _LOST,
    "cudaErrorECCUncorrectable": _LOST,
    "cudaErrorHardwareStackError": _LOST,
}


class CudaDevice:
    """One CUDA device and one stream of its own on it. Not run on a GPU.

    One thread at a time, and `activate` first in each: the current device is a thread's own state in CUDA. Several
    CudaDevices of one ordinal share the device and nothing else.
    """

    def __init__(self, cuda: Any, ordinal: int) -> None:
        self._cuda = cuda
        self.ordinal = ordinal
        self.name = f"cuda:{ordinal}"
        self._allocated: dict[int, int] = {}  # address -> bytes
        self._pinned: dict[int, Array] = {}
        self._closed = False
        self.activate()
        properties = self._do("cudaGetDeviceProperties", ordinal)
        self.name = f"cuda:{ordinal} ({properties.name.decode()})"
        self.compute_capability = f"{properties.major}.{properties.minor}"
        # one that does not wait for the null stream, on which other libraries of the process may work
        self._stream = self._do("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    @classmethod
    def open(cls, ordinal: int = 0) -> Self:
        """Take a device.

        Raises:
            DeviceError: If cuda-bindings, the driver or the device is not here.
        """
        where = f"cuda:{ordinal}"
        try:
            cuda: Any = importlib.import_module(BINDINGS)
        except ImportError as missing:
            raise DeviceError(f"{where}: {BINDINGS} cannot be imported ({missing}). {_INSTALL}.") from missing
        try:
            error, found = cuda.cudaGetDeviceCount()
        except RuntimeError as missing:  # the bindings open CUDA's library at the first call
            raise DeviceError(f"{where}: CUDA's runtime library cannot be loaded ({missing}). {_INSTALL}.") from missing
        if int(error):
            raise _error(cuda, where, "cudaGetDeviceCount", error)
        if not 0 <= ordinal < found:
            listed = f"cuda:0 .. cuda:{found - 1}" if found else "none"
            raise DeviceError(f"{where}: no such device, expected one of {listed}. {_NEXT['cudaErrorInvalidDevice']}.")
        return cls(cuda, ordinal)

    def activate(self) -> None:
        """Make this device the thread's, and let no capture of another thread forbid what this one does.

        ONNX Runtime captures in global mode: meanwhile an allocation in any other thread would fail, and spoil the
        graph, unless that thread has said that captures elsewhere are none of its business.
        """
        self._do("cudaSetDevice", self.ordinal)
        self._do("cudaThreadExchangeStreamCaptureMode", self._mode.cudaStreamCaptureModeThreadLocal)

    def allocate(self, size: int) -> int:
        error, begin = self._cuda.cudaMalloc(size)
        if int(error):
            raise self._full(error, "cudaMalloc", size)
        begin = int(begin)
        self._allocated[begin] = size
        self._do("cudaMemsetAsync", begin, 0, size, self._stream)
        return begin

    def free(self, address: int) -> None:
        del self._allocated[address]
        self._do("cudaFree", address)

    def pinned(self, size: int) -> Array:
        error, pointer = self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault)
        if int(error):
            raise self._full(error, "cudaHostAlloc", size)
        memory: Array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(pointer)))
        self._pinned[int(pointer)] = memory
        return memory

    def unpin(self, memory: Array) -> None:
        pointer = address(memory)
        del self._pinned[pointer]
        self._do("cudaFreeHost", pointer)

    def to_device(self, address: int, host: Array) -> None:
        self._copy(address, _pointer(host), host.nbytes, "cudaMemcpyHostToDevice")

    def to_host(self, host: Array, address: int) -> None:
        self._copy(_pointer(host), address, host.nbytes, "cudaMemcpyDeviceToHost")

    def copy(self, to: int, source: int, size: int) -> None:
        self._copy(to, source, size, "cudaMemcpyDeviceToDevice")

    def capture(self, launch: Callable[[], None]) -> CudaGraph:
        """Record what `launch` enqueues on the stream instead of running it.

        Thread-local mode: what other threads do meanwhile, such as the allocations of another pipeline, does not
        disturb; what this thread does beside the stream and a graph cannot hold is an error instead of being left out.
        """
        self._do("cudaStreamBeginCapture", self._stream, self._mode.cudaStreamCaptureModeThreadLocal)
        try:
            launch()
        except BaseException:
            self._abandon_capture()
            raise
        graph = self._do("cudaStreamEndCapture", self._stream)
        try:
            return CudaGraph(self, self._do("cudaGraphInstantiate", graph, 0))
        finally:
            self._do("cudaGraphDestroy", graph)

    def synchronize(self) -> None:
        self._do("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Wait for the stream, then free device memory, host memory and the stream; the first failure is raised."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as last:  # runs from the end
            last.callback(self._do, "cudaStreamDestroy", self._stream)
            for pointer in self._pinned:
                last.callback(self._do, "cudaFreeHost", pointer)
            for begin in self._allocated:
                last.callback(self._do, "cudaFree", begin)
            last.callback(self.synchronize)
            last.callback(self.activate)
            self._pinned, self._allocated = {}, {}

    @property
    def _mode(self) -> Any:
        return self._cuda.cudaStreamCaptureMode

    def _copy(self, to: int, source: int, size: int, kind: str) -> None:
        self._do("cudaMemcpyAsync", to, source, size, getattr(self._cuda.cudaMemcpyKind, kind), self._stream)

    def _abandon_capture(self) -> None:
        """End a capture whose launches failed, so that the stream can be used again; its own error is expected."""
        _, graph = self._cuda.cudaStreamEndCapture(self._stream)
        if graph is not None and int(graph):
            self._cuda.cudaGraphDestroy(graph)
        self._cuda.cudaGetLastError()

    def _do(self, call: str, *arguments: Any) -> Any:
        """Call CUDA; its one result, None if it has none."""
        error, *results = getattr(self._cuda, call)(*arguments)
        if int(error):
            self._cuda.cudaGetLastError()  # else a library that asks for the last error takes ours for its own
            raise _error(self._cuda, self.name, call, error)
        return results[0] if results else None

    def _full(self, error: Any, call: str, size: int) -> DeviceError:
        """What a failed allocation means."""
        self._cuda.cudaGetLastError()
        if _text(self._cuda.cudaGetErrorName(error)) != "cudaErrorMemoryAllocation":
            return _error(self._cuda, self.name, call, error)
        if call == "cudaHostAlloc":
            return DeviceError(
                f"{self.name}: {call} got no {size:,} bytes of page-locked host memory. Raise the limit on locked "
                "memory (`ulimit -l`), or load fewer pipelines."
            )
        failed, free, total = self._cuda.cudaMemGetInfo()
        room = "how much is free is unknown" if int(failed) else f"{free:,} of {total:,} bytes are free"
        return DeviceError(
            f"{self.name}: {call} got no {size:,} bytes, {room}. End other processes on the device, load fewer "
            "pipelines, or rebuild with smaller --max-shapes."
        )


class CudaGraph:
    """An instantiated graph of one device. Not run on a GPU."""

    def __init__(self, device: CudaDevice, executable: Any) -> None:
        self._device = device
        self._executable = executable

    def launch(self) -> None:
        self._device._do("cudaGraphLaunch", self._executable, self._device._stream)

    def close(self) -> None:
        if self._executable is not None:
            executable, self._executable = self._executable, None
            self._device._do("cudaGraphExecDestroy", executable)


def _error(cuda: Any, where: str, call: str, error: Any) -> DeviceError:
    """One sentence for an error of CUDA: where, what was called, what it said, what to do."""
    name, meaning = _text(cuda.cudaGetErrorName(error)), _text(cuda.cudaGetErrorString(error))
    capturing = name.startswith("cudaErrorStreamCapture") or "Graph" in call
    step = _NEXT.get(name, _NO_GRAPH if capturing else "Ask for device='cpu' to go on, and report this")
    return DeviceError(f"{where}: {call} failed with {name} ({meaning}), expected success. {step}.")


def _text(answer: tuple[Any, bytes]) -> str:
    """The text in an answer of cudaGetErrorName or cudaGetErrorString."""
    return answer[1].decode()


def _pointer(host: Array) -> int:
    assert host.flags.c_contiguous, "an array that travels must be one block"
    return address(host)
