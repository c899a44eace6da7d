"""runtime/cpp/configure: what it finds, what it says is missing, and that it changes nothing the second time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGURE = ROOT / "runtime" / "cpp" / "configure"


@pytest.fixture
def onnxruntime(tmp_path: Path) -> Path:
    """As an unpacked release of ONNX Runtime looks."""
    return make_onnxruntime(tmp_path / "onnxruntime", "23", "1.31.1")


def make_onnxruntime(root: Path, api: str, version: str) -> Path:
    (root / "include").mkdir(parents=True)
    (root / "lib").mkdir()
    (root / "include" / "onnxruntime_c_api.h").write_text(f"#define ORT_API_VERSION {api}\n")
    (root / "include" / "onnxruntime_cxx_api.h").write_text("")
    (root / "lib" / f"libonnxruntime.so.{version}").write_text("")
    (root / "lib" / "libonnxruntime.so").symlink_to(f"libonnxruntime.so.{version}")
    return root


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH whose compiler has every header."""
    folder = tmp_path / "tools"
    folder.mkdir()
    programs = {
        "c++": f'case "$*" in *-E*) {sys.executable} -c "import re, sys; '
        "print('\\\\n'.join(re.findall('found .*', sys.stdin.read())))\" ;; *) echo 12.2.0 ;; esac",
        "cmake": "echo cmake version 3.25.1",
        "make": "",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def configure(out: Path, path: Path, *flags: str | Path) -> tuple[int, str]:
    words = [sys.executable, str(CONFIGURE), "--offline", "--level", "library", "--out", str(out), *map(str, flags)]
    env = {key: value for key, value in os.environ.items() if key != "CXX"} | {"PATH": str(path)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_what_was_found_is_written_for_cmake_once(tmp_path: Path, tools: Path, onnxruntime: Path) -> None:
    code, said = configure(tmp_path / "out", tools, "--onnxruntime-root", onnxruntime)
    assert code == 0, said
    cache = tmp_path / "out" / "configure.cmake"
    assert f'set(ONNXRUNTIME_INCLUDE_DIR "{onnxruntime / "include"}"' in cache.read_text()
    assert f'set(ONNXRUNTIME_LIBRARY "{onnxruntime / "lib" / "libonnxruntime.so"}"' in cache.read_text()
    written = cache.stat().st_mtime_ns
    assert configure(tmp_path / "out", tools, "--onnxruntime-root", onnxruntime) == (0, said)
    assert cache.stat().st_mtime_ns == written


def test_each_missing_thing_is_one_line_with_the_command_that_brings_it(tmp_path: Path, onnxruntime: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, said = configure(tmp_path / "out", tmp_path / "empty", "--onnxruntime-root", onnxruntime, "--install")
    assert code == 1
    told = dict(re.findall(r"^configure: (.+) is missing: (apt-get install -y \S+)", said, re.M))
    assert told.keys() == {"compiler", "cmake", "make", "OpenSSL"}
    assert told["OpenSSL"] == "apt-get install -y libssl-dev"
    assert not (tmp_path / "out" / "configure.cmake").exists()


def test_an_old_cmake_is_missing(tmp_path: Path, tools: Path, onnxruntime: Path) -> None:
    (tools / "cmake").write_text("#!/bin/sh\necho cmake version 3.18.4\n")
    code, said = configure(tmp_path / "out", tools, "--onnxruntime-root", onnxruntime)
    assert code == 1
    assert "3.25 or newer; found 3.18.4" in said


def test_a_given_path_that_holds_nothing_is_missing_and_nothing_else_is_taken(tmp_path: Path, tools: Path) -> None:
    code, said = configure(tmp_path / "out", tools, "--onnxruntime-root", tmp_path / "nowhere")
    assert code == 1
    assert "ONNX Runtime headers is missing" in said
    assert "ONNX Runtime library is missing" in said


def test_missing_headers_name_both_ways_to_get_them(tmp_path: Path, tools: Path) -> None:
    _, said = configure(tmp_path / "out", tools, "--onnxruntime-root", tmp_path / "nowhere")
    [line] = [line for line in said.splitlines() if "ONNX Runtime headers is missing" in line]
    assert "apt-get install -y libonnxruntime-dev" in line
    assert "unpack a release of github.com/microsoft/onnxruntime and give --onnxruntime-root" in line


@pytest.mark.parametrize("api", [21, 22, 23, 24], ids="1.{}".format)
def test_headers_that_are_too_old_for_cuda_are_said_to_be(tmp_path: Path, tools: Path, api: int) -> None:
    code, said = configure(
        tmp_path / "out", tools, "--onnxruntime-root", make_onnxruntime(tmp_path / "own", str(api), "1.31.1")
    )
    assert code == 0, said
    assert ("configure: CUDA: off, headers older than 1.23\n" in said) == (api < 23)


@pytest.mark.parametrize(
    ("flags", "needs"),
    [("", True), ("--offline", True), ("--onnxruntime-root=/opt/o", False), ("--onnxruntime-library /opt/o.so", False)],
)
def test_make_cpp_makes_an_environment_only_where_nobody_names_the_library(
    tmp_path: Path, flags: str, needs: bool
) -> None:
    words = ["make", "-n", "cpp", f"VENV={tmp_path / 'no'}", f"MINIMAL={tmp_path / 'none'}", f"CPP_FLAGS={flags}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "runtime/cpp/configure" in done.stdout
    assert ("docker/install.sh" in done.stdout) == needs


def test_headers_newer_than_the_library_are_refused(tmp_path: Path, tools: Path) -> None:
    old = make_onnxruntime(tmp_path / "old", "24", "1.23.2")
    code, said = configure(tmp_path / "out", tools, "--onnxruntime-root", old)
    assert code == 1
    assert "headers are 1.24, the library is 1.23, expected a library that is not older" in said


def test_the_library_of_a_wheel_gets_the_names_a_linker_wants(tmp_path: Path, tools: Path, onnxruntime: Path) -> None:
    capi = tmp_path / "wheel" / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi.parent / "__init__.py").write_text("raise ImportError('it is found, never imported')")
    for name in ("libonnxruntime.so.1.31.1", "libonnxruntime_providers_cuda.so"):
        (capi / name).write_text("")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncd "{tmp_path / "wheel"}" && exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    code, said = configure(
        tmp_path / "out", tools, "--python", python, "--onnxruntime-include", onnxruntime / "include"
    )
    assert code == 0, said
    if "/usr/" in re.findall(r"ONNX Runtime library: (\S+)", said)[0]:
        pytest.skip("this system has a libonnxruntime.so of its own, which comes first")
    links = {path.name: path.readlink() for path in (tmp_path / "out" / "onnxruntime" / "lib").iterdir()}
    whole = capi / "libonnxruntime.so.1.31.1"
    assert links == {
        "libonnxruntime.so": whole, "libonnxruntime.so.1": whole, whole.name: whole,
        "libonnxruntime_providers_cuda.so": capi / "libonnxruntime_providers_cuda.so",
    }  # fmt: skip
