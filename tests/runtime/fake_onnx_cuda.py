"""A device that is host memory, and an `onnxruntime` whose CUDA provider is its CPU provider: all is recorded."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass
class HostDevice:
    """`runtime.device.Device` over plain memory; `free` and `synchronize` are noted."""

    name: str = "cuda:1 (fake)"
    ordinal: int = 1
    compute_capability: str = "9.0"
    stream: int = 0xBEEF
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    synchronised: int = 0

    def allocate(self, size: int) -> int:
        block = np.zeros(size + 256, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.memory[address] = block
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def to_device(self, address: int, host: np.ndarray) -> None:
        ctypes.memmove(address, host.ctypes.data, host.nbytes)

    def to_host(self, host: np.ndarray, address: int) -> None:
        ctypes.memmove(host.ctypes.data, address, host.nbytes)

    def synchronize(self) -> None:
        self.synchronised += 1


class FakeBinding:
    """Records what was bound where, and binds it on the host."""

    def __init__(self, session: Any) -> None:
        self.real = session.io_binding()
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, place: str, ordinal: int, dtype: Any, shape: Sequence[int], address: int) -> None:
        self.inputs[name] = (place, ordinal, address)
        self.real.bind_input(name, "cpu", 0, dtype, shape, address)

    def bind_output(self, name: str, place: str, ordinal: int, dtype: Any, shape: Sequence[int], address: int) -> None:
        self.outputs[name] = (place, ordinal, address)
        self.real.bind_output(name, "cpu", 0, dtype, shape, address)


class FakeSession:
    """A real session on the host that says it is on CUDA, but for the nodes named in `module.on_host`."""

    def __init__(self, module: FakeOnnxruntime, path: str, settings: Any, providers: Any, options: Any) -> None:
        self.module, self.providers, self.options = module, providers, options
        self.settings = settings
        self.real = onnxruntime.InferenceSession(path, settings, providers=[CPU])
        self.bindings: list[FakeBinding] = []
        self.runs: list[dict[str, str]] = []
        self.released: list[int] = []
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs

    def get_providers(self) -> list[str]:
        return [CPU] if self.module.falls_back else [CUDA, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [node for part in self.real.get_provider_graph_assignment_info() for node in part.get_nodes()]
        on_host = [node for node in nodes if node.op_type in self.module.on_host]
        on_device = [node for node in nodes if node.op_type not in self.module.on_host]
        places = ((CUDA, on_device), (CPU, on_host))
        return [SimpleNamespace(ep_name=name, get_nodes=lambda part=part: part) for name, part in places]

    def io_binding(self) -> FakeBinding:
        self.bindings.append(FakeBinding(self.real))
        return self.bindings[-1]

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        if self.module.stops:
            raise RuntimeError(self.module.stops)
        keys = ("gpu_graph_id", "disable_synchronize_execution_providers")
        self.runs.append({key: options.get_run_config_entry(key) for key in keys})
        self.real.run_with_iobinding(binding.real)

    def release_captured_graph(self, graph: int) -> None:
        self.released.append(graph)


class FakeOnnxruntime:
    """Stands in for the module; every session that was opened is kept."""

    __version__ = "1.31.1"
    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.falls_back = False
        self.on_host: set[str] = set()
        self.offered = [CUDA, CPU]
        self.refuses: str | None = None  # what making a session says
        self.stops: str | None = None  # what a run says
        self.preload_dlls: Callable[[], None] = lambda: None

    def get_available_providers(self) -> list[str]:
        return self.offered

    def InferenceSession(  # noqa: N802 - the module's own name
        self, path: str, settings: Any, providers: Any, enable_fallback: int = 1
    ) -> FakeSession:
        assert enable_fallback == 0, "the package would print, and load the graph on the host"
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.sessions.append(FakeSession(self, path, settings, providers, providers[0][1]))
        return self.sessions[-1]
