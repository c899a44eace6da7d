"""Opens the plans of a bundle in the making where a CUDA device can run them, and says why where none can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from export.engine_module import cuda_device, refusal
from export.stages import StageSpec
from runtime.manifest import PlanEntry
from runtime.stage import Stage


@contextmanager
def open_engines(
    specs: Mapping[str, StageSpec], folder: Path, plans: Mapping[str, PlanEntry]
) -> Iterator[tuple[Mapping[str, Stage], str]]:
    """The loaded engines and the device's name; no engines and the reason where they cannot be run.

    Raises:
        DeviceError: The device is there and does not open an engine that was built for it.
    """
    if not plans or (reason := why_not(plans)):
        yield {}, reason if plans else "no engine was built"
        return
    from runtime.cuda_device import CudaDevice
    from runtime.trt_stage import TrtStage

    device = CudaDevice.open()
    stages: dict[str, Stage] = {}
    try:
        for name, plan in plans.items():
            spec = specs[name]
            stages[name] = TrtStage.load(name, folder / plan.file, plan, spec.inputs, spec.outputs, device=device)
        yield stages, device.name
    finally:
        for stage in stages.values():
            stage.close()
        device.close()


def why_not(plans: Mapping[str, PlanEntry]) -> str:
    """Why these plans cannot be run on this machine; "" if they can."""
    plan = next(iter(plans.values()))
    return refusal(plan.engine, plan.compute_capabilities, cuda_device())
