"""Times every case of a run: one process a backend, one after another, over one workload on disk."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environment import Environment, environment, usable_cores
from benchmarks.errors import Answers, Error, errors, read_answers
from benchmarks.gpu import Gpu, find_gpu
from benchmarks.requests import random_requests, requests_of_file
from benchmarks.row import (
    BACKENDS,
    CHAIN,
    COMPILED,
    EAGER,
    FUSED,
    FUSED_GRAPHED,
    GRAPHED,
    KERNELS,
    RECOMMEND,
    RUNTIME,
    TOKENS,
    Row,
    not_run,
    timed,
    with_ratios,
)
from benchmarks.source import checkpoint_of, source_of
from benchmarks.worker import REFERENCE, ROUNDED, Measured
from benchmarks.workload import Job, Workload, in_batches
from runtime.bundle import OpenBundle, open_bundle
from runtime.errors import DeviceError, FeedError, OneRankerError, ParityError
from runtime.manifest import STAGES
from runtime.requests import SMALLEST_HISTORY, encode_requests

if TYPE_CHECKING:
    from benchmarks.latency import LatencySettings

logger = logging.getLogger(__name__)

# PyTorch's OpenMP threads wait for each other at full speed by default: where one core is busy with something else,
# eager PyTorch then takes 20 times as long. A short spin, then sleep, is the fair baseline; the runtime's do not spin.
SHORT_SPIN = {"GOMP_SPINCOUNT": "1000"}
SYNTHETIC_BATCHES = 4  # different ones, taken in turn


@dataclass(frozen=True, slots=True)
class _Context:
    """What all cases share."""

    settings: LatencySettings
    environment: Environment
    bundle: OpenBundle
    checkpoint: Path | None
    gpu: Gpu | None

    @property
    def device(self) -> str:
        """As the runtime and torch write it."""
        return "cpu" if self.gpu is None else f"cuda:{self.gpu.ordinal}"


def time_cases(settings: LatencySettings, words: Sequence[str]) -> tuple[Environment, list[Row], OneRankerError | None]:
    """See `benchmarks.latency.run`."""
    threads = settings.threads or usable_cores()
    gpu = None if settings.device == "cpu" else find_gpu(settings.device)
    bundle = open_bundle(settings.bundle, engine="onnxruntime", device="cpu", threads=threads, kernels=settings.kernels)
    manifest = bundle.manifest
    _check_sizes(settings, bundle)
    block = environment(settings.bundle, manifest, words, threads, gpu)
    source = source_of(settings.bundle, manifest, settings.checkpoint)
    checkpoint = settings.checkpoint
    if checkpoint is None and manifest.weights.source != "random":
        checkpoint = checkpoint_of(settings.bundle, manifest)
    context = _Context(settings, block, bundle, checkpoint, gpu)
    rows: list[Row] = []
    failures: list[str] = []
    for batch in settings.batch:
        if settings.requests is not None:
            requests = requests_of_file(settings.requests)
        else:
            history = settings.history or manifest.profile["S"][1]
            requests = random_requests(source, manifest, SYNTHETIC_BATCHES * batch, history)
        case_rows, case_failures = _time_case(context, _workload(context, requests, batch))
        rows += case_rows
        failures += case_failures
    return block, with_ratios(rows), _what_is_wrong(settings.bundle, rows, failures)


def _what_is_wrong(bundle: Path, rows: Sequence[Row], failures: Sequence[str]) -> OneRankerError | None:
    """The runtime's wrong answers, or that it did not run at all: then there is nothing to compare."""
    if failures:
        return ParityError(
            f"{bundle}: the runtime answers unlike the weights it is compared with: {'; '.join(failures)}. "
            "Rebuild with `python -m export.build --stage all`."
        )
    ours = [row for row in rows if row.backend in RUNTIME and row.stage == CHAIN]
    if ours and not any(row.samples for row in ours):
        reasons = "; ".join(dict.fromkeys(f"{row.backend} {row.note}" for row in ours))
        return DeviceError(f"{bundle}: no engine of the runtime ran: {reasons}. Expected one of them to.")
    return None


def _check_sizes(settings: LatencySettings, bundle: OpenBundle) -> None:
    least, _, most = bundle.manifest.profile["B"]
    if wrong := [batch for batch in settings.batch if not least <= batch <= most]:
        raise FeedError(
            f"--batch: got {wrong[0]}, expected {least} .. {most}, the bundle's profile. Rebuild with a larger B in "
            "--max-shapes."
        )
    longest = bundle.manifest.profile["S"][2]
    if settings.history is not None and settings.history > longest:
        raise FeedError(
            f"--history: got {settings.history}, expected at most {longest}, the bundle's profile. Rebuild with a "
            "larger S in --max-shapes."
        )
    features = bundle.manifest.letters.get("K", 0)
    if features:
        raise FeedError(
            f"{settings.bundle}: its ranker reads {features} numbers per candidate, which no request carries, expected "
            "a model without candidate_features. Time one that was trained without them."
        )


