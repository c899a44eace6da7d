"""Compiles HSTU's fused attention for a GPU that need not be here: PTX, and all that a caller must know to launch it.

    python -m export.gpu_kernels --out kernels --compute-capability 9.0 --head-dim 32 --relative-bias position_time

Writes silu_attention.ptx, silu_attention.json with the order of the arguments, sizes and the rule of the grid, and
silu_attention_ptx.h, both of them for C++: the TensorRT plugin of runtime/cpp/tensorrt_plugin is built with it. The
kernel is oneranker.silu_attention_kernel's, the form that is given a mask, for tensors that lie without gaps.
stdout: one JSON line. Exit codes: 0 ok, 1 nothing was written, 2 usage. Not run on a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.settings import Precision
from oneranker.config import RelativeBias
from oneranker.errors import DeviceError
from oneranker.fused_attention import constants_of, require_triton, tiling_of
from runtime.errors import BuildError, OneRankerError

logger = logging.getLogger("export.gpu_kernels")

CAPABILITY = re.compile(r"(\d+)\.(\d)")
OLDEST = 80  # tensor cores and copies to shared memory as the kernel wants them
SCHEMA_VERSION = 1
ALIGNED_BYTES = 16  # every tensor begins at a multiple of this
_TYPES = {
    Precision.FP16: ("fp16", torch.float16),
    Precision.FP32: ("fp32", torch.float32),
    Precision.BF16: ("bf16", torch.bfloat16),
}
_OF_BUNDLES = (Precision.FP16, Precision.FP32)  # bf16 is PyTorch's alone: compiled, never written
_TABLES = {"position_bias": 1, "query_time": 2, "key_time": 2, "bucket_starts": 2, "time_bias": 2}  # from which bias on
_INTEGERS = {"query_time": "*i64", "key_time": "*i64", "bucket_starts": "*i32"}
_STRIDES = ("_request", "_head", "_row")
_C_TYPES = {"i32": "std::int32_t", "fp32": "float"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuKernelSettings:
    """What is compiled.

    Raises:
        ValueError: A number that no kernel can have.
    """

    out: Path = Path("kernels")
    compute_capability: str = "9.0"
    head_dim: int = 32  # E
    precision: Precision = Precision.FP16
    relative_bias: RelativeBias = RelativeBias.POSITION_TIME
    masked: bool = True  # a mask [1 or B, 1, Q, S] is read; without it the kernel is causal

    def __post_init__(self) -> None:
        if not (16 <= self.head_dim <= 256 and self.head_dim % 8 == 0):
            raise ValueError(f"--head-dim: got {self.head_dim}, expected 16..256 in steps of 8")
        found = CAPABILITY.fullmatch(self.compute_capability)
        if not found or self.capability < OLDEST:
            raise ValueError(f"--compute-capability: got {self.compute_capability!r}, expected 8.0 or newer, as 9.0")

    @property
    def capability(self) -> int:
        """90 for 9.0."""
        return int(self.compute_capability.replace(".", ""))


@dataclass(frozen=True, slots=True)
class GpuKernel:
    """A kernel's code, and what launches it."""

    ptx: str
    cubin: bytes
    entry: str
    arguments: tuple[tuple[str, str], ...]  # name and type, in the order of the launch
    scratch_pointers: int  # behind them, null
    rows: int  # query rows of a program; the grid is ceil(Q / rows), H, B
    threads: int
    shared_bytes: int


