"""A TensorRT or TensorRT-RTX plan, checked against the manifest and loaded. Not run on a GPU."""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.device import Device
from runtime.errors import BundleError, DeviceError, OneRankerError, UnfitPlanError
from runtime.manifest import PlanEntry, ProfileEntry, check_file
from runtime.stage import TensorSpec

logger = logging.getLogger(__name__)

INSTALL = {"tensorrt": "pip install tensorrt-cu13", "tensorrt_rtx": "pip install -e '.[trt]'"}
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
}
_KEPT_LINES = 100


@dataclass(slots=True)
class TrtEngine:
    """A deserialised plan with what must outlive it, freed in the order engine, runtime, log."""

    trt: Any  # the module
    engine: Any
    runtime: Any
    log: Any

    def last_words(self) -> str:
        """What the engine said since it was asked last, for an error."""
        words: str = self.log.last_words()
        return words

    def close(self) -> None:
        self.engine = None
        self.runtime = None


def import_engine(name: str) -> Any:
    """The engine's module.

    Raises:
        BundleError: If it is not an engine's name.
        DeviceError: If it is not installed, or its libraries cannot be loaded.
    """
    if name not in INSTALL:
        raise BundleError(
            f"manifest: engine {name!r} is unknown, expected one of {', '.join(INSTALL)}. "
            "Rebuild with `python -m export.build --stage all`."
        )
    try:
        return importlib.import_module(name)
    except Exception as error:  # a wheel without its driver libraries raises more than ImportError
        raise DeviceError(
            f"engine {name!r} cannot be imported ({error}), expected the module that built the bundle's plans. "
            f"Run `{INSTALL[name]}`, or ask for engine='onnxruntime'."
        ) from error


def check_version(plan: PlanEntry, trt: Any, where: str) -> None:
    """Compare the module's version with the plan's: plans are read by the version that wrote them.

    Raises:
        BundleError: If they differ.
    """
    if (found := str(trt.__version__)) != plan.version:
        raise BundleError(
            f"{where}: built by {plan.engine} {plan.version}, here is {plan.engine} {found}, and a plan serves on its "
            f"own version alone. Install that version, or: {rebuild(plan)}."
        )


def check_capability(plan: PlanEntry, device: Device, where: str) -> None:
    """Compare the device's compute capability with those that the plan was built for.

    Raises:
        UnfitPlanError: If it is none of them; a plan that names none is left to the engine's own check.
    """
    if plan.compute_capabilities and device.compute_capability not in plan.compute_capabilities:
        raise UnfitPlanError(
            f"{where}: built for compute capability {', '.join(plan.compute_capabilities)}, {device.name} has "
            f"{device.compute_capability}. Serve on another device, or on one like it: {rebuild(plan)}."
        )


def rebuild(plan: PlanEntry) -> str:
    """The next step of most errors, to go into a sentence."""
    return f"rebuild with `python -m export.build --stage all --engine {plan.engine}`"


def load_engine(
    name: str, path: Path, plan: PlanEntry, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], device: Device
) -> TrtEngine:
    """Check a plan, then deserialise it, then compare the engine's tensors and profiles with the manifest's.

    Raises:
        BundleError: If the file, its version or its content is not what the manifest says.
        DeviceError: If the module is not here, or the plan is not for this device.
    """
    check_file(path.parent, path.name, plan.sha256, plan.bytes)
    where = f"{name}: {path}"
    trt = import_engine(plan.engine)
    check_version(plan, trt, where)
    check_capability(plan, device, where)
    log = _log_for(trt)
    try:
        runtime = trt.Runtime(log)
    except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer
        raise DeviceError(
            f"{where}: {plan.engine} has no runtime on {device.name} ({error}; {log.last_words()}). Check the driver "
            "with `nvidia-smi`, or ask for engine='onnxruntime'."
        ) from error
    data = path.read_bytes()
    _check_validity(where, plan, trt, runtime, data, log, device)
    try:
        engine = runtime.deserialize_cuda_engine(data)
    except RuntimeError as error:
        raise BundleError(
            f"{where}: {plan.engine} cannot read this plan ({error}). Copy it again, or {rebuild(plan)}."
        ) from error
    if engine is None:
        raise BundleError(
            f"{where}: {plan.engine} {plan.version} cannot read this plan on {device.name} ({log.last_words()}). "
            f"{rebuild(plan).capitalize()}."
        )
    loaded = TrtEngine(trt, engine, runtime, log)
    _check_tensors(where, loaded, inputs, outputs, plan)
    _check_profiles(where, loaded, inputs, plan)
    return loaded


def _log_for(trt: Any) -> Any:
    """A logger that keeps the last messages instead of printing them."""

    class KeptLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: deque[tuple[int, str]] = deque(maxlen=_KEPT_LINES)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) < int(trt.ILogger.Severity.VERBOSE):
                self.kept.append((int(severity), message))

        def last_words(self) -> str:
            """The first error since the last call, else the last message."""
            errors = [message for severity, message in self.kept if severity <= int(trt.ILogger.Severity.ERROR)]
            words = errors[:1] or [message for _, message in self.kept][-1:]
            self.kept.clear()
            return " ".join(words[0].split()) if words else "it said nothing"

    return KeptLog()


