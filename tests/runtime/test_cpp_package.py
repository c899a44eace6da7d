"""The installed C++ package, shared and static, serves a project outside of the tree without ONNX Runtime's headers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_pages import blocks

from runtime import Pipeline

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "build" / "cpp" / "release"
REQUEST = {"now": 1_700_000_000, "events": []}

pytestmark = pytest.mark.cpp


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Outside:
    """The examples' folder alone, built against an install tree."""

    prefix: Path
    build: Path
    source: Path


def built_outside(library: Path, folder: Path, *flags: str) -> Outside:
    prefix, build, source = folder / "prefix", folder / "build", folder / "project"
    run("cmake", "--install", library, "--prefix", prefix)
    shutil.copytree(ROOT / "examples" / "cpp", source)
    run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", "-DONERANKER_SERVER=OFF", *flags)
    run("cmake", "--build", build)
    return Outside(prefix, build, source)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    return built_outside(RELEASE, tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def static_outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """The same projects with `liboneranker.a`, which is built for them without optimization."""
    folder = tmp_path_factory.mktemp("static")
    flags = ["-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0"]
    run("cmake", "-S", ROOT / "runtime" / "cpp", "-B", folder / "library", *onnxruntime_flags(), *flags)
    run("cmake", "--build", folder / "library")
    return built_outside(folder / "library", folder, f"-DONNXRUNTIME_LIBRARY={release_cache('ONNXRUNTIME_LIBRARY')}")


@pytest.fixture(params=["outside", pytest.param("static_outside", marks=pytest.mark.slow)], ids=["shared", "static"])
def either(request: pytest.FixtureRequest) -> Outside:
    built: Outside = request.getfixturevalue(request.param)
    return built


def release_cache(name: str) -> str:
    """What the release build was configured with."""
    found = re.search(rf"^{name}:[A-Z]+=(.+)$", (RELEASE / "CMakeCache.txt").read_text(), re.M)
    assert found
    return found[1]


def onnxruntime_flags() -> list[str]:
    return [f"-D{name}={release_cache(name)}" for name in ("ONNXRUNTIME_LIBRARY", "ONNXRUNTIME_INCLUDE_DIR")]


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(REQUEST))
    return path


@pytest.mark.parametrize("program", ["recommend_one_user", "recommend_c"])
def test_a_project_outside_recommends_what_python_recommends(
    either: Outside, program: str, tiny_bundle: Path, request_file: Path
) -> None:
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        expected = pipeline.recommend([REQUEST], 5)[0].items
    lines = [line.split("  ", 2) for line in run(either.build / program, tiny_bundle, request_file).splitlines()]
    assert [line[1] for line in lines] == [item.id for item in expected]
    assert [line[2] for line in lines] == [item.name for item in expected]
    assert [float(line[0]) for line in lines] == pytest.approx([item.score for item in expected], abs=1e-5, rel=1e-5)


