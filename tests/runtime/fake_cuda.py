"""`cuda.bindings.runtime` as a recorder: every call is noted, and any of them can be made to fail."""

# ruff: noqa: N802, N815 - these are CUDA's names

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace
from typing import Any

import numpy as np


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


class FakeCuda:
    """Answers as the module does: a tuple that begins with the error. `failing` maps a call to its error."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread local")
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host", cudaMemcpyDeviceToDevice="within"
    )

    def __init__(self, devices: int = 2) -> None:
        self.devices = devices
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, Error] = {}
        self._addresses = iter(range(0x10000, 0x1000000, 0x1000))
        self._host: dict[int, Any] = {}

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            if error := self.failing.get(name, 0):
                return (error, None)
            return (Error.cudaSuccess, *self._results(name, arguments))

        return call

    def _results(self, name: str, arguments: tuple[Any, ...]) -> list[Any]:
        if name in ("cudaMalloc", "cudaStreamCreateWithFlags", "cudaStreamEndCapture", "cudaGraphInstantiate"):
            return [next(self._addresses)]
        if name == "cudaHostAlloc":
            memory = (ctypes.c_uint8 * arguments[0])()
            pointer = ctypes.addressof(memory)
            self._host[pointer] = memory
            return [pointer]
        return {
            "cudaGetDeviceCount": [self.devices],
            "cudaGetDeviceProperties": [SimpleNamespace(name=b"NVIDIA H200", major=9, minor=0)],
            "cudaMemGetInfo": [1_000, 64_000],
        }.get(name, [])

    def cudaGetErrorName(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, f"what {int(error)} means".encode()


def pointer(array: np.ndarray) -> int:
    return int(array.ctypes.data)
