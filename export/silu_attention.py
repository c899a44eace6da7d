"""The portable body of rec::SiluAttention, so that any ONNX runtime can run HSTU and a fused kernel can replace it."""

from __future__ import annotations

import onnx
import onnx.parser

from export.settings import OPSET
from oneranker.hstu import SILU_ATTENTION

DOMAIN, NAME = SILU_ATTENTION.split("::")
VERSION = 1

# silu(q·k + mask)·scale @ v; the scale comes before the sum over keys, which would overflow fp16 without it
_BODY = f"""<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>
{NAME} <scale> (query, key, value, mask) => (mixed) {{
    key_t = Transpose<perm = [0, 1, 3, 2]>(key)
    product = MatMul(query, key_t)
    score = Add(product, mask)
    gate = Sigmoid(score)
    weight = Mul(score, gate)
    factor = Constant<value_float: float = @scale>()
    factor_x = CastLike(factor, weight)
    scaled = Mul(weight, factor_x)
    mixed = MatMul(scaled, value)
}}"""


def function_body() -> onnx.FunctionProto:
    """The local function that a graph with HSTU blocks carries."""
    return onnx.parser.parse_function(_BODY)


def add_body(model: onnx.ModelProto) -> None:
    """Give a graph that uses the node its body, in place."""
    if any(node.domain == DOMAIN for node in model.graph.node):
        model.functions.append(function_body())
