from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.settings import OPSET, Precision
from export.stages import stage_specs
from oneranker.config import PRESETS, RetrieverMode
from runtime.manifest import STAGES, Manifest

Rows = list[tuple[str, str, list[int | str]]]

# The contract of the four stages, written out for the tiny preset: F=5 D=32 H=2 E=16 T=8 A=7 T+A=15 L=3 V=11 C=13.
X = "float32"
ENHANCER_KV: Rows = [
    ("enhancer_key_0", X, ["B", 2, "S", 16]),
    ("enhancer_value_0", X, ["B", 2, "S", 16]),
    ("enhancer_key_1", X, ["B", 2, "S", 16]),
    ("enhancer_value_1", X, ["B", 2, "S", 16]),
]
RANKER_HISTORY: Rows = [
    ("ranker_key_history", X, ["B", 2, "S", 16]),
    ("ranker_value_history", X, ["B", 2, "S", 16]),
]
RANKER_TASKS: Rows = [("ranker_key_tasks", X, ["B", 2, 15, 16]), ("ranker_value_tasks", X, ["B", 2, 15, 16])]
HISTORY_MASK: Rows = [("history_mask", X, ["B", 1, 1, "S"])]
INPUTS: dict[str, Rows] = {
    "generator": [
        ("token_fields", "int32", ["B", "S", 5]),
        ("token_kind", "int32", ["B", "S"]),
        ("token_time", "int64", ["B", "S"]),
        ("causal_mask", X, [1, 1, "S", "S"]),
        *HISTORY_MASK,
    ],
    "enhancer": [*ENHANCER_KV, *HISTORY_MASK, ("task_mask", X, [1, 1, 15, 15])],
    "retriever": [
        ("user_embedding", X, ["B", 8, 39]),
        ("codebooks", X, [3, 11, 32]),
        ("anchors", X, [7, 32]),
        ("trie_code", "int32", ["P"]),
        ("trie_children_begin", "int32", ["P"]),
        ("trie_children_end", "int32", ["P"]),
        ("trie_items_begin", "int32", ["P"]),
        ("trie_items_end", "int32", ["P"]),
        ("item_eligible", "int32", ["R", "N+1"]),
        ("eligible_row", "int32", ["B"]),
    ],
    "ranker": [
        ("candidate_items", "int32", ["B", "C"]),
        ("item_table", X, ["N", 32]),
        *RANKER_HISTORY,
        *RANKER_TASKS,
        *HISTORY_MASK,
        ("candidate_mask", X, [1, 1, "1+C", "1+C"]),
    ],
}
OUTPUTS: dict[str, Rows] = {
    "generator": [("history_hidden", X, ["B", "S", 32]), *ENHANCER_KV, *RANKER_HISTORY],
    "enhancer": [("user_embedding", X, ["B", 8, 39]), *RANKER_TASKS],
    "retriever": [
        ("candidate_items", "int32", ["B", 13]),
        ("candidate_logp", "float32", ["B", 13]),
        ("candidate_head", "int32", ["B", 13]),
        ("candidate_count", "int32", ["B"]),
    ],
    "ranker": [("scores", "float32", ["B", "C"])],
}
KEPT_FP32 = {"candidate_logp", "scores"}


def graph_rows(values: list[onnx.ValueInfoProto]) -> Rows:
    rows: Rows = []
    for value in values:
        tensor = value.type.tensor_type
        dims: list[int | str] = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        rows.append((value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, dims))
    return rows


def load(bundle: Path, stage: str) -> onnx.ModelProto:
    return onnx.load(bundle / stage / "model.onnx")


@pytest.mark.parametrize("stage", STAGES)
def test_graph_and_manifest_have_the_tensors_of_the_contract_and_no_others(tiny_bundle: Path, stage: str) -> None:
    graph, row = load(tiny_bundle, stage).graph, Manifest.read(tiny_bundle).stages[stage]
    for kind, told, found, noted in (
        ("inputs", INPUTS, graph.input, row.inputs),
        ("outputs", OUTPUTS, graph.output, row.outputs),
    ):
        assert graph_rows(found) == told[stage], kind
        assert [(entry.name, entry.dtype, list(entry.shape)) for entry in noted] == told[stage], kind


@pytest.mark.parametrize("stage", STAGES)
def test_an_fp16_graph_has_half_tensors_at_its_boundary_and_in_its_weights(tiny_fp16_bundle: Path, stage: str) -> None:
    graph = load(tiny_fp16_bundle, stage).graph
    for told, found in ((INPUTS[stage], graph.input), (OUTPUTS[stage], graph.output)):
        half = [
            (name, "float16" if dtype == X and name not in KEPT_FP32 else dtype, dims) for name, dtype, dims in told
        ]
        assert graph_rows(found) == half
    kinds = {row.data_type for row in graph.initializer if len(row.raw_data) > 4 and "weight" in row.name}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    assert kinds <= {onnx.TensorProto.FLOAT16}
    wide = {row.data_type for row in graph.initializer if np.prod(row.dims) > 1} & floats
    assert wide == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("stage", STAGES)
