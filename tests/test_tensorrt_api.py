"""Every name of TensorRT that our code touches is in the published bindings of `tensorrt` and in `tensorrt_rtx`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorrt_api import CLASSES, FILES, missing, published_api, read_golden
from tensorrt_uses import Code, Reader, Use, touches

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("export", "runtime", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
ONLY = {  # asked for behind `hasattr`, or of one module by name
    "BuilderFlag.REQUIRE_USER_ALLOCATION": "tensorrt_rtx",
    "ComputeCapability": "tensorrt_rtx",
    "EngineInvalidityDiagnostics": "tensorrt_rtx",
    "EngineValidity": "tensorrt_rtx",
    "IBuilderConfig.num_compute_capabilities": "tensorrt_rtx",
    "IBuilderConfig.set_compute_capability": "tensorrt_rtx",
    "IExecutionContext.is_stream_capturable": "tensorrt_rtx",
    "Runtime.get_engine_validity": "tensorrt_rtx",
}
by_module = pytest.mark.parametrize("module", FILES)


def classes(module: str) -> dict[str, dict[str, str]]:
    found: Any = read_golden(module)["classes"]
    return dict(found)


def either() -> dict[str, dict[str, str]]:
    """Both modules' classes, to follow the types of code that asks one of them alone."""
    return {
        name: classes("tensorrt").get(name, {}) | classes("tensorrt_rtx").get(name, {})
        for name in classes("tensorrt") | classes("tensorrt_rtx")
    }


def has(api: Mapping[str, Any], use: Use) -> bool:
    return use.name in (api["classes"].get(use.owner, {}) if use.owner else api["names"]) or str(use) in api["classes"]


def absent(uses: list[Use], api: Mapping[str, Any]) -> dict[str, str]:
    """What the API does not have -> where we ask for it."""
    return {str(use): use.place for use in uses if not has(api, use)}


def guarded(name: str) -> str:
    """The one module that a name is of, "" if of both; a member is of its class's."""
    return ONLY.get(name) or ONLY.get(name.rpartition(".")[0]) or ""


def read(sources: Mapping[str, ast.Module]) -> Reader:
    return Reader(Code(sources), either()).read()


@pytest.fixture(scope="module")
def ours() -> Reader:
    return read(SOURCES)


def test_files_that_drive_tensorrt_are_found() -> None:
    found = [name for name, tree in SOURCES.items() if touches(tree)]
    assert {name.split("/")[0] for name in found} >= {"export", "runtime"}


def test_the_class_of_every_object_is_told(ours: Reader) -> None:
    assert ours.unclear == []


def test_what_is_read_is_the_whole_chain_from_builder_to_launch(ours: Reader) -> None:
    assert {str(use) for use in ours.uses} >= {
        "Builder", "Builder.create_network", "IBuilderConfig.add_optimization_profile", "OnnxParser.num_errors",
        "INetworkDefinition.get_layer", "ITensor.dtype", "Runtime.deserialize_cuda_engine", "ParserError.desc",
        "ICudaEngine.num_io_tensors", "IExecutionContext.execute_async_v3", "IOptimizationProfile.set_shape",
        "ILogger.Severity",
    }  # fmt: skip


@by_module
def test_every_name_is_in_the_published_api(ours: Reader, module: str) -> None:
    lacking = absent(ours.uses, read_golden(module))
    assert {name: place for name, place in lacking.items() if guarded(name) in ("", module)} == {}


def test_names_of_one_module_alone_are_used_and_are_still_of_that_one_alone(ours: Reader) -> None:
    used = {str(use): use for use in ours.uses}
    for name, module in ONLY.items():
        (other,) = FILES.keys() - {module}
        assert has(read_golden(module), used[name])
        assert not has(read_golden(other), used[name]), f"{name} is in both: take it out of ONLY"


@by_module
def test_the_golden_names_are_those_of_the_bindings(module: str) -> None:
    if reason := missing(module):
        pytest.skip(f"{module}: {reason}")
    assert published_api(module) == read_golden(module), "python tests/tensorrt_api.py writes them anew"


def test_every_class_of_the_list_is_in_one_module_at_least() -> None:
    assert set(CLASSES) == classes("tensorrt").keys() | classes("tensorrt_rtx").keys()


