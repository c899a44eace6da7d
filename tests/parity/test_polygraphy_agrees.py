"""An independent tool agrees: Polygraphy runs the exported graphs, compares them, and builds our engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.model_source import read_source
from export.parity import FLOOR, SLACK
from export.precision import in_precision
from export.profiles import engine_profiles
from export.settings import BuildSettings, Precision, profile_of
from export.stages import TORCH_DTYPES, StageModule, StageSpec, stage_specs, static_masks
from export.verify_requests import random_batches
from oneranker import masks
from oneranker.catalogue import index_tensors
from oneranker.synthetic import padded_batch
from runtime.manifest import STAGES
from runtime.stage import TensorSpec, parse_dim

pytest.importorskip("polygraphy", reason="polygraphy is not installed; `make setup` installs it")
SETTINGS = BuildSettings(preset="tiny")
PADS = -1e29  # below: no candidate
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recorded:
    """What PyTorch read and answered, one row per batch of the verification's own requests."""

    feeds: list[Arrays]
    real: list[Arrays]  # in fp32
    eager: list[Arrays]  # in the graph's precision

    def allowed(self, name: str) -> float:
        """How far a graph's tensor may be off, by the rule of export/parity.py, computed anew."""
        error, largest = 0.0, 0.0
        for eager, real in zip(self.eager, self.real, strict=True):
            there = real[name] > PADS
            wanted = real[name][there].astype(np.float64)
            error = max(error, float(np.abs(eager[name][there] - wanted).max(initial=0)))
            largest = max(largest, float(np.abs(wanted).max(initial=0)))
        return SLACK * error + FLOOR * largest


def numpy_of(tensors: Mapping[str, torch.Tensor], rows: tuple[TensorSpec, ...], cast: bool = True) -> Arrays:
    kinds = {row.name: TORCH_DTYPES[row.dtype] if cast else tensors[row.name].dtype for row in rows}
    return {name: tensors[name].to(kind).contiguous().numpy() for name, kind in kinds.items()}


@torch.inference_mode()
def record(precision: Precision) -> dict[str, Recorded]:
    """Every stage of the tiny model on the verification's requests, each stage fed with the reference's tensors."""
    source = read_source(SETTINGS)
    config, profile = source.model.config, profile_of(SETTINGS, source.model.config)
    plain, specs = in_precision(source.model, precision), stage_specs(config, precision)
    found = {name: Recorded([], [], []) for name in STAGES}
    for tokens in random_batches(source.tokenizer, source.catalogue, profile, seed=0):
        batch = padded_batch(tokens)
        padded = batch["token_kind"].shape[1]
        index = index_tensors(source.model, source.catalogue)
        index["eligible_row"] = torch.zeros(len(tokens), dtype=torch.int32)
        sizes = {"causal_mask": padded, "candidate_mask": 1 + config.candidates}
        tensors = batch | index | source.model(batch, index)
        tensors["history_mask"] = masks.additive(masks.history(batch["history_length"], padded))
        for name, mask in static_masks(config, profile).items():
            size = sizes.get(name, mask.shape[-1])
            tensors[name] = masks.additive(mask[..., :size, :size])
        for name, spec in specs.items():
            feed = numpy_of(tensors, spec.inputs)
            answer = StageModule(plain, spec)(*map(torch.from_numpy, feed.values()))
            eager = dict(zip((row.name for row in spec.outputs), answer, strict=True))
            found[name].feeds.append(feed)
            found[name].real.append(numpy_of(tensors, spec.outputs, cast=False))
            found[name].eager.append(numpy_of(eager, spec.outputs, cast=False))
    return found


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Recorded]]:
    return {word: record(Precision(word)) for word in ("fp32", "fp16")}


def graphs(request: pytest.FixtureRequest, word: str) -> Path:
    return Path(request.getfixturevalue({"fp32": "tiny_bundle", "fp16": "tiny_fp16_bundle"}[word]))


def run(graph: Path, told: Recorded) -> Any:
    """Polygraphy's own run of a graph on the recorded feeds."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator

    runner = OnnxrtRunner(SessionFromOnnx(str(graph)), name="graph")
    return Comparator.run([runner], data_loader=told.feeds)


def answers(results: Any) -> list[Arrays]:
    ((_, rows),) = results
    return [dict(row.items()) for row in rows]


def verdict(left: list[Arrays], right: list[Arrays], allowed: Mapping[str, float]) -> bool:
    """Polygraphy's, on the outputs that are named in `allowed`."""
    from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc

    results = RunResults()
    for name, rows in (("left", left), ("right", right)):
        kept = [IterationResult({key: row[key] for key in allowed}, runner_name=name) for row in rows]
        results.append((name, kept))
    rule = SimpleCompareFunc(atol=dict(allowed), rtol=0.0, check_error_stat="max")
    return bool(Comparator.compare_accuracy(results, compare_func=rule))


def agrees(graph: Path, told: Recorded, compared: set[str]) -> bool:
    """A graph against PyTorch in fp32."""
    return verdict(answers(run(graph, told)), told.real, {name: told.allowed(name) for name in compared})


def outputs(stage: str, word: str, spec: StageSpec) -> set[str]:
    """All outputs; but in fp16 neighbours of a list may change places, so it is compared by its values alone."""
    names = {row.name for row in spec.outputs}
    return names - {"candidate_items", "candidate_head"} if (stage, word) == ("retriever", "fp16") else names


