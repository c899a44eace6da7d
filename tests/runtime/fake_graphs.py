"""Four hand-made graphs with the stages' tensors and trivial arithmetic, written as ONNX text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx.checker
import onnx.parser

KV_HISTORY = ("B", 2, "S", 4)
KV_TASKS = ("B", 2, 8, 4)
TRIE = [(name, "int32", ("P",)) for name in (
    "trie_code", "trie_children_begin", "trie_children_end", "trie_items_begin", "trie_items_end"
)]  # fmt: skip

# name, dtype ("x" = the graph's), shape
TENSORS: dict[str, tuple[list[tuple[str, str, tuple[Any, ...]]], list[tuple[str, str, tuple[Any, ...]]]]] = {
    "generator": (
        [("token_fields", "int32", ("B", "S", 3)), ("token_kind", "int32", ("B", "S")),
         ("token_time", "int64", ("B", "S")), ("causal_mask", "x", (1, 1, "S", "S")),
         ("history_mask", "x", ("B", 1, 1, "S"))],
        [("history_hidden", "x", ("B", "S", 8)), ("enhancer_key_0", "x", KV_HISTORY),
         ("enhancer_value_0", "x", KV_HISTORY), ("ranker_key_history", "x", KV_HISTORY),
         ("ranker_value_history", "x", KV_HISTORY)],
    ),
    "enhancer": (
        [("enhancer_key_0", "x", KV_HISTORY), ("enhancer_value_0", "x", KV_HISTORY),
         ("history_mask", "x", ("B", 1, 1, "S")), ("task_mask", "x", (1, 1, 8, 8))],
        [("user_embedding", "x", ("B", 3, 13)), ("ranker_key_tasks", "x", KV_TASKS),
         ("ranker_value_tasks", "x", KV_TASKS)],
    ),
    "retriever": (
        [("user_embedding", "x", ("B", 3, 13)), ("codebooks", "x", (2, 4, 8)), ("anchors", "x", (5, 8)), *TRIE,
         ("item_eligible", "int32", ("R", "N+1")), ("eligible_row", "int32", ("B",))],
        [("candidate_items", "int32", ("B", 6)), ("candidate_logp", "float32", ("B", 6)),
         ("candidate_head", "int32", ("B", 6)), ("candidate_count", "int32", ("B",))],
    ),
    "ranker": (
        [("candidate_items", "int32", ("B", "C")), ("item_table", "x", ("N", 8)),
         ("ranker_key_history", "x", KV_HISTORY), ("ranker_value_history", "x", KV_HISTORY),
         ("ranker_key_tasks", "x", KV_TASKS), ("ranker_value_tasks", "x", KV_TASKS),
         ("history_mask", "x", ("B", 1, 1, "S")), ("candidate_mask", "x", (1, 1, "1+C", "1+C"))],
        [("scores", "float32", ("B", "C"))],
    ),
}  # fmt: skip
FEATURES = ("candidate_features", "x", ("B", "C", 2))

# Every graph computes in fp32 and casts at its boundary, so that fp16 bundles differ in nothing but their tensors.
# exp() turns an additive mask into 0 and 1; a graph that lost its mask would sum the padding too.
BODIES = {
    "generator": """
        axis2 = Constant <value_ints = [2]> ()
        fields_sum = ReduceSum <keepdims = 0> (token_fields, axis2)
        sum_kind = Add (fields_sum, token_kind)
        thousand = Constant <value = int64 {1000}> ()
        milli = Mod (token_time, thousand)
        time = Cast <to = 1> (milli)
        raw = Cast <to = 1> (sum_kind)
        scale = Constant <value = float {0.001}> ()
        both = Add (raw, time)
        x = Mul (both, scale)
        causal = Cast <to = 1> (causal_mask)
        history = Cast <to = 1> (history_mask)
        mask = Add (causal, history)
        weight = Exp (mask)
        column_axes = Constant <value_ints = [1, 3]> ()
        column = Unsqueeze (x, column_axes)
        mixed = MatMul (weight, column)
        axis1 = Constant <value_ints = [1]> ()
        running = Squeeze (mixed, axis1)
        d = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> ()
        hidden = Mul (running, d)
        history_hidden = Cast <to = XTYPE> (hidden)
        split = Constant <value_ints = [0, 0, 2, 4]> ()
        heads = Reshape (hidden, split)
        key = Transpose <perm = [0, 2, 1, 3]> (heads)
        enhancer_key_0 = Cast <to = XTYPE> (key)
        two = Constant <value = float {2.0}> ()
        three = Constant <value = float {3.0}> ()
        key2 = Mul (key, two)
        key3 = Mul (key, three)
        neg = Neg (key)
        enhancer_value_0 = Cast <to = XTYPE> (key2)
        ranker_key_history = Cast <to = XTYPE> (key3)
        ranker_value_history = Cast <to = XTYPE> (neg)
    """,
    "enhancer": """
        key = Cast <to = 1> (enhancer_key_0)
        value = Cast <to = 1> (enhancer_value_0)
        both = Add (key, value)
        history = Cast <to = 1> (history_mask)
        weight = Exp (history)
        pooled = MatMul (weight, both)
        task = Cast <to = 1> (task_mask)
        task_weight = Exp (task)
        axis3 = Constant <value_ints = [3]> ()
        reads = ReduceSum <keepdims = 1> (task_weight, axis3)
        key_tasks = Mul (reads, pooled)
        value_tasks = Neg (key_tasks)
        ranker_key_tasks = Cast <to = XTYPE> (key_tasks)
        ranker_value_tasks = Cast <to = XTYPE> (value_tasks)
        swapped = Transpose <perm = [0, 2, 1, 3]> (key_tasks)
        flat = Constant <value_ints = [0, 8, 8]> ()
        tokens = Reshape (swapped, flat)
        zero = Constant <value_ints = [0]> ()
        three = Constant <value_ints = [3]> ()
        one = Constant <value_ints = [1]> ()
        task_tokens = Slice (tokens, zero, three, one)
        pads = Constant <value_ints = [0, 0, 0, 0, 0, 5]> ()
        half = Constant <value = float {0.5}> ()
        user = Pad (task_tokens, pads, half)
        user_embedding = Cast <to = XTYPE> (user)
    """,
    "retriever": """
        user = Cast <to = 1> (user_embedding)
        books = Cast <to = 1> (codebooks)
        fakes = Cast <to = 1> (anchors)
        axis01 = Constant <value_ints = [0, 1]> ()
        anchor_sum = ReduceSum <keepdims = 0> (fakes, axis01)
        axis1 = Constant <value_ints = [1]> ()
        mean = ReduceMean <keepdims = 0> (user, axis1)
        from = Constant <value_ints = [0]> ()
        to = Constant <value_ints = [8]> ()
        task = Slice (mean, from, to, axis1)
        last = Constant <value = int64 {1}> ()
        book = Gather <axis = 0> (books, last)
        last_n1 = Shape <start = 1> (item_eligible)
        one = Constant <value_ints = [1]> ()
        n = Sub (last_n1, one)
        minus_n = Neg (n)
        far = Constant <value_ints = [2147483647]> ()
        leaf_code = Slice (trie_code, minus_n, far, from)
        leaf_row = Slice (trie_items_begin, minus_n, far, from)
        vectors = Gather <axis = 0> (book, leaf_code)
        turned = Transpose <perm = [1, 0]> (vectors)
        dots = MatMul (task, turned)
        row = Cast <to = 1> (leaf_row)
        small = Constant <value = float {0.001}> ()
        step = Mul (row, small)
        size = ReduceSum <keepdims = 1> (task, axis1)
        order = Mul (size, step)
        shifted = Add (dots, anchor_sum)
        logits = Sub (shifted, order)
        counts = Gather <axis = 0> (item_eligible, eligible_row)
        after = Slice (counts, one, far, axis1)
        before = Slice (counts, from, n, axis1)
        flags = Sub (after, before)
        allowed = Cast <to = 9> (flags)
        lowest = Constant <value = float {-1e30}> ()
        masked = Where (allowed, logits, lowest)
        k = Constant <value_ints = [6]> ()
        candidate_logp, items64 = TopK (masked, k)
        items = Cast <to = 6> (items64)
        edge = Constant <value = float {-1e29}> ()
        real = Greater (candidate_logp, edge)
        none = Constant <value = int32 {-1}> ()
        candidate_items = Where (real, items, none)
        zero = Constant <value = int32 {0}> ()
        candidate_head = Where (real, zero, none)
        ones = Cast <to = 6> (real)
        candidate_count = ReduceSum <keepdims = 0> (ones, axis1)
    """,
    "ranker": """
        key = Cast <to = 1> (ranker_key_history)
        value = Cast <to = 1> (ranker_value_history)
        both = Add (key, value)
        history = Cast <to = 1> (history_mask)
        weight = Exp (history)
        pooled = MatMul (weight, both)
        axis2 = Constant <value_ints = [2]> ()
        from_history = Squeeze (pooled, axis2)
        key_tasks = Cast <to = 1> (ranker_key_tasks)
        value_tasks = Cast <to = 1> (ranker_value_tasks)
        two = Constant <value = float {2.0}> ()
        key_tasks2 = Mul (key_tasks, two)
        both_tasks = Add (key_tasks2, value_tasks)
        from_tasks = ReduceSum <keepdims = 0> (both_tasks, axis2)
        read = Add (from_history, from_tasks)
        flat = Constant <value_ints = [0, 8, 1]> ()
        query = Reshape (read, flat)
        zero = Constant <value = int32 {0}> ()
        rows = Max (candidate_items, zero)
        table = Cast <to = 1> (item_table)
        vectors = Gather <axis = 0> (table, rows)
        dots = MatMul (vectors, query)
        matched = Squeeze (dots, axis2)
        mask = Cast <to = 1> (candidate_mask)
        mask_weight = Exp (mask)
        axis3 = Constant <value_ints = [3]> ()
        reads = ReduceSum <keepdims = 0> (mask_weight, axis3)
        axis01 = Constant <value_ints = [0, 1]> ()
        reads_row = Squeeze (reads, axis01)
        one = Constant <value_ints = [1]> ()
        far = Constant <value_ints = [2147483647]> ()
        from = Constant <value_ints = [0]> ()
        candidate_reads = Slice (reads_row, one, far, from)
        weighted = Mul (matched, candidate_reads)
        EXTRA
        lowest = Constant <value = float {-1e30}> ()
        pad = Less (candidate_items, zero)
        scores = Where (pad, lowest, final)
    """,
}


def make_graph(stage: str, precision: str = "fp32", features: bool = False) -> onnx.ModelProto:
    """The stage's graph, checked by onnx."""
    number, word = {"fp32": ("1", "float"), "fp16": ("10", "float16")}[precision]
    words = {"x": word, "float32": "float", "int32": "int32", "int64": "int64"}
    extra = "final = Identity (weighted)"
    if features:
        extra = """extra = Cast <to = 1> (candidate_features)
        extra_sum = ReduceSum <keepdims = 0> (extra, axis2)
        final = Add (weighted, extra_sum)"""

    def listed(rows: Sequence[tuple[str, str, tuple[Any, ...]]]) -> str:
        def dim(d: Any) -> str:
            return {"N+1": "N_plus_1", "1+C": "C_plus_1"}.get(d, str(d))

        return ", ".join(f"{words[dtype]}[{', '.join(map(dim, shape))}] {name}" for name, dtype, shape in rows)

    inputs, outputs = tensors_of(stage, features)
    body = BODIES[stage].replace("XTYPE", number).replace("EXTRA", extra)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]> {stage} ({listed(inputs)}) => ({listed(outputs)}) {{ {body} }}'
    )
    onnx.checker.check_model(model)
    return model


def tensors_of(stage: str, features: bool) -> tuple[list[Any], list[Any]]:
    inputs, outputs = TENSORS[stage]
    if features and stage == "ranker":
        inputs = [*inputs[:2], FEATURES, *inputs[2:]]
    return inputs, outputs
