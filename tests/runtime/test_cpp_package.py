"""The installed C++ package serves a project outside of the tree, which has neither ONNX Runtime's headers nor JSON."""

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


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    folder = tmp_path_factory.mktemp("outside")
    prefix, build, source = folder / "prefix", folder / "build", folder / "project"
    run("cmake", "--install", RELEASE, "--prefix", prefix)
    shutil.copytree(ROOT / "examples" / "cpp", source)
    run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", "-DONERANKER_SERVER=OFF")
    run("cmake", "--build", build)
    return Outside(prefix, build, source)


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(REQUEST))
    return path


@pytest.mark.parametrize("program", ["recommend_one_user", "recommend_c"])
def test_a_project_outside_recommends_what_python_recommends(
    outside: Outside, program: str, tiny_bundle: Path, request_file: Path
) -> None:
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        expected = pipeline.recommend([REQUEST], 5)[0].items
    lines = [line.split("  ", 2) for line in run(outside.build / program, tiny_bundle, request_file).splitlines()]
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


def test_the_install_tree_names_no_headers_of_others_and_no_folder_of_the_build(outside: Outside) -> None:
    headers = sorted((outside.prefix / "include").rglob("*.h"))
    assert [path.name for path in headers] == ["export.h", "oneranker.h", "pipeline.h"]
    for path in headers:
        included = re.findall(r"^#include [<\"]([^>\"]+)", path.read_text(), re.M)
        assert not [name for name in included if "." in name and not name.startswith(("oneranker/", "std"))], path
    for path in (outside.prefix / "lib").rglob("*.cmake"):
        assert str(ROOT) not in path.read_text(), path


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
    cache = (RELEASE / "CMakeCache.txt").read_text()
    given = re.search(r"^ONNXRUNTIME_LIBRARY:FILEPATH=(.+)$", cache, re.M)
    assert given
    linked = str(Path(given[1]).parent)
    found = run_path(outside.prefix / "lib" / "liboneranker.so")
    assert found[0] == "$ORIGIN"
    if re.search(r"^ONERANKER_INSTALL_LINK_RPATH:BOOL=ON$", cache, re.M):
        system = ("/lib", "/usr/lib")  # the loader looks there anyway
        assert found[1:] == ([] if linked.startswith(system) else [linked])
    else:
        assert found[1:] == []
    words: list[str | Path] = ["-S", ROOT / "runtime" / "cpp", "-B", tmp_path, f"-DONNXRUNTIME_LIBRARY={given[1]}"]
    headers = re.search(r"^ONNXRUNTIME_INCLUDE_DIR:PATH=(.+)$", cache, re.M)
    assert headers
    run("cmake", *words, f"-DONNXRUNTIME_INCLUDE_DIR={headers[1]}", "-DONERANKER_INSTALL_LINK_RPATH=OFF")
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