def _workload(context: _Context, requests: list[dict[str, Any]], batch: int) -> Workload:
    settings, bundle = context.settings, context.bundle
    low, _, high = bundle.manifest.profile["S"]
    job = Job(
        bundle=str(settings.bundle),
        checkpoint=None if context.checkpoint is None else str(context.checkpoint),
        batch=batch,
        iterations=settings.iterations,
        warmup=settings.warmup,
        threads=context.environment.threads,
        device=context.device,
        smallest_history=max(SMALLEST_HISTORY, low),
        largest_history=high,
        kernels=None if settings.kernels is None else str(settings.kernels),
    )
    raw = in_batches(requests, batch)
    encoded = [encode_requests(requests, bundle.tokenizer, bundle.index, high) for requests in raw]
    return Workload(job, raw, encoded)


def _time_case(context: _Context, workload: Workload) -> tuple[list[Row], list[str]]:
    """All backends on one workload: the rows, and what is wrong with the runtime's answers."""
    names = list(BACKENDS["cpu" if context.gpu is None else "cuda"])
    if not context.settings.compiled:
        names.remove(COMPILED)
    if context.settings.kernels is None and KERNELS in names:
        names.remove(KERNELS)
    rows: list[Row] = []
    failures: list[str] = []
    outputs = {name: [row.name for row in stage.outputs] for name, stage in context.bundle.manifest.stages.items()}
    with tempfile.TemporaryDirectory(prefix="oneranker-latency-") as temporary:
        folder = Path(temporary)
        workload.write(folder)
        for name in names:
            logger.info("%s, batch %d: process %d of %d", name, workload.job.batch, names.index(name) + 1, len(names))
            measured = _measure_apart(folder, name)
            found: dict[str, Error] = {}
            if measured.not_run is None:
                rounded, reference = _yardsticks(folder)
                found = errors(read_answers(folder, name), rounded, reference, outputs)
                if name in RUNTIME:
                    failures += [f"{name}, batch {workload.job.batch}, {line}" for line in found[CHAIN].failures]
            rows += _rows(context, workload, name, measured, found)
    order = (*STAGES, CHAIN, TOKENS, RECOMMEND)
    rows.sort(key=lambda row: order.index(row.stage))  # stable: the backends of a stage side by side
    return rows, failures


def _yardsticks(folder: Path) -> tuple[Answers, Answers]:
    """Eager PyTorch in the bundle's precision and in fp32; where there is no file of its own, what was timed is it."""
    present = {name: (folder / f"{name}.safetensors").exists() for name in (ROUNDED, REFERENCE)}
    rounded, reference = (read_answers(folder, name if present[name] else EAGER) for name in (ROUNDED, REFERENCE))
    return rounded, reference


def _measure_apart(folder: Path, name: str) -> Measured:
    """Run one backend's process to its end.

    Raises:
        OneRankerError: It failed; its own message has gone to stderr.
    """
    command = [sys.executable, "-m", "benchmarks.worker", str(folder), name]
    done = subprocess.run(command, check=False, stdout=sys.stderr, env=SHORT_SPIN | os.environ)
    answer = folder / f"{name}.json"
    if done.returncode == 0 and answer.exists():
        return Measured(**json.loads(answer.read_text(encoding="utf-8")))
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    if name in (
        COMPILED,
        GRAPHED,
        FUSED,
        FUSED_GRAPHED,
    ):  # a baseline that dies must not take the others' numbers with it
        return Measured(not_run=f"its process ended with {how}; see stderr")
    failed = OneRankerError(f"{name}: its process ended with {how}, expected numbers. Its message stands above.")
    failed.exit_code = max(done.returncode, 1) if done.returncode in (1, 3) else 1
    raise failed


def _rows(context: _Context, workload: Workload, name: str, measured: Measured, found: dict[str, Error]) -> list[Row]:
    block = context.environment
    stages = [CHAIN] if name in (GRAPHED, FUSED_GRAPHED) else [*STAGES, CHAIN]
    if name in RUNTIME:
        stages += [TOKENS, RECOMMEND]
    padded = max(workload.padded(position) for position in range(len(workload.encoded)))
    sizes = f"b{workload.job.batch}-s{padded}-c{context.bundle.manifest.letters['C']}-n{block.items}"
    rows = []
    for stage in stages:
        row = Row(
            case=f"{stage}-{sizes}",
            stage=stage,
            backend=name,
            batch=workload.job.batch,
            threads=block.threads,
            device=block.device,
            precision=measured.precision,
            machine=block.machine,
            versions=block.versions,
            commit=block.commit,
        )
        if measured.not_run is not None:
            rows.append(not_run(row, measured.not_run))
            continue
        row = timed(row, measured.samples_ms[stage])
        if stage in found:
            row = replace(row, max_error=found[stage].max_error, allowed_error=found[stage].allowed)
        seconds = {**measured.compile_s, CHAIN: sum(measured.compile_s.values())} if measured.compile_s else {}
        rows.append(
            replace(
                row,
                peak_memory_mib=measured.peak_memory_mib,
                device_memory_mib=measured.device_memory_mib,
                compile_s=seconds.get(stage),
            )
        )
    return rows
