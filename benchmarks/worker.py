"""One engine in its own process: `python -m benchmarks.worker FOLDER ENGINE ROUND`, started by benchmarks.latency.

Reads the workload in FOLDER, times it and writes <ENGINE>.json and <ENGINE>.safetensors beside it. The runtime's own
process imports no torch, so its peak memory is what a server of the bundle needs.

On a GPU every backend is timed twice: the whole chain, in which nothing waits but what reads the answer, and then stage
by stage, each lap ending when the device has nothing left to do.
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
from benchmarks.gpu import memory_taken_mib, settle_of
from benchmarks.measure import Laps, Timed, Unsplit, measure, peak_memory_mib
from benchmarks.open_loop import open_loop
from benchmarks.roofline import Needed
from benchmarks.row import (
    AOTI,
    CHAIN,
    COMPILED,
    COMPILED_BF16,
    COMPILED_MAX,
    EAGER,
    EAGER_BF16,
    FUSED,
    FUSED_GRAPHED,
    GRAPHED,
    KERNELS_RECOMPUTE,
    NAIVE,
    OPEN,
    RECOMPUTE,
    RUNTIME,
)
from benchmarks.workload import Workload
from runtime.errors import DeviceError, OneRankerError

logger = logging.getLogger("benchmarks.worker")

LEAST_ARRIVALS = 20  # batches of an open loop
CHECKED = 4  # batches whose answers are compared; their tensors lie on disk for a moment
ROUNDED = "rounded"  # eager PyTorch in the bundle's own precision, the yardstick of the parity rule
REFERENCE = "reference"  # eager PyTorch in fp32; each of the two only where the timed eager backend is the other


@dataclass(slots=True)
class Measured:
    """What one process found out about one backend."""

    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    quiet_ms: dict[str, list[float]] = field(default_factory=dict)  # of the iterations from which no time was stolen
    stolen: float | None = None  # share of the processors' time, while the chain was timed
    compile_s: dict[str, float] = field(default_factory=dict)
    needed: dict[str, dict[str, float]] = field(default_factory=dict)  # stage -> Needed; eager PyTorch alone says it
    offered_per_s: float | None = None  # open loop, batches
    answered_per_s: float | None = None
    peak_memory_mib: float | None = None
    device_memory_mib: float | None = None
    precision: str = ""
    not_run: str | None = None


def main(argv: list[str]) -> int:
    """Measure, or say why not; an error goes to stderr with its exit code."""
    folder, name, turn = Path(argv[0]), argv[1], int(argv[2])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    logging.getLogger("export").setLevel(logging.ERROR)  # the parent has said that the weights are random
    try:
        work(folder, name, turn)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    return 0


def work(folder: Path, name: str, turn: int = 0) -> None:
    """Time the workload of `folder` on one backend and write what was found beside it."""
    workload = Workload.read(folder)
    device = workload.job.device
    try:
        taken = None if device == "cpu" else _started(name, device)
        backend = load_backend(name, workload)
        compile_s = dict(backend.prepare(workload))
        measured = time_backend(backend, workload, name, turn)
        measured.compile_s = compile_s
    except (NotRunError, DeviceError) as error:
        if isinstance(error, DeviceError) and (device == "cpu" or name not in RUNTIME):
            raise
        measured = Measured(not_run=str(error))
    else:
        measured.precision = backend.precision
        measured.peak_memory_mib = peak_memory_mib()  # before the answers are collected
        if taken is not None:
            measured.device_memory_mib = (memory_taken_mib(device) or 0.0) - taken
        answers = folder / f"{name}.safetensors"
        if not answers.exists():  # else an earlier round has written them
            save_file(_answers(backend, workload), answers)
            if name == EAGER and device == "cpu":  # ceilings are the processor's
                measured.needed = _needed(backend)
    (folder / f"{name}.json").write_text(json.dumps(asdict(measured)), encoding="utf-8")
    if name == EAGER:
        _write_other_precision(folder, workload)


def load_backend(name: str, workload: Workload) -> Backend:
    """One backend, its library imported only now."""
    if name in (*RUNTIME, RECOMPUTE, KERNELS_RECOMPUTE):
        from benchmarks.runtime_backend import RuntimeBackend

        return RuntimeBackend(workload, name)
    if name == NAIVE:
        from benchmarks.host_copies_backend import HostCopiesBackend

        return HostCopiesBackend(workload)
    from benchmarks.torch_backend import How, TorchBackend

    hows = dict.fromkeys((COMPILED, COMPILED_BF16), How.COMPILE) | {COMPILED_MAX: How.COMPILE_MAX, AOTI: How.AOTI}
    how = (hows | dict.fromkeys((FUSED, FUSED_GRAPHED), How.FUSED)).get(name, How.EAGER)
    if name in (GRAPHED, FUSED_GRAPHED):
        from benchmarks.torch_graph import GraphBackend

        return GraphBackend(workload, how=how)
    if name in (EAGER_BF16, COMPILED_BF16):
        return TorchBackend(workload, how=how, precision="bf16")
    on_gpu = workload.job.device != "cpu"  # where half precision is what everybody serves in
    return TorchBackend(workload, how=how, precision=workload.precision if on_gpu else "fp32")


def _started(name: str, device: str) -> float | None:
    """Start CUDA with the library that this backend uses anyway; what is in use on the device from then on."""
    if name not in RUNTIME:
        import torch

        torch.cuda.init()  # type: ignore[no-untyped-call]
    return memory_taken_mib(device)


def time_backend(backend: Backend, workload: Workload, name: str, turn: int = 0) -> Measured:
    """Samples of every stage, of the chain, and of what this backend does besides."""
    job, batches = workload.job, len(workload.encoded)
    settle = settle_of(job.device)

    def timed(what: str, do: Work, total: str | None = None) -> Timed:
        def bar(rounds: Iterable[int]) -> Iterable[int]:
            shown: Iterable[int] = tqdm(
                rounds, desc=f"{name} b{job.batch} {what}", unit="batch", mininterval=1.0, file=sys.stderr
            )
            return shown

        def run(iteration: int, laps: Laps) -> None:
            do(iteration % batches, laps)

        return measure(
            run,
            iterations=job.iterations,
            warmup=job.warmup,
            duration=job.duration,
            total=total,
            settle=settle,
            progress=bar,
        )

    def whole(position: int, laps: Laps) -> None:
        backend.chain(position, Unsplit())
        laps.lap(CHAIN)

    if settle is None:
        found = [timed("tokens to scores", backend.chain, CHAIN)]
    else:
        found = [timed("tokens to scores", whole)]
        if backend.staged:
            found.append(timed("stage by stage", backend.chain))
    found += [timed(what, do) for what, do in backend.extras().items()]
    measured = Measured(stolen=found[0].stolen)
    for one in found:
        measured.samples_ms |= one.samples_ms
        measured.quiet_ms |= one.quiet_ms
    if job.utilisation:
        _add_open_loop(measured, whole, workload, name, turn)
    return measured


def _add_open_loop(measured: Measured, do: Work, workload: Workload, name: str, seed: int) -> None:
    """At least as many batches as the closed loop had, arriving by chance at a share of the rate that it reached."""
    closed = measured.samples_ms[CHAIN]
    rate = workload.job.utilisation * len(closed) / (sum(closed) / 1e3)
    batches = len(workload.encoded)
    count = max(len(closed), LEAST_ARRIVALS)
    found = open_loop(lambda number: do(number % batches, Laps()), count, rate, seed=seed)
    measured.samples_ms[OPEN] = found.samples_ms
    measured.offered_per_s, measured.answered_per_s = rate, found.answered_per_s


def _needed(backend: Backend) -> dict[str, dict[str, float]]:
    from benchmarks.torch_work import needed_work

    needed: dict[str, Needed] = needed_work(backend, 0)
    return {stage: asdict(work) for stage, work in needed.items()}


def _answers(backend: Backend, workload: Workload) -> dict[str, Array]:
    """The tensors of the first batches, named <batch>.<tensor>."""
    answers: dict[str, Array] = {}
    for position in range(min(CHECKED, len(workload.encoded))):
        backend.chain(position, Laps())
        answers |= {f"{position}.{name}": np.array(array) for name, array in as_float(backend.outputs()).items()}
    return answers


def _write_other_precision(folder: Path, workload: Workload) -> None:
    """For a bundle below fp32, eager PyTorch's answers in the precision that it was not timed in.

    That is the bundle's on the CPU and fp32 on a GPU.
    """
    precision: Any = json.loads((Path(workload.job.bundle) / "manifest.json").read_text(encoding="utf-8"))["precision"]
    if precision != "fp32":
        from benchmarks.torch_backend import TorchBackend

        on_cpu = workload.job.device == "cpu"
        logger.info("eager PyTorch in %s, for the parity rule; not timed", precision if on_cpu else "fp32")
        plain = TorchBackend(workload, precision=precision if on_cpu else "fp32")
        save_file(_answers(plain, workload), folder / f"{ROUNDED if on_cpu else REFERENCE}.safetensors")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
