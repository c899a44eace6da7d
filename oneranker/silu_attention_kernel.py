"""HSTU's SiLU attention as one GPU kernel in Triton, forward only; oneranker.hstu.silu_attention is its oracle.

Nothing of size Q x S is made: scores, bias and weights of a tile live in registers. Importing this module needs triton,
so nobody imports it before the kernel is asked for. Not run on a GPU: its arithmetic is tested on Triton's interpreter,
its code is compiled for NVIDIA's processors and read. docs/decisions/0007-fused-attention-on-the-gpu.md.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from oneranker.hstu import BUCKET_WIDTH, LARGEST_GAP
from oneranker.masks import BLOCKED

_READABLE_ABOVE = tl.constexpr(BLOCKED / 2)  # a mask's value: what lies below may not be read, whatever its score is
_SHUT = tl.constexpr(BLOCKED)
_LARGEST_GAP = tl.constexpr(LARGEST_GAP)
_BUCKETS_PER_OCTAVE = tl.constexpr(math.log(2) / BUCKET_WIDTH)
_CHUNK = tl.constexpr(1024)  # keys whose mask is looked at together


@triton.jit
def _readable_end(key_mask, keys):
    """One behind the last key that may be read: the tail of pads is never loaded."""
    end = 0
    for first in range(0, keys, _CHUNK):
        columns = first + tl.arange(0, _CHUNK)
        added = tl.load(key_mask + columns, mask=columns < keys, other=_SHUT)
        end = tl.maximum(end, tl.max(tl.where(added > _READABLE_ABOVE, columns + 1, 0)))
    return end


@triton.jit
def _time_bias(row_time, column_time, bucket_starts, time_bias):
    """oneranker.hstu.time_buckets of a tile and the bias of each bucket; the integer edge decides, not the logarithm.

    Shapes: row_time int64 [rows], column_time int64 [keys] -> fp32 [rows, keys]
    """
    gap = tl.minimum(tl.abs(row_time[:, None] - column_time[None, :]), _LARGEST_GAP).to(tl.int32)
    edge = (tl.log2(tl.maximum(gap, 1).to(tl.float32)) * _BUCKETS_PER_OCTAVE + 0.5).to(tl.int32)
    bucket = edge - (gap < tl.load(bucket_starts + edge)).to(tl.int32)
    return tl.load(time_bias + bucket).to(tl.float32)


@triton.jit
def _add_tile(
    total, q, bias, readable, place, row_time, columns, inside, dims,
    key, value, key_mask, position_bias, key_time, bucket_starts, time_bias, middle, key_row, value_row,
    E, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sum over keys, with one tile more: SiLU(q·k + bias) @ v, 0 for a cell that may not be read."""
    if key_mask is not None:
        added = tl.load(key_mask + columns, mask=inside, other=_SHUT).to(tl.float32)
        readable = readable & (added > _READABLE_ABOVE)[None, :]
        bias += added[None, :]
    if position_bias is not None:
        slots = position_bias + middle + columns[None, :] - place[:, None]
        bias += tl.load(slots, mask=readable, other=0.0).to(tl.float32)
    if time_bias is not None:
        column_time = tl.load(key_time + columns, mask=inside, other=0)
        bias += _time_bias(row_time, column_time, bucket_starts, time_bias)
    wide = dims < E
    k = tl.load(key + columns[None, :] * key_row + dims[:, None], mask=inside[None, :] & wide[:, None], other=0.0)
    v = tl.load(value + columns[:, None] * value_row + dims[None, :], mask=inside[:, None] & wide[None, :], other=0.0)
    scores = tl.dot(q, k, input_precision=PRECISION) + bias
    weights = tl.where(readable, scores / (1 + tl.exp(-scores)), 0.0)
    return tl.dot(weights.to(v.dtype), v, total, input_precision=PRECISION)


@triton.jit(do_not_specialize=["queries", "keys", "middle", "mask_request"])  # else each 1 and each 16n is a new one
def silu_attention_kernel(
    query, key, value, mixed, mask, key_mask, position_bias, query_time, key_time, bucket_starts, time_bias,
    queries, keys, middle,
    query_request, query_head, query_row, key_request, key_head, key_row, value_request, value_head, value_row,
    mixed_request, mixed_head, mixed_row, mask_request, scale,
    E: tl.constexpr, E_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of rows of one head; <tensor>_<axis> is a stride, `middle` is n-1, what is absent is None.

    Grid: blocks of rows, H, B.
    """
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # rows that read the most keys begin first
    head, request = tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows, dims = block * ROWS + tl.arange(0, ROWS), tl.arange(0, E_PADDED)
    place = keys - queries + rows  # among the keys
    real = (rows < queries)[:, None]
    query += request * query_request + head * query_head
    key += request * key_request + head * key_head
    value += request * value_request + head * value_head
    mixed += request * mixed_request + head * mixed_head
    q = tl.load(query + rows[:, None] * query_row + dims[None, :], mask=real & (dims < E)[None, :], other=0.0)
    end, row_time = keys, rows
    if mask is None:
        end = tl.minimum(keys, keys - queries + (block + 1) * ROWS)
    if key_mask is not None:
        key_mask += request * keys
        end = tl.minimum(end, _readable_end(key_mask, keys))
    if time_bias is not None:
        row_time = tl.load(query_time + request * queries + rows, mask=rows < queries, other=0)
        key_time += request * keys
    total = tl.zeros([ROWS, E_PADDED], tl.float32)
    for first in range(0, end, KEYS):
        columns = first + tl.arange(0, KEYS)
        inside = columns < end
        cells = real & inside[None, :]
        if mask is None:
            total = _add_tile(
                total, q, 0.0, cells & (columns[None, :] <= place[:, None]), place, row_time, columns, inside, dims,
                key, value, key_mask, position_bias, key_time, bucket_starts, time_bias, middle, key_row, value_row,
                E, PRECISION,
            )  # fmt: skip
        else:
            at = mask + request * mask_request + rows.to(tl.int64)[:, None] * keys + columns[None, :]
            added = tl.load(at, mask=cells, other=_SHUT).to(tl.float32)
            if tl.max(added) > _READABLE_ABOVE:
                total = _add_tile(
                    total, q, added, added > _READABLE_ABOVE, place, row_time, columns, inside, dims,
                    key, value, key_mask, position_bias, key_time, bucket_starts, time_bias, middle, key_row, value_row,
                    E, PRECISION,
                )  # fmt: skip
    mixed += rows[:, None] * mixed_row + dims[None, :]
    tl.store(mixed, (total * scale).to(q.dtype), mask=real & (dims < E)[None, :])
