"""What the library of an engine does on machines that are not here, by a double of it that fails in its own words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export import engine_from_onnx
from export.engine_from_onnx import EngineOptions, build_engine
from export.engine_module import CudaFound
from export.profiles import EngineProfile
from export.settings import Precision
from runtime.errors import BuildError
from runtime.manifest import Manifest

pytestmark = pytest.mark.trt

HALF = EngineOptions(precision=Precision.FP16)
Ranker = tuple[Path, list[EngineProfile]]


class Other:
    """TensorRT-RTX in all that is not overridden."""

    __name__ = "tensorrt"

    def __init__(self, rtx) -> None:
        self.rtx = rtx

    def __getattr__(self, name: str):
        return getattr(self.rtx, name)


@pytest.fixture
def ranker(tiny_engine_bundle: Path) -> Ranker:
    """Its graph and one profile."""
    plan = Manifest.read(tiny_engine_bundle).stages["ranker"].plan
    assert plan is not None
    row = plan.profiles[0]
    return tiny_engine_bundle / "ranker" / "model.onnx", [EngineProfile(row.name, row.letters)]


def test_a_level_that_the_library_would_lower_in_silence_is_refused(ranker: Ranker, rtx) -> None:
    with pytest.raises(BuildError, match=r"--builder-level: got 99, expected at most 5"):
        build_engine(rtx, *ranker, replace(HALF, builder_level=99))


def test_where_the_library_makes_no_builder_that_is_one_sentence(ranker: Ranker, rtx) -> None:
    class NoBuilder(Other):
        def Builder(self, log):  # noqa: N802
            raise TypeError("pybind11::init(): factory function returned nullptr")  # what the published bindings do

    with pytest.raises(BuildError, match=r"ranker: tensorrt 1\..* has no builder here"):
        build_engine(NoBuilder(rtx), *ranker, HALF)  # type: ignore[arg-type]


@pytest.mark.parametrize("capabilities", [(), ("8.9",)], ids=["portable", "named"])
def test_an_engine_is_not_opened_on_a_device_that_its_library_does_not_serve(
    ranker: Ranker, rtx, monkeypatch: pytest.MonkeyPatch, capabilities: tuple[str, ...]
) -> None:
    class Watched(Other):
        __name__ = "tensorrt_rtx"

        def Runtime(self, log):  # noqa: N802
            raise AssertionError("opened")

    monkeypatch.setattr(engine_from_onnx, "cuda_device", lambda: CudaFound("9.0", ""))
    options = replace(HALF, compute_capabilities=capabilities)
    report = build_engine(Watched(rtx), *ranker, options).report  # type: ignore[arg-type]
    assert report.inspected == "not run on a GPU: tensorrt_rtx does not serve compute capability 9.0"
    assert report.precision.kernels_from == "the builder's log"
