"""One stage on ONNX Runtime: a session tied to the caller's memory, on the host or on a device, by raw pointers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from runtime.device import Device, GraphCounts
from runtime.device_feed import run_on_device
from runtime.errors import BundleError, DeviceError, OneRankerError, UsageError
from runtime.memory import address
from runtime.onnx_cuda import CudaBinding, Placement, open_session
from runtime.stage import Array, Binding, Feed, Tensors, TensorSpec, check_binding, check_feed, parse_dim

PROVIDERS = {"cpu": "CPUExecutionProvider"}
_ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}
_ALPHABET_DIM = re.compile(r"[A-Z0-9](\s*\+\s*[A-Z0-9]+)*")  # "B" or "N + 1", not an exporter's "s12" or "unk__3"


class OnnxBinding:
    """One session with every input and output at a fixed address and shape."""

    def __init__(self, stage: str, session: Any, inputs: Tensors, outputs: Tensors) -> None:
        self.inputs = inputs  # kept alive here: the session holds bare pointers
        self.outputs = outputs
        self._stage = stage
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, address(array))
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, address(array))

    def run(self) -> None:
        """Run the graph once, in place."""
        try:
            self._run(self._binding)
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in self.inputs.items())
            raise OneRankerError(
                f"{self._stage}: ONNX Runtime stopped with {error} at {shapes}. "
                "The graph and its manifest disagree: rebuild with `python -m export.build --stage all`."
            ) from error

    def close(self) -> None: ...


class OnnxStage:
    """A graph loaded into an ONNX Runtime session, on the device that was asked for and no other.

    On a device every binding's `run` returns before the work is done: `device.synchronize` waits for it.
    """

    def __init__(
        self,
        name: str,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        device: Device | None = None,
        placement: Placement | None = None,
        graphs: bool = False,
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.device = device
        self.placement = placement  # of the nodes; None on the host
        self.graph_counts = GraphCounts()
        self.refused: set[str] = set()  # keys of bindings that could not be captured
        self._session = session
        self._graph_ids = itertools.count(1) if graphs else None  # one for each binding, never used again
        _check_graph(name, "input", self.inputs, session.get_inputs())
        _check_graph(name, "output", self.outputs, session.get_outputs())

    @classmethod
    def load(
        cls,
        name: str,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        device: Device | None = None,
        threads: int | None = None,
        graphs: bool = False,
        kernels: Path | None = None,
        profile: Path | None = None,
    ) -> Self:
        """Open a graph on the host (no `device`) or on a CUDA device, there with captured CUDA graphs if asked for.

        `kernels` is a library of custom operators for the host; they take the place of function bodies in the graph.
        With `profile`, the start of a file's path, ONNX Runtime times every node on the host, which costs time itself;
        `end_profiling` gives the file.

        Raises:
            BundleError: If the graph cannot be read, or its inputs and outputs are not the manifest's.
            DeviceError: If ONNX Runtime or the device is not here, or cannot do what was asked for.
        """
        if device is not None:
            if profile is not None:
                raise DeviceError(
                    f"{name}: got profile={profile} for a stage on a device, expected it for one on the host. "
                    "Leave profile out, or device."
                )
            session, placement = open_session(name, path, device, _settings(threads), graphs=graphs)
            return cls(name, session, inputs, outputs, device=device, placement=placement, graphs=graphs)
        if graphs:
            raise DeviceError(
                f"{name}: got CUDA graphs for a stage on the host, expected them for one on a CUDA device. "
                "Leave graphs out, or ask for the device."
            )
        provider = provider_of("cpu")
        import onnxruntime

        settings = _settings(threads)
        if kernels is not None:
            _register(settings, kernels)
        if profile is not None:
            settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
        try:
            session = onnxruntime.InferenceSession(str(path), settings, [provider], enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BundleError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load this graph ({error}). {next_step(error)}"
            ) from error
        if (found := session.get_providers()[0]) != provider:
            raise DeviceError(f"{name}: the session runs on {found}, expected {provider}. Ask for device='cpu'.")
        return cls(name, session, inputs, outputs)

    def bind(self, inputs: Tensors, outputs: Tensors) -> Binding:
        """Tie the session to this very memory: the first is read and the second written at every run.

        Host arrays for a stage on the host, DeviceTensors for one on a device.

        Raises:
            FeedError: If a tensor is missing, unknown, or of another dtype or shape.
        """
        bound = check_binding(self.name, self.inputs, self.outputs, inputs, outputs)
        return self._bind(inputs, outputs, bound, captured=True)

    def run(self, feed: Feed) -> dict[str, Array]:
        """Answer with fresh host arrays that no later call will overwrite.

        Raises:
            FeedError: If a tensor is missing, unknown, or of another dtype or shape.
        """
        if self.device is not None:
            return run_on_device(self.name, self.device, self.inputs, self.outputs, self._bind_once, feed)
        feed = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        letters = check_feed(self.name, self.inputs, feed)
        outputs = {spec.name: np.empty(spec.sized(letters), spec.numpy_dtype) for spec in self.outputs}
        self.bind(feed, outputs).run()
        return outputs

    def end_profiling(self) -> Path:
        """Stop timing the nodes: the file with what was timed.

        Raises:
            UsageError: The stage was not loaded with `profile`, or is closed.
        """
        if self._session is None:
            raise UsageError(f"{self.name}: got a closed stage, expected an open one. End its profile before close().")
        path = self._session.end_profiling()
        if not path:
            raise UsageError(
                f"{self.name}: got no timed nodes, expected a stage that is loaded with profile=PATH and ended once. "
                "Load it so."
            )
        return Path(path)

    def close(self) -> None:
        self._session = None

    def _bind_once(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Binding:
        """For buffers that live for one run: nothing is captured."""
        return self._bind(inputs, outputs, {}, captured=False)

    def _bind(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], letters: Mapping[str, int], *, captured: bool
    ) -> Binding:
        if self.device is None:
            return OnnxBinding(self.name, self._session, inputs, outputs)
        return CudaBinding(
            self.name,
            self._session,
            self.device,
            inputs,
            outputs,
            key=" ".join([self.name, *(f"{letter}={size}" for letter, size in letters.items())]),
            counts=self.graph_counts,
            graph=next(self._graph_ids) if captured and self._graph_ids is not None else None,
            refused=self.refused,
        )


def _settings(threads: int | None) -> Any:
    """The session options that every device shares."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is raised, with the stage's name, not printed
    settings.inter_op_num_threads = 1
    # four sessions share the cores: a pool that spins after its stage takes them from the next one
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        settings.intra_op_num_threads = threads
    return settings


