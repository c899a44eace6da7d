"""Times every case of a run: one process an engine and round, one after another, over one workload on disk."""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environment import Environment, environment, usable_cores
from benchmarks.gpu import find_gpu
from benchmarks.requests import random_requests, requests_of_file
from benchmarks.row import (
    BACKENDS,
    CHAIN,
    COMPILED,
    COMPILED_MAX,
    EAGER,
    NEED_KERNELS,
    RUNTIME,
    Row,
    with_ratios,
)
from benchmarks.source import checkpoint_of, source_of
from benchmarks.timed_case import Context, TimedCase
from benchmarks.workload import Job, Workload, in_batches
from runtime.bundle import OpenBundle, open_bundle
from runtime.errors import DeviceError, FeedError, OneRankerError, ParityError
from runtime.requests import SMALLEST_HISTORY, encode_requests

if TYPE_CHECKING:
    from benchmarks.latency import LatencySettings

logger = logging.getLogger(__name__)

SYNTHETIC_BATCHES = 4  # different ones, taken in turn


def time_runs(
    runs: Sequence[tuple[LatencySettings, Sequence[str]]],
) -> list[tuple[Environment, list[Row], OneRankerError | None]]:
    """See `benchmarks.latency.run_in_turn`."""
    with tempfile.TemporaryDirectory(prefix="oneranker-latency-") as temporary:
        folders = (Path(temporary) / str(number) for number in itertools.count())
        opened = [_open(settings, words, folders) for settings, words in runs]
        until = time.monotonic() + max(settings.max_seconds for settings, _ in runs)
        cases = [case for some in opened for case in some]
        while waiting := [case for case in cases if case.due(until)]:
            for case in waiting:
                case.take_turns(until)
            if any(case.failures for case in cases):  # wrong answers are no faster for being timed again
                break
            logger.info("about %.0f s left", sum(case.seconds_left for case in cases))
        return [_result(settings, cases) for (settings, _), cases in zip(runs, opened, strict=True)]


def _open(settings: LatencySettings, words: Sequence[str], folders: Iterator[Path]) -> list[TimedCase]:
    """A case for each batch size, with nothing timed yet."""
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
    context = Context(settings, block, bundle, checkpoint, gpu)
    cases = []
    for batch in settings.batch:
        if settings.requests is not None:
            requests = requests_of_file(settings.requests)
        else:
            history = settings.history or manifest.profile["S"][1]
            requests = random_requests(source, manifest, SYNTHETIC_BATCHES * batch, history)
        workload = _workload(context, requests, batch)
        cases.append(TimedCase.begin(context, workload, engines_of(settings), next(folders)))
    return cases


def _result(
    settings: LatencySettings, cases: Sequence[TimedCase]
) -> tuple[Environment, list[Row], OneRankerError | None]:
    rows = [row for case in cases for row in case.rows()]
    wrong = _what_is_wrong(settings.bundle, rows, [line for case in cases for line in case.failures])
    return cases[0].context.environment, with_ratios(rows), wrong


def _what_is_wrong(bundle: Path, rows: Sequence[Row], failures: Sequence[str]) -> OneRankerError | None:
    """The runtime's wrong answers, or that it did not run at all: then there is nothing to compare."""
    if failures:
        return ParityError(
            f"{bundle}: the runtime answers unlike the weights it is compared with: {'; '.join(failures)}. "
            "Rebuild with `python -m export.build --stage all`."
        )
    ours = [row for row in rows if row.engine in RUNTIME and row.stage == CHAIN]
    if ours and not any(row.samples for row in ours):
        reasons = "; ".join(dict.fromkeys(f"{row.engine} {row.note}" for row in ours))
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


def _workload(context: Context, requests: list[dict[str, Any]], batch: int) -> Workload:
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
        duration=settings.duration,
        utilisation=settings.utilisation,
    )
    raw = in_batches(requests, batch)
    encoded = [encode_requests(requests, bundle.tokenizer, bundle.index, high) for requests in raw]
    return Workload(job, raw, encoded)


def engines_of(settings: LatencySettings) -> list[str]:
    """The engines of a run, in the order in which they take turns; eager PyTorch is always the first.

    Those that were named, or the usual ones of the device.
    """
    if settings.engines:
        return list(dict.fromkeys((EAGER, *settings.engines)))
    left_out = () if settings.compiled else (COMPILED, COMPILED_MAX)
    without = () if settings.kernels is not None else NEED_KERNELS
    usual = BACKENDS["cpu" if settings.device == "cpu" else "cuda"]
    return [name for name in usual if name not in (*left_out, *without)]