def compile_kernel(settings: GpuKernelSettings) -> GpuKernel:
    """One form of the kernel through Triton's compiler and its own ptxas; needs no GPU and no driver.

    Raises:
        DeviceError: triton cannot be imported.
        BuildError: The compiler does not take it.
    """
    kernel = require_triton()
    from triton import compile as triton_compile
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    dtype = _TYPES[settings.precision][1]
    tiling = tiling_of(settings.head_dim, dtype)
    signature = _signature(kernel.arg_names, settings)
    constants: dict[str, Any] = {name: None for name, kind in signature.items() if kind == "constexpr"}
    constants |= constants_of(settings.head_dim, dtype)
    hints = {(i,): [["tt.divisibility", by]] for i, by in enumerate(_divisors(signature, settings.head_dim)) if by > 1}
    try:
        with knobs.compilation.scope():
            knobs.compilation.disable_line_info = True  # it would name this machine's folders
            made = triton_compile(
                ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=hints),
                target=GPUTarget("cuda", settings.capability, 32),
                options={"num_warps": tiling.warps, "num_stages": tiling.stages},
            )
    except Exception as error:  # of a compiler of many layers, each with errors of its own
        raise BuildError(
            f"gpu_kernels: Triton does not compile {kernel.__name__} for compute capability "
            f"{settings.compute_capability} ({type(error).__name__}: {error}), expected PTX. Ask for another one."
        ) from error
    ptx = made.asm["ptx"]
    arguments = tuple((name, kind) for name, kind in signature.items() if kind != "constexpr")
    return GpuKernel(
        ptx=ptx,
        cubin=made.asm["cubin"],
        entry=made.metadata.name,
        arguments=arguments,
        scratch_pointers=ptx[ptx.index(".entry") : ptx.index(".reqntid")].count(".param") - len(arguments),
        rows=tiling.rows,
        threads=32 * tiling.warps,
        shared_bytes=made.metadata.shared,
    )


def _signature(names: Sequence[str], settings: GpuKernelSettings) -> dict[str, str]:
    """A type for every argument; "constexpr" for what is compiled in, absent tensors among it."""
    floats = "*" + _TYPES[settings.precision][0]
    level = list(RelativeBias).index(settings.relative_bias)
    signature = dict.fromkeys(names, "i32") | {"scale": "fp32"}
    signature |= dict.fromkeys(("query", "key", "value", "mixed", "mask", "key_mask"), floats)
    signature |= {
        name: _INTEGERS.get(name, floats) if level >= least else "constexpr" for name, least in _TABLES.items()
    }
    signature |= dict.fromkeys(constants_of(settings.head_dim, _TYPES[settings.precision][1]), "constexpr")
    return signature if settings.masked else signature | {"mask": "constexpr"}


def _divisors(signature: dict[str, str], head_dim: int) -> list[int]:
    """What each argument is a multiple of: addresses of whole lines, and strides of whole heads."""
    whole = 16 if head_dim % 16 == 0 else 8
    strides = [name.endswith(_STRIDES) and name != "mask_request" for name in signature]
    pointers = [kind.startswith("*") for kind in signature.values()]
    return [
        ALIGNED_BYTES if is_pointer else whole if is_stride else 1
        for is_pointer, is_stride in zip(pointers, strides, strict=True)
    ]


def write_kernel(settings: GpuKernelSettings) -> dict[str, Any]:
    """Compile and write the three files; returns what stands in the JSON.

    Raises:
        BuildError: The compiler or the folder refuses.
        DeviceError: triton cannot be imported.
    """
    if settings.precision not in _OF_BUNDLES:
        raise BuildError(f"--precision: got {settings.precision}, expected {' or '.join(_OF_BUNDLES)}, as bundles have")
    logger.info("gpu_kernels: compiling for compute capability %s; some seconds", settings.compute_capability)
    kernel = compile_kernel(settings)
    facts = {
        "schema_version": SCHEMA_VERSION,
        "ptx": "silu_attention.ptx",
        "ptx_sha256": hashlib.sha256(kernel.ptx.encode()).hexdigest(),
        "entry": kernel.entry,
        "compute_capability": settings.compute_capability,
        "head_dim": settings.head_dim,
        "precision": settings.precision.value,
        "relative_bias": settings.relative_bias.value,
        "arguments": [{"name": name, "type": kind} for name, kind in kernel.arguments],
        "scratch_pointers": kernel.scratch_pointers,
        "rows_per_block": kernel.rows,
        "threads_per_block": kernel.threads,
        "shared_bytes": kernel.shared_bytes,
        "grid": [f"ceil(Q / {kernel.rows})", "H", "B"],
        "triton": _triton_version(),
    }
    files = {
        "silu_attention.ptx": kernel.ptx,
        "silu_attention.json": json.dumps(facts, indent=1) + "\n",
        "silu_attention_ptx.h": _header(kernel, settings),  # the last: it holds all that the plugin is built from
    }
    try:
        _write_together(settings.out, files)
    except OSError as error:
        raise BuildError(f"--out {settings.out}: got {error}, expected a folder to write to. Name another.") from error
    return facts


