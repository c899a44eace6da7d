"""Hashes of all that a part of a bundle depends on; equal hashes mean reuse, "the file exists" never does."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from export.settings import OPSET, GraphSettings
from export.silu_attention import blocks
from export.stages import StageSpec
from oneranker.config import OneRankerConfig
from runtime.manifest import STAGES

_ROOT = Path(__file__).resolve().parent.parent
_EXPORTER = ("islands", "onnx_from_stage", "precision", "silu_attention", "stages")  # what turns a stage into a graph
_ENGINE = ("engine_from_onnx", "engine_kernels", "engine_log", "engine_precision", "engine_report", "profiles")
_TOOLS = ("torch", "onnx", "onnxscript")
# Fields of the config that the code of a stage reads. Those of no stage shape the training or the static masks.
STAGE_FIELDS: Mapping[str, frozenset[str]] = {
    "generator": frozenset(
        {
            "vocabulary", "fields", "max_history", "width", "heads", "generator_layers", "enhancer_layers",
            "relative_bias",
        }
    ),
    "enhancer": frozenset(
        {
            "width", "heads", "enhancer_layers", "interest_tokens", "value_tokens", "anchors", "dual_channel",
            "anchor_mean", "cross_first", "task_decoupling",
        }
    ),
    "retriever": frozenset(
        {
            "width", "interest_tokens", "value_tokens", "anchors", "code_levels", "codes", "beams", "candidates",
            "retriever", "prefix_conditioned",
        }
    ),
    "ranker": frozenset(
        {
            "width", "heads", "interest_tokens", "value_tokens", "anchors", "candidate_features", "cross_first",
            "ranker_reads_tasks",
        }
    ),
}  # fmt: skip
NO_STAGE_FIELDS = frozenset({"task_mask", "ranker_detached", "dropout"})


def stage_fingerprint(stage: nn.Module, spec: StageSpec, config: OneRankerConfig, settings: GraphSettings) -> str:
    """Of one stage's graph: weights before the precision is baked in, contract, config, code, versions."""
    digest = hashlib.sha256()
    for name, tensor in sorted(stage.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    fields = {name: value for name, value in asdict(config).items() if name in STAGE_FIELDS[spec.name]}
    settings = settings.of_stage(spec.name)
    if blocks(settings.attention_block, config.max_history) == 1:
        settings = replace(settings, attention_block=0)
    facts = {
        "spec": asdict(spec),
        "config": fields,
        "settings": asdict(settings),
        "opset": OPSET,
        "code": code_digest(spec.name),
        "tools": {name: version_of(name) for name in _TOOLS},
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def plan_fingerprint(graph_sha256: str, facts: Mapping[str, Any]) -> str:
    """Of one stage's engine: its graph, the library, profiles and options in `facts`, the code that builds it."""
    code = files_digest(_ROOT / "export" / f"{name}.py" for name in _ENGINE)
    return digest_of({"graph": graph_sha256, "code": code, **facts})


def digest_of(facts: Mapping[str, Any]) -> str:
    """Of anything JSON can say."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest(stage: str) -> str:
    """Of the source files that decide a stage's graph: its own module with all it imports, and the exporter's."""
    assert stage in STAGES
    files = {*imported_files(f"oneranker.{stage}"), *(_ROOT / "export" / f"{name}.py" for name in _EXPORTER)}
    return files_digest(files)


def files_digest(files: Iterable[Path]) -> str:
    """Of the text of files, whatever order they come in."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def imported_files(module: str) -> set[Path]:
    """The module's file and, again and again, those of this project that it imports."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = _ROOT / (waiting.pop().replace(".", "/") + ".py")
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    return found


def versions() -> dict[str, str]:
    """What made the bundle, for the manifest."""
    names = ("oneranker", *_TOOLS, "onnxruntime", "numpy", "safetensors")
    return {"python": platform.python_version()} | {name: version_of(name) for name in names}


def version_of(package: str) -> str:
    """In the package's own words: a tree on PYTHONPATH and onnxruntime-gpu have no metadata of the import's name."""
    return str(importlib.import_module(package).__version__)
