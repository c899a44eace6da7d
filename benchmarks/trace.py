"""Writes the trace of one request: its steps, the four stages, and every node that ONNX Runtime ran in them.

    python -m benchmarks.trace --bundle demo/bundle --requests demo/requests.jsonl --out trace.json
    python -m benchmarks.trace --bundle bundle --history 2048 --kernels build/cpp/release/liboneranker_kernels.so

The file is in Chrome's trace format: open it in https://ui.perfetto.dev or chrome://tracing. Spans are complete events
in microseconds since the request came in: recommend, in it tokens, generator, enhancer, retriever, ranker and answers,
in each stage the nodes of its graph with their operator, shapes and provider. Between the spans lies what the runtime
itself does. Nodes are timed by ONNX Runtime's own profiler on a clock of its own: a stage's nodes are placed so that
its run lies in the middle of the stage's span, and `off_by_at_most_us` says how far they may be off.

Timing every node takes time: this request is slower than others. How long the same request takes without it, median
of --iterations after --warmup, stands beside it. ONNX Runtime on the CPU only.

stdout: one JSON object: {"out", "recommend_ms", "without_profiling_p50_ms", "stages_ms", "nodes"}. stderr: progress.
Exit codes: 0 ok, 1 our error, 2 usage, 3 bundle.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.requests import random_requests, requests_of_file
from benchmarks.row import RECOMMEND
from benchmarks.row_set import write_whole
from benchmarks.source import source_of
from runtime.bundle import open_bundle
from runtime.errors import OneRankerError
from runtime.manifest import STAGES, Manifest
from runtime.onnx_stage import OnnxStage
from runtime.pipeline import Pipeline
from runtime.timing import Span

logger = logging.getLogger("benchmarks.trace")
Event = dict[str, Any]
SHOWN = ("op_name", "provider", "input_type_shape", "output_type_shape", "parameter_size")  # of a node


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """One trace.

    Raises:
        ValueError: A number that no run can use.
    """

    bundle: Path
    requests: Path | None = None  # its first request; None: a synthetic one
    history: int | None = None  # tokens of the synthetic request; None: S of the bundle's profile
    kernels: Path | None = None
    threads: int | None = None  # None: one per core
    warmup: int = 10
    iterations: int = 20
    top_k: int = 10
    out: Path = Path("trace.json")

    def __post_init__(self) -> None:
        numbers = {"--warmup": (self.warmup, 1), "--iterations": (self.iterations, 1), "--top-k": (self.top_k, 1)}
        numbers |= {"--history": (self.history or 3, 3), "--threads": (self.threads or 1, 1)}
        for flag, (value, least) in numbers.items():
            if value < least:
                raise ValueError(f"{flag}: got {value}, expected at least {least}")
        if self.history is not None and self.requests is not None:
            raise ValueError("--history: got a number beside --requests, whose own history is used; leave it out")


DEFAULT = TraceSettings(bundle=Path("bundle"))


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    parser = _parser()
    try:
        settings = TraceSettings(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        trace = trace_request(settings)
        write_whole(settings.out, json.dumps(trace))
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    sys.stdout.write(json.dumps({"out": str(settings.out), **trace["otherData"]}) + "\n")
    return 0


def trace_request(settings: TraceSettings) -> dict[str, Any]:
    """Answer one request with every span and node timed, as the object of Chrome's trace format.

    Raises:
        BundleError: The bundle is damaged.
        DeviceError: The kernels are not there.
        FeedError: There is no request, or it does not fit.
    """
    request = _request(settings)
    with Pipeline.load(
        settings.bundle, engine="onnxruntime", device="cpu", threads=settings.threads, kernels=settings.kernels
    ) as pipeline:
        without_ms = statistics.median(_times_ms(pipeline, request, settings))
    with tempfile.TemporaryDirectory(prefix="oneranker-trace-") as folder:
        pipeline, stages = _profiled(settings, Path(folder))
        with pipeline:
            _times_ms(pipeline, request, settings, iterations=0)
            pipeline.timing.enabled = True
            with pipeline.timing.span(RECOMMEND):
                pipeline.recommend([request], settings.top_k)
            spans = list(pipeline.timing.log)
            profiles = {name: _profile(stage) for name, stage in stages.items()}
    return _trace(settings, spans, profiles, without_ms)


def _request(settings: TraceSettings) -> dict[str, Any]:
    if settings.requests is not None:
        return requests_of_file(settings.requests)[0]
    manifest = Manifest.read(settings.bundle)
    history = settings.history or manifest.profile["S"][1]
    return random_requests(source_of(settings.bundle, manifest, None), manifest, 1, history)[0]


def _profiled(settings: TraceSettings, folder: Path) -> tuple[Pipeline, dict[str, OnnxStage]]:
    """The pipeline of the bundle, its stages loaded once more with the nodes timed."""
    parts = open_bundle(
        settings.bundle, engine="onnxruntime", device="cpu", threads=settings.threads, kernels=settings.kernels
    )
    stages = {}
    for name, plain in parts.stages.items():
        path = settings.bundle / parts.manifest.stages[name].file
        stages[name] = OnnxStage.load(
            name, path, plain.inputs, plain.outputs,
            threads=settings.threads, kernels=settings.kernels, profile=folder / name,
        )  # fmt: skip
        plain.close()
    return Pipeline(parts.manifest, stages, parts.tokenizer, parts.masks, parts.index, parts.serving), stages


def _times_ms(
    pipeline: Pipeline, request: dict[str, Any], settings: TraceSettings, iterations: int | None = None
) -> list[float]:
    """Warm up, then time whole requests without any span."""
    count = settings.iterations if iterations is None else iterations
    found = []
    for number in tqdm(range(settings.warmup + count), desc="requests", file=sys.stderr, leave=False):
        begin = time.perf_counter()
        pipeline.recommend([request], settings.top_k)
        if number >= settings.warmup:
            found.append((time.perf_counter() - begin) * 1e3)
    return found


def _profile(stage: OnnxStage) -> list[Event]:
    path = stage.end_profiling()
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise OneRankerError(
            f"{path}: got {error}, expected ONNX Runtime's profile of the {stage.name}. Is the disk full?"
        ) from error


def _trace(
    settings: TraceSettings, spans: Sequence[Span], profiles: dict[str, list[Event]], without_ms: float
) -> dict[str, Any]:
    """Spans and nodes on one clock, in microseconds since the request."""
    whole = next(span for span in spans if span.name == RECOMMEND)
    events = [
        _event(span.name, "pipeline", (span.begin_s - whole.begin_s) * 1e6, (span.end_s - span.begin_s) * 1e6)
        for span in sorted(spans, key=lambda span: (span.begin_s, -span.end_s))
    ]
    nodes = []
    for event in events:
        if event["name"] in profiles:
            nodes += _nodes(event, profiles[event["name"]])
    names = [_named("process_name", f"oneranker {settings.bundle}"), _named("thread_name", "one request")]
    return {
        "traceEvents": [*names, *events, *nodes],
        "displayTimeUnit": "ms",
        "otherData": {
            "recommend_ms": (whole.end_s - whole.begin_s) * 1e3,
            "without_profiling_p50_ms": without_ms,
            "stages_ms": {event["name"]: event["dur"] / 1e3 for event in events if event["name"] in STAGES},
            "nodes": len(nodes),
        },
    }


def _nodes(span: Event, profile: Sequence[Event]) -> list[Event]:
    """What the last run of a stage consists of, moved onto the span's clock."""
    runs = [event for event in profile if event.get("name") == "model_run"]
    if not runs:
        raise OneRankerError(
            f"{span['name']}: got no model_run in ONNX Runtime's profile, expected one for each request. "
            "Profile with the version of ONNX Runtime in constraints.txt."
        )
    last = runs[-1]
    slack = max(span["dur"] - last["dur"], 0.0) / 2
    span["args"]["off_by_at_most_us"] = slack
    begin, end = last["ts"], last["ts"] + last["dur"]
    moved = span["ts"] + slack - begin
    found = []
    for event in profile:
        if event.get("cat") == "Node" and begin <= event["ts"] and event["ts"] + event["dur"] <= end:
            about = {name: event["args"][name] for name in SHOWN if name in event["args"]}
            name = event["name"].removesuffix("_kernel_time")
            found.append(_event(name, "node", event["ts"] + moved, event["dur"], about))
    return found