def _register(settings: Any, kernels: Path) -> None:
    try:
        found = kernels.is_file()  # the loader would look for a bare name on its own search path
    except OSError:
        found = False
    if not found:
        raise DeviceError(f"{kernels}: no such file, expected the library of kernels. Build it with `make cpp`.")
    try:
        settings.register_custom_ops_library(str(kernels.absolute()))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise DeviceError(
            f"{kernels}: ONNX Runtime cannot load these kernels ({error}), expected liboneranker_kernels.so. "
            "Build it with `make cpp`."
        ) from error


def provider_of(device: str) -> str:
    """The ONNX Runtime provider that serves `device`.

    Raises:
        DeviceError: If ONNX Runtime is not installed or cannot serve that device here.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported ({error}), expected it as the engine. "
            "Run `pip install -e '.[serve]'` in the clone."
        ) from error
    offered: list[str] = onnxruntime.get_available_providers()
    if device not in PROVIDERS or PROVIDERS[device] not in offered:
        raise DeviceError(
            f"device {device!r} was asked for, but this release keeps its buffers in host memory and serves "
            f"{', '.join(PROVIDERS)}. Ask for device='cpu'."
        )
    return PROVIDERS[device]


def next_step(error: Exception) -> str:
    """What helps where ONNX Runtime refuses a graph, by its own words."""
    if unknown := re.search(r"(\w+):(\w+)\(-?\d+\) is not a registered function/op", str(error)):
        return (
            f"{unknown[1]}::{unknown[2]} has neither a function body in this graph nor a kernel in this ONNX Runtime. "
            "Rebuild with `python -m export.build --stage all`, which writes the body."
        )
    return "Rebuild with `python -m export.build --stage all`."


def _check_graph(stage: str, kind: str, specs: Sequence[TensorSpec], found: Sequence[Any]) -> None:
    """Compare the session's own inputs or outputs with the manifest's rows, in order."""
    names, expected = [node.name for node in found], [spec.name for spec in specs]
    if names != expected:
        raise BundleError(
            f"{stage}: the graph's {kind}s are {', '.join(names)}, the manifest says {', '.join(expected)}. "
            "Rebuild with `python -m export.build --stage all`."
        )
    for spec, node in zip(specs, found, strict=True):
        same_rank = len(node.shape) == len(spec.shape)
        fits = same_rank and all(_dim_fits(told, real, kind) for told, real in zip(spec.shape, node.shape, strict=True))
        if _ONNX_TYPES.get(node.type, node.type) != spec.dtype or not fits:
            raise BundleError(
                f"{stage}: the graph's {kind} {spec.name!r} is {node.type} {node.shape}, the manifest says "
                f"{spec.dtype} {list(spec.shape)}. Rebuild with `python -m export.build --stage all`."
            )


def _dim_fits(told: int | str, real: int | str | None, kind: str) -> bool:
    """Whether a graph's dim can be the manifest's; an output's dim may be unknown to the graph's shape inference."""
    if isinstance(real, int):
        return told == real
    if isinstance(told, int):
        return kind == "output"
    known = isinstance(real, str) and _ALPHABET_DIM.fullmatch(real)
    return not known or parse_dim(str(real)) == parse_dim(told)
