"""Bakes a precision into the model before export and proves it from the graph afterwards."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnx.inliner import inline_local_functions

from export.islands import Kept, keep, kept_around
from export.settings import Precision
from export.stages import StageSpec
from oneranker.model import OneRanker
from runtime.errors import BuildError

_FLOATS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
_WANTED = {Precision.FP32: "float32", Precision.FP16: "float16"}
_PRODUCTS = frozenset({"MatMul", "Gemm", "Attention"})
_ALWAYS_FP32 = frozenset({"TopK", "LogSoftmax", "Softmax", "Log"})  # their errors would change who is recommended
_BUG = "This is a bug, please report it."


def in_precision(model: OneRanker, precision: Precision, kept: Kept | None = None) -> OneRanker:
    """The model itself for fp32, else a copy whose weights have the precision, but for the modules that are kept.

    Beside the kept modules it has the fp32 islands that stand in its code: log-probabilities, scores, unit vectors.
    """
    if precision is Precision.FP32:
        return model
    copied = copy.deepcopy(model).half()
    keep(copied, model, kept or {}, torch.float16)
    return copied


def prove_precision(model: onnx.ModelProto, spec: StageSpec, precision: Precision, kept: Kept | None = None) -> None:
    """Read the types back from the graph: boundary, weights, softmax and top-k.

    Raises:
        BuildError: A tensor of another type.
    """
    kept = {name: dtype for name, dtype in (kept or {}).items() if name.split(".")[0] == spec.name}
    _prove_boundary(model, spec)
    _prove_weights(model, spec.name, precision, kept)
    graph, types = typed(model)
    for node in graph.node:
        found = {types.get(name, "") for name in node.input} & set(_FLOATS.values())
        if node.op_type in _ALWAYS_FP32 and found - {"float32"}:
            raise BuildError(
                f"{spec.name}: {node.op_type} {node.name!r} reads {', '.join(sorted(found))}, expected float32 in "
                f"every precision. {_BUG}"
            )


def types_report(model: onnx.ModelProto, precision: Precision) -> dict[str, Any]:
    """What computes in which type: node outputs counted by float type, and every product that has another than asked.

    Returns:
        outputs: type -> count; islands: MatMul, Gemm and Attention nodes of another type, by name.
    """
    graph, types = typed(model)
    outputs = Counter(types[name] for node in graph.node for name in node.output if name in types)
    islands = [
        f"{node.op_type} {node.name}"
        for node in graph.node
        if node.op_type in _PRODUCTS and types.get(node.output[0]) != _WANTED[precision]
    ]
    return {"outputs": dict(sorted(outputs.items())), "islands": islands}


def typed(model: onnx.ModelProto) -> tuple[onnx.GraphProto, dict[str, str]]:
    """The graph with its local functions written out, and the type of every float tensor in it."""
    graph = onnx.shape_inference.infer_shapes(inline_local_functions(model), strict_mode=True).graph
    types = {row.name: row.type.tensor_type.elem_type for row in (*graph.input, *graph.value_info, *graph.output)}
    types |= {row.name: row.data_type for row in graph.initializer}
    return graph, {name: _FLOATS[kind] for name, kind in types.items() if kind in _FLOATS}


def _prove_boundary(model: onnx.ModelProto, spec: StageSpec) -> None:
    for kind, specs, values in (
        ("input", spec.inputs, model.graph.input),
        ("output", spec.outputs, model.graph.output),
    ):
        for row, value in zip(specs, values, strict=True):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
            if (value.name, dtype) != (row.name, row.dtype):
                raise BuildError(
                    f"{spec.name}: the exported graph's {kind} is {value.name!r} {dtype}, expected {row.name!r} "
                    f"{row.dtype}. The exporter and the model disagree; this is a bug, please report it."
                )


def _prove_weights(model: onnx.ModelProto, stage: str, precision: Precision, kept: Mapping[str, torch.dtype]) -> None:
    """A weight bears its module's name; a constant without one may have any type that the stage has."""
    floats = [row for row in model.graph.initializer if row.data_type in _FLOATS and math.prod(row.dims) > 1]
    some = {_WANTED[precision], *(_name(dtype) for dtype in kept.values())}
    wrong = []
    for row in floats:
        inside = kept_around(row.name, kept)
        wanted = {_name(inside)} if inside else {_WANTED[precision]} if row.name.startswith(f"{stage}.") else some
        if _FLOATS[row.data_type] not in wanted:
            wrong.append((row, wanted))
    if wrong:
        row, wanted = wrong[0]
        raise BuildError(
            f"{stage}: weight {row.name!r} {list(row.dims)} is {_FLOATS[row.data_type]}, expected "
            f"{' or '.join(sorted(wanted))} ({len(wrong)} of {len(floats)} weights). {_BUG}"
        )
    if not floats and stage in ("generator", "enhancer", "ranker"):
        raise BuildError(f"{stage}: the graph holds no weights, expected {precision.value} ones. {_BUG}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
