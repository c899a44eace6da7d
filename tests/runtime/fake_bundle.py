"""A bundle of four hand-made graphs whose answers `expected_scores` recomputes in plain numpy, request by request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fake_graphs import TENSORS, make_graph, tensors_of
from safetensors.numpy import save_file

from oneranker.tokens import Tokenizer, Tokens
from oneranker.trie import Trie
from runtime import Pipeline
from runtime.item_checks import code_space_of
from runtime.items import ItemIndex
from runtime.manifest import FileEntry, ItemsEntry, Manifest, StageEntry, TensorEntry, WeightsEntry, file_sha256
from runtime.recommendation import Recommendation

LETTERS = {"S": 80, "F": 3, "D": 8, "H": 2, "E": 4, "T": 3, "A": 5, "M": 2, "L": 2, "V": 4, "W": 2, "C": 6}
PROFILE = {"B": (1, 2, 3), "S": (1, 64, 80), "C": (1, 6, 20)}
N = 11  # items


def make_tokenizer() -> Tokenizer:
    return Tokenizer(levels=2, codes=4)


def write_items(
    folder: Path, items: int = N, seed: int = 0, delisted: Sequence[int] = (), code_seed: int = 0, shift: int = 0
) -> None:
    """An item index; `seed` changes the items, `code_seed` the code space, `shift` the token fields."""
    books = np.random.default_rng(code_seed)
    codebooks = books.normal(size=(2, 4, 8)).astype(np.float32)
    anchors = books.normal(size=(5, 8)).astype(np.float32)
    random = np.random.default_rng(seed)
    codes = np.stack(np.divmod(np.sort(random.permutation(16)[:items]), 4), axis=1).astype(np.int32)
    ids, names = [f"item-{seed}-{row}" for row in range(items)], [f"Café {row}" for row in range(items)]
    listed = np.ones(items, np.uint8)
    listed[list(delisted)] = 0
    tables = {
        "codes": codes, "codebooks": codebooks, "anchors": anchors, **Trie.from_codes(codes).tables(),
        "item_table": random.uniform(0.5, 1.5, size=(items, 8)).astype(np.float32),  # no sums that cancel
        "item_fields": make_tokenizer().item_fields(codes, {}) + np.int32(shift), "item_listed": listed,
        **_texts("id", ids), **_texts("name", names),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tables, folder / "items.safetensors")
    header = {
        "schema_version": 1, "version": file_sha256(folder / "items.safetensors"),
        "code_space": code_space_of(codebooks, anchors), "items": items, "levels": 2, "codes": 4, "width": 8,
        "anchors": 5, "nodes": len(tables["trie_code"]),
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(header))


def _texts(kind: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    raw = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, raw)], dtype=np.int64)
    return {f"{kind}_bytes": np.frombuffer(b"".join(raw), np.uint8), f"{kind}_offsets": offsets}


def make_masks() -> dict[str, np.ndarray]:
    """Masks as a nested loop would say them: causal, tasks causal + open fakes, candidates see T_r and themselves."""
    causal = np.tril(np.ones((80, 80), np.uint8))
    task = np.array([[c <= r or c >= 3 if r < 3 else c < 3 or c == r for c in range(8)] for r in range(8)], np.uint8)
    candidate = np.eye(21, dtype=np.uint8)
    candidate[:, 0] = 1
    return {"causal_mask": causal[None, None], "task_mask": task[None, None], "candidate_mask": candidate[None, None]}


def write_bundle(bundle: Path, precision: str = "fp32", features: bool = False, **items: Any) -> Path:
    """A whole fake bundle; `items` goes to `write_items`."""
    stages = {}
    dtype = {"fp32": "float32", "fp16": "float16"}[precision]
    for stage in TENSORS:
        (bundle / stage).mkdir(parents=True)
        file = bundle / stage / "model.onnx"
        onnx.save(make_graph(stage, precision, features), file)
        inputs, outputs = (
            tuple(
                TensorEntry(name=name, dtype=dtype if kind == "x" else kind, shape=shape) for name, kind, shape in side
            )
            for side in tensors_of(stage, features)
        )
        stages[stage] = StageEntry(
            file=f"{stage}/model.onnx", sha256=file_sha256(file), bytes=file.stat().st_size, fingerprint="fake",
            inputs=inputs, outputs=outputs,
        )  # fmt: skip
    make_tokenizer().write(bundle / "tokenizer.json")
    save_file(make_masks(), bundle / "masks.safetensors")
    write_items(bundle / "items", **items)
    header = json.loads((bundle / "items" / "index.json").read_text())
    Manifest(
        created="2026-01-01T00:00:00+00:00",
        weights=WeightsEntry(source="random", detail="hand-made graphs", seed=None),
        model={**LETTERS, "retriever": "trie"},
        precision=precision,
        engine="onnxruntime",
        opset=23,
        profile=PROFILE,
        versions={"onnx": onnx.__version__},
        stages=stages,
        items=ItemsEntry(folder="items", version=header["version"], items=header["items"]),
        tokenizer=FileEntry(file="tokenizer.json", sha256=file_sha256(bundle / "tokenizer.json")),
        masks=FileEntry(file="masks.safetensors", sha256=file_sha256(bundle / "masks.safetensors")),
    ).write(bundle)
    return bundle


def edit_manifest(bundle: Path, **changes: Any) -> None:
    """Rewrite manifest.json with changed top-level keys; None removes one."""
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def make_request(index: ItemIndex, events: int, seed: int = 0) -> dict[str, Any]:
    """A raw request with `events` single-item groups of random known items."""
    random = np.random.default_rng(seed)
    rows = random.integers(len(index), size=events)
    times = np.sort(random.integers(1_000, 900_000, size=events)).tolist()
    history = [
        {"item": index.id(row), "time": time, "group": f"g{i}"}
        for i, (row, time) in enumerate(zip(rows, times, strict=True))
    ]
    return {"events": history, "now": 1_000_000 + seed}


def expected_user(tokens: Tokens) -> np.ndarray:
    """What the fake stages say of one request, without padding, batches or masks: sum of running sums, times 1..D.

    Shapes: -> float64 [D]
    """
    x = (tokens.token_fields.sum(1) + tokens.token_kind + tokens.token_time % 1000) * 0.001
    return np.cumsum(x).sum() * np.arange(1.0, 9.0)


def expected_scores(tokens: Tokens, index: ItemIndex, rows: Sequence[int]) -> np.ndarray:
    """The fake ranker's scores: history gives 3 - 1 = 2 users, tasks 3 x (sum of cells that each token reads) users."""
    user = expected_user(tokens)
    cells = make_masks()["task_mask"].sum()
    query = 2 * user + (2 - 1) * cells * 3 * user
    return 2 * index.tables["item_table"][list(rows)].astype(np.float64) @ query  # a candidate reads T_r and itself