def test_opset_is_23_and_the_stamp_names_stage_precision_and_fingerprint(tiny_bundle: Path, stage: str) -> None:
    model = load(tiny_bundle, stage)
    assert OPSET == 23
    assert {row.version for row in model.opset_import if row.domain == ""} == {23}
    stamp = {row.key: row.value for row in model.metadata_props}
    fingerprint = Manifest.read(tiny_bundle).stages[stage].fingerprint
    told = {"stage": stage, "precision": "fp32", "fingerprint": fingerprint}
    told |= {"attention_block": "0"} if stage == "generator" else {}  # 512 rows hold all of the tiny S
    assert stamp == {f"oneranker.{key}": value for key, value in told.items()}
    assert model.producer_name == "oneranker"


@pytest.mark.parametrize("stage", STAGES)
def test_a_graph_says_nothing_of_the_machine_it_was_made_on(tiny_bundle: Path, stage: str) -> None:
    content = (tiny_bundle / stage / "model.onnx").read_bytes()
    for trace in (str(Path.cwd()), "site-packages", ".py", "stack_trace"):
        assert trace.encode() not in content


def test_hstu_attention_is_one_custom_node_per_layer_with_a_portable_body(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, "generator")
    nodes = [node for node in model.graph.node if node.domain == "rec"]
    assert [node.op_type for node in nodes] == ["SiluAttention"] * PRESETS["tiny"].generator_layers
    assert [(body.domain, body.name) for body in model.functions] == [("rec", "SiluAttention")]
    assert nodes[0].attribute[0].f == pytest.approx(1 / 20)
    for stage in ("enhancer", "retriever", "ranker"):
        assert not load(tiny_bundle, stage).functions


def test_softmax_attention_is_one_attention_node_each(tiny_bundle: Path) -> None:
    counts = {stage: sum(n.op_type == "Attention" for n in load(tiny_bundle, stage).graph.node) for stage in STAGES}
    assert counts == {"generator": 0, "enhancer": 4, "retriever": 0, "ranker": 2}


def test_tables_of_the_catalogue_are_gathered_from_and_never_cast_or_copied(tiny_bundle: Path) -> None:
    """The cost of a request must not grow with the catalogue: P, N and R stay behind a gather."""
    for stage, tables in (("retriever", ("trie_", "item_eligible")), ("ranker", ("item_table",))):
        graph = load(tiny_bundle, stage).graph
        flat = {"item_eligible"}  # its rows laid end to end are a view
        for node in graph.node:
            if node.op_type == "Reshape" and node.input[0] in flat:
                flat.add(node.output[0])
        for node in graph.node:
            for name in node.input:
                if name.startswith(tables) or name in flat:
                    allowed = {"Gather", "GatherElements", "Shape", *(["Reshape"] if name == "item_eligible" else [])}
                    assert node.op_type in allowed, f"{stage}: {name} -> {node.op_type}"


def test_masks_enter_as_inputs_and_none_is_made_inside(tiny_bundle: Path) -> None:
    wanted = {
        "generator": {"causal_mask", "history_mask"},
        "enhancer": {"history_mask", "task_mask"},
        "retriever": set(),
        "ranker": {"history_mask", "candidate_mask"},
    }
    for stage, masks in wanted.items():
        graph = load(tiny_bundle, stage).graph
        assert {row.name for row in graph.input if row.name.endswith("_mask")} == masks
        used = {name for node in graph.node for name in node.input}
        assert masks <= used
        assert not {node.op_type for node in graph.node} & {"Range", "IsNaN", "Softmax"}


def test_dense_mode_reads_item_vectors_instead_of_the_trie() -> None:
    config = replace(PRESETS["tiny"], retriever=RetrieverMode.DENSE)
    names = [row.name for row in stage_specs(config, Precision.FP32)["retriever"].inputs]
    assert names == ["user_embedding", "item_vectors", "item_eligible", "eligible_row"]


def test_candidate_features_and_anchors_are_inputs_only_of_models_that_have_them() -> None:
    specs = stage_specs(replace(PRESETS["tiny"], candidate_features=4, anchors=0), Precision.FP16)
    features = specs["ranker"].inputs[2]
    assert (features.name, features.dtype, features.shape) == ("candidate_features", "float16", ("B", "C", 4))
    assert "anchors" not in [row.name for row in specs["retriever"].inputs]
