"""TensorRT's plugin of the fused attention against the published headers and a double of the driver.

TensorRT's headers come with no package: ONERANKER_TENSORRT_INCLUDE names the folder of NvInferRuntime.h (the SDK's, or
`include/` of github.com/NVIDIA/TensorRT). CUDA's come with triton.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.gpu_kernels import GpuKernelSettings, write_kernel
from export.settings import Precision
from oneranker.config import RelativeBias

triton = pytest.importorskip("triton", reason="triton is not installed; `make setup` installs it")
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "runtime" / "cpp" / "tensorrt_plugin"
COMPILER = shutil.which("g++") or shutil.which("clang++")
BYTES = {"i32": 4, "fp32": 4}
B, H, Q, S, E, N = 2, 3, 70, 90, 32, 100  # as in plugin_calls.cpp


@pytest.fixture(scope="module")
def flags() -> list[str]:
    folder = os.environ.get("ONERANKER_TENSORRT_INCLUDE")
    if folder is None:
        pytest.skip("ONERANKER_TENSORRT_INCLUDE is not set: no folder of NvInferRuntime.h")
    if COMPILER is None:
        pytest.skip("no C++ compiler: neither g++ nor clang++")
    cuda = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    found = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{PLUGIN}"]
    return [COMPILER, *found, "-isystem", folder, "-isystem", str(cuda)]


@dataclass
class Called:
    """What one run of the plugin did: its lines by their first word, and what the exporter said of the kernel."""

    lines: dict[str, list[str]]
    facts: dict[str, object]
    code: int


@pytest.fixture(scope="module")
def calls(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("plugin")
    facts = write_kernel(GpuKernelSettings(out=folder))
    sources = [*PLUGIN.glob("*.cpp"), ROOT / "tests/runtime/cpp/tensorrt_plugin/plugin_calls.cpp"]
    words = [*flags, f"-I{folder}", "-o", str(folder / "calls"), *map(str, sorted(sources))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, facts


def call(calls: tuple[Path, dict[str, object]], **environment: str) -> Called:
    folder, facts = calls
    arguments = facts["arguments"]
    assert isinstance(arguments, list)
    sizes = [str(BYTES.get(row["type"], 8)) for row in arguments] + ["8"] * int(str(facts["scratch_pointers"]))
    done = subprocess.run(
        [folder / "calls", *sizes], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    lines: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        lines.setdefault(line.split()[0], []).append(line.partition(" ")[2])
    return Called(lines, facts, done.returncode)


@pytest.mark.parametrize("bias", list(RelativeBias))
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.FP32])
def test_it_compiles_around_every_kernel(
    flags: list[str], tmp_path: Path, bias: RelativeBias, precision: Precision
) -> None:
    write_kernel(GpuKernelSettings(out=tmp_path, relative_bias=bias, precision=precision))
    for source in sorted(PLUGIN.glob("*.cpp")):
        words = [*flags, f"-I{tmp_path}", "-fsyntax-only", str(source)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_it_bears_the_nodes_name_and_keeps_its_attribute(calls: tuple[Path, dict[str, object]]) -> None:
    called = call(calls)
    assert called.lines["creator"] == ["1 SiluAttention 2 rec"]
    assert called.lines["serialized"] == ["1 scale 0.25"]
    assert any("no attribute 'scale'" in line for line in called.lines["log"])


def test_it_launches_the_kernel_with_every_argument_in_its_place(calls: tuple[Path, dict[str, object]]) -> None:
    called = call(calls)
    assert called.code == 0
    facts, arguments = called.facts, called.facts["arguments"]
    assert isinstance(arguments, list)
    assert called.lines["ptx"] == [str((calls[0] / "silu_attention.ptx").stat().st_size)]
    assert called.lines["entry"] == [facts["entry"]]
    rows = int(str(facts["rows_per_block"]))
    assert called.lines["grid"] == [f"{-(-Q // rows)} {H} {B}"]
    assert called.lines["threads"] == [str(facts["threads_per_block"])]
    assert called.lines["shared"] == [str(facts["shared_bytes"])]
    assert called.lines["stream"] == ["0x77"]
    order = ("query", "key", "value", "mask", "key_mask", "position_bias", "query_time", "key_time")
    expected = {name: 4096 * (i + 1) for i, name in enumerate((*order, "bucket_starts", "time_bias", "mixed"))}
    expected |= {"queries": Q, "keys": S, "middle": N - 1, "mask_request": 0}
    for names, length in ((("query", "mixed"), Q), (("key", "value"), S)):
        for name in names:
            expected |= {f"{name}_request": H * length * E, f"{name}_head": length * E, f"{name}_row": E}
    expected["scale"] = struct.unpack("<I", struct.pack("<f", 0.25))[0]
    names = [row["name"] for row in arguments]
    found = [int(word) for word in called.lines["arguments"][0].split()]
    assert dict(zip(names, found, strict=False)) == expected
    assert found[len(names) :] == [0, 0], "scratch, of which the kernel wants none"
    assert called.lines["unload"] == [""]


REFUSED = [
    "the node has 6 inputs, the kernel was compiled for 10. Compile",
    "a head has 64 numbers, the kernel was compiled for 32. Compile",
    "mask is [1, 1, 70, 90], expected [1, 1, 91, 90]. Export",
    "key is [3, 3, 90, 32], expected [2, 3, 90, 32]. Export",
    "value is [2, 3, 89, 32], expected [2, 3, 90, 32]. Export",
    "value is [2, 3, 90, 16], expected [2, 3, 90, 32]. Export",
    "mask is [3, 1, 70, 90], expected [2, 1, 70, 90]. Export",
    "mask is [1, 1, 70, 70], expected [1, 1, 70, 90]. Export",
    "key_mask is [2, 3, 1, 90], expected [2, 1, 1, 90]. Export",
    "key_mask is [2, 1, 1, 100], expected [2, 1, 1, 90]. Export",
    "position_bias has 98 numbers, expected 2n-1. Export",
    "there are 90 keys, expected at most n = 89. Pass",
    "query_time is [2, 90], expected [2, 70]. Export",
    "key_time is [1, 90], expected [2, 90]. Export",
    "bucket_starts is [129], expected [130]. Export",
    "time_bias is [130], expected [129]. Export",
    "value is [2, 3, 90], expected [2, 3, 90, 32]. Export",
    "there are more query rows than keys, expected at most as many. Export",
    "a request has [1, 1, 50000, 50000] numbers, expected fewer than 2^31. Pass",
    "value is [2, 3, 70, 32], expected [2, 3, 90, 32]. Export",
]


def test_sizes_that_the_kernel_was_not_compiled_for_are_refused_by_name(calls: tuple[Path, dict[str, object]]) -> None:
    called = call(calls)
    assert called.lines["configured"] == ["0", "0"], "sizes that are known, and sizes that are not known yet"
    log = [
        line.removeprefix("rec::SiluAttention: ") for line in called.lines["log"] if "expected one float" not in line
    ]
    assert called.lines["refused"] == ["-1"] * (len(REFUSED) - 1), "the last is refused when the shape changes"
    assert len(log) == len(REFUSED)
    for line, said in zip(log, REFUSED, strict=True):
        assert line.startswith(said), line
        assert line.endswith("."), "the next step"


def test_a_driver_that_refuses_the_code_is_told_with_the_next_step(calls: tuple[Path, dict[str, object]]) -> None:
    called = call(calls, REFUSE_MODULE="1")
    assert called.code == 0
    assert "cuModuleLoadData answered CUDA_ERROR_DOUBLE, expected success. Compile" in called.lines["log"][-1]
    assert "grid" not in called.lines
