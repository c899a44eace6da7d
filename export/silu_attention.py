"""The portable body of rec::SiluAttention, so that any ONNX runtime can run HSTU and a fused kernel can replace it.

The node's inputs are the parts of the attention bias, not their sum: (query, key, value, mask, key_mask), where the
bias knows positions position_bias, and where it reads the clock (query_time, key_time, bucket_starts, time_bias) too.
The body is block-causal: rows are cut into blocks and block i reads the keys before its own end, no others, so that the
upper triangle is never computed. docs/decisions/0005-block-causal-silu-attention.md says what every odd line is worth.
"""

from __future__ import annotations

import onnx
import onnx.parser

from export.settings import OPSET
from oneranker.config import RelativeBias
from oneranker.hstu import BUCKET_WIDTH, LARGEST_GAP, SILU_ATTENTION, SILU_ATTENTION_VERSION

DOMAIN, NAME = SILU_ATTENTION.split("::")
VERSION = SILU_ATTENTION_VERSION
PLUGIN = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}  # by which TensorRT's parser looks for a plugin
INPUTS = ("query", "key", "value", "mask", "key_mask")
POSITION_INPUTS = ("position_bias",)
TIME_INPUTS = ("query_time", "key_time", "bucket_starts", "time_bias")
_END = 2**31 - 1  # as the end of a Slice: whatever there is

