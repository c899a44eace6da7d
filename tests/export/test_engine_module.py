from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from export import engine_module as chooser
from export.build import main
from export.engine_module import CudaFound, cuda_device, engine_module
from export.settings import BuildSettings, Engine, Precision, resolve
from runtime.errors import BuildError

NOWHERE = CudaFound("", "there is no CUDA device here (cudaErrorNoDevice)")


def library(name: str, version: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__version__ = version  # type: ignore[attr-defined]
    return module


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with these libraries and this device."""

    def make(capability: str = "", **versions: str) -> None:
        for name in ("tensorrt", "tensorrt_rtx"):
            version = versions.get(name)
            monkeypatch.setitem(sys.modules, name, library(name, version) if version else None)
        found = CudaFound(capability, "") if capability else NOWHERE
        monkeypatch.setattr(chooser, "cuda_device", lambda: found)

    return make


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_an_engine_that_is_not_installed_exits_1_with_the_install_line(
    name: str, machine, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    machine("8.9")
    code = main(["--engine", name, "--preset", "tiny", "--out", str(tmp_path / "bundle")])
    assert code == 1
    assert f"--engine {name}: {name} cannot be imported" in caplog.text
    assert "Run `pip install " in caplog.text
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "version"), [("tensorrt", "10.11.0.33"), ("tensorrt_rtx", "1.6.2.9")])
def test_an_engine_that_is_too_old_is_refused(name: str, version: str, machine) -> None:
    machine("8.9", **{name: version})
    with pytest.raises(BuildError, match=rf"found {name} {version}, expected 1.*\+\. Run `pip install"):
        engine_module(Engine(name))


@pytest.mark.parametrize(
    ("capability", "versions", "chosen", "words"),
    [
        ("9.0", {"tensorrt": "11.4.0.106", "tensorrt_rtx": "1.7.1.116"}, "tensorrt", "compute capability 9.0 is here"),
        ("12.0", {"tensorrt_rtx": "1.7.1.116"}, "tensorrt_rtx", "tensorrt_rtx is installed"),
        ("9.0", {"tensorrt_rtx": "1.7.1.116"}, "none", "tensorrt_rtx does not serve compute capability 9.0"),
        ("8.9", {"tensorrt": "10.3.0"}, "none", "found tensorrt 10.3.0, expected 10.14+"),
        ("8.9", {}, "none", "tensorrt is not installed; tensorrt_rtx is not installed"),
        ("", {"tensorrt": "11.4.0.106", "tensorrt_rtx": "1.7.1.116"}, "none", "there is no CUDA device here"),
    ],
)
def test_auto_says_what_it_chose_and_why(
    capability: str, versions: dict[str, str], chosen: str, words: str, machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine(capability, **versions)
    with caplog.at_level(logging.INFO, logger="export"):
        resolved = resolve(BuildSettings())
    assert resolved.engine is Engine(chosen)
    assert resolved.precision is (Precision.FP32 if chosen == "none" else Precision.FP16)
    assert f"engine auto -> {chosen}: " in caplog.text
    assert words in caplog.text
    assert f"precision auto -> {resolved.precision.value}: " in caplog.text


def test_what_was_asked_for_is_kept(machine) -> None:
    machine("8.9", tensorrt="11.4.0.106")
    resolved = resolve(BuildSettings(engine=Engine.TENSORRT, precision=Precision.FP32))
    assert (resolved.engine, resolved.precision) == (Engine.TENSORRT, Precision.FP32)


def test_tensorrt_without_a_device_is_refused_because_it_builds_on_the_gpu_that_serves(machine) -> None:
    machine("", tensorrt="11.4.0.106")
    with pytest.raises(BuildError, match=r"there is no CUDA device here.*expected a CUDA device.*tensorrt_rtx or none"):
        resolve(BuildSettings(engine=Engine.TENSORRT))


@pytest.mark.parametrize(
    ("engine", "option", "flag"),
    [
        ("tensorrt_rtx", {"timing_cache": "cache"}, "--timing-cache"),
        ("none", {"timing_cache": "cache"}, "--timing-cache"),
        ("tensorrt", {"compute_capabilities": ("8.9",)}, "--compute-capability"),
        ("none", {"workspace_mib": 64}, "--workspace-mib"),
        ("none", {"builder_level": 3}, "--builder-level"),
    ],
)
def test_an_option_that_the_engine_does_not_have_is_refused(engine: str, option, flag: str, machine) -> None:
    machine("8.9", tensorrt="11.4.0.106", tensorrt_rtx="1.7.1.116")
    with pytest.raises(BuildError, match=rf"{flag}: got it with engine {engine}, expected --engine .*Leave it out"):
        resolve(BuildSettings(engine=Engine(engine), **option))


def test_the_probe_answers_without_a_driver_a_cuda_library_or_its_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cuda_device()
    assert bool(found.capability) != bool(found.reason)

    def broken() -> None:
        raise RuntimeError("libcudart.so: cannot open shared object file")

    bindings = SimpleNamespace(cudaGetDeviceCount=broken)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=bindings))
    assert cuda_device() == CudaFound("", "no CUDA device can be looked for (CUDA's runtime library: libcudart.so: "
                                      "cannot open shared object file)")  # fmt: skip
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cuda_device().capability == ""
    assert "cuda-bindings" in cuda_device().reason
