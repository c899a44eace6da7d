"""ONNX Runtime on CUDA: a session on the caller's stream, bindings to device addresses, a captured graph for each."""

from __future__ import annotations

import contextlib
import ctypes
import io
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.device import Device, DeviceTensor, GraphCounts
from runtime.errors import BundleError, DeviceError
from runtime.replay import refused_capture

PROVIDER = "CUDAExecutionProvider"
HOST_PROVIDER = "CPUExecutionProvider"
LIBRARIES = ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10")
NO_GRAPH = "-1"  # ONNX Runtime's word for a run that is neither captured nor replayed
# What ONNX Runtime keeps on the host because it computes shapes from shapes; an operator of any other type there works
# on data, which then travels to the host and back at every run.
SHAPE_OPERATORS = frozenset(
    {
        *("Shape", "Size", "Constant", "ConstantOfShape", "Range", "Identity", "Cast"),
        *("Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Where", "Equal"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "ReduceProd"),
    }
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where ONNX Runtime put the nodes of a graph, each written as "name (operator)"."""

    on_device: int
    on_host: tuple[str, ...]  # shape arithmetic alone: anything else is refused


def open_session(
    name: str, path: Path, device: Device, settings: Any, *, graphs: bool
) -> tuple[Any, Placement]:  # settings: onnxruntime.SessionOptions
    """Load a graph for one device and one stream; what does not land there is an error.

    Raises:
        BundleError: If the graph cannot be read.
        DeviceError: If ONNX Runtime has no CUDA here, computes on the host, or cannot capture what was asked for.
    """
    import onnxruntime

    check_provider(device.name)
    _preload(onnxruntime)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [(PROVIDER, provider_options(name, device, graphs=graphs))]
    try:  # without enable_fallback=0 the package would print, and load the graph on the host instead
        session = onnxruntime.InferenceSession(str(path), settings, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise _load_error(name, path, device, error, graphs=graphs) from error
    if (found := session.get_providers()[0]) != PROVIDER:
        lost = missing_libraries()
        why = f"these libraries cannot be loaded: {', '.join(lost)}" if lost else "its libraries are all there"
        raise DeviceError(
            f"{name}: ONNX Runtime fell back to {found} for {device.name}, expected {PROVIDER}; {why}. Install CUDA 13 "
            "with cuBLAS and cuRAND (`pip install 'onnxruntime-gpu[cuda]'`), or ask for device='cpu'."
        )
    return session, check_placement(name, device, session)


def check_provider(device: str) -> None:
    """Whether the ONNX Runtime that is installed was built for CUDA.

    Raises:
        DeviceError: It is not.
    """
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    if PROVIDER not in offered:
        raise DeviceError(
            f"onnxruntime {onnxruntime.__version__} serves {', '.join(offered)}, expected {PROVIDER} for {device}. "
            "Run `pip uninstall -y onnxruntime && pip install -e '.[gpu]'`, or ask for device='cpu'."
        )


def provider_options(name: str, device: Device, *, graphs: bool) -> dict[str, str]:
    """What the CUDA provider is told: every kernel and copy on the caller's one stream, and no TF32 in fp32.

    Raises:
        DeviceError: If the stream is the null stream, which ONNX Runtime replaces by one of its own.
    """
    if not device.stream:
        raise DeviceError(f"{name}: {device.name} has stream 0, expected a stream of its own. Open the device anew.")
    return {
        "device_id": str(device.ordinal),
        "user_compute_stream": str(device.stream),
        "do_copy_in_default_stream": "1",  # that is the stream above, not the null stream
        "enable_cuda_graph": "1" if graphs else "0",
        "arena_extend_strategy": "kSameAsRequested",  # by default the scratch memory grows to the next power of two
        "use_tf32": "0",
    }


def check_placement(name: str, device: Device, session: Any) -> Placement:
    """Read which provider got which node.

    Raises:
        DeviceError: If a node that is no shape arithmetic landed on the host; all of them are named.
    """
    on_device, on_host, wrong = 0, [], []
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            if part.ep_name == PROVIDER:
                on_device += 1
                continue
            told = f"{node.name} ({node.op_type})"
            on_host.append(told)
            if part.ep_name != HOST_PROVIDER or node.op_type not in SHAPE_OPERATORS:
                wrong.append(told)
    if wrong or not on_device:
        raise DeviceError(
            f"{name}: {len(wrong) or 'all'} nodes run on the host and not on {device.name}: "
            f"{', '.join(wrong or on_host)}; expected shape arithmetic alone. Export the model with operators that "
            "have CUDA kernels, or ask for device='cpu'."
        )
    return Placement(on_device, tuple(on_host))


def missing_libraries() -> list[str]:
    """Which of the libraries that ONNX Runtime's CUDA provider is linked to cannot be loaded."""
    missing = []
    for library in LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(library)
    return missing


class CudaBinding:
    """One session tied to device addresses; `run` enqueues on the device's stream and returns at once.

    With a `graph` id, which must belong to this binding alone, the first run is plain, so that memory is there before a
    capture may not ask for it. The next run of a thread captures, and every later one replays. A capture that fails is
    reported once; from then on its sizes run plain. Not run on a GPU.
    """

    def __init__(
        self,
        stage: str,
        session: Any,
        device: Device,
        inputs: Mapping[str, DeviceTensor],
        outputs: Mapping[str, DeviceTensor],
        *,
        key: str,
        counts: GraphCounts,
        graph: int | None,
        refused: set[str],
    ) -> None:
        """`key` names the sizes in `counts` and in `refused`, the keys that could not be captured."""
        import onnxruntime

        self.inputs: Mapping[str, Any] = inputs
        self.outputs: Mapping[str, Any] = outputs
        self._stage, self._device, self._key, self._counts = stage, device, key, counts
        self._session, self._graph = session, graph
        self._refused = refused
        self._warm = False
        self._captured: set[int] = set()  # threads: ONNX Runtime keeps a captured graph for each
        self._plain = _run_options(onnxruntime, NO_GRAPH)
        self._graphed = self._plain if graph is None else _run_options(onnxruntime, str(graph))
        self._binding = session.io_binding()
        for bind, tensors in ((self._binding.bind_input, inputs), (self._binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                bind(name, "cuda", device.ordinal, tensor.dtype, list(tensor.shape), tensor.address)
        if graph is not None:
            self._finalizer = weakref.finalize(self, session.release_captured_graph, graph)
            self._finalizer.atexit = False

    def run(self) -> None:
        """Enqueue the stage once.

        Raises:
            DeviceError: If ONNX Runtime stops, for want of memory or otherwise; once if no graph can be captured.
        """
        thread = threading.get_ident()
        if self._graph is None or not self._warm or self._key in self._refused:
            self._enqueue(self._plain)
            self._warm = True
            self._counts.plain[self._key] += 1
        elif thread in self._captured:
            self._enqueue(self._graphed)
            self._counts.replayed[self._key] += 1
        else:
            self._capture()
            self._captured.add(thread)
            self._counts.captured[self._key] += 1

    def close(self) -> None:
        """Drop the captured graph; a binding that nobody holds any more is closed by itself."""
        if self._graph is not None:
            self._finalizer()

    def _enqueue(self, options: Any) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise self._stopped(error) from error

    def _capture(self) -> None:
        try:
            self._enqueue(self._graphed)
        except DeviceError as error:
            raise refused_capture(self._key, self._refused, error) from error

    def _stopped(self, error: Exception) -> DeviceError:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.inputs.items())
        text = str(error)
        if "allocate memory" in text or "out of memory" in text:
            step = "Free device memory, or send smaller batches or shorter histories"
        else:
            step = "Rebuild with `python -m export.build --stage all`, or ask for device='cpu'"
        return DeviceError(
            f"{self._stage}: ONNX Runtime stopped on {self._device.name} with {text} at {shapes}, expected a run. "
            f"{step}."
        )


def _run_options(onnxruntime: Any, graph: str) -> Any:
    """A run that waits for nothing, under the id of a graph."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", graph)
    return options


def _load_error(name: str, path: Path, device: Device, error: Exception, *, graphs: bool) -> Exception:
    """What a session that could not be made means: no capture, no device, or a file that is no graph."""
    import onnxruntime

    text = str(error)
    if graphs and ("graph capture" in text.lower() or "cuda graph" in text.lower()):
        return DeviceError(
            f"{name}: CUDA graphs were asked for, got {text}; expected every node on {device.name}. Ask for no CUDA "
            "graphs, or export the model with operators that have CUDA kernels."
        )
    if "CUDA" in text:
        lost = ", ".join(missing_libraries()) or "none"
        return DeviceError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} cannot use {device.name} ({text}; libraries that cannot "
            f"be loaded: {lost}), expected {PROVIDER}. Compare its CUDA version with the driver's, or ask for "
            "device='cpu'."
        )
    return BundleError(
        f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load this graph ({error}). "
        "Rebuild with `python -m export.build --stage all`."
    )


def _preload(onnxruntime: Any) -> None:
    """Load the CUDA libraries of NVIDIA's wheels, if they are there; the package prints what it does not find."""
    if preload := getattr(onnxruntime, "preload_dlls", None):
        with contextlib.redirect_stdout(io.StringIO()):
            preload()