def _write_together(folder: Path, files: Mapping[str, str]) -> None:
    """Every file in full under a name of its own first: what fails leaves the folder as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".silu_attention-", dir=folder) as unfinished:
        for name, text in files.items():
            (Path(unfinished) / name).write_text(text, encoding="utf-8")
        for name in files:
            (Path(unfinished) / name).replace(folder / name)


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def _header(kernel: GpuKernel, settings: GpuKernelSettings) -> str:
    """The same for C++: a struct whose members are the arguments in order, sizes, and the PTX itself."""
    members = [f"  {_C_TYPES.get(kind, 'std::uint64_t')} {name};" for name, kind in kernel.arguments]
    members += [f"  std::uint64_t scratch_{i};" for i in range(kernel.scratch_pointers)]
    names = [name for name, _ in kernel.arguments] + [f"scratch_{i}" for i in range(kernel.scratch_pointers)]
    pieces = [kernel.ptx[i : i + 8000] for i in range(0, len(kernel.ptx), 8000)]  # no compiler must take a long literal
    level = list(RelativeBias).index(settings.relative_bias)
    return "\n".join(
        [
            "// Written by `python -m export.gpu_kernels`; an absent table is no argument.",
            "#pragma once",
            "#include <array>",
            "#include <cstdint>",
            "namespace oneranker::silu_attention_ptx {",
            f'inline constexpr char kEntry[] = "{kernel.entry}";',
            f"inline constexpr int kComputeCapability = {settings.capability};",
            f"inline constexpr int kHeadDim = {settings.head_dim};",
            f"inline constexpr bool kHalf = {str(settings.precision is Precision.FP16).lower()};",
            f"inline constexpr int kInputs = {(5, 6, 10)[level]};",
            f"inline constexpr int kRowsPerBlock = {kernel.rows};",
            f"inline constexpr int kThreadsPerBlock = {kernel.threads};",
            f"inline constexpr int kSharedBytes = {kernel.shared_bytes};",
            "struct Arguments {",
            *members,
            "};",
            f"inline std::array<void*, {len(names)}> AddressesOf(Arguments& a) {{",
            f"  return {{{', '.join(f'&a.{name}' for name in names)}}};",
            "}",
            "inline constexpr const char* kPtx[] = {  // pieces of one text",
            *(f'R"PTX({piece})PTX",' for piece in pieces),
            "};",
            "}  // namespace oneranker::silu_attention_ptx",
            "",
        ]
    )


DEFAULT = GpuKernelSettings()


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    parser = argparse.ArgumentParser(
        "python -m export.gpu_kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=DEFAULT.out, metavar="DIR", help="(default: %(default)s)")
    add("--compute-capability", default=DEFAULT.compute_capability, metavar="X.Y", help="(default: %(default)s)")
    add("--head-dim", type=int, default=DEFAULT.head_dim, metavar="E", help="of the model (default: %(default)s)")
    add("--precision", type=Precision, default=DEFAULT.precision, choices=_OF_BUNDLES, help="(default: %(default)s)")
    add(
        "--relative-bias",
        type=RelativeBias,
        default=DEFAULT.relative_bias,
        choices=list(RelativeBias),
        help="of the model (default: %(default)s)",
    )
    try:
        settings = GpuKernelSettings(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        facts = write_kernel(settings)
    except (OneRankerError, DeviceError) as error:
        logger.error("error: %s", error)
        return 1
    sys.stdout.write(json.dumps({"out": str(settings.out), **facts}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
