"""Answers of an engine against eager PyTorch in fp32, stage by stage and as a chain, with copies and graphs counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from benchmarks.backend import Array, NotRunError, as_float
from benchmarks.errors import errors
from benchmarks.gpu_bundles import plan_figures, with_plans
from benchmarks.gpu_checks import Figures, GpuJob, Rows
from benchmarks.gpu_plan import ONNX, TENSORRT
from benchmarks.gpu_stages import Yardsticks, open_onnx_stage, operators_of, require_cuda_provider
from benchmarks.row import CHAIN
from export.parity import StageParity
from runtime import Pipeline
from runtime.bundle import open_bundle
from runtime.manifest import STAGES

ROUNDS = 4  # a size is run plain, then captured, then replayed
MEMORY_COPIES = ("MemcpyToHost", "MemcpyFromHost")


def on_the_cpu(job: GpuJob, rows: Rows) -> None:
    """What can be said without a GPU: the same graphs and the same chain on ONNX Runtime's CPU provider."""
    *per_stage, chain = job.checks
    yard = Yardsticks(job)
    for stage, check in zip(STAGES, per_stage, strict=True):
        with rows.check(check) as figures:
            figures |= judged(yard.compare(open_onnx_stage(job, stage)))
    with rows.check(chain) as figures:
        chain_parity(yard, Pipeline.load(job.folder, engine=ONNX, device="cpu"), figures)


def onnxruntime_stages(job: GpuJob, rows: Rows) -> None:
    """Every stage on ONNX Runtime CUDA by itself: its answers, and where its nodes ran."""
    require = cached(require_cuda_provider)
    yardsticks = cached(lambda: Yardsticks(job))
    for stage, check in zip(STAGES, job.checks[:4], strict=True):
        with rows.check(check) as figures:
            require()
            figures |= judged(yardsticks().compare(open_onnx_stage(job, stage)))
    for stage, check in zip(STAGES, job.checks[4:], strict=True):
        with rows.check(check) as figures:
            require()
            placement = open_onnx_stage(job, stage).placement
            assert placement is not None
            figures |= {"on_device": placement.on_device, "on_host": list(placement.on_host)}
            ran = operators_of(job, stage, yardsticks().feed(stage))
            figures["ran"] = {provider: dict(operators) for provider, operators in ran.items()}
            if moved := sum(operators[name] for operators in ran.values() for name in MEMORY_COPIES):
                raise RuntimeError(f"{moved} copies between device and host inside of the graph, expected none")


def onnxruntime_chain(job: GpuJob, rows: Rows) -> None:
    """The whole pipeline on ONNX Runtime CUDA."""

    def load(*, cuda_graphs: bool) -> Pipeline:
        require_cuda_provider()
        return Pipeline.load(job.folder, engine=ONNX, device=job.device, cuda_graphs=cuda_graphs)

    _chain(job, rows, load)


def tensorrt_stages(job: GpuJob, rows: Rows) -> None:
    """TensorRT's plans are built on the very GPU, then every stage's answers are compared."""
    plans, *per_stage = job.checks
    folder: list[Path] = []
    with rows.check(plans) as figures:
        folder.append(with_plans(job, TENSORRT))
        figures |= plan_figures(folder[0])
    opened = cached(lambda: open_bundle(folder[0], engine=TENSORRT, device=job.device).stages)
    yardsticks = cached(lambda: Yardsticks(job))
    for stage, check in zip(STAGES, per_stage, strict=True):
        with rows.check(check) as figures:
            if not folder:
                raise NotRunError("there are no plans: see the first of these checks")
            figures |= judged(yardsticks().compare(opened()[stage]))


def tensorrt_chain(job: GpuJob, rows: Rows) -> None:
    """The whole pipeline on TensorRT."""

    def load(*, cuda_graphs: bool) -> Pipeline:
        folder = with_plans(job, TENSORRT)
        return Pipeline.load(folder, engine=TENSORRT, device=job.device, cuda_graphs=cuda_graphs)

    _chain(job, rows, load)


def judged(report: StageParity) -> Figures:
    """The figures of a comparison.

    Raises:
        RuntimeError: It failed; every reason is named.
    """
    if failures := report.failures():
        raise RuntimeError("; ".join(failures))
    return report.to_json()