def spec_of(stage: str, word: str) -> StageSpec:
    return stage_specs(read_source(SETTINGS).model.config, Precision(word))[stage]


by_stage = pytest.mark.parametrize("stage", STAGES)


@by_stage
@pytest.mark.parametrize("word", ["fp32", "fp16"])
def test_a_graph_answers_as_pytorch_by_polygraphys_verdict_within_our_rule(
    stage: str, word: str, recorded: dict[str, dict[str, Recorded]], request: pytest.FixtureRequest
) -> None:
    graph = graphs(request, word) / stage / "model.onnx"
    assert agrees(graph, recorded[word][stage], outputs(stage, word, spec_of(stage, word)))


@by_stage
def test_the_graphs_of_both_precisions_agree_with_each_other(
    stage: str, recorded: dict[str, dict[str, Recorded]], request: pytest.FixtureRequest
) -> None:
    told = [recorded[word][stage] for word in ("fp32", "fp16")]
    both = [graphs(request, word) / stage / "model.onnx" for word in ("fp32", "fp16")]
    found = [answers(run(graph, one)) for graph, one in zip(both, told, strict=True)]
    allowed = {name: sum(one.allowed(name) for one in told) for name in outputs(stage, "fp16", spec_of(stage, "fp16"))}
    assert verdict(*found, allowed)


@by_stage
def test_no_graph_answers_with_nan_or_infinity(
    stage: str, recorded: dict[str, dict[str, Recorded]], request: pytest.FixtureRequest
) -> None:
    from polygraphy.comparator import Comparator

    for word in ("fp32", "fp16"):
        results = run(graphs(request, word) / stage / "model.onnx", recorded[word][stage])
        assert Comparator.validate(results, check_inf=True, check_nan=True)


def with_weight(graph: Path, out: Path, change: Any) -> Path:
    """A copy of a graph whose largest weight is changed."""
    model = onnx.load(graph)
    weights = [row for row in model.graph.initializer if row.data_type in (1, 10)]
    largest = max(weights, key=lambda row: int(np.prod(row.dims)))
    changed = change(onnx.numpy_helper.to_array(largest).copy()).astype(onnx.numpy_helper.to_array(largest).dtype)
    largest.CopyFrom(onnx.numpy_helper.from_array(changed, largest.name))
    onnx.save(model, out)
    return out


def test_polygraphy_tells_a_perturbed_weight_and_an_infinite_one(
    recorded: dict[str, dict[str, Recorded]], tiny_fp16_bundle: Path, tmp_path: Path
) -> None:
    from polygraphy.comparator import Comparator

    told, graph = recorded["fp16"]["enhancer"], tiny_fp16_bundle / "enhancer" / "model.onnx"
    compared = outputs("enhancer", "fp16", spec_of("enhancer", "fp16"))
    same = with_weight(graph, tmp_path / "same.onnx", lambda weight: weight)
    off = with_weight(graph, tmp_path / "off.onnx", lambda weight: weight * 1.05)
    infinite = with_weight(graph, tmp_path / "infinite.onnx", lambda weight: np.full_like(weight, np.inf))
    assert agrees(same, told, compared)
    assert not agrees(off, told, compared)
    assert not Comparator.validate(run(infinite, told), check_inf=True, check_nan=True)


BUILD = """
import json, sys
from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, Profile, network_from_onnx_path
import tensorrt_rtx
from export.engine_precision import matrix_layers, network_types
graph, rows = sys.argv[1], json.loads(sys.argv[2])
builder, network, parser = network_from_onnx_path(graph)
seen = {"tensors": network_types(network), "products": {k: sorted(v) for k, v in matrix_layers(network).items()}}
profiles = [Profile() for _ in rows]
for profile, row in zip(profiles, rows):
    for name, shapes in row.items():
        profile.add(name, *map(tuple, shapes))
config = CreateConfig(profiles=profiles, profiling_verbosity=tensorrt_rtx.ProfilingVerbosity.DETAILED)
plan = EngineBytesFromNetwork((builder, network, parser), config=config)()
sys.stdout.write(json.dumps({**seen, "bytes": len(bytes(plan))}))
"""


@pytest.mark.trt
@pytest.mark.parametrize("stage", ["generator", "enhancer"])
def test_polygraphy_builds_the_engine_that_our_builder_builds(stage: str, tiny_fp16_bundle: Path) -> None:
    """The same network, layer types and products by name; the plans differ by less than their timestamps could."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed; `make setup` installs it")
    from export.engine_from_onnx import EngineOptions, build_engine

    config, spec = read_source(SETTINGS).model.config, spec_of(stage, "fp16")
    profiles = engine_profiles(spec.inputs, profile_of(SETTINGS, config), SETTINGS, config.code_levels)
    rows = [{row.name: [shape(row, profile.sizes(i)) for i in range(3)] for row in spec.inputs} for profile in profiles]
    graph = tiny_fp16_bundle / stage / "model.onnx"
    ours = build_engine(rtx, graph, profiles, EngineOptions(precision=Precision.FP16))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("POLYGRAPHY_")}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(graph), json.dumps(rows)],
        env=environment | {"POLYGRAPHY_USE_TENSORRT_RTX": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["tensors"] == ours.report.tensors
    assert theirs["products"]
    assert theirs["bytes"] == pytest.approx(len(ours.plan), rel=0.01)


def shape(row: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    """Letters to sizes, by hand."""
    out = []
    for dim in row.shape:
        letters, constant = parse_dim(dim)
        out.append(constant + sum(sizes[letter] for letter in letters))
    return out