# The reading itself


SAMPLE = """
def build(trt: Any, graph: Path) -> None:
    builder = trt.Builder(trt.Logger())
    net = builder.create_network()
    for layer in map(net.get_layer, range(net.num_layers)):
        layer.get_output(0).dtype
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _serve(config, builder)

def _serve(config: Any, builder: Any) -> None:
    config.add_optimization_profile(builder.create_optimization_profile())

class Holder:
    engine: Any

    def names(self) -> list[str]:
        context = self.engine.create_execution_context()
        context.execute_async_v3(0)
        return [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]

def outside(holder: Holder) -> None:
    holder.engine.create_engine_inspector().get_engine_information(0)
"""


LOG = """
def kept_log(trt: Any) -> Any:
    class Kept(trt.ILogger):
        def __init__(self) -> None:
            self.lines: list[str] = []
        def log(self, severity: Any, message: str) -> None:
            self.lines.append(severity.name + message)
        def last(self) -> str:
            return self.lines[-1]
    return Kept()

def said(trt: Any) -> str:
    log = kept_log(trt)
    return log.last() + log.lines[0]
"""


def sample(old: str = "", new: str = "") -> Reader:
    assert old in SAMPLE
    return read({"sample.py": ast.parse(SAMPLE.replace(old, new) if old else SAMPLE)})


def test_a_sample_is_read_through_variables_loops_calls_and_fields() -> None:
    found = sample()
    assert found.unclear == []
    assert absent(found.uses, read_golden("tensorrt")) == {}
    assert {str(use) for use in found.uses} == {
        "Builder", "Logger", "Builder.create_network", "INetworkDefinition.get_layer", "INetworkDefinition.num_layers",
        "ILayer.get_output", "ITensor.dtype", "Builder.create_builder_config", "IBuilderConfig.profiling_verbosity",
        "ProfilingVerbosity", "ProfilingVerbosity.DETAILED", "IBuilderConfig.add_optimization_profile",
        "Builder.create_optimization_profile", "ICudaEngine.create_execution_context", "ICudaEngine.get_tensor_name",
        "IExecutionContext.execute_async_v3", "ICudaEngine.num_io_tensors", "ICudaEngine.create_engine_inspector",
        "EngineInspector.get_engine_information",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "lacks"),
    [
        ("create_network()", "create_netwrok()", "Builder.create_netwrok"),
        ("net.num_layers", "net.num_tensors", "INetworkDefinition.num_tensors"),
        ("dtype", "data_type", "ITensor.data_type"),
        ("DETAILED", "DETAILLED", "ProfilingVerbosity.DETAILLED"),
        ("config.add_optimization_profile", "config.set_shape", "IBuilderConfig.set_shape"),  # of another class
        ("execute_async_v3", "execute_async_v4", "IExecutionContext.execute_async_v4"),
        ("num_io_tensors", "num_bindings", "ICudaEngine.num_bindings"),
        ("get_engine_information", "get_information", "EngineInspector.get_information"),
        ("trt.Logger", "trt.Loger", "Loger"),
    ],
)
def test_a_misspelt_name_or_one_of_another_class_is_found(old: str, new: str, lacks: str) -> None:
    assert lacks in absent(sample(old, new).uses, read_golden("tensorrt"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("_serve(config: Any, builder: Any)", "_serve(config: Any, maker: Any)", "'maker' is Any"),
        ("_serve(config, builder)", "_serve(builder, config)", "_serve(config) gets object Builder"),
        ("holder: Holder", "holder: object", "cannot tell the class of 'holder.engine'"),
    ],
)
def test_an_object_of_unknown_class_is_told(old: str, new: str, told: str) -> None:
    assert any(told in line for line in sample(old, new).unclear)


def test_what_we_add_to_a_class_of_theirs_is_no_name_of_the_api() -> None:
    found = read({"log.py": ast.parse(LOG)})
    assert found.unclear == []
    assert {str(use) for use in found.uses} == {"ILogger", "ILogger.log", "ILogger.Severity.name"}


def test_a_misspelt_callback_is_told() -> None:
    found = read({"log.py": ast.parse(LOG.replace("def log", "def lgo"))})
    assert any("'lgo' of our ILogger is no callback" in line for line in found.unclear)
