"""One stage's ONNX graph to one engine, by `tensorrt` or `tensorrt_rtx` alike: typed, profiled, proved, reported."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from export.engine_kernels import Kernel, kernels_in_inspector, kernels_in_log, memory_in_log
from export.engine_log import Phases, builder_log, errors_in, progress_monitor
from export.engine_module import cuda_device, refusal
from export.engine_precision import (
    graph_nodes,
    matrix_layers,
    network_types,
    precision_proof,
    prove_kernels,
    prove_network,
)
from export.engine_report import NOT_RUN, EngineReport, kernel_types, profile_reports
from export.profiles import EngineProfile
from export.settings import Precision
from runtime.errors import BuildError
from runtime.stage import parse_dim

logger = logging.getLogger(__name__)

_HALF = ("HALF", "BF16")  # the types that an engine has attention kernels for
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What may be asked of a builder; None leaves a choice to it."""

    precision: Precision
    workspace_mib: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # modules that keep another precision, by the settings


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A plan that was proved, with all that the builder said."""

    plan: bytes
    log: list[str]
    report: EngineReport


def build_engine(
    module: ModuleType, graph: Path, profiles: Sequence[EngineProfile], options: EngineOptions
) -> BuiltEngine:
    """Build a plan of `graph`, whose folder bears the stage's name, and prove its precision.

    Raises:
        BuildError: The parser or the builder refuses, in its own words, or the engine is not in the precision.
    """
    trt, stage, start = module, graph.parent.name, time.perf_counter()
    logger.info("%s engine: %d profiles with %s %s", stage, len(profiles), trt.__name__, trt.__version__)
    model = onnx.load(graph)
    log = builder_log(trt)
    builder = _builder(trt, stage, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, stage, graph, network, log)
    attentions = _allow_decomposition(trt, network)
    nodes, products, tensors = graph_nodes(model), matrix_layers(network), network_types(network)
    islands = prove_network(stage, options.precision, nodes, products, options.kept)
    config = builder.create_builder_config()
    monitor = progress_monitor(trt, Phases(stage))  # must outlive the build
    config.progress_monitor = monitor
    _configure(trt, stage, config, options)
    for profile in profiles:
        _add_profile(stage, builder, config, model, profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"{stage}: {trt.__name__} {trt.__version__} built no engine of {graph} ({errors_in(log.lines)}), expected "
            "a plan. Try other --max-shapes, or build with --engine none; the builder's own words are above."
        )
    _write_timing_cache(config, options)
    data = bytes(plan)
    kernels, source, scratch, inspected = _inspect(trt, data, log, len(profiles), options.compute_capabilities)
    prove_kernels(stage, options.precision, nodes, kernels, source)
    report = EngineReport(
        stage=stage,
        engine=trt.__name__,
        version=str(trt.__version__),
        seconds=round(time.perf_counter() - start, 3),
        bytes=len(data),
        weight_bytes=memory_in_log(log.lines)[1],
        attention_layers=attentions,
        profiles=profile_reports(profiles, kernels, scratch),
        kernel_types=kernel_types(kernels),
        tensors=tensors,
        precision=precision_proof(options.precision, nodes, products, islands, kernels, source),
        inspected=inspected,
        kernels=[asdict(kernel) for kernel in kernels],
    )
    return BuiltEngine(data, log.lines, report)


def _builder(trt: ModuleType, stage: str, log: Any) -> Any:
    """The bindings raise TypeError where the library makes no object."""
    try:
        return trt.Builder(log)
    except TypeError as error:
        raise BuildError(
            f"{stage}: {trt.__name__} {trt.__version__} has no builder here ({errors_in(log.lines)}), expected one. "
            "Look at `nvidia-smi`, or build with --engine none."
        ) from error


def _parse(trt: ModuleType, stage: str, graph: Path, network: Any, log: Any) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(graph.read_bytes()):
        return
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    for error in errors:
        if "Plugin not found" in error.desc():
            raise BuildError(_no_kernel(trt, stage, graph, error.node_name()))
    said = "; ".join(f"{error.node_name()} ({error.node_operator()}): {error.desc()}" for error in errors[-3:])
    raise BuildError(
        f"{stage}: {trt.__name__} {trt.__version__} cannot read {graph} ({said or errors_in(log.lines)}), expected "
        f"only nodes that it knows. Build with --engine none, or with another version of {trt.__name__}."
    )


def _no_kernel(trt: ModuleType, stage: str, graph: Path, name: str) -> str:
    """The parser says that a plugin was not found; we say of what, and what would help."""
    node = next((row for row in onnx.load(graph).graph.node if row.name == name), None)
    what = f"{node.domain or 'ai.onnx'}::{node.op_type}" if node is not None else "an unknown operator"
    return (
        f"{stage}: node {name!r} is {what}, for which the graph holds no function body and {trt.__name__} no plugin; "
        "expected one of the two. Export the stage again with `python -m export.build`, which writes the body, or "
        f"register a plugin named {what.rpartition(':')[2]} in the namespace "
        f"{node.domain if node is not None else '?'} before the build."
    )


def _allow_decomposition(trt: ModuleType, network: Any) -> int:
    """Count the attentions; one in fp32 has no kernel of its own and may be taken apart, one in half must be fused."""
    attentions = 0
    for layer in map(network.get_layer, range(network.num_layers)):
        if layer.type.name != "ATTENTION_OUTPUT":
            continue
        attentions += 1
        if layer.get_output(0).dtype.name not in _HALF:
            layer.__class__ = trt.IAttentionOutputLayer
            layer.attention.decomposable = True
    return attentions


def _configure(trt: ModuleType, stage: str, config: Any, options: EngineOptions) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32, in islands too
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if options.builder_level is not None:
        config.builder_optimization_level = options.builder_level
        if (taken := config.builder_optimization_level) != options.builder_level:
            raise BuildError(
                f"--builder-level: got {options.builder_level}, expected at most {taken}, the highest of "
                f"{trt.__name__} {trt.__version__}. Give a lower one, or leave it out."
            )
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for place, capability in enumerate(compute_capabilities(trt, options.compute_capabilities)):
            config.set_compute_capability(capability, place)
    if options.timing_cache is not None:
        _read_timing_cache(trt, stage, config, options.timing_cache)
    if trt.__name__ == "tensorrt_rtx":  # else a context may allocate while it runs, and no CUDA graph can hold that
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def compute_capabilities(trt: ModuleType, words: Sequence[str]) -> list[Any]:
    """The library's own members for words such as "8.9".

    Raises:
        BuildError: The library does not build for one of them.
    """
    if not words:  # TensorRT has no such choice
        return []
    known = {
        f"{int(row) // 10}.{int(row) % 10}": row
        for name, row in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if unknown := [word for word in words if word not in known]:
        raise BuildError(
            f"--compute-capability: got {unknown[0]}, expected some of {', '.join(known)}, which {trt.__name__} "
            f"{trt.__version__} builds for. Leave it out for an engine that serves on all of them."
        )
    return [known[word] for word in words]


def _read_timing_cache(trt: ModuleType, stage: str, config: Any, path: Path) -> None:
    if trt.__name__ != "tensorrt":
        raise BuildError(
            f"--timing-cache: got {path} with {trt.__name__}, whose builder times nothing; expected none. Leave it out."
        )
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, False):
        raise BuildError(
            f"{stage}: the timing cache {path} was written on another device or by another {trt.__name__}, expected "
            f"one of this device and version {trt.__version__}. Name another file in --timing-cache."
        )


def _write_timing_cache(config: Any, options: EngineOptions) -> None:
    """Whole or not at all: several builds may share the file."""
    if options.timing_cache is None:
        return
    path = options.timing_cache
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    temporary.replace(path)


def _add_profile(stage: str, builder: Any, config: Any, model: onnx.ModelProto, profile: EngineProfile) -> None:
    row = builder.create_optimization_profile()
    for tensor in model.graph.input:
        dims = [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
        shapes = [tuple(_size(dim, profile.sizes(which)) for dim in dims) for which in range(3)]
        row.set_shape(tensor.name, *shapes)
    if config.add_optimization_profile(row) < 0:
        raise BuildError(
            f"{stage}: the builder refuses profile {profile.name!r} with {profile.letters}, expected rising sizes for "
            "every input. Correct --min-shapes, --opt-shapes or --max-shapes."
        )


def _size(dim: int | str, sizes: dict[str, int]) -> int:
    letters, constant = parse_dim(dim)
    return constant + sum(sizes[letter] for letter in letters)


def _inspect(
    trt: ModuleType, plan: bytes, log: Any, profiles: int, capabilities: Sequence[str]
) -> tuple[tuple[Kernel, ...], str, list[int], str]:
    """Kernels, where they are read from, scratch per profile, and which device opened the engine.

    Without a CUDA device an engine cannot be opened; the builder's log names the same kernels.
    """
    kernels, scratch = kernels_in_log(log.lines, profiles), memory_in_log(log.lines)[0]
    found = cuda_device()
    if not found.capability:
        return kernels, "the builder's log", scratch, NOT_RUN
    if reason := refusal(trt.__name__, capabilities, found):  # not even tried: what it would do there nobody knows
        return kernels, "the builder's log", scratch, f"{NOT_RUN}: {reason}"
    try:
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    except TypeError:  # the bindings' word where the library makes no runtime
        engine = None
    if engine is None:
        return kernels, "the builder's log", scratch, f"{NOT_RUN}: {errors_in(log.lines, 1)}"
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    scratch = [engine.get_device_memory_size_for_profile_v2(place) for place in range(profiles)]
    return kernels_in_inspector(text, profiles), "the engine inspector", scratch, f"opened on {found.capability}"
