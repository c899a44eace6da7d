"""Which engine library a build uses: what was asked for, or what `auto` finds, imported and new enough."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

from export.settings import BuildSettings, Engine, Precision
from runtime.errors import BuildError

logger = logging.getLogger(__name__)

MINIMUM = {"tensorrt": (10, 14), "tensorrt_rtx": (1, 7)}  # 10.14: the first whose parser reads ONNX's Attention
INSTALL = {"tensorrt": "pip install tensorrt-cu13", "tensorrt_rtx": "pip install -e '.[trt]'"}
RTX_REFUSES = "9.0"  # NVIDIA's tables of TensorRT-RTX name no such device: H100, H200


@dataclass(frozen=True, slots=True)
class CudaFound:
    """What the CUDA runtime says of device 0; `capability` is "" where there is none, and `reason` says why."""

    capability: str
    reason: str


def engine_module(engine: Engine) -> ModuleType | None:
    """The imported library of an engine that is not `auto` any more; None for `none`.

    Raises:
        BuildError: It cannot be imported, or is older than this exporter can drive.
    """
    if engine is Engine.NONE:
        return None
    name = engine.value
    install = f"Run `{INSTALL[name]}`, or build with --engine none."
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a wheel without its driver libraries raises more than ImportError
        raise BuildError(
            f"--engine {name}: {name} cannot be imported ({error}), expected it installed. {install}"
        ) from error
    version, least = str(getattr(module, "__version__", "0")), MINIMUM[name]
    if _numbers(version) < least:
        raise BuildError(f"--engine {name}: found {name} {version}, expected {'.'.join(map(str, least))}+. {install}")
    return module


def choose_engine(settings: BuildSettings) -> BuildSettings:
    """Settings whose engine and precision are no longer `auto`, with the reason on the log.

    Raises:
        BuildError: The engine that was asked for is not here, or takes none of the options that were given.
    """
    engine = settings.engine
    if engine is Engine.AUTO:
        engine, reason = _auto(cuda_device())
        logger.info("engine auto -> %s: %s", engine.value, reason)
    elif engine is Engine.TENSORRT:
        engine_module(engine)
        if not (found := cuda_device()).capability:
            raise BuildError(
                f"--engine tensorrt: {found.reason}, expected a CUDA device: TensorRT builds on the GPU that serves. "
                "Build on such a machine, or with --engine tensorrt_rtx or none."
            )
    else:
        engine_module(engine)
    _check_options(settings, engine)
    precision = settings.precision
    if precision is Precision.AUTO:
        precision = Precision.FP32 if engine is Engine.NONE else Precision.FP16
        why = "ONNX Runtime on the CPU is fastest in fp32" if engine is Engine.NONE else "an engine is fastest in fp16"
        logger.info("precision auto -> %s: %s", precision.value, why)
    return replace(settings, engine=engine, precision=precision)


def cuda_device() -> CudaFound:
    """Ask the CUDA runtime for device 0; neither a context nor memory is made."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        return CudaFound("", f"no CUDA device can be looked for (cuda-bindings: {error})")
    try:
        status, count = runtime.cudaGetDeviceCount()
    except RuntimeError as error:  # the bindings open CUDA's library at the first call
        return CudaFound("", f"no CUDA device can be looked for (CUDA's runtime library: {error})")
    if status != runtime.cudaError_t.cudaSuccess or not count:
        return CudaFound("", f"there is no CUDA device here ({status.name})")
    attribute = runtime.cudaDeviceAttr
    parts = []
    for wanted in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor):
        status, value = runtime.cudaDeviceGetAttribute(wanted, 0)
        if status != runtime.cudaError_t.cudaSuccess:
            return CudaFound("", f"CUDA device 0 does not answer ({status.name})")
        parts.append(str(value))
    return CudaFound(".".join(parts), "")


def refusal(engine: str, capabilities: Sequence[str], found: CudaFound) -> str:
    """Why engines of this library, built for `capabilities`, do not run here; "" where nothing speaks against it."""
    if not found.capability:
        return found.reason
    if engine == Engine.TENSORRT_RTX and found.capability == RTX_REFUSES:
        return f"{engine} does not serve compute capability {RTX_REFUSES}"
    if capabilities and found.capability not in capabilities:
        return f"built for {', '.join(capabilities)}, the device here is {found.capability}"
    return ""


def _auto(found: CudaFound) -> tuple[Engine, str]:
    here = f"a CUDA device of compute capability {found.capability} is here"
    missing = []
    for engine in (Engine.TENSORRT, Engine.TENSORRT_RTX):
        if importlib.util.find_spec(engine.value) is None:
            missing.append(f"{engine.value} is not installed")
            continue
        try:
            engine_module(engine)
        except BuildError as error:
            missing.append(str(error))
            continue
        if not found.capability:
            continue
        if engine is Engine.TENSORRT_RTX and found.capability == RTX_REFUSES:
            missing.append(f"tensorrt_rtx does not serve compute capability {RTX_REFUSES}")
            continue
        return engine, f"{engine.value} is installed and {here}"
    if not found.capability:
        missing.insert(0, found.reason)
    return Engine.NONE, f"{'; '.join(missing)}; the graphs are served by ONNX Runtime"


def _check_options(settings: BuildSettings, engine: Engine) -> None:
    """An option that the engine does not have would be dropped in silence."""
    takes = {
        "--timing-cache": (settings.timing_cache is not None, {Engine.TENSORRT}),
        "--compute-capability": (bool(settings.compute_capabilities), {Engine.TENSORRT_RTX}),
        "--workspace-mib": (settings.workspace_mib is not None, {Engine.TENSORRT, Engine.TENSORRT_RTX}),
        "--builder-level": (settings.builder_level is not None, {Engine.TENSORRT, Engine.TENSORRT_RTX}),
    }
    for flag, (given, engines) in takes.items():
        if given and engine not in engines:
            raise BuildError(
                f"{flag}: got it with engine {engine.value}, expected --engine "
                f"{' or '.join(sorted(one.value for one in engines))}; {engine.value} has no such thing. Leave it out."
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
