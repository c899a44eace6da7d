"""Times every case of a run: one process an engine and round, one after another, over one workload on disk."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environment import Environment, environment, usable_cores
from benchmarks.errors import Answers, Error, errors, read_answers
from benchmarks.gpu import Gpu, find_gpu
from benchmarks.requests import random_requests, requests_of_file
from benchmarks.roofline import Needed, with_roofline
from benchmarks.rounds import Rounds, measure_apart
from benchmarks.row import (
    BACKENDS,
    CHAIN,
    COMPILED,
    COMPILED_MAX,
    EAGER,
    FUSED_GRAPHED,
    GRAPHED,
    NEED_KERNELS,
    OF_BUNDLE,
    OPEN,
    RECOMMEND,
    RUNTIME,
    TOKENS,
    Row,
    not_run,
    timed,
    with_ratios,
)
from benchmarks.source import checkpoint_of, source_of
from benchmarks.worker import REFERENCE, ROUNDED
from benchmarks.workload import Job, Workload, in_batches
from runtime.bundle import OpenBundle, open_bundle
from runtime.errors import DeviceError, FeedError, OneRankerError, ParityError
from runtime.manifest import STAGES
from runtime.requests import SMALLEST_HISTORY, encode_requests

if TYPE_CHECKING:
    from benchmarks.latency import LatencySettings

logger = logging.getLogger(__name__)

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


def _time_case(context: _Context, workload: Workload) -> tuple[list[Row], list[str]]:
    """All engines on one workload, round after round: the rows, and what is wrong with the answers of the graphs."""
    settings, batch = context.settings, workload.job.batch
    names = engines_of(settings)
    found = {name: Rounds.of_engine(name, settings.rounds, settings.most_rounds) for name in names}
    apart: dict[str, dict[str, Error]] = {}
    failures: list[str] = []
    outputs = {name: [row.name for row in stage.outputs] for name, stage in context.bundle.manifest.stages.items()}
    with tempfile.TemporaryDirectory(prefix="oneranker-latency-") as temporary:
        folder = Path(temporary)
        workload.write(folder)
        took: dict[str, float] = {}  # seconds of the last process of each engine
        for name in _turns(found, time.monotonic() + settings.max_seconds):
            rounds = found[name]
            number = len(rounds.found)
            logger.info("%s, batch %d: round %d%s%s", name, batch, number + 1, _why(rounds), _told_left(found, took))
            begin = time.monotonic()
            rounds.found.append(measure_apart(folder, name, number))
            took[name] = time.monotonic() - begin
            if found[name].not_run is None and name not in apart:
                apart[name] = errors(read_answers(folder, name), *_yardsticks(folder), outputs)
                if name in OF_BUNDLE:
                    failures += [f"{name}, batch {batch}, {line}" for line in apart[name][CHAIN].failures]
    needed = found[EAGER].needed
    rows = [row for name in names for row in _rows(context, workload, name, found[name], apart.get(name, {}), needed)]
    order = (*STAGES, CHAIN, OPEN, TOKENS, RECOMMEND)
    rows.sort(key=lambda row: order.index(row.stage))  # stable: the engines of a stage side by side
    return rows, failures


def _turns(found: Mapping[str, Rounds], until: float) -> Iterator[str]:
    """The engines in turn, again and again, while there is one whose quickest rounds do not agree and time is left."""

    def wants(rounds: Rounds) -> bool:
        return rounds.due > 0 and (len(rounds.found) < rounds.keep or time.monotonic() < until)

    while any(map(wants, found.values())):
        yield from (name for name, rounds in found.items() if wants(rounds))


def _why(rounds: Rounds) -> str:
    """Why there is one round more than those to keep."""
    if len(rounds.found) < rounds.keep:
        return f" of {rounds.keep}"
    return f", as the quickest {rounds.keep} differ by {rounds.kept_spread:.0%}"


def _told_left(found: Mapping[str, Rounds], took: Mapping[str, float]) -> str:
    """How long what is due will take, as long as before; "" before there is anything to go by."""
    if not took:
        return ""
    usual = sum(took.values()) / len(took)
    return f", about {sum(rounds.due * took.get(name, usual) for name, rounds in found.items()):.0f} s left"


def _yardsticks(folder: Path) -> tuple[Answers, Answers]:
    """Eager PyTorch in the bundle's precision and in fp32; where there is no file of its own, what was timed is it."""
    present = {name: (folder / f"{name}.safetensors").exists() for name in (ROUNDED, REFERENCE)}
    rounded, reference = (read_answers(folder, name if present[name] else EAGER) for name in (ROUNDED, REFERENCE))
    return rounded, reference


def _stages_of(name: str, rounds: Rounds) -> list[str]:
    """The stages that an engine has rows of; where it could not run, those that say so."""
    stages = [CHAIN] if name in (GRAPHED, FUSED_GRAPHED) else [*STAGES, CHAIN]
    if name in RUNTIME:
        stages += [TOKENS, RECOMMEND]
    return stages + ([OPEN] if rounds.not_run is None and rounds.samples_ms(OPEN) else [])


def _rows(
    context: _Context,
    workload: Workload,
    name: str,
    rounds: Rounds,
    found: dict[str, Error],
    needed: dict[str, Needed],
) -> list[Row]:
    block, ceilings = context.environment, context.settings.ceilings
    padded = max(workload.padded(position) for position in range(len(workload.encoded)))
    sizes = f"b{workload.job.batch}-s{padded}-c{context.bundle.manifest.letters['C']}-n{block.items}"
    rows = []
    for stage in _stages_of(name, rounds):
        row = Row(
            case=f"{stage}-{sizes}",
            stage=stage,
            engine=name,
            batch=workload.job.batch,
            threads=block.threads,
            device=block.device,
            precision=rounds.precision,
            machine=block.machine,
            versions=block.versions,
            commit=block.commit,
        )
        if rounds.not_run is not None:
            rows.append(not_run(row, rounds.not_run))
            continue
        keep = None if stage == OPEN else rounds.keep  # every round has arrivals of its own, which are not noise
        quiet = None if stage == OPEN else rounds.quiet_ms(stage)  # a stall makes all wait who come after it
        row = _measured(timed(row, rounds.samples_ms(stage), keep, quiet), rounds)
        if stage in found:
            row = replace(row, max_error=found[stage].max_error, allowed_error=found[stage].allowed)
        rows.append(row if ceilings is None else with_roofline(row, needed, ceilings))
    return rows


def _measured(row: Row, rounds: Rounds) -> Row:
    """The row with what its engine's processes have told besides the times."""
    seconds = rounds.compile_s
    if row.stage == OPEN:
        offered, answered = (row.batch * (rounds.mean(name) or 0.0) for name in ("offered_per_s", "answered_per_s"))
        row = replace(row, offered_per_s=offered, requests_per_s=answered)
    return replace(
        row,
        stolen=rounds.mean("stolen"),
        peak_memory_mib=rounds.peak_memory_mib,
        device_memory_mib=rounds.device_memory_mib,
        compile_s=sum(seconds.values()) if seconds and row.stage == CHAIN else seconds.get(row.stage),
    )
