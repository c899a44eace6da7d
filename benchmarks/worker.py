"""One backend in a process of its own: `python -m benchmarks.worker FOLDER BACKEND`, started by benchmarks.latency.

Reads the workload in FOLDER, times it and writes <BACKEND>.json and <BACKEND>.safetensors beside it. The ONNX Runtime
process imports no torch, so its peak memory is what a server of the bundle needs.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from benchmarks.backend import Array, Backend, NotRunError, Work, as_float
from benchmarks.measure import Laps, measure, peak_memory_mib
from benchmarks.row import CHAIN, COMPILED, EAGER, ENGINE
from benchmarks.workload import Workload
from runtime.errors import OneRankerError

logger = logging.getLogger("benchmarks.worker")

CHECKED = 4  # batches whose answers are compared; their tensors lie on disk for a moment
ROUNDED = "rounded"  # eager PyTorch in the bundle's own precision, the yardstick of the parity rule


@dataclass(slots=True)
class Measured:
    """What one process found out about one backend."""

    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    compile_s: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    not_run: str | None = None


def main(argv: list[str]) -> int:
    """Measure, or say why not; an error goes to stderr with its exit code."""
    folder, name = Path(argv[0]), argv[1]
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    logging.getLogger("export").setLevel(logging.ERROR)  # the parent has said that the weights are random
    try:
        work(folder, name)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    return 0


def work(folder: Path, name: str) -> None:
    """Time the workload of `folder` on one backend and write what was found beside it."""
    workload = Workload.read(folder)
    try:
        backend = load_backend(name, workload)
        compile_s = dict(backend.prepare(workload))
        measured = time_backend(backend, workload, name)
        measured.compile_s = compile_s
    except NotRunError as error:
        measured = Measured(not_run=str(error))
    else:
        measured.peak_memory_mib = peak_memory_mib()  # before the answers are collected
        save_file(_answers(backend, workload), folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(asdict(measured)), encoding="utf-8")
    if name == EAGER:
        _write_rounded(folder, workload)


def load_backend(name: str, workload: Workload) -> Backend:
    """One backend, its library imported only now."""
    if name == ENGINE:
        from benchmarks.onnx_backend import OnnxBackend

        return OnnxBackend(workload)
    from benchmarks.torch_backend import TorchBackend

    return TorchBackend(workload, compiled=name == COMPILED)


def time_backend(backend: Backend, workload: Workload, name: str) -> Measured:
    """Samples of every stage, of the chain, and of what this backend does besides."""
    job, batches = workload.job, len(workload.encoded)

    def timed(what: str, do: Work, total: str | None = None) -> dict[str, list[float]]:
        def bar(rounds: Iterable[int]) -> Iterable[int]:
            shown: Iterable[int] = tqdm(
                rounds, desc=f"{name} b{job.batch} {what}", unit="batch", mininterval=1.0, file=sys.stderr
            )
            return shown

        def run(iteration: int, laps: Laps) -> None:
            do(iteration % batches, laps)

        return measure(run, iterations=job.iterations, warmup=job.warmup, total=total, progress=bar)

    samples = timed("tokens to scores", backend.chain, CHAIN)
    for what, do in backend.extras().items():
        samples |= timed(what, do)
    return Measured(samples_ms=samples)


def _answers(backend: Backend, workload: Workload) -> dict[str, Array]:
    """The tensors of the first batches, named <batch>.<tensor>."""
    answers: dict[str, Array] = {}
    for position in range(min(CHECKED, len(workload.encoded))):
        backend.chain(position, Laps())
        answers |= {f"{position}.{name}": np.array(array) for name, array in as_float(backend.outputs()).items()}
    return answers


def _write_rounded(folder: Path, workload: Workload) -> None:
    """For a bundle below fp32, eager PyTorch's own answers in that precision."""
    precision: Any = json.loads((Path(workload.job.bundle) / "manifest.json").read_text(encoding="utf-8"))["precision"]
    if precision != "fp32":
        from benchmarks.torch_backend import TorchBackend

        logger.info("eager PyTorch in %s, for the parity rule; not timed", precision)
        plain = TorchBackend(workload, compiled=False, in_bundle_precision=True)
        save_file(_answers(plain, workload), folder / f"{ROUNDED}.safetensors")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
