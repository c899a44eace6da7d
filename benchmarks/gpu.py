"""The GPU of a benchmark: found or refused, named with its driver, waited for, and its memory read."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import DeviceError

WORD = re.compile(r"cuda(:\d+)?")
DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device as torch sees it."""

    ordinal: int
    name: str
    compute_capability: str  # such as "9.0"
    memory_mib: int
    driver: str
    cuda: str  # that torch was built with

    def __str__(self) -> str:
        return f"cuda:{self.ordinal} ({self.name}, compute capability {self.compute_capability})"


def ordinal_of(word: str) -> int:
    """`cuda:1` -> 1, `cuda` -> 0.

    Raises:
        ValueError: Any other word.
    """
    if not WORD.fullmatch(word):
        raise ValueError(f"--device: got {word!r}, expected cpu, cuda or cuda:N")
    return int(word.partition(":")[2] or 0)


def find_gpu(word: str) -> Gpu:
    """The device that `cuda` or `cuda:N` names.

    Raises:
        DeviceError: It is not here; nothing else is taken instead.
    """
    import torch

    ordinal, count = ordinal_of(word), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if ordinal >= count:
        built = torch.version.cuda
        why = f"torch {torch.__version__} sees {count} CUDA devices" if built else "the installed torch has no CUDA"
        raise DeviceError(f"device {word!r} was asked for, {why}, expected more. Ask for --device cpu.")
    facts = torch.cuda.get_device_properties(ordinal)
    return Gpu(
        ordinal=ordinal,
        name=facts.name,
        compute_capability=f"{facts.major}.{facts.minor}",
        memory_mib=facts.total_memory // 2**20,
        driver=driver_version(),
        cuda=torch.version.cuda or "none",
    )


def driver_version() -> str:
    """The NVIDIA driver's version, from its own tool or its file."""
    if tool := shutil.which("nvidia-smi"):
        words = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    if DRIVER_FILE.is_file():
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", DRIVER_FILE.read_text(encoding="utf-8", errors="replace"))
        return found.group() if found else "unknown"
    return "unknown"


def settle_of(device: str) -> Callable[[], None] | None:
    """What waits until a device has nothing left to do; None for the processor.

    Without importing torch into a process that has none.
    """
    if device == "cpu":
        return None
    if (torch := sys.modules.get("torch")) is not None:
        settle: Callable[[], None] = torch.cuda.synchronize
        return settle
    return lambda: _answered(_cuda_runtime().cudaDeviceSynchronize())


def memory_taken_mib(device: str) -> float | None:
    """What is in use on the device, by everybody; None for the processor."""
    if device == "cpu":
        return None
    if (torch := sys.modules.get("torch")) is not None:
        free, total = torch.cuda.mem_get_info(ordinal_of(device))
    else:
        runtime = _cuda_runtime()
        _answered(runtime.cudaSetDevice(ordinal_of(device)))
        free, total = _answered(runtime.cudaMemGetInfo())
    return float(total - free) / 2**20


def _cuda_runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")  # NVIDIA's, without type stubs
    except ImportError as error:
        raise DeviceError(
            f"cuda.bindings cannot be imported ({error}), expected NVIDIA's cuda-bindings. "
            "Run `pip install -e '.[gpu]'` in the clone."
        ) from error


def _answered(answer: tuple[Any, ...]) -> Any:
    """The values behind CUDA's error code."""
    code, *values = answer
    if int(code) != 0:
        raise DeviceError(f"CUDA answered {code!r}, expected success. Look at `nvidia-smi`.")
    return values
