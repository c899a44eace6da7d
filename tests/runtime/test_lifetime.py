"""Threads, several pipelines in one process, errors and closing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import assert_answer, expected_scores, make_request, tokens_of

from runtime import FeedError, OneRankerError, Pipeline, RequestError, UsageError
from runtime.item_tables import ItemFilter
from runtime.items import ItemIndex


def test_a_call_from_a_second_thread_is_one_clear_error(pipeline: Pipeline, index: ItemIndex) -> None:
    caught: list[BaseException] = []
    stage = pipeline._forward.chain.stages["enhancer"]
    run = stage.bind

    def call_meanwhile() -> None:
        try:
            pipeline.recommend([make_request(index, 1)])
        except OneRankerError as error:
            caught.append(error)

    def slow_bind(*arguments: Any) -> Any:
        stage.bind = run  # type: ignore[method-assign]
        thread = threading.Thread(target=call_meanwhile, name="second")
        thread.start()
        thread.join()
        return run(*arguments)

    stage.bind = slow_bind  # type: ignore[method-assign]
    (answer,) = pipeline.recommend([make_request(index, 1)], 3)
    assert [type(error) for error in caught] == [UsageError]
    assert "thread 'second' called while another call is running" in str(caught[0])
    assert_answer(answer, tokens_of(pipeline, [make_request(index, 1)])[0], index, index.listed, 3)


def test_an_error_leaves_the_pipeline_usable(pipeline: Pipeline, index: ItemIndex) -> None:
    before = pipeline.recommend([make_request(index, 6)])
    with pytest.raises(RequestError):
        pipeline.recommend([{"colour": 1}])
    assert pipeline.recommend([make_request(index, 6)]) == before


def test_two_pipelines_of_one_process_share_nothing(bundle: Path, index: ItemIndex) -> None:
    one, other = Pipeline.load(bundle, threads=1), Pipeline.load(bundle, threads=1)
    tokens = tokens_of(one, [make_request(index, 3), make_request(index, 9, 1)])
    one.generate(tokens[:1])
    other.generate(tokens[1:])
    one.enhance()
    one.close()
    other.enhance()
    np.testing.assert_allclose(other.rank([[1, 2]])[0], expected_scores(tokens[1], index, [1, 2]), rtol=1e-5)
    other.close()


def test_a_closed_pipeline_says_so(bundle: Path, tmp_path: Path) -> None:
    with Pipeline.load(bundle, threads=1) as pipeline:
        pass
    pipeline.close()
    for call in (
        lambda: pipeline.recommend([]),
        lambda: pipeline.read("scores"),
        lambda: pipeline.swap_items(tmp_path),
    ):
        with pytest.raises(UsageError, match=r"used after close\(\)"):
            call()


def test_a_filter_by_rows_is_taken_by_retrieve(pipeline: Pipeline, index: ItemIndex) -> None:
    pipeline.generate(tokens_of(pipeline, [make_request(index, 2)]))
    pipeline.enhance()
    found = pipeline.retrieve([ItemFilter(only=np.array([4, 6]))])
    assert sorted(found.items[0].tolist()) == [-1, -1, -1, -1, 4, 6]
    assert (found.count[0], found.head[0].tolist()) == (2, [0, 0, -1, -1, -1, -1])
    with pytest.raises(FeedError, match="got 2 filters, expected 1"):
        pipeline.retrieve([ItemFilter(), ItemFilter()])
