"""Where and with what a benchmark ran: numbers without this cannot be compared."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu import Gpu
from runtime.manifest import Manifest

PACKAGES = ("oneranker", "onnxruntime", "torch", "numpy")
CUDA_PACKAGES = ("onnxruntime-gpu", "cuda-bindings", "triton", "tensorrt", "tensorrt-rtx")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The block beside the rows."""

    date: str  # UTC
    command: str
    commit: str | None
    processor: str
    cores: int  # logical cores this process may use
    load_average: float | None  # runnable processes over the last minute before the start; near 0 = nobody else worked
    threads: int  # of every backend alike
    device: str  # "cpu", or the GPU's name
    system: str
    versions: dict[str, str]
    bundle: str
    weights: str
    precision: str  # of the bundle; each row says its own
    items: int

    @property
    def machine(self) -> str:
        return f"{self.processor}, {self.cores} cores"


def environment(
    bundle: Path, manifest: Manifest, command: Sequence[str], threads: int, gpu: Gpu | None = None
) -> Environment:
    """The block for one run that starts now, on `gpu` or on the processor alone."""
    return Environment(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" ".join(["python -m benchmarks.latency", *command]),
        commit=commit(ROOT),
        processor=processor(),
        cores=usable_cores(),
        load_average=load_average(),
        threads=threads,
        device="cpu" if gpu is None else str(gpu),
        system=platform.platform(),
        versions=versions(gpu),
        bundle=str(bundle),
        weights=manifest.weights.detail,
        precision=manifest.precision,
        items=manifest.items.items,
    )


def place(program: str, command: Sequence[str], threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """The same for a program without a bundle: the first fields of its lines, at the moment it is called."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([f"python -m {program}", *command]),
        "commit": commit(ROOT),
        "machine": f"{processor()}, {usable_cores()} cores",
        "load_average": load_average(),
        "threads": threads,
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def load_average() -> float | None:
    """Runnable processes over the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions(gpu: Gpu | None = None) -> dict[str, str]:
    """Python, the packages that matter, and on a GPU its driver and CUDA."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    if gpu is not None:
        found |= {name: _version(name) for name in CUDA_PACKAGES}
        found |= {"driver": gpu.driver, "cuda": gpu.cuda}
    return found


def usable_cores() -> int:
    """Logical cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit(root: Path) -> str | None:
    """The commit of the checkout whose root this is; None where the package was installed into another one."""
    top = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    if top is None or Path(top.splitlines()[0]).resolve() != root:
        return None
    return top.splitlines()[1] + ("+changes" if _git(root, "status", "--porcelain") else "")


def _git(root: Path, *words: str) -> str | None:
    """What git says, None where there is no git, no checkout or no commit."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    if package == "onnxruntime":  # a carried one shadows another's metadata, and onnxruntime-gpu has none of this name
        with contextlib.suppress(ImportError):
            return str(importlib.import_module(package).__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
