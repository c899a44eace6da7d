"""The table of the four stages: module, inputs, outputs, dtypes and letters; nothing else names a graph's tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.settings import Precision, Profile
from oneranker import masks
from oneranker.config import OneRankerConfig, RetrieverMode
from oneranker.model import OneRanker
from runtime.manifest import STAGES
from runtime.stage import Dim, TensorSpec

TORCH_DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "int32": torch.int32,
    "int64": torch.int64,
}
FLOATS = {Precision.FP32: "float32", Precision.FP16: "float16"}


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What one graph reads and writes, in order; a number is a fixed size, a letter a size that a request decides."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def stage_specs(config: OneRankerConfig, precision: Precision) -> dict[str, StageSpec]:
    """The contract of every stage for one model in one precision."""
    x = FLOATS[precision]
    table = {
        "generator": (_generator_inputs(config, x), _generator_outputs(config, x)),
        "enhancer": (_enhancer_inputs(config, x), _enhancer_outputs(config, x)),
        "retriever": (_retriever_inputs(config, x), _retriever_outputs(config)),
        "ranker": (_ranker_inputs(config, x), [TensorSpec("scores", "float32", ("B", "C"))]),
    }
    return {name: StageSpec(name, tuple(table[name][0]), tuple(table[name][1])) for name in STAGES}


def _history_mask(x: str) -> TensorSpec:
    return TensorSpec("history_mask", x, ("B", 1, 1, "S"))


def _key_value(names: list[str], x: str, config: OneRankerConfig, rows: Dim) -> list[TensorSpec]:
    return [TensorSpec(name, x, ("B", config.heads, rows, config.head_dim)) for name in names]


def _enhancer_key_value(config: OneRankerConfig, x: str) -> list[TensorSpec]:
    names = [f"enhancer_{side}_{layer}" for layer in range(config.enhancer_layers) for side in ("key", "value")]
    return _key_value(names, x, config, "S")


def _generator_inputs(config: OneRankerConfig, x: str) -> list[TensorSpec]:
    return [
        TensorSpec("token_fields", "int32", ("B", "S", config.fields)),
        TensorSpec("token_kind", "int32", ("B", "S")),
        TensorSpec("token_time", "int64", ("B", "S")),
        TensorSpec("causal_mask", x, (1, 1, "S", "S")),
        _history_mask(x),
    ]


def _generator_outputs(config: OneRankerConfig, x: str) -> list[TensorSpec]:
    return [
        TensorSpec("history_hidden", x, ("B", "S", config.width)),
        *_enhancer_key_value(config, x),
        *_key_value(["ranker_key_history", "ranker_value_history"], x, config, "S"),
    ]


def _enhancer_inputs(config: OneRankerConfig, x: str) -> list[TensorSpec]:
    rows = config.task_tokens + config.anchors  # T+A
    task_mask = TensorSpec("task_mask", x, (1, 1, rows, rows))
    return [*_enhancer_key_value(config, x), _history_mask(x), task_mask]


def _enhancer_outputs(config: OneRankerConfig, x: str) -> list[TensorSpec]:
    return [
        _user_embedding(config, x),
        *_key_value(["ranker_key_tasks", "ranker_value_tasks"], x, config, config.task_tokens + config.anchors),
    ]


def _user_embedding(config: OneRankerConfig, x: str) -> TensorSpec:
    return TensorSpec("user_embedding", x, ("B", config.task_tokens, config.width + config.anchors))


def _retriever_inputs(config: OneRankerConfig, x: str) -> list[TensorSpec]:
    if config.retriever is RetrieverMode.DENSE:
        tables = [TensorSpec("item_vectors", x, ("N", config.width + config.anchors))]
    else:
        tables = [TensorSpec("codebooks", x, (config.code_levels, config.codes, config.width))]
        if config.anchors:
            tables.append(TensorSpec("anchors", x, (config.anchors, config.width)))
        tables += [
            TensorSpec("trie_code", "int32", ("P",)),
            TensorSpec("trie_children_begin", "int32", ("P",)),
            TensorSpec("trie_children_end", "int32", ("P",)),
            TensorSpec("trie_items_begin", "int32", ("P",)),
            TensorSpec("trie_items_end", "int32", ("P",)),
        ]
    return [
        _user_embedding(config, x),
        *tables,
        TensorSpec("item_eligible", "int32", ("R", "N+1")),
        TensorSpec("eligible_row", "int32", ("B",)),
    ]


def _retriever_outputs(config: OneRankerConfig) -> list[TensorSpec]:
    return [
        TensorSpec("candidate_items", "int32", ("B", config.candidates)),
        TensorSpec("candidate_logp", "float32", ("B", config.candidates)),
        TensorSpec("candidate_head", "int32", ("B", config.candidates)),
        TensorSpec("candidate_count", "int32", ("B",)),
    ]


def _ranker_inputs(config: OneRankerConfig, x: str) -> list[TensorSpec]:
    features = [TensorSpec("candidate_features", x, ("B", "C", config.candidate_features))]
    return [
        TensorSpec("candidate_items", "int32", ("B", "C")),
        TensorSpec("item_table", x, ("N", config.width)),
        *(features if config.candidate_features else []),
        *_key_value(["ranker_key_history", "ranker_value_history"], x, config, "S"),
        *_key_value(["ranker_key_tasks", "ranker_value_tasks"], x, config, config.task_tokens + config.anchors),
        _history_mask(x),
        TensorSpec("candidate_mask", x, (1, 1, "1+C", "1+C")),
    ]


def static_masks(config: OneRankerConfig, profile: Profile) -> dict[str, Tensor]:
    """The masks that no request changes, at their largest; a smaller S or C uses the leading block.

    Shapes: -> bool causal_mask [1, 1, S, S], task_mask [1, 1, T+A, T+A], candidate_mask [1, 1, 1+C, 1+C]
    """
    return {
        "causal_mask": masks.causal(profile.S[2]),
        "task_mask": masks.tasks(config.task_tokens, config.anchors, config.task_mask),
        "candidate_mask": masks.candidates(profile.C[2]),
    }


class StageModule(nn.Module):
    """One stage of a model with its tensors as positional arguments, in the table's order.

    Shapes: as in the stage's spec
    """

    def __init__(self, model: OneRanker, spec: StageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.add_module(spec.name, getattr(model, spec.name))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {spec.name: tensor for spec, tensor in zip(self.spec.inputs, inputs, strict=True)}
        answer = self._call(feed)
        return tuple(answer[spec.name] for spec in self.spec.outputs)

    def _call(self, feed: dict[str, Tensor]) -> dict[str, Tensor]:
        stage = getattr(self, self.spec.name)
        match self.spec.name:
            case "generator":
                return dict(stage(**feed))
            case "enhancer":
                return dict(stage(feed, feed["history_mask"], feed["task_mask"]))
            case "retriever":
                no_anchors = {"anchors": feed["user_embedding"].new_zeros(0, 0)}  # named by the code, read by none
                return dict(stage(feed["user_embedding"], no_anchors | feed))
            case _:
                features = feed.get("candidate_features")
                history_mask, candidate_mask = feed["history_mask"], feed["candidate_mask"]
                return {
                    "scores": stage(
                        feed["candidate_items"], feed["item_table"], features, feed, history_mask, candidate_mask
                    )
                }