def chain_parity(yard: Yardsticks, pipeline: Pipeline, figures: Figures) -> None:
    """Candidates and scores of every batch through the pipeline's own calls, beside eager PyTorch's.

    Raises:
        RuntimeError: They differ by more than the rule allows.
    """
    outputs = {name: [row.name for row in stage.outputs] for name, stage in pipeline.manifest.stages.items()}
    names = [name for tensors in outputs.values() for name in tensors]
    found: dict[str, Array] = {}
    for position in range(yard.batches):
        run_once(yard, pipeline, position)
        answers = as_float({name: pipeline.read(name) for name in names})
        found |= {f"{position}.{name}": array for name, array in answers.items()}
    report = errors(found, yard.answers(rounded=True), yard.answers(rounded=False), outputs)
    figures |= {stage: {"max_error": one.max_error, "allowed": one.allowed} for stage, one in report.items()}
    if failures := report[CHAIN].failures:
        raise RuntimeError("; ".join(failures))


def run_once(yard: Yardsticks, pipeline: Pipeline, position: int) -> None:
    """One batch from tokens to scores."""
    batch = yard.workload.encoded[position]
    pipeline.generate([request.tokens for request in batch])
    pipeline.enhance()
    pipeline.retrieve([request.item_filter for request in batch])
    pipeline.rank()


def copied(pipeline: Pipeline) -> Figures:
    """What the ledger holds.

    Raises:
        RuntimeError: Keys or values were copied, or any tensor between two stages.
    """
    ledger = pipeline.copies
    counts: dict[str, dict[str, int]] = {row.name: dict(getattr(ledger, row.name)) for row in fields(ledger)}
    wrong = [
        f"{kind} {name}" for kind, names in counts.items() for name in names if "_key_" in name or "_value_" in name
    ]
    wrong += [f"stage_to_stage {name}" for name in counts.get("stage_to_stage", {})]
    if wrong:
        raise RuntimeError(
            f"copied: {', '.join(dict.fromkeys(wrong))}; expected no keys, no values, nothing between stages"
        )
    return counts


def graphed(pipeline: Pipeline) -> Figures:
    """How often each size was captured and replayed.

    Raises:
        RuntimeError: Some stage never replayed a graph.
    """
    counts = pipeline.graphs
    figures = {kind: dict(getattr(counts, kind)) for kind in ("plain", "captured", "replayed")}
    if idle := [stage for stage in STAGES if not any(key.startswith(stage) for key in figures["replayed"])]:
        raise RuntimeError(f"no CUDA graph was replayed for {', '.join(idle)}: {figures}")
    return figures


class Load(Protocol):
    """Opens the pipeline that is checked."""

    def __call__(self, *, cuda_graphs: bool) -> Pipeline: ...


def _chain(job: GpuJob, rows: Rows, load: Load) -> None:
    """Parity and copies of a pipeline without graphs, then graphs and their parity in another one.

    So what cannot be captured fails one check and hides nothing else. The ledger is read before parity looks at every
    tensor.
    """
    parity, copies, graphs = job.checks
    plain = cached(lambda: load(cuda_graphs=False))
    yardsticks = cached(lambda: Yardsticks(job))
    with rows.check(copies) as figures:
        _run_all(yardsticks(), plain())
        figures |= copied(plain())
    with rows.check(parity) as figures:
        chain_parity(yardsticks(), plain(), figures)
        plain().close()
    with rows.check(graphs) as figures:
        replaying = load(cuda_graphs=True)
        _run_all(yardsticks(), replaying)
        figures |= graphed(replaying)
        chain_parity(yardsticks(), replaying, figures)


def _run_all(yard: Yardsticks, pipeline: Pipeline) -> None:
    for _ in range(ROUNDS):
        for position in range(yard.batches):
            run_once(yard, pipeline, position)


def cached(make: Callable[[], Any]) -> Callable[[], Any]:
    """Make something at the first call; what it raised is raised again at the others."""
    kept: list[Any] = []
    raised: list[Exception] = []

    def get() -> Any:
        if raised:
            raise raised[0]
        if not kept:
            try:
                kept.append(make())
            except Exception as error:
                raised.append(error)
                raise
        return kept[0]

    return get
