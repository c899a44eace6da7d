"""Which engine serves a bundle and on which device: what was asked for by name or an error, and a choice for "auto"."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.cuda_device import CudaDevice
from runtime.errors import BundleError, DeviceError, UnfitPlanError
from runtime.manifest import Manifest, PlanEntry
from runtime.memory import DeviceMemory, HostMemory
from runtime.trt_engine import INSTALL, check_capability, check_version, import_engine

ONNX = "onnxruntime"
ENGINES = ("auto", ONNX, *INSTALL)
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True, slots=True)
class Serving:
    """An engine, the memory of its device, and why it is these."""

    engine: str = ONNX
    memory: HostMemory | DeviceMemory = HostMemory()  # noqa: RUF009 - it has no state
    reason: str = "the default"

    @property
    def device(self) -> str:
        """The device's name, "cpu" for the host."""
        return "cpu" if self.memory.device is None else self.memory.device.name


def choose_serving(bundle: Path, manifest: Manifest, engine: str = "auto", device: str = "auto") -> Serving:
    """Take the engine and the device that were asked for; "auto" is the bundle's plans where a device takes them.

    Both "auto": the plans on the first CUDA device, else ONNX Runtime on the CPU. A device alone: the plans where
    their engine is installed and they are for that device, else ONNX Runtime on it.

    Raises:
        BundleError: If the plans are of another version than the installed engine.
        DeviceError: If what was asked for by name is not here.
    """
    if engine not in ENGINES:
        raise DeviceError(f"engine {engine!r} was asked for, expected one of {', '.join(ENGINES)}. Ask for 'auto'.")
    if not _DEVICE.fullmatch(device):
        raise DeviceError(f"device {device!r} was asked for, expected auto, cpu, cuda or cuda:N. Ask for 'auto'.")
    if engine in INSTALL:
        return _plans_by_name(bundle, manifest, engine, device)
    if device == "cpu" or (engine == ONNX and device == "auto"):
        return Serving(ONNX, HostMemory(), "the CPU was asked for" if device == "cpu" else "its default device")
    if engine == ONNX:
        return Serving(ONNX, DeviceMemory(_open(device)), "asked for")
    plans = _plans(manifest)
    missing = _why_not(manifest)
    if device != "auto":
        memory = DeviceMemory(_open(device))
        return _on(bundle, memory, plans, missing)
    if missing:
        return Serving(ONNX, HostMemory(), missing)
    try:
        memory = DeviceMemory(CudaDevice.open())
    except DeviceError as error:
        return Serving(ONNX, HostMemory(), f"no device takes the plans: {error}")
    chosen = _on(bundle, memory, plans, "")
    if chosen.engine == ONNX:
        memory.close()
        return Serving(ONNX, HostMemory(), chosen.reason)
    return chosen


def without_plans(bundle: Path, manifest: Manifest, device: str, reason: str) -> Serving:
    """What "auto" takes where the plans turn out to be for other devices: ONNX Runtime on the device that was named."""
    named = "cpu" if device == "auto" else device
    return replace(choose_serving(bundle, manifest, ONNX, named), reason=reason)


def _plans_by_name(bundle: Path, manifest: Manifest, engine: str, device: str) -> Serving:
    plans = _plans(manifest)
    if built := sorted({plan.engine for plan in plans.values()} - {engine}):
        raise DeviceError(
            f"engine {engine!r} was asked for, {bundle} has plans of {', '.join(built)}. Ask for that engine, or "
            f"rebuild with `python -m export.build --stage all --engine {engine}`."
        )
    if missing := [stage for stage in manifest.stages if stage not in plans]:
        raise DeviceError(
            f"engine {engine!r} was asked for, {bundle} has no plan of {', '.join(missing)}. Ask for 'onnxruntime', or "
            f"rebuild with `python -m export.build --stage all --engine {engine}`."
        )
    if device == "cpu":
        raise DeviceError(f"engine {engine!r} was asked for on the CPU, expected a CUDA device. Ask for 'onnxruntime'.")
    _check_versions(bundle, plans)
    return Serving(engine, DeviceMemory(_open(device)), "asked for")


def _on(bundle: Path, memory: DeviceMemory, plans: dict[str, PlanEntry], missing: str) -> Serving:
    """The plans if they are for this device, else ONNX Runtime on it; frees the device on an error."""
    if missing:
        return Serving(ONNX, memory, missing)
    assert memory.device is not None
    try:
        _check_versions(bundle, plans)
        for stage, plan in plans.items():
            check_capability(plan, memory.device, f"{stage}: {bundle / plan.file}")
    except BundleError:
        memory.close()
        raise
    except UnfitPlanError as error:
        return Serving(ONNX, memory, str(error))
    engine = next(iter(plans.values())).engine
    return Serving(engine, memory, f"the bundle has its plans and {memory.device.name} takes them")


def _plans(manifest: Manifest) -> dict[str, PlanEntry]:
    return {name: row.plan for name, row in manifest.stages.items() if row.plan is not None}


def _why_not(manifest: Manifest) -> str:
    """Why the bundle's plans cannot serve in this process, "" if they can."""
    plans = _plans(manifest)
    if len(plans) < len(manifest.stages):
        return "the bundle has no plans"
    if len(engines := {plan.engine for plan in plans.values()}) > 1:
        return f"the bundle's plans are of several engines: {', '.join(sorted(engines))}"
    try:
        import_engine(engines.pop())
    except DeviceError as error:
        return str(error)
    return ""


def _check_versions(bundle: Path, plans: dict[str, PlanEntry]) -> None:
    for stage, plan in plans.items():
        check_version(plan, import_engine(plan.engine), f"{stage}: {bundle / plan.file}")


def _open(device: str) -> CudaDevice:
    """Open a device that was asked for, or the first one for an engine that needs one."""
    ordinal = int(device.partition(":")[2] or 0)
    try:
        return CudaDevice.open(ordinal)
    except DeviceError as error:
        asked = "a CUDA device is needed" if device == "auto" else f"device {device!r} was asked for"
        raise DeviceError(f"{asked}: {error}") from error
