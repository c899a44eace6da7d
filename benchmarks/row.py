"""One line of the result: what was timed, how long it took, what it cost and how far its answer is from fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.measure import percentiles

EAGER = "pytorch-eager"  # the baseline of every ratio
COMPILED = "pytorch-compile"
GRAPHED = "pytorch-cuda-graph"  # the whole forward as one captured CUDA graph
FUSED = "pytorch-fused"  # eager, but for HSTU's attention in one kernel
FUSED_GRAPHED = "pytorch-fused-cuda-graph"  # both
ENGINE = "onnxruntime"
KERNELS = "onnxruntime-kernels"  # the same with our kernels, on the CPU
PLAIN = "onnxruntime-no-graphs"  # the same without CUDA graphs
TENSORRT = "tensorrt"  # or TensorRT-RTX, whichever the bundle's plans are for
RUNTIME = (ENGINE, KERNELS, PLAIN, TENSORRT)  # the product; the others are what it is compared with
BACKENDS = {
    "cpu": (EAGER, COMPILED, ENGINE, KERNELS),
    "cuda": (EAGER, COMPILED, GRAPHED, FUSED, FUSED_GRAPHED, ENGINE, PLAIN, TENSORRT),
}

CHAIN = "chain"  # tokens -> scores, the same work for every backend
TOKENS = "tokens"  # raw events -> tokens
RECOMMEND = "recommend"  # raw events -> ranked items with names


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One stage of one case on one backend; a field that was not measured is null in the JSON.

    A row that could not run has `note` = "not run: <reason>" and null in every measured field.
    """

    case: str  # <stage>-b<B>-s<S>-c<C>-n<N>: requests in a batch, padded history tokens, candidates, items in the index
    stage: str  # generator | enhancer | retriever | ranker | chain | tokens | recommend
    # onnxruntime | onnxruntime-kernels | onnxruntime-no-graphs | tensorrt | pytorch-eager | pytorch-compile |
    # pytorch-cuda-graph | pytorch-fused | pytorch-fused-cuda-graph
    backend: str
    batch: int  # B
    samples: int = 0  # timed iterations, after the warm-up
    p50_ms: float | None = None  # of a whole batch, not of a request
    p95_ms: float | None = None
    p99_ms: float | None = None
    requests_per_s: float | None = None  # B * samples / the sum of all samples
    p50_vs_eager: float | None = None  # eager p50 / this p50, both of this run; above 1 = faster than eager
    p99_vs_eager: float | None = None
    peak_memory_mib: float | None = None  # of the backend's whole process on the host, libraries and weights included
    device_memory_mib: float | None = None  # taken on the GPU since CUDA was started, at the end of the timing
    max_error: float | None = None  # largest |answer - eager fp32|, every stage fed by this backend's own stages
    allowed_error: float | None = None  # parity rule: 2x the error of eager PyTorch in the same precision + rounding
    compile_s: float | None = None  # torch.compile: first call of the stage; CUDA graph: captures; in no other number
    threads: int = 1
    device: str = "cpu"  # or the GPU: "cuda:0 (its name, its compute capability)"
    precision: str = ""  # fp32 | fp16: of the weights and of what travels between the stages
    machine: str = ""  # processor and number of logical cores
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None  # of the source tree, "+changes" if it differs from that; null outside of a checkout
    note: str = ""


def timed(row: Row, samples_ms: Sequence[float]) -> Row:
    """The row with its percentiles and rate."""
    p50, p95, p99 = percentiles(samples_ms)
    rate = row.batch * len(samples_ms) / (sum(samples_ms) / 1e3)
    return replace(row, samples=len(samples_ms), p50_ms=p50, p95_ms=p95, p99_ms=p99, requests_per_s=rate)


def not_run(row: Row, reason: str) -> Row:
    """The row of something that cannot be run here, with the reason in it."""
    return replace(row, note=f"not run: {reason}")


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Every row with its ratios to the eager row of the same case, where there is one."""
    eager = {row.case: row for row in rows if row.backend == EAGER}
    return [
        replace(
            row,
            p50_vs_eager=_ratio(eager[row.case].p50_ms, row.p50_ms),
            p99_vs_eager=_ratio(eager[row.case].p99_ms, row.p99_ms),
        )
        if row.case in eager
        else row
        for row in rows
    ]


def _ratio(baseline: float | None, measured: float | None) -> float | None:
    return baseline / measured if baseline is not None and measured else None
