"""The C++ TensorRT engine against the published headers; its answers and errors are tested against doubles of them.

The headers come with no package: ONERANKER_TENSORRT_INCLUDE names the folder of NvInferRuntime.h (the SDK's, or
`include/` of github.com/NVIDIA/TensorRT), ONERANKER_CUDA_INCLUDE that of cuda_runtime_api.h.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "runtime/cpp/src").glob("trt_*.cpp"))
DOUBLE = ROOT / "tests/runtime/cpp/tensorrt/include/NvInferRuntime.h"
COMPILER = next((found for name in ("g++", "clang++") if (found := shutil.which(name))), None)
INCLUDES = {
    "ONERANKER_TENSORRT_INCLUDE": "NvInferRuntime.h",
    "ONERANKER_CUDA_INCLUDE": "cuda_runtime_api.h",
}


@pytest.fixture(scope="module")
def includes() -> list[Path]:
    folders = []
    for name, header in INCLUDES.items():
        folder = os.environ.get(name)
        if folder is None:
            pytest.skip(f"{name} is not set: no folder of {header}")
        assert (Path(folder) / header).is_file(), f"{name} is {folder}, which holds no {header}"
        folders.append(Path(folder))
    return folders


def declarations(text: str) -> set[str]:
    """Functions without a body or with one, up to their `noexcept`, in one spelling of blanks."""
    text = re.sub(r"//.*|^#.*", " ", text, flags=re.MULTILINE).replace("TENSORRTAPI ", "").replace("inline ", "")
    rows = re.findall(r"[\w:*&<>\" ][^;{}]*?\) (?:const )?noexcept", " ".join(text.split()))
    return {" ".join(re.sub(r"^(?:\w+:(?!:)|\}| )+", "", row).split()).replace("( ", "(") for row in rows}


def test_the_double_declares_what_the_published_header_declares(includes: list[Path]) -> None:
    published: set[str] = set()
    for header in ("NvInferRuntimeBase.h", "NvInferRuntime.h"):
        published |= declarations((includes[0] / header).read_text(encoding="utf-8"))
    ours = declarations(DOUBLE.read_text(encoding="utf-8"))
    assert len(ours) > 20
    assert ours - published == set()


def test_a_declaration_is_found_however_its_blanks_are_set() -> None:
    found = declarations(
        "class A {\npublic:\n  //! (x) noexcept\n  int  f(\n    char const* a) const noexcept\n  { return 1; }\n};"
    )
    assert found == {"int f(char const* a) const noexcept"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_engine_compiles_against_the_published_headers(includes: list[Path], source: Path) -> None:
    if COMPILER is None:
        pytest.skip("no C++ compiler: neither g++ nor clang++")
    if "NvInfer" not in source.read_text(encoding="utf-8") and source.name.endswith("_absent.cpp"):
        pytest.skip(f"{source.name} stands in where there is no TensorRT")
    folders = [ROOT / "runtime/cpp/include", ROOT / "runtime/cpp/src"]
    command = [COMPILER, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command += [f"-I{folder}" for folder in folders]
    command += [part for folder in includes for part in ("-isystem", str(folder))]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
