"""rec::SiluAttention as a graph of one node, what it is fed, and a loop over its definition."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.settings import OPSET
from export.silu_attention import DOMAIN, NAME, VERSION, function_body, inputs_of
from oneranker import masks
from oneranker.config import RelativeBias
from oneranker.hstu import TIME_BUCKETS, bucket_starts

Array = NDArray[Any]
B, H, E, BLOCK, MAX = 2, 2, 16, 16, 50  # 50 rows in blocks of 16: the last one holds 2
LENGTHS = [3, 15, 16, 17, 32, 33, 48, 49, 50]
DTYPES = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}
CLOCK = 10**9
TIMED = RelativeBias.POSITION_TIME
RANKS = {"key_mask": 4, "position_bias": 1, "query_time": 2, "key_time": 2, "bucket_starts": 1, "time_bias": 1}
INTEGERS = {"query_time": TensorProto.INT64, "key_time": TensorProto.INT64, "bucket_starts": TensorProto.INT32}


def one_node(*, bias: RelativeBias, block: int, kind: str) -> onnx.ModelProto:
    x, names = DTYPES[kind][0], inputs_of(bias)
    inputs = [
        helper.make_tensor_value_info(
            name, INTEGERS.get(name, x), [f"{name}_{axis}" for axis in range(RANKS.get(name, 4))]
        )
        for name in names
    ]
    outputs = [helper.make_tensor_value_info("mixed", x, ["b", "h", "q", "e"])]
    node = helper.make_node(NAME, list(names), ["mixed"], domain=DOMAIN, scale=1 / MAX)
    model = helper.make_model(
        helper.make_graph([node], "one", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[function_body(bias=bias, block=block, max_history=MAX)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def feed_of(length: int, *, bias: RelativeBias, kind: str, causal: bool = True) -> dict[str, Array]:
    """Random rows under the causal mask; the second request has pads behind its real keys."""
    generator, dtype = np.random.default_rng(length), DTYPES[kind][1]
    feed: dict[str, Array] = {
        name: generator.normal(size=(B, H, length, E)).astype(dtype) for name in ("query", "key", "value")
    }
    blocked = masks.additive(masks.causal(length)).numpy() if causal else np.zeros((length, length))
    feed["mask"] = blocked.reshape(1, 1, length, length).astype(dtype)
    lengths = torch.tensor([length, max(1, length - 2)])
    feed["key_mask"] = masks.additive(masks.history(lengths, length)).numpy().astype(dtype)
    if bias is not RelativeBias.NONE:
        feed["position_bias"] = generator.normal(size=2 * MAX - 1).astype(dtype)
    if bias is TIMED:
        feed["key_time"] = CLOCK + np.sort(generator.integers(0, 10**7, (B, length)))
        feed["query_time"] = np.roll(feed["key_time"], -1, axis=1)
        feed["query_time"][:, -1] = feed["key_time"][:, -1]
        feed["bucket_starts"] = bucket_starts().numpy()
        feed["time_bias"] = generator.normal(size=TIME_BUCKETS).astype(dtype)
    return feed


def loop(feed: dict[str, Array]) -> Array:
    """The definition, a cell at a time and in doubles; a key that a mask blocks is left out altogether."""
    real = {name: array.astype(np.float64) for name, array in feed.items()}
    queries, keys = feed["query"].shape[2], feed["key"].shape[2]
    out = np.zeros((B, H, queries, E))
    for b, h, row, key in np.ndindex(B, H, queries, keys):
        bias = real["mask"][0, 0, row, key] + real["key_mask"][b, 0, 0, key]
        if bias < -5000:
            continue
        if "position_bias" in feed:
            bias += real["position_bias"][MAX - 1 + key - (keys - queries + row)]
        if "time_bias" in feed:
            gap = abs(int(feed["query_time"][b, row]) - int(feed["key_time"][b, key]))
            bias += real["time_bias"][math.floor(math.log(max(gap, 1)) / 0.301)]
        score = real["query"][b, h, row] @ real["key"][b, h, key] + bias
        out[b, h, row] += score / (1 + math.exp(-score)) / MAX * real["value"][b, h, key]
    return out


@cache
def case(length: int, bias: RelativeBias, kind: str) -> tuple[dict[str, Array], Array]:
    """A feed and what the loop says of it."""
    feed = feed_of(length, bias=bias, kind=kind)
    return feed, loop(feed)
