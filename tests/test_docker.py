"""The images: rules of Dockerfiles, one place for a version, and the install and smoke steps run without an engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
SCRIPTS = sorted((ROOT / "docker").glob("*.sh"))


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        pytest.skip("hadolint is not beside this Python; `make setup` installs it")
    return subprocess.run([str(program), str(file)], capture_output=True, text=True, check=False)


def test_the_dockerfile_breaks_no_rule_of_hadolint() -> None:
    done = hadolint(ROOT / "docker" / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong_with_a_bad_one(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /src && sudo apt-get install gcc\nCMD python3 serve.py\n")
    done = hadolint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert {"DL3003", "DL3004", "DL3006", "DL3025"} <= set(re.findall(r"DL\d+", done.stdout))


# Versions


def pins(text: str) -> dict[str, str]:
    return {name.lower(): version for name, version in re.findall(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", text)}


def read(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def numbers(text: str) -> list[str]:
    """Whatever looks like a version: 1.2, 3.11.15, 13.1.0.3."""
    return re.findall(r"(?<![\w.])\d+(?:\.\d+)+(?![\w.]*\w)", text)


def test_a_version_stands_in_one_place() -> None:
    python, *wheels = pins(read("constraints.txt")), *pins(read("docker/versions.env")).items()
    assert len(wheels) > 1
    assert not python.keys() & dict(wheels).keys(), "pinned by constraints.txt and by versions.env"
    elsewhere = [*(str(path.relative_to(ROOT)) for path in SCRIPTS), "docker/Dockerfile", "Makefile", ".dockerignore"]
    versions = {*python.values(), *dict(wheels).values()}
    assert [number for number in numbers(read(*elsewhere)) if number in versions or number.count(".") > 1] == []
    assert "python:" not in DOCKERFILE


def test_pins_of_the_extras_are_those_of_the_constraints() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    pinned, constraints = (
        pins(" ".join(word for words in extras.values() for word in words)),
        pins(read("constraints.txt")),
    )
    assert constraints["onnxruntime"] == pinned.pop("onnxruntime-gpu"), "one ONNX Runtime, with or without CUDA"
    assert {name: constraints.get(name) for name in pinned} == pinned


def test_every_argument_of_the_dockerfile_is_passed_by_the_build_script() -> None:
    told = set(re.findall(r"^ARG (\w+)$", DOCKERFILE, re.M))
    assert told == set(re.findall(r"--build-arg \"(\w+)=", read("docker/build.sh")))
    assert "PYTHON_IMAGE=python:" in read("docker/versions.env")


# Images


def stages() -> dict[str, tuple[str, str]]:
    """Target -> what it is made from, and its own instructions."""
    parts = re.split(r"^FROM ", re.sub(r"\\\n\s*", "", DOCKERFILE), flags=re.M)[1:]
    heads = [re.match(r"(\S+) AS (\S+)\n", part) for part in parts]
    return {head[2]: (head[1], part[head.end() :]) for head, part in zip(heads, parts, strict=True) if head}


def lines(target: str) -> list[str]:
    """Every instruction of a target, its parents' first."""
    parent, own = stages()[target]
    return (lines(parent) if parent in stages() else []) + [line for line in own.splitlines() if line[:1].isupper()]


@pytest.mark.parametrize(("target", "extra"), [("runtime", "serve"), ("runtime-gpu", "gpu")])
def test_a_runtime_image_is_a_bare_python_and_one_folder(target: str, extra: str) -> None:
    told = lines(target)
    assert "USER 10001:10001" in told
    assert not [line for line in told if line.startswith(("RUN", "ADD"))]
    assert [line for line in told if line.startswith("COPY")] == [
        f"COPY --from=install-{extra} /opt/oneranker /opt/oneranker"
    ]
    assert f"RUN docker/install.sh {extra} /opt/oneranker" in lines(f"install-{extra}")
    (health,) = [line for line in told if line.startswith("HEALTHCHECK")]
    assert json.loads(health.split("CMD ")[1])[:3] == ["python", "-m", "runtime.health"]


def test_what_an_image_runs_lies_in_scripts_or_is_a_command_of_ours() -> None:
    steps = [line.removeprefix("RUN ") for name in stages() for line in lines(name) if line.startswith("RUN ")]
    assert len(set(steps)) > 3
    for step in steps:
        words = json.loads(step) if step.startswith("[") else shlex.split(step)
        assert words[0].startswith("docker/") or words[0] == "/tmp/smoke.sh" or words[:2] == ["python", "-m"], step


def test_the_context_holds_what_the_install_takes() -> None:
    kept = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    (taken,) = re.findall(r"^for part in (.*); do$", read("docker/install.sh"), re.M)
    assert kept == {*taken.split(), "constraints.txt", "docker"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_for_every_shell(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert read(f"docker/{script.name}").startswith("#!/bin/sh\n")
    shell = shutil.which("dash") or "/bin/sh"
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("script", "words"), [("install.sh", ["serve"]), ("smoke.sh", [])])
def test_a_script_without_its_words_is_a_usage_error(script: str, words: list[str]) -> None:
    done = subprocess.run([str(ROOT / "docker" / script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"usage: docker/{script}" in done.stderr


# The steps themselves


@pytest.fixture(scope="module")
def prefix() -> Path:
    """What `docker/install.sh serve` made."""
    python = os.environ.get("ONERANKER_RUNTIME_PYTHON")
    if not python:
        pytest.skip("ONERANKER_RUNTIME_PYTHON names no folder of docker/install.sh; `make test` sets it")
    return (ROOT / python).parent.parent.resolve()


def smoke(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "docker" / "smoke.sh"), *map(str, words)], capture_output=True, text=True, check=False
    )


def test_the_installed_runtime_answers_slim_and_without_writing(prefix: Path, tiny_bundle: Path) -> None:
    done = smoke(prefix, tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] > 0


def test_the_installed_runtime_is_not_this_tree(prefix: Path, tmp_path: Path) -> None:
    program = "import runtime, oneranker; print(runtime.__file__, oneranker.__file__)"
    words = [str(prefix / "bin" / "python"), "-c", program]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(Path(path).is_relative_to(prefix / "lib") for path in done.stdout.split())


def test_smoke_refuses_a_compiler_a_training_stack_and_a_damaged_bundle(
    prefix: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    done = smoke(prefix, tiny_bundle, tmp_path)
    assert (done.returncode, "expected no compiler" in done.stderr) == (1, True)
    done = smoke(Path(sys.executable).parent.parent, tiny_bundle, prefix / "bin")
    assert (done.returncode, "got the package torch" in done.stderr) == (1, True)
    broken = Path(shutil.copytree(tiny_bundle, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{}")
    done = smoke(prefix, broken)
    assert (done.returncode, "tokenizer.json" in done.stderr) == (3, True)