_CONSTANTS = f"""
    axis_1 = Constant<value_ints = [1]>()
    axis_2 = Constant<value_ints = [2]>()
    axis_3 = Constant<value_ints = [3]>()
    axes = Constant<value_ints = [0, 1, 2, 3]>()
    zeros = Constant<value_ints = [0, 0, 0, 0]>()
    ones = Constant<value_ints = [1, 1, 1, 1]>()
    start = Constant<value_ints = [0]>()
    end = Constant<value_ints = [{_END}]>()
    minus_one = Constant<value_float = -1.0>()
    one = Constant<value_float = 1.0>()
    half = Constant<value_float = 0.5>()
    width = Constant<value_float = {BUCKET_WIDTH}>()
    largest_gap = Constant<value_int = {LARGEST_GAP}>()
    scale = Constant<value_float: float = @scale>()
    scale_x = CastLike(scale, query)
    key_t = Transpose<perm = [0, 1, 3, 2]>(key)
"""
# oneranker.hstu.RelativeAttentionBias.by_position: a row of 2S numbers, repeated and cut to lines of 2S-1, slips by one
_POSITION = """
    axis_0 = Constant<value_ints = [0]>()
    two = Constant<value_ints = [2]>()
    all = Constant<value_ints = [-1]>()
    keys = Shape<start = 2, end = 3>(key)
    keys_twice = Mul(keys, two)
    line_size = Sub(keys_twice, axis_1)
    table_size = Shape(position_bias)
    middle = Div(table_size, two)
    middle_end = Add(middle, keys)
    first_left = Sub(middle_end, line_size)
    right = Slice(position_bias, middle, middle_end, axis_0)
    never_read = Slice(right, start, axis_1, axis_0)
    left = Slice(position_bias, first_left, middle, axis_0)
    circle = Concat<axis = 0>(right, never_read, left)
    square_size = Concat<axis = 0>(keys, keys_twice)
    repeated = Expand(circle, square_size)
    numbers = Reshape(repeated, all)
    numbers_size = Mul(keys, line_size)
    cut_numbers = Slice(numbers, start, numbers_size, axis_0)
    slipped_size = Concat<axis = 0>(keys, line_size)
    slipped = Reshape(cut_numbers, slipped_size)
    {rows}
    position = Slice(position_rows, start, keys, axis_1)
    heads_axes = Constant<value_ints = [0, 1]>()
    position_heads = Unsqueeze(position, heads_axes)
    mask_position = Add(mask, position_heads)
"""
_LAST_ROWS = """
    queries = Shape<start = 2, end = 3>(query)
    rows_before = Sub(keys, queries)
    position_rows = Slice(slipped, rows_before, end, axis_0)
"""
# A zero that hangs on another tensor: nothing that it is added to can be computed before that tensor is. No absolute
# value is below -1, neither NaN's nor that of the sum of an empty block, whatever a kernel makes of it.
_TURN = """
    corner_{i} = Slice({after}, zeros, ones, axes)
    corner_fp32_{i} = Cast<to = 1>(corner_{i})
    sum_{i} = ReduceSum<keepdims = 0>(corner_fp32_{i})
    size_{i} = Abs(sum_{i})
    never_{i} = Less(size_{i}, minus_one)
    turn_{i} = CastLike(never_{i}, query)
    turn_time_{i} = Cast<to = 7>(never_{i})
"""
# oneranker.hstu.time_buckets, cell by cell; GatherElements over expanded tables, for ONNX Runtime's Gather is slow
_TIME_BIAS = """
    gap_time_{i} = Sub(row_time_{i}, column_time_{i})
    gap_size_{i} = Abs(gap_time_{i})
    gap_limited_{i} = Min(gap_size_{i}, largest_gap)
    gap_{i} = Cast<to = 6>(gap_limited_{i})
    gap_fp32_{i} = Cast<to = 1>(gap_{i})
    gap_positive_{i} = Max(gap_fp32_{i}, one)
    logarithm_{i} = Log(gap_positive_{i})
    edges_{i} = Div(logarithm_{i}, width)
    nearest_{i} = Add(edges_{i}, half)
    edge_{i} = Cast<to = 6>(nearest_{i})
    lines_{i} = Shape(row_time_{i})
    starts_{i} = Expand(bucket_starts, lines_{i})
    edge_start_{i} = GatherElements<axis = 2>(starts_{i}, edge_{i})
    before_{i} = Less(gap_{i}, edge_start_{i})
    one_less_{i} = Cast<to = 6>(before_{i})
    bucket_{i} = Sub(edge_{i}, one_less_{i})
    table_{i} = Expand(time_bias, lines_{i})
    by_time_{i} = GatherElements<axis = 2>(table_{i}, bucket_{i})
    by_time_heads_{i} = Unsqueeze(by_time_{i}, axis_1)
    bias_{i} = Add(masks_{i}, by_time_heads_{i})
"""
# silu(q·k + bias)·scale @ v; the scale comes before the sum over keys, which would overflow fp16 without it
_ATTENTION = """
    masks_{i} = Add(mask_{i}, key_mask_turn_{i})
    {bias}
    product_{i} = MatMul(query_{i}, key_{i})
    score_{i} = Add(product_{i}, bias_{i})
    gate_{i} = Sigmoid(score_{i})
    weight_{i} = Mul(score_{i}, gate_{i})
    scaled_{i} = Mul(weight_{i}, scale_x)
    mixed_{i} = MatMul(scaled_{i}, value_{i})
"""


