"""Keys and values pass from stage to stage in place: addresses prove it, and a stage that breaks it is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import make_request

from runtime import Pipeline
from runtime.bundle import open_bundle
from runtime.items import ItemIndex
from runtime.memory import address
from runtime.stage import Binding, Tensors

PASSED = {
    "enhancer_key_0",
    "enhancer_value_0",
    "ranker_key_history",
    "ranker_value_history",
    "user_embedding",
    "ranker_key_tasks",
    "ranker_value_tasks",
    "candidate_items",
}


class WatchedStage:
    """A stage that notes what it is bound to, and can be made to write or read somewhere else than it was told."""

    def __init__(self, stage: Any, own_outputs: tuple[str, ...] = (), own_inputs: tuple[str, ...] = ()) -> None:
        self.name, self.inputs, self.outputs = stage.name, stage.inputs, stage.outputs
        self.graph_counts = stage.graph_counts
        self.bound: list[Binding] = []
        self._stage, self._own_outputs, self._own_inputs = stage, own_outputs, own_inputs

    def bind(self, inputs: Tensors, outputs: Tensors) -> Binding:
        elsewhere_in = {name: np.zeros_like(inputs[name]) for name in self._own_inputs}
        elsewhere_out = {name: np.zeros_like(outputs[name]) for name in self._own_outputs}
        self.bound.append(self._stage.bind({**inputs, **elsewhere_in}, {**outputs, **elsewhere_out}))
        return self.bound[-1]

    def run(self, feed: Tensors) -> dict[str, np.ndarray]:
        return self._stage.run(feed)

    def close(self) -> None:
        self._stage.close()


def watched(bundle: Path, **own: dict[str, tuple[str, ...]]) -> tuple[Pipeline, dict[str, WatchedStage]]:
    parts = open_bundle(bundle, threads=1)
    stages = {name: WatchedStage(stage, **own.get(name, {})) for name, stage in parts.stages.items()}
    return Pipeline(parts.manifest, stages, parts.tokenizer, parts.masks, parts.index), stages


def requests(index: ItemIndex) -> list[dict[str, Any]]:
    return [make_request(index, 4), make_request(index, 36, 1)]


def test_a_request_moves_tokens_and_mask_in_and_answers_out_and_nothing_between(
    pipeline: Pipeline, index: ItemIndex
) -> None:
    for calls in (1, 2, 3):
        pipeline.recommend(requests(index)[: calls % 2 + 1])
        copies = pipeline.copies
        assert copies.host_to_stage == Counter(
            dict.fromkeys(("token_fields", "token_kind", "token_time", "history_mask"), calls)
        )
        assert copies.stage_to_stage == Counter()
        answers = ("candidate_items", "candidate_logp", "candidate_head", "candidate_count", "scores")
        assert copies.results_read == Counter(dict.fromkeys(answers, calls))


def test_a_filter_moves_its_row_in_once(pipeline: Pipeline, index: ItemIndex) -> None:
    pipeline.recommend([make_request(index, 4) | {"eligible": [index.id(3)]}])
    assert {name: pipeline.copies.host_to_stage[name] for name in ("item_eligible", "eligible_row")} == {
        "item_eligible": 1,
        "eligible_row": 1,
    }
    for _ in range(2):  # the first of them sets eligible_row back
        pipeline.recommend([make_request(index, 4)])
    assert pipeline.copies.host_to_stage["eligible_row"] == 2


def test_the_address_a_producer_writes_is_the_address_its_consumers_read(bundle: Path, index: ItemIndex) -> None:
    pipeline, stages = watched(bundle)
    with pipeline:
        for batch in (requests(index)[:1], requests(index), requests(index)[1:]):
            pipeline.recommend(batch)
    written: dict[str, set[int]] = {}
    read: dict[str, set[int]] = {}
    for stage in stages.values():
        for binding in stage.bound:
            for name, array in binding.outputs.items():
                written.setdefault(name, set()).add(address(array))
            for name, array in binding.inputs.items():
                read.setdefault(name, set()).add(address(array))
    assert written.keys() & read.keys() == PASSED
    for name in PASSED:
        assert written[name] == read[name], name
        assert len(read[name]) == 1, name  # one owner at every batch size and bucket


def test_masks_and_item_tables_are_bound_once_and_stay(bundle: Path, index: ItemIndex) -> None:
    pipeline, stages = watched(bundle)
    with pipeline:
        for _ in range(3):
            for batch in (requests(index)[:1], requests(index)):
                pipeline.recommend(batch)
    assert [len(stage.bound) for stage in stages.values()] == [2, 2, 2, 2]  # one for each batch size, none per call
    first, second = (binding.inputs for binding in stages["retriever"].bound)
    for name in ("codebooks", "anchors", "trie_code", "item_eligible"):
        assert address(first[name]) == address(second[name]), name
    assert stages["enhancer"].bound[0].inputs["task_mask"] is stages["enhancer"].bound[1].inputs["task_mask"]


@pytest.mark.parametrize(
    ("stage", "own", "copied"),
    [
        ("generator", {"own_outputs": ("ranker_key_history",)}, "ranker_key_history"),
        ("enhancer", {"own_outputs": ("user_embedding",)}, "user_embedding"),
        ("ranker", {"own_inputs": ("ranker_value_tasks",)}, "ranker_value_tasks"),
        ("retriever", {"own_outputs": ("candidate_items",)}, "candidate_items"),
    ],
)
def test_a_stage_with_memory_of_its_own_costs_one_counted_copy_and_no_wrong_answer(
    bundle: Path, pipeline: Pipeline, index: ItemIndex, stage: str, own: Any, copied: str
) -> None:
    expected = pipeline.recommend(requests(index))
    mutant, _ = watched(bundle, **{stage: own})
    with mutant:
        for calls in (1, 2):
            assert mutant.recommend(requests(index)) == expected
            assert mutant.copies.stage_to_stage == Counter({copied: calls})


def test_a_tensor_of_two_consumers_costs_a_copy_for_each_that_needs_one(bundle: Path, index: ItemIndex) -> None:
    mutant, _ = watched(bundle, enhancer={"own_inputs": ("history_mask",)}, ranker={"own_inputs": ("history_mask",)})
    with mutant:
        mutant.recommend(requests(index))
        assert mutant.copies.stage_to_stage == Counter({"history_mask": 2})
