"""Bakes a precision into the model before export and proves it from the graph afterwards."""

from __future__ import annotations

import copy
import math

import onnx

from export.settings import Precision
from export.stages import StageSpec
from oneranker.model import OneRanker
from runtime.errors import BuildError

_FLOATS = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
_WANTED = {Precision.FP32: onnx.TensorProto.FLOAT, Precision.FP16: onnx.TensorProto.FLOAT16}


def in_precision(model: OneRanker, precision: Precision) -> OneRanker:
    """The model itself for fp32, else a copy whose weights have the precision; its fp32 islands stand in its code."""
    return model if precision is Precision.FP32 else copy.deepcopy(model).half()


def prove_precision(model: onnx.ModelProto, spec: StageSpec, precision: Precision) -> None:
    """Read the types back from the graph: its boundary is the table's, and every weight has the precision.

    Raises:
        BuildError: A tensor of another type.
    """
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
    floats = [row for row in model.graph.initializer if row.data_type in _FLOATS and math.prod(row.dims) > 1]
    if wrong := [row for row in floats if row.data_type != _WANTED[precision]]:
        raise BuildError(
            f"{spec.name}: weight {wrong[0].name!r} {list(wrong[0].dims)} is {_FLOATS[wrong[0].data_type]}, expected "
            f" {precision.value} ({len(wrong)} of {len(floats)} weights). This is a bug, please report it."
        )
    if not floats and spec.name in ("generator", "enhancer", "ranker"):
        raise BuildError(f"{spec.name}: the graph holds no weights, expected {precision.value} ones. Please report it.")
