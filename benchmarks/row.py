"""One line of the result: what was timed, how long it took, what it cost and how far its answer is from fp32."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.measure import percentiles, quickest, spread

EAGER = "pytorch-eager"  # the baseline of every ratio
EAGER_BF16 = "pytorch-eager-bf16"
COMPILED = "pytorch-compile"
COMPILED_MAX = "pytorch-compile-max-autotune"  # on a GPU: kernels by trial, and torch's own CUDA graphs
COMPILED_BF16 = "pytorch-compile-bf16"
AOTI = "pytorch-aoti"  # a package of AOTInductor for each stage
GRAPHED = "pytorch-cuda-graph"  # the whole forward as one captured CUDA graph
FUSED = "pytorch-fused"  # eager, but for HSTU's attention in one kernel
FUSED_GRAPHED = "pytorch-fused-cuda-graph"  # both
NAIVE = "onnxruntime-host-copies"  # our graphs, one session.run after another: every tensor back to the caller's arrays
ENGINE = "onnxruntime"
RECOMPUTE = "onnxruntime-recompute"  # the same engines as two services: keys and values are not handed on
KERNELS = "onnxruntime-kernels"  # the runtime with our kernels, on the CPU
KERNELS_RECOMPUTE = "onnxruntime-kernels-recompute"
PLAIN = "onnxruntime-no-graphs"  # the runtime without CUDA graphs
TENSORRT = "tensorrt"  # or TensorRT-RTX, whichever the bundle's plans are for
RUNTIME = (ENGINE, KERNELS, PLAIN, TENSORRT)  # the product; the others are what it is compared with
OF_BUNDLE = (*RUNTIME, NAIVE, RECOMPUTE, KERNELS_RECOMPUTE)  # run the bundle's graphs: their answers must be right
NEED_KERNELS = (KERNELS, KERNELS_RECOMPUTE)
# one that cannot run here leaves the others their rows
BASELINES = (EAGER_BF16, COMPILED, COMPILED_MAX, COMPILED_BF16, AOTI, GRAPHED, NAIVE)
PEERS = (
    EAGER,
    EAGER_BF16,
    COMPILED,
    COMPILED_BF16,
    AOTI,
    NAIVE,
)  # what a user has without us; NAIVE but for the graphs
PASS_THROUGH = {ENGINE: RECOMPUTE, KERNELS: KERNELS_RECOMPUTE}  # with keys and values handed on, and without
BACKENDS = {
    "cpu": (EAGER, COMPILED, ENGINE, KERNELS),
    "cuda": (EAGER, COMPILED, COMPILED_MAX, GRAPHED, FUSED, FUSED_GRAPHED, ENGINE, PLAIN, TENSORRT),
}
CPU_ENGINES = (*PEERS, ENGINE, RECOMPUTE, KERNELS, KERNELS_RECOMPUTE)  # all that --engine may name on the CPU

CHAIN = "chain"  # tokens -> scores, the same work for every engine, one request after another (closed loop)
OPEN = "chain-open-loop"  # the same; requests arrive by chance (Poisson), waiting counts
TOKENS = "tokens"  # raw events -> tokens
RECOMMEND = "recommend"  # raw events -> ranked items with names


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One stage of one case on one engine; a field that was not measured is null in the JSON.

    A row that could not run has `note` = "not run: <reason>" and null in every measured field.
    """

    # <stage>-b<B>-s<S>-c<C>-n<N>: requests in a batch, padded history tokens, candidates, items in the index; in the
    # matrix of benchmarks.bench with the preset before it
    case: str
    stage: str  # generator | enhancer | retriever | ranker | chain | chain-open-loop | tokens | recommend
    engine: str  # one of the names above
    batch: int  # B
    samples: int = 0  # timed iterations, after the warm-up, of all rounds
    # of these: from which a hypervisor had stolen at most 1 % of the processors' time; of a round with fewer than three
    # such, all count, as p50_ms then has nothing else to go by: `stolen` says how disturbed it was
    quiet_samples: int = 0
    rounds: int = 1  # processes they come from, in turn with the other engines
    # of the rounds: those of the lowest medians, whose quiet samples p50_ms, spread and requests_per_s are of
    kept: int = 1
    stolen: float | None = None  # share of the processors' time, while the chain was timed, mean of all rounds
    p50_ms: float | None = None  # of a whole batch, not of a request
    p90_ms: float | None = None  # from here to max_ms: of all samples, what disturbed them included
    p95_ms: float | None = None
    p99_ms: float | None = None  # of fewer than 100 samples it is close to the largest
    max_ms: float | None = None
    spread: float | None = None  # (largest - smallest p50 of a kept round) / p50; null for one round
    requests_per_s: float | None = None  # B * kept samples / their sum; in an open loop, what was answered
    offered_per_s: float | None = None  # open loop: requests that arrived per second
    p50_vs_eager: float | None = None  # eager p50 / this p50, both of this run; above 1 = faster than eager
    p99_vs_eager: float | None = None
    # of the engine's whole process on the host, libraries and weights included; of the last round, which finds on disk
    # what the first has compiled, but torch.compile's and AOTInductor's still hold the model that they were made from
    peak_memory_mib: float | None = None
    device_memory_mib: float | None = None  # taken on the GPU since CUDA was started, at the end of the timing
    roofline: float | None = None  # time at the rates of GEMM and copy / p50 (benchmarks/roofline.py)
    bf16_gemm_share: float | None = None  # needed operations / p50 / operations per second of a bf16 GEMM
    max_error: float | None = None  # largest |answer - eager fp32|, every stage fed by this engine's own stages
    allowed_error: float | None = None  # parity rule: 2x the error of eager PyTorch in the same precision + rounding
    compile_s: float | None = None  # torch.compile: first call of the stage; CUDA graph: captures; in no other number
    threads: int = 1
    device: str = "cpu"  # or the GPU: "cuda:0 (its name, its compute capability)"
    precision: str = ""  # fp32 | fp16 | bf16: of the weights and of what travels between the stages
    machine: str = ""  # processor and number of logical cores
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None  # of the source tree, "+changes" if it differs from that; null outside of a checkout
    note: str = ""


def timed(
    row: Row,
    rounds: Sequence[Sequence[float]],
    keep: int | None = None,
    quiet: Sequence[Sequence[float]] | None = None,
) -> Row:
    """The row with its percentiles, spread and rate, from the samples of every round in milliseconds.

    `keep` of the rounds, the quickest, tell what the code takes; None: all of them. `quiet` are the samples of each
    round that nothing disturbed; None: all of them.
    """
    quiet = rounds if quiet is None else quiet
    kept = quiet if keep is None else quickest(quiet, keep)
    samples, counted = ([sample for round_ in some for sample in round_] for some in (rounds, kept))
    _, p90, p95, p99 = percentiles(samples)
    return replace(
        row,
        samples=len(samples),
        quiet_samples=sum(map(len, quiet)),
        rounds=len(rounds),
        kept=len(kept),
        p50_ms=statistics.median(counted),
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(samples),
        spread=spread(kept),
        requests_per_s=row.batch * len(counted) / (sum(counted) / 1e3),
    )


def not_run(row: Row, reason: str) -> Row:
    """The row of something that cannot be run here, with the reason in it."""
    return replace(row, note=f"not run: {reason}")


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Every row with its ratios to the eager row of the same case, where there is one."""
    eager = {row.case: row for row in rows if row.engine == EAGER and row.stage != OPEN}  # loads of their own
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
