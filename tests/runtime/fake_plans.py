"""Fake plans in a fake bundle, and a pipeline that serves them from a fake device."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_device import FakeDevice
from fake_trt import CONTEXTS, VERSION, fake_module

import runtime.serving
from runtime import Pipeline
from runtime.manifest import Manifest, file_sha256
from runtime.stage import TensorSpec

OTHERS = {"C": [1, 6, 20], "N": [1, 11, 100], "P": [2, 20, 400]}
PROFILES = {
    "single": {"B": [1, 1, 1], "S": [1, 64, 80], "R": [1, 1, 2]},
    "short": {"B": [2, 2, 3], "S": [1, 32, 64], "R": [1, 1, 4]},
    "long": {"B": [2, 2, 3], "S": [65, 80, 80], "R": [1, 1, 4]},
}
SCRATCH = {"generator": [100, 5000, 7000], "enhancer": [300, 200, 200], "retriever": [0, 0, 0], "ranker": [10, 20, 30]}


def write_plans(bundle: Path, engine: str = "tensorrt", profiles: Mapping[str, Any] = PROFILES, **content: Any) -> Path:
    """Give every stage of a bundle a plan; `content` goes into each plan."""
    raw = json.loads((bundle / "manifest.json").read_text())
    for stage, row in raw["stages"].items():
        ranges = [{"name": name, "letters": letters | OTHERS} for name, letters in profiles.items()]
        plan = {
            "graph": str(bundle / row["file"]),
            "rtx": engine == "tensorrt_rtx",
            "profiles": [shapes(row["inputs"], one["letters"]) for one in ranges],
            "scratch": SCRATCH[stage][: len(ranges)],
            **content,
        }
        file = bundle / stage / "model.plan"
        file.write_text(json.dumps(plan))
        row["plan"] = {
            "file": f"{stage}/model.plan",
            "sha256": file_sha256(file),
            "bytes": file.stat().st_size,
            "engine": engine,
            "version": VERSION,
            "compute_capabilities": ["8.6", "8.9"],
            "profiles": ranges,
            "verified": "not run on a GPU",
        }
    raw["engine"] = engine
    (bundle / "manifest.json").write_text(json.dumps(raw))
    Manifest.read(bundle)
    return bundle


def shapes(tensors: list[dict[str, Any]], letters: Mapping[str, list[int]]) -> dict[str, list[list[int]]]:
    """Smallest, usual and largest shape of each tensor."""
    specs = [TensorSpec(row["name"], row["dtype"], tuple(row["shape"])) for row in tensors]
    return {
        spec.name: [list(spec.sized({name: ends[at] for name, ends in letters.items()})) for at in range(3)]
        for spec in specs
    }


def edit_plan(bundle: Path, stage: str, **entry: Any) -> None:
    """Change the manifest's row of one plan."""
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text())
    raw["stages"][stage]["plan"] |= entry
    path.write_text(json.dumps(raw))


def edit_plan_file(bundle: Path, stage: str, **content: Any) -> None:
    """Change the plan itself, and the manifest with it."""
    file = bundle / stage / "model.plan"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    edit_plan(bundle, stage, sha256=file_sha256(file), bytes=file.stat().st_size)


class Machine:
    """A machine with fake devices and fake engines; everything that was opened on it must be freed in the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *engines: str) -> None:
        self.opened: list[FakeDevice] = []
        self.options: dict[str, Any] = {}  # of the next device
        CONTEXTS.clear()  # those of other tests, held by an error that is still remembered, are not this machine's
        for engine in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, engine, fake_module(engine) if engine in engines else None)
        monkeypatch.setattr(runtime.serving, "CudaDevice", SimpleNamespace(open=self.open))

    def open(self, ordinal: int = 0) -> FakeDevice:
        self.opened.append(FakeDevice(ordinal, **self.options))
        return self.opened[-1]

    @property
    def device(self) -> FakeDevice:
        return self.opened[-1]

    @contextmanager
    def serve(self, bundle: Path, **options: Any) -> Iterator[Pipeline]:
        with Pipeline.load(bundle, **options) as pipeline:
            yield pipeline

    def check_freed(self) -> None:
        for device in self.opened:
            assert device.closed
            assert device.left == []


def copy_of(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder))