def _event(name: str, category: str, begin_us: float, duration_us: float, about: Event | None = None) -> Event:
    """A complete event; all of them on one thread, where Chrome nests them by time."""
    return {
        "name": name, "cat": category, "ph": "X", "ts": begin_us, "dur": duration_us, "pid": 1, "tid": 1,
        "args": about or {},
    }  # fmt: skip


def _named(what: str, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": 1, "tid": 1, "args": {"name": name}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.trace", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="folder that `python -m export.build` wrote")
    add("--requests", type=Path, metavar="FILE", help="its first request is traced (default: a synthetic one)")
    add("--history", type=int, metavar="N", help="tokens of the synthetic request (default: S of the bundle's profile)")
    add("--kernels", type=Path, metavar="FILE", help="liboneranker_kernels.so of `make cpp`")
    add("--threads", type=int, help="of ONNX Runtime, each stage (default: one per core)")
    add("--warmup", type=int, default=DEFAULT.warmup, help="requests first (default: %(default)s)")
    add("--iterations", type=int, default=DEFAULT.iterations,
        help="requests timed without profiling, for comparison (default: %(default)s)")  # fmt: skip
    add("--top-k", type=int, default=DEFAULT.top_k, help="items in the answer (default: %(default)s)")
    add("--out", type=Path, default=DEFAULT.out, metavar="FILE", help="the trace (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
