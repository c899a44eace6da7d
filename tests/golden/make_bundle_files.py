"""Writes manifest_v2.json and items/: small files of a bundle that both runtimes read in their tests.

The digests of the manifest are those of the stages' names, its sizes those of the fake bundle; the items are seven
rows in no order with two delisted, names with an empty text, an umlaut and an emoji, vectors of a seeded generator.
Run it from the root, with `PYTHONPATH=.`, when the schema changes; old files stay beside the new ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from export.item_index import write_item_index
from runtime.manifest import (
    STAGES,
    FileEntry,
    ItemsEntry,
    Manifest,
    PlanEntry,
    ProfileEntry,
    StageEntry,
    TensorEntry,
    WeightsEntry,
)

FOLDER = Path(__file__).parent
N, L, V, D, A = 7, 3, 4, 6, 2
CODES = np.array([[2, 0, 3], [0, 3, 1], [0, 0, 2], [3, 3, 3], [0, 0, 0], [1, 1, 1], [2, 0, 1]])
NAMES = ["Milk, 1 l", "", "Käse 🧀", "d", "e", "f", "g"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_items() -> str:
    random = np.random.default_rng(0)
    return write_item_index(
        FOLDER / "items",
        ids=[f"id-{i}" for i in range(N)],
        names=NAMES,
        codes=CODES,
        codebooks=random.normal(size=(L, V, D)),
        anchors=random.normal(size=(A, D)),
        item_table=random.normal(size=(N, D)),
        item_vectors=random.normal(size=(N, D + A)),
        item_fields=CODES + 1,
        listed=[1, 1, 0, 1, 0, 1, 1],
    )


def stage_entry(name: str) -> StageEntry:
    plan = PlanEntry(
        file=f"{name}/model.plan",
        sha256=digest(f"plan of {name}"),
        bytes=4321,
        engine="tensorrt_rtx",
        version="1.7.0.1",
        compute_capabilities=("8.9", "12.0"),
        profiles=(
            ProfileEntry(name="b1", letters={"B": (1, 1, 1), "S": (1, 64, 80)}),
            ProfileEntry(name="batch", letters={"B": (2, 2, 3), "S": (1, 64, 80)}),
        ),
        verified="not run on a GPU",
    )
    inputs = (
        TensorEntry(name="item_eligible", dtype="int32", shape=("R", "N+1")),
        TensorEntry(name="causal_mask", dtype="float16", shape=(1, 1, "S", "S")),
        TensorEntry(name="token_time", dtype="int64", shape=("B", "S")),
        TensorEntry(name="trie_code", dtype="int32", shape=("P",)),
    )
    outputs = (
        TensorEntry(name="user_embedding", dtype="float32", shape=("B", 3, "D+A")),
        TensorEntry(name="flags", dtype="uint8", shape=()),
    )
    return StageEntry(
        file=f"{name}/model.onnx",
        sha256=digest(name),
        bytes=1234,
        fingerprint=digest(f"fingerprint of {name}"),
        inputs=inputs,
        outputs=outputs,
        plan=plan if name == "ranker" else None,
    )


def make_manifest(version: str) -> Manifest:
    return Manifest(
        created="2026-01-01T00:00:00+00:00",
        weights=WeightsEntry(source="random", detail="a golden file, no weights", seed=None),
        model={"vocabulary": 41, "retriever": "trie", "dropout": 0.0, "S": 80, "F": 3, "D": 6, "A": 2, "K": 0},
        precision="fp16",
        engine="onnxruntime",
        opset=23,
        profile={"B": (1, 2, 3), "S": (1, 64, 80), "C": (1, 6, 20)},
        versions={"python": "3.11"},
        stages={name: stage_entry(name) for name in STAGES},
        items=ItemsEntry(folder="items", version=version, items=N),
        tokenizer=FileEntry(file="tokenizer.json", sha256=digest("tokenizer")),
        masks=FileEntry(file="masks.safetensors", sha256=digest("masks")),
        parity={"chain": {"max_abs_error": 1.25e-06}},
    )


def main() -> None:
    manifest = asdict(make_manifest(write_items()))
    text = json.dumps({"schema_version": manifest["schema_version"], **manifest}, indent=1, ensure_ascii=False)
    (FOLDER / "manifest_v2.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
