"""An engine module whose plans name an ONNX graph and whose engines are ONNX Runtime sessions on a `FakeDevice`."""

from __future__ import annotations

import enum
import json
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from fake_device import STREAMS, FakeDevice

from runtime.device import DeviceTensor

VERSION = "99.1.2"
CONTEXTS: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    MALFORMED_ENGINE = 32


DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT32", "INT64"])
DTYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int32)": (DataType.INT32, np.int32),
    "tensor(int64)": (DataType.INT64, np.int64),
}


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> ICudaEngine | None:
        try:
            plan = json.loads(data)
            graph = Path(plan["graph"])
        except (ValueError, KeyError):
            self.logger.log(Severity.VERBOSE, "noise")
            self.logger.log(Severity.ERROR, "Error Code 1: not\n a fake plan")
            return None
        return ICudaEngine(plan, graph, self.logger)


class RtxRuntime(Runtime):
    validity: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)

    def get_engine_validity(self, data: bytes) -> tuple[EngineValidity, int]:
        return self.validity


class ICudaEngine:
    def __init__(self, plan: dict[str, Any], graph: Path, logger: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.plan, self.logger = plan, logger
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.nodes = self.inputs | self.outputs
        self.num_io_tensors = len(self.nodes)
        self.num_optimization_profiles = len(plan["profiles"])
        self.rtx = plan.get("rtx", False)

    def get_tensor_name(self, number: int) -> str:
        return list(self.nodes)[number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DTYPES[self.nodes[name].type][0]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [dim if isinstance(dim, int) else -1 for dim in self.nodes[name].shape]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.plan.get("on_host", []) else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, number: int) -> list[list[int]]:
        return self.plan["profiles"][number][name]

    def get_device_memory_size_for_profile_v2(self, number: int) -> int:
        return self.plan["scratch"][number]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        if self.plan.get("no_context"):
            self.logger.log(Severity.ERROR, "no room for a context")
            return None
        return (RtxContext if self.rtx else IExecutionContext)(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.scratch: tuple[int, int] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.launched = False
        CONTEXTS.add(self)

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        assert size >= max(self.engine.plan["scratch"])
        self.scratch = (address, size)

    def refuses(self, what: str) -> bool:
        if self.engine.plan.get("refuses") == what:
            message = f"no {what} today"
            self.engine.logger.log(Severity.ERROR, message)
            return True
        return False

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert not STREAMS[stream].capturing
        self.profile = number
        return number < self.engine.num_optimization_profiles and not self.refuses("profile")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "shapes belong to a profile"
        low, _, high = self.engine.plan["profiles"][self.profile][name]
        self.shapes[name] = tuple(shape)
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        return fits and not self.refuses("shape")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return not self.refuses("address")

    def infer_shapes(self) -> list[str]:
        if missing := [name for name in self.engine.inputs if name not in self.shapes]:
            return missing
        if self.refuses("inference"):
            raise RuntimeError("shapes do not fit")
        if self.refuses("knowledge"):
            return ["token_time"]
        sizes: dict[Any, int] = {}
        for name, node in self.engine.inputs.items():
            sizes.update(zip(node.shape, self.shapes[name], strict=True))
        for name, node in self.engine.outputs.items():
            self.shapes[name] = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in node.shape)
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (9, *self.shapes[name][1:]) if self.refuses("output") else self.shapes[name]

    def execute_async_v3(self, stream: int) -> bool:
        device = STREAMS[stream]
        if self.refuses("launch"):
            return False
        if device.capturing and not self.launched:
            self.engine.logger.log(Severity.ERROR, "the first launch loads kernels and cannot be captured")
            return False
        self.launched = True
        tensors = {
            name: DeviceTensor(self.addresses[name], np.dtype(DTYPES[node.type][1]), self.shapes[name])
            for name, node in self.engine.nodes.items()
        }
        alive, engine, scratch = weakref.ref(self), self.engine, self.scratch
        assert scratch or not max(engine.plan["scratch"]), "no scratch memory was given"

        def work() -> None:
            assert alive() is not None, "the context was freed before its work was done"
            if scratch:
                device.bytes(*scratch)[:] = np.random.default_rng().integers(256, size=scratch[1], dtype=np.uint8)
            feed = {name: device.view(tensors[name]).copy() for name in engine.inputs}
            for name, array in zip(engine.outputs, engine.session.run(list(engine.outputs), feed), strict=True):
                device.view(tensors[name])[...] = array

        device.enqueue(work)
        return True


class RtxContext(IExecutionContext):
    """Compiles its kernels beside the first two launches, as TensorRT-RTX may."""

    asked = 0

    def is_stream_capturable(self, stream: int) -> bool:
        assert isinstance(STREAMS[stream], FakeDevice)
        self.asked += 1
        return self.asked > 1


def fake_module(name: str) -> Any:
    """A module to put into sys.modules as "tensorrt" or "tensorrt_rtx"."""
    module: Any = ModuleType(name)
    module.__version__ = VERSION
    for kind in (ILogger, TensorIOMode, TensorLocation, ExecutionContextAllocationStrategy, DataType):
        setattr(module, kind.__name__, kind)
    module.Runtime = Runtime
    if name == "tensorrt_rtx":
        module.Runtime = type("RtxRuntime", (RtxRuntime,), {})
        module.EngineValidity, module.EngineInvalidityDiagnostics = EngineValidity, EngineInvalidityDiagnostics
    return module
