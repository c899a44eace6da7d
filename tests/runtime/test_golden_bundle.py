"""The small bundle files that both runtimes read: Python must go on reading what C++ is tested with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from runtime.items import ItemIndex
from runtime.manifest import STAGES, Manifest

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_golden_manifest_is_read() -> None:
    manifest = Manifest.from_json(json.loads((GOLDEN / "manifest_v2.json").read_text(encoding="utf-8")))
    assert tuple(manifest.stages) == STAGES
    assert manifest.letters == {"S": 80, "F": 3, "D": 6, "A": 2, "K": 0}
    assert manifest.stages["ranker"].plan is not None
    assert manifest.items.version == hashlib.sha256((GOLDEN / "items" / "items.safetensors").read_bytes()).hexdigest()


def test_the_golden_items_are_read() -> None:
    index = ItemIndex.read(GOLDEN / "items")
    assert [index.name(row) for row in index.rows([f"id-{i}" for i in range(7)])] == [
        "Milk, 1 l", "", "Käse 🧀", "d", "e", "f", "g",
    ]  # fmt: skip