def expected_retrieval(tokens: Tokens, index: ItemIndex, allowed: Sequence[bool]) -> list[int]:
    """The fake retriever's rows, best first, at most 6."""
    reads = make_masks()["task_mask"][0, 0].sum(1)[:3].mean()
    task = expected_user(tokens) * 3 * reads
    book = index.tables["codebooks"][1].astype(np.float64)
    logits = book[index.tables["codes"][:, 1]] @ task - 0.001 * np.arange(len(index)) * task.sum()
    best = np.argsort(-logits, kind="stable")
    return [int(row) for row in best if allowed[int(row)]][:6]


def tokens_of(pipeline: Pipeline, requests: Sequence[dict[str, Any]]) -> list[Tokens]:
    return [encoded.tokens for encoded in pipeline.encode(requests)]


def assert_answer(
    answer: Recommendation, tokens: Tokens, index: ItemIndex, allowed: Sequence[bool], top_k: int
) -> None:
    """Compare rows, scores, ids and names with the numpy answers."""
    rows = np.array(expected_retrieval(tokens, index, allowed))
    scores = expected_scores(tokens, index, rows)
    best = np.argsort(-scores, kind="stable")[:top_k]
    assert [item.row for item in answer.items] == rows[best].tolist()
    np.testing.assert_allclose([item.score for item in answer.items], scores[best], rtol=1e-5)
    assert [item.id for item in answer.items] == [index.id(row) for row in rows[best]]
    assert [item.name for item in answer.items] == [f"Café {row}" for row in rows[best]]
    assert answer.index_version == index.version
