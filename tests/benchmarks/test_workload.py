from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.workload import Job, Workload, in_batches
from oneranker.tokens import Tokens
from runtime.item_tables import ItemFilter
from runtime.requests import EncodedRequest

JOB = Job(
    bundle="b",
    checkpoint=None,
    batch=2,
    iterations=3,
    warmup=1,
    threads=1,
    device="cpu",
    smallest_history=64,
    largest_history=200,
)


def encoded(length: int, item_filter: ItemFilter) -> EncodedRequest:
    tokens = Tokens(np.full((length, 3), length, np.int32), np.ones(length, np.int32), np.arange(length), 0, 0)
    return EncodedRequest(tokens, item_filter, 0)


def test_the_last_batch_is_filled_up_from_the_start() -> None:
    requests = [{"n": n} for n in range(5)]
    assert [[r["n"] for r in batch] for batch in in_batches(requests, 2)] == [[0, 1], [2, 3], [4, 0]]
    assert [[r["n"] for r in batch] for batch in in_batches(requests[:1], 3)] == [[0, 0, 0]]


def test_every_process_reads_the_tokens_and_filters_that_were_written(tmp_path: Path) -> None:
    filters = [
        ItemFilter(),
        ItemFilter(only=np.array([3, 5])),
        ItemFilter(without=np.array([], np.int64)),
        ItemFilter(),
    ]
    requests = [encoded(length, one) for length, one in zip((5, 70, 64, 3), filters, strict=True)]
    raw = [[{"now": 1}, {"now": 2}], [{"now": 3}, {"now": 4}]]
    Workload(JOB, raw, [requests[:2], requests[2:]]).write(tmp_path)
    read = Workload.read(tmp_path)
    assert read.job == replace(JOB, folder=str(tmp_path)), "and where it lies"
    assert read.raw == raw
    for batch, wanted in zip(read.encoded, (requests[:2], requests[2:]), strict=True):
        for found, expected in zip(batch, wanted, strict=True):
            for name in ("token_fields", "token_kind", "token_time"):
                np.testing.assert_array_equal(getattr(found.tokens, name), getattr(expected.tokens, name))
            for name in ("only", "without"):
                one, other = getattr(found.item_filter, name), getattr(expected.item_filter, name)
                assert (one is None) == (other is None)
                assert one is None or one.tolist() == other.tolist()


def test_batches_are_padded_as_the_runtime_pads_them() -> None:
    plain = ItemFilter()
    batches = [[encoded(5, plain)], [encoded(65, plain), encoded(3, plain)], [encoded(130, plain)]]
    workload = Workload(JOB, [[{}], [{}, {}], [{}]], batches)
    assert [workload.padded(i) for i in range(3)] == [64, 128, 200]