def test_the_project_of_the_docs_builds_and_runs(
    outside: Outside, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for language, name in (("cmake", "CMakeLists.txt"), ("cpp", "main.cpp")):
        [(_, body)] = blocks("docs/cpp.md", language)
        (tmp_path / name).write_text(body)
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={outside.prefix}")
    run("cmake", "--build", tmp_path / "build")
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    assert len(run(tmp_path / "build" / "shop").splitlines()) == 3


@pytest.mark.parametrize("program", ["recommend_one_user", "recommend_c"])
def test_a_program_outside_says_what_is_wrong_with_a_bundle(
    outside: Outside, program: str, tmp_path: Path, request_file: Path
) -> None:
    done = subprocess.run(
        [outside.build / program, tmp_path, request_file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "manifest.json" in done.stderr
    assert subprocess.run([outside.build / program], capture_output=True, check=False).returncode == 2


def test_the_kernels_are_installed_and_answer_as_the_body(either: Outside, tiny_bundle: Path) -> None:
    [library] = either.prefix.rglob("liboneranker_kernels.so")
    with Pipeline.load(tiny_bundle, device="cpu") as plain:
        expected = plain.recommend([REQUEST], 5)[0].items
    with Pipeline.load(tiny_bundle, kernels=library) as fused:
        assert [item.id for item in fused.recommend([REQUEST], 5)[0].items] == [item.id for item in expected]


def test_the_install_tree_names_no_headers_of_others_and_no_folder_of_the_build(either: Outside) -> None:
    headers = sorted((either.prefix / "include").rglob("*.h"))
    assert [path.name for path in headers] == ["export.h", "oneranker.h", "pipeline.h"]
    for path in headers:
        included = re.findall(r"^#include [<\"]([^>\"]+)", path.read_text(), re.M)
        assert not [name for name in included if "." in name and not name.startswith(("oneranker/", "std"))], path
    for path in (either.prefix / "lib").rglob("*.cmake"):
        assert not [name for name in (ROOT, either.prefix.parent) if str(name) in path.read_text()], path


@pytest.mark.slow
def test_a_program_with_the_static_library_needs_no_other_file_of_ours(static_outside: Outside) -> None:
    # kernels are no part of a program: ONNX Runtime loads them where they are named
    assert [path.name for path in static_outside.prefix.rglob("*.so*")] == ["liboneranker_kernels.so"]
    needed = run("readelf", "-d", static_outside.build / "recommend_c")
    assert "libonnxruntime" in needed
    assert "liboneranker" not in needed


def test_a_static_package_without_onnxruntime_says_what_to_give_and_leaves_the_users_module_path(
    tmp_path: Path,
) -> None:
    package, build = tmp_path / "package", tmp_path / "build"
    flags = ["-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_BUILD_TYPE=None"]
    run("cmake", "-S", ROOT / "runtime" / "cpp", "-B", tmp_path / "library", *onnxruntime_flags(), *flags)
    shutil.copytree(ROOT / "runtime" / "cpp" / "cmake", package)
    shutil.copy(tmp_path / "library" / "onerankerConfig.cmake", package)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(asks LANGUAGES CXX)\nset(CMAKE_MODULE_PATH mine)\n"
        'find_package(oneranker ${HOW})\nmessage(STATUS "found ${oneranker_FOUND}, then ${CMAKE_MODULE_PATH}.")\n'
    )
    words = ["cmake", "-S", str(tmp_path), "-B", str(build), f"-Doneranker_DIR={package}", "-DONNXRUNTIME_LIBRARY="]
    assert re.search(r"found (OFF|0|FALSE), then mine\.", run(*words, "-DHOW=QUIET"))
    refused = subprocess.run([*words, "-DHOW=REQUIRED"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "Give -DONNXRUNTIME_ROOT=<folder with lib/>" in " ".join(refused.stderr.split())


def test_the_installed_version_is_that_of_the_project(outside: Outside, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (outside.prefix / "lib" / f"liboneranker.so.{version}").is_file()
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(asks LANGUAGES CXX)\n"
        'find_package(oneranker ${WANTED} REQUIRED)\nmessage(STATUS "found ${oneranker_VERSION}")\n'
    )
    words = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), f"-DCMAKE_PREFIX_PATH={outside.prefix}"]
    assert f"found {version}" in run(*words, f"-DWANTED={version.rpartition('.')[0]}")
    refused = subprocess.run([*words, "-DWANTED=99.0"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "99.0" in refused.stderr


def test_the_installed_library_looks_beside_itself_first_and_then_where_it_was_linked_unless_told_otherwise(
    outside: Outside, tmp_path: Path
) -> None:
    linked = str(Path(release_cache("ONNXRUNTIME_LIBRARY")).parent)
    found = run_path(outside.prefix / "lib" / "liboneranker.so")
    assert found[0] == "$ORIGIN"
    if release_cache("ONERANKER_INSTALL_LINK_RPATH") == "ON":
        system = ("/lib", "/usr/lib")  # the loader looks there anyway
        assert found[1:] == ([] if linked.startswith(system) else [linked])
    else:
        assert found[1:] == []
    words = ["-S", ROOT / "runtime" / "cpp", "-B", tmp_path, *onnxruntime_flags()]
    run("cmake", *words, "-DONERANKER_INSTALL_LINK_RPATH=OFF")
    script = (tmp_path / "cmake_install.cmake").read_text()
    assert set(re.findall(r'(?<=NEW_RPATH ")[^"]*', script)) == {"\\$ORIGIN"}


def run_path(library: Path) -> list[str]:
    """Folders that an ELF file names."""
    paths = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", run("readelf", "-d", library))
    return [part for path in paths for part in path.split(":")]


def test_the_library_shows_its_own_symbols_only(outside: Outside) -> None:
    library = outside.prefix / "lib" / "liboneranker.so"
    names = [line.split(" ", 2)[2] for line in run("nm", "-DC", "--defined-only", library).splitlines()]
    foreign = [
        name for name in names if "oneranker" not in name and not name.startswith(("std::", "typeinfo", "vtable"))
    ]
    assert foreign == []
    assert "oneranker_recommend" in names
