"""What every test may ask for: a seed, one tiny bundle a run, and skips that fail where the hardware must be there."""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

# Folders here bear the packages' names, and an editable install is looked up after them: the root goes first.
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def _gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def _trt() -> str:
    found = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]
    return "" if found else "neither tensorrt nor tensorrt_rtx can be imported"


def _cpp() -> str:
    return (
        "" if (ROOT / "build" / "cpp" / "release" / "liboneranker.so").exists() else "build/cpp/release: run `make cpp`"
    )


NEEDS: dict[str, Callable[[], str]] = {
    "gpu": _gpu,
    "trt": _trt,
    "cpp": _cpp,
}  # marker -> what is missing, "" if nothing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require", default="", metavar="gpu,trt,cpp", help="fail, not skip, tests that need these")


def pytest_configure(config: pytest.Config) -> None:
    if unknown := _required(config) - NEEDS.keys():
        raise pytest.UsageError(f"--require: got {', '.join(sorted(unknown))}, expected some of {', '.join(NEEDS)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, missing in NEEDS.items():
        if item.get_closest_marker(name) and (reason := missing()):
            if name in _required(item.config):
                pytest.fail(f"needs {name}: {reason}, and --require {name} forbids to skip it", pytrace=False)
            pytest.skip(f"needs {name}: {reason}")


def _required(config: pytest.Config) -> set[str]:
    return set(filter(None, config.getoption("--require").split(",")))


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from the global generator
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The tiny preset in fp32 with random weights, read-only by agreement: copy it before changing anything."""
    return _bundle(tmp_path_factory, request, "fp32")


@pytest.fixture(scope="session")
def tiny_fp16_bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same in fp16."""
    return _bundle(tmp_path_factory, request, "fp16")


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """TensorRT-RTX, whose builder needs no GPU; a test that asks for it is marked `trt`."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx: it cannot be imported")
    return importlib.import_module("tensorrt_rtx")


@pytest.fixture(scope="session")
def tiny_engine_bundle(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, rtx: ModuleType, tiny_fp16_bundle: Path
) -> Path:
    """The tiny preset in fp16 with a TensorRT-RTX engine of every stage, read-only by agreement."""
    return _bundle(tmp_path_factory, request, "fp16", rtx.__name__, tiny_fp16_bundle)


def _bundle(
    factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    precision: str,
    engine: str = "none",
    graphs: Path | None = None,
) -> Path:
    """Built in pytest's cache, where fingerprints decide what of the last run's bundle is reused, and copied here.

    Several processes test at once: the first one builds, the others wait and find it built. A bundle that is not there
    yet starts from the one whose `graphs` are the same.
    """
    from export.build import build_bundle
    from export.settings import BuildSettings, Engine, Precision

    assert request.config.cache is not None
    name = precision if engine == "none" else f"{precision}-{engine}"
    cached = Path(request.config.cache.mkdir("oneranker_bundles")) / name
    with cached.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if graphs is not None and not cached.exists():
            shutil.copytree(graphs, cached)
        build_bundle(BuildSettings(preset="tiny", out=cached, precision=Precision(precision), engine=Engine(engine)))
        return Path(shutil.copytree(cached, factory.mktemp("bundles") / name))
