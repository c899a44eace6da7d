from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ceilings import Ceilings
from benchmarks.requests import random_requests
from benchmarks.roofline import Needed, masked_operations, with_roofline
from benchmarks.row import CHAIN, ENGINE, TOKENS, Row, timed
from benchmarks.source import source_of
from benchmarks.torch_backend import TorchBackend
from benchmarks.torch_work import needed_work
from benchmarks.workload import Job, Workload, in_batches
from runtime.bundle import open_bundle
from runtime.requests import encode_requests

CEILINGS = Ceilings(gemm_fp32_gflops=100.0, gemm_bf16_gflops=400.0, copy_gb_s=10.0)


def row(stage: str, p50_ms: float, precision: str = "fp32") -> Row:
    return timed(Row(case="c", stage=stage, engine=ENGINE, batch=1, precision=precision), [[p50_ms]])


def test_the_floor_is_the_longer_one_of_computing_and_moving() -> None:
    computing = Needed(operations=2e9, bytes=1e6)
    moving = Needed(operations=1e6, bytes=5e8)
    assert computing.floor_ms(CEILINGS, "fp32") == pytest.approx(20)
    assert moving.floor_ms(CEILINGS, "fp32") == pytest.approx(50)
    assert computing.floor_ms(CEILINGS, "bf16") == pytest.approx(5)
    assert moving.floor_ms(CEILINGS, "bf16") == pytest.approx(25), "half the bytes"


def test_a_share_is_the_floor_over_the_median_and_the_chains_floor_is_the_sum() -> None:
    needed = {"generator": Needed(operations=2e9, bytes=0), "ranker": Needed(operations=0, bytes=1e8)}
    assert with_roofline(row("generator", 80.0), needed, CEILINGS).roofline == pytest.approx(0.25)
    chain = with_roofline(row(CHAIN, 100.0), needed, CEILINGS)
    assert chain.roofline == pytest.approx(0.3)
    assert chain.bf16_gemm_share == pytest.approx(2e9 / 0.1 / 400e9)


def test_what_was_not_counted_or_not_timed_has_no_share() -> None:
    needed = {"generator": Needed(operations=2e9, bytes=0)}
    assert with_roofline(row(TOKENS, 1.0), needed, CEILINGS).roofline is None
    assert with_roofline(row(CHAIN, 1.0), {}, CEILINGS).roofline is None
    untimed = replace(row(CHAIN, 1.0), p50_ms=None)
    assert with_roofline(untimed, needed, CEILINGS).roofline is None


def test_the_operations_above_the_diagonal_are_those_a_slow_loop_finds() -> None:
    B, S, D, layers = 2, 7, 8, 3
    masked = sum(1 for query in range(S) for key in range(S) if key > query)
    assert masked_operations(layers, B, S, D) == layers * B * masked * D * 2 * 2  # q·k and p·v, two operations each


def test_the_work_that_is_counted_is_that_of_the_formulas(tiny_bundle: Path) -> None:
    """Generator: input and output maps, maps to keys and values, and the causal half of q·k and p·v."""
    bundle = open_bundle(tiny_bundle, engine="onnxruntime", device="cpu", threads=1)
    source = source_of(tiny_bundle, bundle.manifest, None)
    config, history = source.model.config, 16
    job = Job(
        bundle=str(tiny_bundle), checkpoint=None, batch=1, iterations=1, warmup=0, threads=1, device="cpu",
        smallest_history=16, largest_history=config.max_history,
    )  # fmt: skip
    raw = in_batches(random_requests(source, bundle.manifest, 1, history), 1)
    encoded = [encode_requests(requests, bundle.tokenizer, bundle.index, config.max_history) for requests in raw]
    needed = needed_work(TorchBackend(Workload(job, raw, encoded)), 0)
    S, D = history, config.width
    maps = 5 * D * D * config.generator_layers + 2 * (config.enhancer_layers + 1) * D * D
    attention = config.generator_layers * 2 * D * S * (S + 1) // 2
    assert needed["generator"].operations == 2 * (S * maps + attention)
    assert {stage for stage, work in needed.items() if work.operations > 0 and work.bytes > 0} == {
        "generator", "enhancer", "retriever", "ranker",
    }  # fmt: skip


def test_ceilings_are_measured_in_a_process_of_their_own() -> None:
    command = [sys.executable, "-m", "benchmarks.ceilings", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found) == {field.name for field in fields(Ceilings)}
    assert all(np.isfinite(rate) and rate > 0 for rate in found.values())