def blocks(block: int, max_history: int) -> int:
    """Into how many blocks of rows the longest history is cut; 1 where `block` is 0 or no shorter than it."""
    return -(-max_history // block) if 0 < block < max_history else 1


def inputs_of(bias: RelativeBias) -> tuple[str, ...]:
    """The node's inputs, in order."""
    position, time = bias is not RelativeBias.NONE, bias is RelativeBias.POSITION_TIME
    return INPUTS + (POSITION_INPUTS if position else ()) + (TIME_INPUTS if time else ())


def function_body(*, bias: RelativeBias, block: int = 0, max_history: int = 0) -> onnx.FunctionProto:
    """The local function that a graph with HSTU blocks carries.

    Cut into blocks, it is right for self-attention only: as many rows as keys (Q = S, at most `max_history`), and a
    mask that blocks every key behind a row. Both hold for the exported generator. One block takes any Q and any mask.

    Shapes: query [B, H, Q, E], key, value [B, H, S, E], mask [1 or B, 1, Q, S], key_mask [B, 1, 1, S]; with positions
        position_bias [2n-1], n >= S, row r standing at S-Q+r; with time query_time int64 [B, Q], key_time int64 [B, S],
        bucket_starts int32 [130], time_bias [129] -> [B, H, Q, E]
    """
    count = blocks(block, max_history)
    timed = bias is RelativeBias.POSITION_TIME
    lines = [_CONSTANTS]
    if bias is RelativeBias.NONE:
        lines.append("    mask_position = Identity(mask)")
    else:  # all rows are there where they are cut into blocks
        lines.append(_POSITION.format(rows="position_rows = Identity(slipped)" if count > 1 else _LAST_ROWS))
    if timed:
        lines.append("    time_rows = Unsqueeze(query_time, axis_2)  time_columns = Unsqueeze(key_time, axis_1)")
    for i in range(count):
        lines.append(_TURN.format(i=i, after=f"mixed_{i - 1}" if i else "query"))
        lines.append(_cuts(i, count, block, timed))
        by_time = _TIME_BIAS if timed else "bias_{i} = Identity(masks_{i})"
        lines.append(_ATTENTION.format(i=i, bias=by_time.format(i=i)))
    parts = ", ".join(f"mixed_{i}" for i in range(count))
    lines.append(f"    mixed = {f'Concat<axis = 2>({parts})' if count > 1 else f'Identity({parts})'}")
    inputs = ", ".join(inputs_of(bias))
    head = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n{NAME} <scale> ({inputs}) => (mixed) {{'
    return onnx.parser.parse_function("\n".join([head, *lines, "}"]))


def _cuts(i: int, count: int, block: int, timed: bool) -> str:
    """What block i reads: its own rows, the keys up to its end, all of it after the block before it has answered."""
    last = i == count - 1
    lines = []
    if count > 1:
        lines.append(f"first_{i} = Constant<value_ints = [{i * block}]>()")
        lines.append(f"rows_{i} = Constant<value_ints = [{block}]>()")
        lines.append(f"stop_{i} = Constant<value_ints = [{_END if last else (i + 1) * block}]>()")

    def rows(name: str, source: str, axis: int) -> None:
        if count == 1:
            lines.append(f"{name}_{i} = Identity({source})")
        else:  # in two steps: from one, engines conclude that the block may have as many rows as the whole history
            lines.append(f"{name}_from_{i} = Slice({source}, first_{i}, end, axis_{axis})")
            lines.append(f"{name}_{i} = Slice({name}_from_{i}, start, rows_{i}, axis_{axis})")

    def columns(name: str, source: str, axis: int) -> None:
        cut = f"Identity({source})" if last else f"Slice({source}, start, stop_{i}, axis_{axis})"
        lines.append(f"{name}_{i} = {cut}")

    rows("query_rows", "query", 2)
    columns("key", "key_t", 3)
    columns("value", "value", 2)
    rows("mask_rows", "mask_position", 2)
    columns("mask", f"mask_rows_{i}", 3)
    columns("key_mask_columns", "key_mask", 3)
    lines.append(f"query_{i} = Add(query_rows_{i}, turn_{i})" if i else f"query_{i} = Identity(query_rows_{i})")
    lines.append(f"key_mask_turn_{i} = Add(key_mask_columns_{i}, turn_{i})")
    if timed:
        rows("time_rows", "time_rows", 1)
        columns("column_time", "time_columns", 2)
        lines.append(f"row_time_{i} = Add(time_rows_{i}, turn_time_{i})")
    return "\n".join(f"    {line}" for line in lines)


def add_body(model: onnx.ModelProto, block: int, max_history: int) -> bool:
    """Give a graph that uses the node its body, in place; False for a graph without the node.

    Where a plugin of its name is registered, TensorRT's parser takes that and leaves the body.
    """
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    if not nodes:
        return False
    for node in nodes:
        node.attribute.extend(onnx.helper.make_attribute(name, text) for name, text in PLUGIN.items())
    bias = next(each for each in RelativeBias if len(inputs_of(each)) == len(nodes[0].input))
    model.functions.append(function_body(bias=bias, block=block, max_history=max_history))
    return True
