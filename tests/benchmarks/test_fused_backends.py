"""PyTorch's rows of a GPU, fused or compiled with trials, as far as a machine without one can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import torch_backend, worker
from benchmarks.backend import NotRunError
from benchmarks.measure import Laps
from benchmarks.requests import random_requests
from benchmarks.row import COMPILED, COMPILED_MAX
from benchmarks.source import source_of
from benchmarks.torch_backend import How, TorchBackend
from benchmarks.torch_graph import GraphBackend
from benchmarks.workload import Job, Workload
from runtime.bundle import open_bundle
from runtime.manifest import Manifest
from runtime.requests import encode_requests


@pytest.fixture(scope="module")
def workload(tiny_fp16_bundle: Path) -> Workload:
    """One batch of two."""
    manifest, bundle = Manifest.read(tiny_fp16_bundle), open_bundle(tiny_fp16_bundle, threads=1)
    raw = [random_requests(source_of(tiny_fp16_bundle, manifest, None), manifest, 2, 7)]
    encoded = [encode_requests(batch, bundle.tokenizer, bundle.index, 20) for batch in raw]
    settings = Job(
        bundle=str(tiny_fp16_bundle),
        checkpoint=None,
        batch=2,
        iterations=1,
        warmup=0,
        threads=1,
        device="cpu",
        smallest_history=3,
        largest_history=20,
    )
    return Workload(settings, raw, encoded)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_fused_attention_says_what_it_lacks(workload: Workload) -> None:
    with pytest.raises(NotRunError, match="fused attention"):
        TorchBackend(workload, how=How.FUSED, precision=workload.precision)
    with pytest.raises(NotRunError, match="fused attention"):
        GraphBackend(workload, how=How.FUSED)


def test_the_fused_attention_is_handed_no_causal_mask(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is left out, so that the eager form answers: without a mask as with it."""
    monkeypatch.setattr(torch_backend, "_choose_fused", lambda model: None)
    given, absent = (TorchBackend(workload, how=how) for how in (How.EAGER, How.FUSED))
    seen = []
    generator = absent._model.generator
    generate = generator.forward
    monkeypatch.setattr(generator, "forward", lambda **feed: seen.append(feed["causal_mask"]) or generate(**feed))
    for backend in (given, absent):
        backend.chain(0, Laps())
    assert seen == [None]
    expected = given.outputs()
    assert all(np.array_equal(array, expected[name]) for name, array in absent.outputs().items())


@pytest.mark.parametrize(("name", "mode"), [(COMPILED, "default"), (COMPILED_MAX, "max-autotune")])
def test_compiled_rows_differ_in_their_mode_and_one_step_is_one_chain(
    workload: Workload, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    """With CUDA graphs a stage's answer lives until the next step begins: a chain of four stages is one."""
    options: list[dict[str, Any]] = []
    steps: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda module, **given: options.append(given) or module)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(len(steps)))
    backend = worker.load_backend(name, workload)
    assert options == [{"dynamic": False, "mode": mode}] * 4
    assert sum(backend.prepare(workload).values()) > 0
    backend.chain(0, Laps())
    assert len(steps) == (torch_backend.RECORDED + 2 if name == COMPILED_MAX else 0)
