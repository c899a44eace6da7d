from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from assertions import assert_close
from tiny import tiny_source
from torch import Tensor, nn

from export.islands import keep, kept_modules
from export.onnx_from_stage import export_stage
from export.precision import in_precision, prove_precision, typed, types_report
from export.settings import GraphSettings, Precision
from export.stages import TORCH_DTYPES, StageModule, StageSpec, stage_specs
from oneranker.model import OneRanker
from runtime.errors import BuildError
from runtime.manifest import STAGES

SIZES = {"B": 2, "S": 7, "C": 4, "N": 9, "P": 5, "R": 1}


def fp16(**kept: tuple[str, ...]) -> GraphSettings:
    return GraphSettings(precision=Precision.FP16, **kept)


def model_with(*names: str) -> OneRanker:
    """The tiny model in fp16 with these modules in fp32."""
    model = tiny_source().model
    return in_precision(model, Precision.FP16, kept_modules(model, fp16(keep_fp32=names)))


@cache
def feed_of(stage: str) -> tuple[Tensor, ...]:
    """Small numbers for every float input, zeros for every index."""
    generator = torch.Generator().manual_seed(3)
    feed = []
    for row in specs()[stage].inputs:
        dtype, shape = TORCH_DTYPES[row.dtype], row.sized(SIZES)
        small = torch.randn(shape, generator=generator) if dtype.is_floating_point else torch.zeros(shape)
        feed.append(small.mul(0.1).to(dtype))
    return tuple(feed)


def specs() -> dict[str, StageSpec]:
    return stage_specs(tiny_source().model.config, Precision.FP16)


