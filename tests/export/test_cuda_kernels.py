"""Every node of the exported graphs has a CUDA kernel in ONNX Runtime, by its published table of kernels.

A node without one runs on the host, with its inputs copied there and its outputs back at every run, and its graph
cannot be captured. Read from docs/OperatorKernels.md of ONNX Runtime, newest opset of each operator; not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.inliner
import onnx.parser
import pytest
import torch
from onnx import TensorProto

from export.onnx_from_stage import export_stage
from export.precision import in_precision
from export.settings import GraphSettings, Precision
from export.stages import stage_specs
from oneranker.config import PRESETS, RetrieverMode
from oneranker.model import OneRanker
from runtime.manifest import STAGES

FLOATS = {"float16", "float"}
INTEGERS = {"int32", "int64"}
ANY = FLOATS | INTEGERS | {"bool"}
KERNELS: dict[str, set[str]] = {  # operator -> what its first typed input may be, of the types that our graphs hold
    **dict.fromkeys(("Abs", "Add", "Sub", "Mul", "Div", "Max", "Min", "Mod"), FLOATS | INTEGERS),
    **dict.fromkeys(("Less", "Greater", "GreaterOrEqual", "LessOrEqual", "CumSum", "TopK"), FLOATS | INTEGERS),
    **dict.fromkeys(("ReduceSum", "ReduceMax", "ReduceMin"), FLOATS | INTEGERS),
    **dict.fromkeys(("Attention", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Sigmoid", "Softmax"), FLOATS),
    **dict.fromkeys(("Log", "LogSoftmax", "Reciprocal", "Sqrt", "Erf", "Tanh", "Pow", "Neg", "Exp"), FLOATS),
    **dict.fromkeys(("Cast", "CastLike", "Concat", "Equal", "Expand", "Gather", "GatherElements", "Identity"), ANY),
    **dict.fromkeys(("Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Trilu", "Unsqueeze"), ANY),
    "And": {"bool"},
    "Not": {"bool"},
    "Or": {"bool"},
    "Clip": FLOATS | {"int64"},
    "ConstantOfShape": {"int64"},
    "GatherND": FLOATS | {"int64", "bool"},
    "Pad": FLOATS | {"bool"},
    "Range": {"float"} | INTEGERS,
    "ReduceMean": FLOATS | {"int32"},
    "Where": FLOATS | INTEGERS,  # of the second input: the first is its condition
}


def typed_nodes(model: onnx.ModelProto) -> Iterator[tuple[str, str, str]]:
    """Name, operator and the type that chooses the kernel, local functions spelt out."""
    model = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model), data_prop=True)
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types |= {constant.name: constant.data_type for constant in graph.initializer}
    for node in graph.node:
        if node.op_type != "Constant":
            at = 1 if node.op_type == "Where" else 0
            yield node.name, node.op_type, TensorProto.DataType.Name(types[node.input[at]]).lower()


def without_kernel(model: onnx.ModelProto) -> list[str]:
    return [
        f"{name}: {operator} of {dtype}"
        for name, operator, dtype in typed_nodes(model)
        if dtype not in KERNELS.get(operator, set())
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_node_of_a_graph_has_a_cuda_kernel(
    tiny_bundle: Path, tiny_fp16_bundle: Path, stage: str, precision: str
) -> None:
    folder = tiny_bundle if precision == "fp32" else tiny_fp16_bundle
    assert without_kernel(onnx.load(folder / stage / "model.onnx")) == []


@pytest.mark.parametrize("mode", RetrieverMode)
def test_a_retriever_with_fewer_paths_than_candidates_has_too(mode: RetrieverMode, tmp_path: Path) -> None:
    config = replace(PRESETS["tiny"], retriever=mode, beams=2, candidates=64)
    model = in_precision(OneRanker(config).eval(), Precision.FP16)
    spec = stage_specs(config, Precision.FP16)["retriever"]
    with torch.inference_mode():
        export_stage(model, spec, GraphSettings(precision=Precision.FP16), "", tmp_path / "model.onnx")
    assert without_kernel(onnx.load(tmp_path / "model.onnx")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y = Clip (x)", ["Clip of int32"]),
        ('y = Einsum <equation = "a->a"> (x)', ["Einsum of int32"]),
        ("y = Add (x, x)", []),
    ],
)
def test_a_node_without_a_kernel_is_found(text: str, said: list[str]) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]> graph (int32[S] x) => (int32[S] y) {{ {text} }}'
    )
    assert [line.rpartition(": ")[2] for line in without_kernel(model)] == said
