"""Serves one item index through the runtime and measures it: time, memory, opening, swapping; imports no torch."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.numpy import save_file

from benchmarks.measure import garbage_collector_off, peak_memory_mib
from oneranker.tokens import Tokens
from runtime.item_header import TABLES_FILE, ItemIndexHeader
from runtime.item_tables import ItemFilter
from runtime.items import ItemIndex
from runtime.pipeline import Pipeline
from runtime.serving import ONNX

EXCLUDED, LOOKED_UP, FEW = 100, 500, 20
ANSWERS = "answers.safetensors"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is served and for how long."""

    bundle: str
    items: str  # folder of the item index
    reference: str | None  # folder of another index, which the stage is timed on in turn
    requests: str  # file of raw requests
    threads: int
    rounds: int
    seconds: float  # the rounds stop earlier where they would take longer


def serve(settings: Serving) -> dict[str, Any]:
    """Swap the index into a serving pipeline, then time the retriever on it.

    Beside the index lies then what every request was answered, for the recall.

    Returns:
        The fields of a row that are known from serving.
    """
    requests = [json.loads(line) for line in Path(settings.requests).read_text(encoding="utf-8").splitlines()]
    index, open_s = _timed(lambda: ItemIndex.read(settings.items))
    size = (Path(settings.items) / TABLES_FILE).stat().st_size
    nodes, items = index.header.nodes, len(index)
    tables = sum(index.tables[name].nbytes for name in ("item_table", "item_vectors") if name in index.tables)
    vectors = index.tables["item_vectors"].nbytes if "item_vectors" in index.tables else 0
    lookup = _lookups(index)
    del index
    with Pipeline.load(settings.bundle, ONNX, "cpu", settings.threads) as pipeline:
        own = [request.tokens for request in pipeline.encode(requests)]
        for tokens in own:
            _retrieve(pipeline, tokens)
        before, before_private = _resident()
        swap_s, slowest_ms = _swapped(pipeline, settings.items, own)
        batch = [request.tokens for request in pipeline.encode(requests)]
        user, found = [], []
        for tokens in batch:
            user.append(_retrieve(pipeline, tokens))
            found.append(pipeline.read("candidate_items")[0])
        after, after_private = _resident()
        save_file(
            {"user_embedding": np.concatenate(user), "candidate_items": np.stack(found)},
            Path(settings.items).with_name(ANSWERS),
        )
        peak = peak_memory_mib()
        samples, compared = _compared(pipeline, batch, requests, settings)
        filtered = _filtered(pipeline, batch, items)
        return compared | {
            "nodes": nodes, "samples": len(samples), "index_open_s": open_s, "swap_s": swap_s,
            "swap_slowest_ms": slowest_ms, "peak_memory_mib": peak,
            "bytes_per_item": (size - tables + after_private - before_private) / items,
            "resident_bytes_per_item": (after - before - vectors) / items,
            "filtered_ms": float(np.median(filtered)), "lookup_ms": float(np.median(lookup)),
            **dict(zip(("p50_ms", "p90_ms", "p99_ms"), np.percentile(samples, (50, 90, 99)).tolist(), strict=True)),
        }  # fmt: skip


def _retrieve(pipeline: Pipeline, tokens: Tokens) -> np.ndarray[Any, Any]:
    """One request up to its candidates; returns its user_embedding [1, T, D+A]."""
    pipeline.generate([tokens])
    user = pipeline.enhance()
    pipeline.retrieve()
    return user


def _swapped(pipeline: Pipeline, items: str, batch: Sequence[Tokens]) -> tuple[float, float]:
    """Seconds of a swap in a thread of its own, and the longest milliseconds of a request served meanwhile."""
    swap: list[float | BaseException] = []

    def run() -> None:
        try:
            swap.append(_timed(lambda: pipeline.swap_items(items))[1])
        except BaseException as error:  # told by the thread that waits for it
            swap.append(error)

    thread, slowest, turn = threading.Thread(target=run), 0.0, 0
    thread.start()
    while thread.is_alive():
        slowest = max(slowest, _timed(lambda: _retrieve(pipeline, batch[turn % len(batch)]))[1])  # noqa: B023
        turn += 1
        time.sleep(0.01)  # a server that is not all busy
    thread.join()
    if isinstance(swap[0], BaseException):
        raise swap[0]
    return swap[0], slowest * 1e3


def _compared(
    pipeline: Pipeline, batch: Sequence[Tokens], requests: Sequence[Any], settings: Serving
) -> tuple[list[float], dict[str, Any]]:
    """Milliseconds of the retriever's stage, and how they compare with those of the reference, if there is one."""
    if settings.reference is None:
        return _samples({pipeline: batch}, settings)[0], {}
    other = Pipeline.load(settings.bundle, ONNX, "cpu", settings.threads, items=settings.reference)
    with other:
        tokens = [request.tokens for request in other.encode(requests)]
        for one in tokens:
            _retrieve(other, one)
        samples, reference = _samples({pipeline: batch, other: tokens}, settings)
    p50 = float(np.median(reference))
    items = ItemIndexHeader.read(Path(settings.reference)).items
    ratio = float(np.median(samples)) / p50
    return samples, {"reference_p50_ms": p50, "reference_items": items, "p50_vs_reference": ratio}


def _samples(batches: Mapping[Pipeline, Sequence[Tokens]], settings: Serving) -> list[list[float]]:
    """Milliseconds of the retriever's stage of each pipeline: all requests on the first, all on the second, again."""
    end = time.perf_counter() + settings.seconds
    for pipeline in batches:
        pipeline.timing.enabled = True
    with garbage_collector_off():
        for _ in range(-(-settings.rounds // len(next(iter(batches.values()))))):
            for pipeline, batch in batches.items():
                for tokens in batch:
                    _retrieve(pipeline, tokens)
            if time.perf_counter() > end:
                break
    for pipeline in batches:
        pipeline.timing.enabled = False
    return [pipeline.timing.spans_ms["retriever"] for pipeline in batches]


def _filtered(pipeline: Pipeline, batch: Sequence[Tokens], items: int) -> list[float]:
    """Milliseconds of `retrieve` for requests that exclude items."""
    generator, samples = np.random.default_rng(0), []
    for turn in range(FEW):
        pipeline.generate([batch[turn % len(batch)]])
        pipeline.enhance()
        one = [ItemFilter(without=generator.integers(0, items, EXCLUDED))]
        samples.append(_timed(lambda: pipeline.retrieve(one))[1] * 1e3)  # noqa: B023
    return samples


def _lookups(index: ItemIndex) -> list[float]:
    """Milliseconds of looking ids of the index up."""
    items, generator, samples = len(index), np.random.default_rng(1), []
    for _ in range(FEW):
        ids = [index.id(int(row)) for row in generator.integers(0, items, LOOKED_UP)]
        samples.append(_timed(lambda: index.rows(ids))[1] * 1e3)  # noqa: B023
    return samples


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    begin = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - begin


def _resident() -> tuple[int, int]:
    """Bytes of this process in memory, and those of them that are no pages of a file."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            found[name] = int(value.split()[0]) * 1024
    return found["VmRSS"], found["RssAnon"]