@torch.no_grad()
def answers(model: OneRanker, stage: str) -> tuple[Tensor, ...]:
    return StageModule(model, specs()[stage])(*feed_of(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_any_module_can_be_kept_and_the_stage_keeps_its_boundary(stage: str) -> None:
    source, spec = tiny_source().model, specs()[stage]
    plain = in_precision(source, Precision.FP16)
    expected = answers(plain, stage)
    for name in [name for name, _ in source.named_modules() if name.split(".")[0] == stage]:
        kept = kept_modules(source, fp16(keep_fp32=(name,)))
        found = answers(in_precision(source, Precision.FP16, kept), stage)
        for row, tensor, other in zip(spec.outputs, found, expected, strict=True):
            assert tensor.dtype == TORCH_DTYPES[row.dtype], f"{name}: {row.name}"
            if stage != "retriever":  # whose lists may change places
                assert_close(tensor.float(), other.float(), 0.02 * float(other.abs().max()) + 1e-3)


def test_a_kept_module_computes_in_fp32_and_its_neighbours_in_fp16() -> None:
    model, seen = model_with("ranker.layer.feed", "enhancer.layers"), {}

    def note(name: str) -> Any:
        return lambda module, args: seen.update({name: (args[0].dtype, module.weight.dtype)})

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(note(name))
    answers(model, "ranker")
    answers(model, "enhancer")
    wide = {name for name, types in seen.items() if types == (torch.float32, torch.float32)}
    narrow = {name for name, types in seen.items() if types == (torch.float16, torch.float16)}
    assert wide | narrow == seen.keys()
    assert wide == {name for name in seen if name.startswith(("ranker.layer.feed.", "enhancer.layers."))}


def test_a_stage_kept_whole_rounds_its_answers_alone() -> None:
    reference = tiny_source().model
    with torch.no_grad():
        exact = StageModule(reference, specs()["enhancer"])(*(tensor.float() for tensor in feed_of("enhancer")))
    for found, real in zip(answers(model_with("enhancer"), "enhancer"), exact, strict=True):
        assert torch.equal(found, real.half())


def test_a_module_inside_a_kept_one_answers_in_the_type_around_it() -> None:
    source = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    model = copy.deepcopy(source).half()
    keep(model, source, {"1": torch.float32, "1.0": torch.bfloat16}, torch.float16)
    seen = []
    for path in ("1.0", "1.1"):
        model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    assert model(torch.zeros(1, 4).half()).dtype == torch.float16
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            fp16(keep_fp32=("ranker.layer.fed",)),
            r"--keep-fp32 ranker\.layer\.fed: .*no such module.*ranker\.layer\.feed",
        ),
        (fp16(keep_fp32=("item_encoder.output",)), "a module of no stage, expected one of generator, enhancer"),
        (fp16(keep_fp32=("",)), "a module of no stage"),
        (GraphSettings(precision=Precision.FP32, keep_fp32=("ranker",)), "with --precision fp32.*--precision fp16"),
    ],
    ids=["unknown", "outside", "empty", "fp32"],
)
def test_a_name_that_cannot_be_kept_is_one_clear_error(settings: GraphSettings, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        kept_modules(tiny_source().model, settings)


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """The ranker's graph with its feed-forward layer in fp32."""
    settings = fp16(keep_fp32=("ranker.layer.feed",))
    path = tmp_path_factory.mktemp("island") / "model.onnx"
    return export_stage(model_with("ranker.layer.feed"), specs()["ranker"], settings, "", path)


def test_the_graph_has_the_kept_weights_in_fp32_and_all_others_in_fp16(island: onnx.ModelProto) -> None:
    wide = {row.name for row in island.graph.initializer if row.data_type == onnx.TensorProto.FLOAT and row.dims}
    named = {name for name, _ in tiny_source().model.named_parameters() if name.startswith("ranker.layer.feed.")}
    assert len(named) == 4
    assert {name for name in wide if name.startswith("ranker.")} == named
    narrow = {row.name for row in island.graph.initializer if row.data_type == onnx.TensorProto.FLOAT16}
    parameters = {name for name, tensor in tiny_source().model.ranker.named_parameters("ranker") if tensor.dim() == 2}
    assert parameters - named - {"ranker.score_output.weight"} <= narrow  # the last layer is a sum, not a product


def test_the_report_names_the_fp32_products_and_counts_the_outputs_of_each_type(island: onnx.ModelProto) -> None:
    report = types_report(island, Precision.FP16)
    graph, types = typed(island)
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Attention")]
    wide = [f"{node.op_type} {node.name}" for node in products if types[node.input[0]] == "float32"]
    assert len(wide) == 2
    assert report["islands"] == wide
    assert set(report["outputs"]) == {"float16", "float32"}
    assert sum(report["outputs"].values()) == sum(name in types for node in graph.node for name in node.output)


def test_a_weight_of_another_type_than_the_settings_say_is_found(island: onnx.ModelProto) -> None:
    spec, kept = specs()["ranker"], {"ranker.layer.feed": torch.float32}
    prove_precision(island, spec, Precision.FP16, kept)
    with pytest.raises(BuildError, match=r"'ranker\.layer\.feed\..*is float32, expected float16"):
        prove_precision(island, spec, Precision.FP16, {})
    with pytest.raises(BuildError, match=r"'ranker\.layer\.cross\..*is float16, expected float32"):
        prove_precision(island, spec, Precision.FP16, kept | {"ranker.layer.cross": torch.float32})


@pytest.mark.parametrize("stage", STAGES)
def test_softmax_topk_and_log_probabilities_read_fp32_in_an_fp16_graph(tiny_fp16_bundle: Path, stage: str) -> None:
    model = onnx.load(tiny_fp16_bundle / stage / "model.onnx")
    graph, types = typed(model)
    read = [types[n.input[0]] for n in graph.node if n.op_type in ("TopK", "LogSoftmax", "Log") and n.input[0] in types]
    assert set(read) <= {"float32"}
    assert (len(read) > 0) == (stage in ("generator", "retriever"))  # the clock's logarithm; levels and top-k
    for node in graph.node:  # unset: engines compute it in fp32 and TensorRT refuses a graph that asks for it
        assert "softmax_precision" not in [attribute.name for attribute in node.attribute]


def test_a_topk_over_halves_is_refused(tiny_fp16_bundle: Path) -> None:
    model = onnx.load(tiny_fp16_bundle / "retriever" / "model.onnx")
    place, node = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "TopK")
    values, scores = node.output[0], node.input[0]
    node.input[0], node.output[0] = "halves", "half_values"
    back = onnx.helper.make_node("Cast", ["half_values"], [values], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(place + 1, back)
    model.graph.node.insert(place, onnx.helper.make_node("Cast", [scores], ["halves"], to=onnx.TensorProto.FLOAT16))
    with pytest.raises(BuildError, match=r"retriever: TopK .* reads float16, expected float32"):
        prove_precision(model, specs()["retriever"], Precision.FP16)