def _check_validity(where: str, plan: PlanEntry, trt: Any, runtime: Any, data: bytes, log: Any, device: Device) -> None:
    """Ask TensorRT-RTX whether the plan is valid on this device; TensorRT has no such question."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, diagnostics = runtime.get_engine_validity(data)
    reasons = [
        reason.lower().replace("_", " ")
        for reason, bit in trt.EngineInvalidityDiagnostics.__members__.items()
        if int(diagnostics) & int(bit)
    ]
    told = ", ".join(reasons) or log.last_words()
    if validity == trt.EngineValidity.SUBOPTIMAL:
        logger.warning("%s: valid but slower than it could be on %s (%s); %s", where, device.name, told, rebuild(plan))
    elif validity != trt.EngineValidity.VALID:
        kind: type[OneRankerError] = UnfitPlanError if reasons == ["unsupported cc"] else DeviceError
        if "malformed engine" in reasons or "version mismatch" in reasons:
            kind = BundleError
        raise kind(
            f"{where}: {plan.engine} {plan.version} takes this plan for invalid on {device.name} ({told}). "
            f"Serve on a device that it was built for, or {rebuild(plan)}."
        )


def _check_tensors(
    where: str, loaded: TrtEngine, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], plan: PlanEntry
) -> None:
    """Compare names, sides, dtypes, ranks, fixed sizes and places."""
    trt, engine = loaded.trt, loaded.engine
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for kind, mode, specs in (("input", trt.TensorIOMode.INPUT, inputs), ("output", trt.TensorIOMode.OUTPUT, outputs)):
        found = sorted(name for name in names if engine.get_tensor_mode(name) == mode)
        if found != (expected := sorted(spec.name for spec in specs)):
            raise BundleError(
                f"{where}: the engine's {kind}s are {', '.join(found)}, the manifest says {', '.join(expected)}. "
                f"{rebuild(plan).capitalize()}."
            )
        for spec in specs:
            code = engine.get_tensor_dtype(spec.name).name
            dtype, shape = _DTYPES.get(code, code), tuple(engine.get_tensor_shape(spec.name))
            fits = len(shape) == len(spec.shape) and all(
                _dim_fits(told, real, kind) for told, real in zip(spec.shape, shape, strict=True)
            )
            if dtype != spec.dtype or not fits:
                raise BundleError(
                    f"{where}: the engine's {kind} {spec.name!r} is {dtype} {list(shape)}, the manifest says "
                    f"{spec.dtype} {list(spec.shape)}. {rebuild(plan).capitalize()}."
                )
            if engine.get_tensor_location(spec.name) != trt.TensorLocation.DEVICE:
                raise BundleError(
                    f"{where}: the engine wants {kind} {spec.name!r} in host memory, expected all tensors on the "
                    f"device: it is used as a shape. Change the model, then {rebuild(plan)}."
                )


def _dim_fits(told: int | str, real: int, kind: str) -> bool:
    """Whether an engine's dim, -1 where it varies, can be the manifest's; every binding checks its outputs again."""
    if kind == "output":
        return isinstance(told, str) or real in (told, -1)
    return real == (-1 if isinstance(told, str) else told)


def _check_profiles(where: str, loaded: TrtEngine, inputs: Sequence[TensorSpec], plan: PlanEntry) -> None:
    """Compare every profile's smallest, usual and largest shape of every input."""
    engine = loaded.engine
    if (count := engine.num_optimization_profiles) != len(plan.profiles):
        raise BundleError(
            f"{where}: the engine has {count} profiles, the manifest says {len(plan.profiles)}. "
            f"{rebuild(plan).capitalize()}."
        )
    for number, profile in enumerate(plan.profiles):
        for spec in inputs:
            found = [tuple(shape) for shape in engine.get_tensor_profile_shape(spec.name, number)]
            if found != (expected := _profile_shapes(where, spec, profile)):
                raise BundleError(
                    f"{where}: profile {profile.name!r} of the engine has {spec.name!r} from {found[0]} to "
                    f"{found[-1]}, the manifest says {expected[0]} to {expected[-1]}. {rebuild(plan).capitalize()}."
                )


def _profile_shapes(where: str, spec: TensorSpec, profile: ProfileEntry) -> list[tuple[int, ...]]:
    missing = [dim for dim in spec.letters if dim not in profile.letters]
    if missing:
        raise BundleError(
            f"{where}: profile {profile.name!r} has no range for {missing[0]} of {spec.name!r}. "
            "Rebuild with `python -m export.build --stage all`."
        )
    return [spec.sized({letter: ends[at] for letter, ends in profile.letters.items()}) for at in range(3)]
