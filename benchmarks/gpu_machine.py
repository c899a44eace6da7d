"""What the machine of a GPU run is: the GPU with its driver, the packages, the folders of NVIDIA's libraries."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict
from pathlib import Path

from benchmarks.backend import NotRunError
from benchmarks.environment import ROOT, commit, processor, usable_cores, versions
from benchmarks.gpu import Gpu, driver_version, find_gpu
from benchmarks.gpu_checks import GpuJob, Rows
from runtime.errors import DeviceError


def machine(job: GpuJob, rows: Rows) -> None:
    """Find the GPU; the facts go along whether or not there is one."""
    (check,) = job.checks
    with rows.check(check) as figures:
        gpu: Gpu | None = None
        reason = ""
        try:
            gpu = find_gpu(job.device)
        except DeviceError as error:
            reason = str(error)
        figures["facts"] = {
            "device": "cpu" if gpu is None else str(gpu),
            "driver": driver_version() if gpu is None else gpu.driver,
            "versions": versions(gpu),
            "commit": commit(ROOT),
            "library_folders": library_folders(),
        }
        figures |= {
            "processor": processor(),
            "cores": usable_cores(),
            "onnxruntime_providers": _providers(),
        }
        if gpu is None:
            raise NotRunError(reason)
        figures |= asdict(gpu)


def _providers() -> list[str]:
    """What the installed ONNX Runtime offers; nothing where there is none."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def library_folders() -> list[str]:
    """Where NVIDIA's wheels keep their shared libraries: a package beside them in another folder cannot find these."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else list(spec.submodule_search_locations or [])
    found = {
        os.path.realpath(library.parent)
        for root in roots
        for library in Path(root).glob("**/*.so*")
        if library.is_file()
    }
    return sorted(found)
