"""Row sets of made-up samples for the tests of what reads them: same cases, a factor for any engine, a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.retrieval_row import DENSE, TRIE, RetrievalRow
from benchmarks.row import (
    CHAIN,
    EAGER,
    ENGINE,
    KERNELS,
    KERNELS_RECOMPUTE,
    NAIVE,
    OPEN,
    RECOMPUTE,
    Row,
    not_run,
    timed,
    with_ratios,
)
from benchmarks.row_set import RowSet, derived

SIZES = "b1-s64-c32-n1000"
MIDDLE_MS = {EAGER: 20.0, NAIVE: 12.0, ENGINE: 10.0, RECOMPUTE: 16.0, KERNELS: 4.0, KERNELS_RECOMPUTE: 9.0}
STAGES = ("generator", CHAIN)
REFERENCE = 100_000  # items
RUN: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m benchmarks.bench --quick <all>",
    "commit": "abc",
    "machine": "Some CPU, 2 cores",
    "load_average": 0.1,
    "threads": 2,
    "system": "Linux",
    "versions": {"python": "3.11", "torch": "2"},
    "ceilings": {"gemm_fp32_gflops": 100.0, "gemm_bf16_gflops": 200.0, "copy_gb_s": 10.0},
    "seconds": 12.5,
}


def row_set(
    seed: int = 0,
    factor: Mapping[str, float] | None = None,
    *,
    noise: float = 0.02,
    rounds: int = 5,
    run: Mapping[str, Any] | None = None,
) -> RowSet:
    """Normal noise of every sample and of every round's level; `factor` slows an engine down."""
    random = np.random.default_rng(seed)
    rows = []
    for stage in STAGES:
        for engine, middle in MIDDLE_MS.items():
            level = middle * (factor or {}).get(engine, 1.0) * (1.0 if stage == CHAIN else 0.6)
            drift = level * (1 + noise * random.standard_normal(rounds))
            samples = [list(one * (1 + noise * random.standard_normal(50))) for one in drift]
            rows.append(replace(timed(_row(stage, engine), samples), **COSTS))
    open_row = replace(_row(OPEN, ENGINE), offered_per_s=50.0)
    rows = [*with_ratios(rows), timed(open_row, [[11.0, 12.0, 30.0]] * 5)]
    rows.append(not_run(_row(CHAIN, "pytorch-compile"), "no <compiler> & no hope"))
    retrieval = [_retrieval(items) for items in (1000, REFERENCE, 10_000_000)]
    big = RetrievalRow(case="dense-n100000", retriever=DENSE, items=REFERENCE, note="not run: big")
    retrieval.append(asdict(big))
    return RowSet({**RUN, **(run or {})}, rows, retrieval, derived(rows, retrieval))


COSTS: dict[str, Any] = {"peak_memory_mib": 100.5, "roofline": 0.4321, "bf16_gemm_share": 0.2, "max_error": 1.5e-6}


def _row(stage: str, engine: str) -> Row:
    return Row(case=f"demo-{stage}-{SIZES}", stage=stage, engine=engine, batch=1, threads=2, machine=RUN["machine"])


def _retrieval(items: int) -> dict[str, Any]:
    p50_ms = 3.0 + items / 1e7
    row = RetrievalRow(
        case=f"trie-n{items}", retriever=TRIE, items=items, p50_ms=p50_ms, p90_ms=p50_ms * 1.1, p99_ms=p50_ms * 1.5,
        samples=20, peak_memory_mib=50.0 + items / 1e4, recall_at_c=0.91, recall_at_10=0.95, index_build_s=0.5,
        index_bytes=100 * items, bytes_per_item=99.5, index_open_s=0.125, swap_s=0.25, beams=8,
    )  # fmt: skip
    if items > REFERENCE:  # in turn with a smaller one, which was slower than in its own row
        row = replace(row, reference_items=REFERENCE, reference_p50_ms=3.2, p50_vs_reference=p50_ms / 3.2)
    return asdict(row)
