from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.engine_from_onnx import EngineOptions, build_engine
from export.engine_kernels import Kernel, kernels_in_log
from export.engine_precision import graph_nodes, prove_kernels, prove_network
from export.profiles import EngineProfile
from export.settings import Precision
from runtime.errors import BuildError
from runtime.manifest import STAGES, Manifest

pytestmark = pytest.mark.trt


def log_of(folder: Path) -> list[str]:
    """The messages of a kept log."""
    text = (folder / "build.log").read_text()
    starts = [found.start() for found in re.finditer(r"^\[[A-Z_]+\] ", text, re.MULTILINE)]
    return [text[start:end].rstrip("\n") for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def kernels_of(folder: Path, doctored: tuple[str, str] | None = None) -> tuple[Kernel, ...]:
    lines = log_of(folder)
    return kernels_in_log([line.replace(*doctored) for line in lines] if doctored else lines, 2)


def profiles_of(bundle: Path, stage: str) -> list[EngineProfile]:
    plan = Manifest.read(bundle).stages[stage].plan
    assert plan is not None
    return [EngineProfile(row.name, row.letters) for row in plan.profiles]


@pytest.mark.parametrize("stage", STAGES)
def test_the_logs_of_honest_engines_pass(tiny_engine_bundle: Path, stage: str) -> None:
    nodes = graph_nodes(onnx.load(tiny_engine_bundle / stage / "model.onnx"))
    prove_kernels(stage, Precision.FP16, nodes, kernels_of(tiny_engine_bundle / stage), "the log")


@pytest.mark.parametrize("stage", STAGES)
def test_a_log_whose_products_are_fp32_fails(tiny_engine_bundle: Path, stage: str) -> None:
    nodes = graph_nodes(onnx.load(tiny_engine_bundle / stage / "model.onnx"))
    doctored = kernels_of(tiny_engine_bundle / stage, ("Datatype: Half", "Datatype: Float"))
    with pytest.raises(BuildError, match=rf"{stage}: kernel '.*' of the engine reads float32, expected float16"):
        prove_kernels(stage, Precision.FP16, nodes, doctored, "the log")


@pytest.mark.parametrize("nodes_named", [True, False])
def test_one_fp32_product_among_halves_fails_named_or_not(tiny_engine_bundle: Path, nodes_named: bool) -> None:
    nodes = graph_nodes(onnx.load(tiny_engine_bundle / "ranker" / "model.onnx"))
    kernels = list(kernels_of(tiny_engine_bundle / "ranker"))
    place = next(place for place, kernel in enumerate(kernels) if kernel.fused_attention)
    wrong = replace(kernels[place], operands=("float32",) * 4)
    kernels[place] = wrong if nodes_named else replace(wrong, nodes=())
    words = "kernel '_gemm_mha_v2.*' of the engine reads float32" if nodes_named else "1 kernels .* expected at most 0"
    with pytest.raises(BuildError, match=rf"ranker: {words}"):
        prove_kernels("ranker", Precision.FP16, nodes, kernels, "the log")


def test_a_log_that_names_no_kernel_proves_nothing(tiny_engine_bundle: Path) -> None:
    nodes = graph_nodes(onnx.load(tiny_engine_bundle / "ranker" / "model.onnx"))
    with pytest.raises(BuildError, match=r"no kernel is named in the log, expected all of them"):
        prove_kernels("ranker", Precision.FP16, nodes, [], "the log")
    idle = [kernel for kernel in kernels_of(tiny_engine_bundle / "ranker") if not kernel.multiplies]
    with pytest.raises(BuildError, match=r"no kernel of the engine multiplies in float16"):
        prove_kernels("ranker", Precision.FP16, nodes, idle, "the log")


def test_islands_are_named_and_are_products_without_weights(tiny_engine_bundle: Path) -> None:
    graph = onnx.load(tiny_engine_bundle / "retriever" / "model.onnx")
    nodes = graph_nodes(graph)
    network = {name: node.types for name, node in nodes.items() if node.matrix}
    islands = prove_network("retriever", Precision.FP16, nodes, network)
    assert len(islands) == 7  # of each level: |recon|, and for levels after the first, cosines with the anchors
    assert all(nodes[name].types == {"float32"} and not nodes[name].weights for name in islands)
    for stage in ("generator", "enhancer", "ranker"):
        halves = graph_nodes(onnx.load(tiny_engine_bundle / stage / "model.onnx"))
        assert all(node.types == {"float16"} for node in halves.values() if node.matrix)


def test_a_body_is_typed_once_for_every_call(tiny_engine_bundle: Path) -> None:
    nodes = graph_nodes(onnx.load(tiny_engine_bundle / "generator" / "model.onnx"))
    inside = [name for name, node in nodes.items() if node.matrix and name.endswith("(SiluAttention)")]
    calls = {name.split(" | ")[1] for name in inside}
    assert calls == {"node__symbolic (SiluAttention)", "node__symbolic_1 (SiluAttention)"}
    assert {node.types for name, node in nodes.items() if name in inside} == {frozenset({"float16"})}


def test_a_network_of_other_types_than_the_graph_fails(tiny_engine_bundle: Path) -> None:
    nodes = graph_nodes(onnx.load(tiny_engine_bundle / "ranker" / "model.onnx"))
    network = {name: node.types for name, node in nodes.items() if node.matrix}
    first = next(iter(network))
    with pytest.raises(BuildError, match=rf"network's '{first}' reads float32, expected float16"):
        prove_network("ranker", Precision.FP16, nodes, network | {first: frozenset({"float32"})})
    with pytest.raises(BuildError, match=rf"network has no product for '{first}'"):
        prove_network("ranker", Precision.FP16, nodes, {name: t for name, t in network.items() if name != first})
    with pytest.raises(BuildError, match=r"network multiplies in 'node_of_nowhere'"):
        prove_network("ranker", Precision.FP16, nodes, network | {"node_of_nowhere": frozenset({"float16"})})


def test_a_graph_whose_weights_were_left_in_fp32_is_never_called_fp16(
    tiny_bundle: Path, tiny_engine_bundle: Path, rtx
) -> None:
    profiles = profiles_of(tiny_engine_bundle, "ranker")
    with pytest.raises(BuildError, match=r"ranker: '.*' multiplies with weight '.*' in float32, expected float16"):
        build_engine(rtx, tiny_bundle / "ranker" / "model.onnx", profiles, EngineOptions(precision=Precision.FP16))


def with_an_fp32_product(bundle: Path, folder: Path, *, tanh: bool) -> tuple[Path, str, str]:
    """The ranker with one weight in fp32 between two casts, and perhaps with something behind it that needs fp32."""
    graph = onnx.load(bundle / "ranker" / "model.onnx")
    weights = {row.name: row for row in graph.graph.initializer}
    node = next(row for row in graph.graph.node if row.op_type == "MatMul" and row.input[1] in weights)
    weight = weights[node.input[1]]
    values = onnx.numpy_helper.to_array(weight).astype(np.float32) * np.pi  # which no half holds
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    make, types = onnx.helper.make_node, onnx.TensorProto
    place = list(graph.graph.node).index(node)
    behind = make("Tanh" if tanh else "Identity", ["product"], ["wide"], name="behind")
    for row in (make("Cast", ["wide"], [node.output[0]], to=types.FLOAT16, name="down"), behind):
        graph.graph.node.insert(place + 1, row)
    graph.graph.node.insert(place, make("Cast", [node.input[0]], ["up"], to=types.FLOAT, name="up"))
    node.input[0], node.output[0] = "up", "product"
    (folder / "ranker").mkdir()
    onnx.save(graph, folder / "ranker" / "model.onnx")
    return folder / "ranker" / "model.onnx", node.name, weight.name


def test_one_weight_in_fp32_behind_casts_is_found_and_a_setting_may_keep_it(
    tiny_engine_bundle: Path, tmp_path: Path, rtx
) -> None:
    path, node, weight = with_an_fp32_product(tiny_engine_bundle, tmp_path, tanh=True)
    profiles = profiles_of(tiny_engine_bundle, "ranker")[:1]
    with pytest.raises(BuildError, match=rf"'{node}' multiplies with weight '{weight}' in float32"):
        build_engine(rtx, path, profiles, EngineOptions(precision=Precision.FP16))
    kept = build_engine(rtx, path, profiles, EngineOptions(precision=Precision.FP16, kept=("ranker.layer",))).report
    assert kept.precision.islands == [node]
    (kernel,) = (row for row in kept.kernels if node in row["nodes"] and row["type"] in ("gemm", "runtime_fusion"))
    assert "float32" in kernel["operands"]


def test_a_builder_that_narrows_what_a_setting_keeps_is_caught(tiny_engine_bundle: Path, tmp_path: Path, rtx) -> None:
    path, node, _ = with_an_fp32_product(tiny_engine_bundle, tmp_path, tanh=False)
    profiles = profiles_of(tiny_engine_bundle, "ranker")[:1]
    with pytest.raises(BuildError, match=rf"reads float16, expected float32 as .*{node}.* builder dropped the casts"):
        build_engine(rtx, path, profiles, EngineOptions(precision=Precision.FP16, kept=("ranker.layer",)))
