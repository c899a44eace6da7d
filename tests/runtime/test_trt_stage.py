"""A plan is compared with the manifest, the engine and the device before it serves; a difference is one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import make_request, tokens_of
from fake_device import FakeDevice
from fake_plans import Machine, edit_plan, edit_plan_file
from fake_trt import CONTEXTS, EngineValidity

from runtime import BundleError, DeviceError, FeedError, OneRankerError, Pipeline
from runtime.items import ItemIndex
from runtime.manifest import Manifest, PlanEntry, ProfileEntry, file_sha256
from runtime.onnx_stage import OnnxStage
from runtime.stage import TensorSpec
from runtime.trt_stage import TrtStage, choose_profile

REBUILD = "rebuild with `python -m export.build --stage all --engine tensorrt`."


def load(bundle: Path, stage: str, device: FakeDevice, **options: Any) -> TrtStage:
    """One stage alone."""
    row = Manifest.read(bundle).stages[stage]
    assert row.plan is not None
    sides = ([TensorSpec(t.name, t.dtype, t.shape) for t in side] for side in (row.inputs, row.outputs))
    return TrtStage.load(stage, bundle / row.plan.file, row.plan, *sides, device=device, **options)


def first_profile(raw: dict[str, Any], letter: str, ends: list[int]) -> list[Any]:
    profiles = raw["stages"]["generator"]["plan"]["profiles"]
    profiles[0]["letters"][letter] = ends
    return profiles


def manifest(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text())


Damage = Callable[[Path], None]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "version": (
        lambda b: edit_plan(b, "generator", version="99.1.3"),
        "model.plan: built by tensorrt 99.1.3, here is tensorrt 99.1.2, and a plan serves on its own version alone. "
        f"Install that version, or: {REBUILD}",
    ),
    "sha256": (
        lambda b: edit_plan(b, "generator", sha256="0" * 64),
        "the manifest says 000000000000…; the file was edited. Copy the bundle again",
    ),
    "size": (lambda b: edit_plan(b, "generator", bytes=3), "bytes, the manifest says 3"),
    "missing": (lambda b: (b / "generator" / "model.plan").unlink(), "no such file"),
    "engine": (lambda b: edit_plan(b, "generator", engine="os"), "engine 'os' is unknown"),
    "tensors": (
        lambda b: edit_plan_file(b, "generator", graph=str(b / "ranker" / "model.onnx")),
        "the engine's inputs are candidate_items, candidate_mask, ",
    ),
    "host tensor": (
        lambda b: edit_plan_file(b, "generator", on_host=["token_time"]),
        "the engine wants input 'token_time' in host memory, expected all tensors on the device",
    ),
    "number of profiles": (
        lambda b: edit_plan(b, "generator", profiles=manifest(b)["stages"]["generator"]["plan"]["profiles"][:2]),
        "the engine has 3 profiles, the manifest says 2",
    ),
    "profile": (
        lambda b: edit_plan(b, "generator", profiles=first_profile(manifest(b), "S", [1, 64, 79])),
        "profile 'single' of the engine has 'token_fields' from (1, 1, 3) to (1, 80, 3), the manifest says (1, 1, 3) "
        "to (1, 79, 3)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_plan_that_is_not_the_manifests_is_one_sentence(damaged_plans: Path, machine: Machine, damage: str) -> None:
    make, message = DAMAGES[damage]
    make(damaged_plans)
    with pytest.raises(BundleError) as caught:
        load(damaged_plans, "generator", FakeDevice())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_the_engine_cannot_read_quotes_the_engines_own_words(damaged_plans: Path, machine: Machine) -> None:
    file = damaged_plans / "enhancer" / "model.plan"
    file.write_text("not json")
    edit_plan(damaged_plans, "enhancer", sha256=file_sha256(file), bytes=8)
    with pytest.raises(
        BundleError, match=r"cannot read this plan on cuda:0 \(fake\) \(Error Code 1: not a fake plan\)"
    ):
        Pipeline.load(damaged_plans)


def test_a_plan_for_other_devices_names_them(planned: Path, machine: Machine) -> None:
    with pytest.raises(DeviceError) as caught:
        load(planned, "ranker", FakeDevice(compute_capability="9.0"))
    assert "built for compute capability 8.6, 8.9, cuda:0 (fake) has 9.0. Serve on another device" in str(caught.value)


def test_a_plan_that_names_no_device_is_left_to_the_engine(damaged_plans: Path, machine: Machine) -> None:
    edit_plan(damaged_plans, "ranker", compute_capabilities=[])
    load(damaged_plans, "ranker", FakeDevice(compute_capability="9.0")).close()


@pytest.mark.parametrize(
    ("validity", "kind", "message"),
    [
        ((EngineValidity.INVALID, 32), BundleError, "takes this plan for invalid on cuda:0 (fake) (malformed engine)"),
        ((EngineValidity.INVALID, 3), BundleError, "(version mismatch, unsupported cc)"),
        ((EngineValidity.INVALID, 2), DeviceError, "(unsupported cc)"),
        ((EngineValidity.INVALID, 0), DeviceError, "(it said nothing)"),
    ],
)
def test_what_tensorrt_rtx_says_of_a_plan_is_asked_first(
    damaged_plans: Path, machine: Machine, validity: Any, kind: type[OneRankerError], message: str
) -> None:
    edit_plan(damaged_plans, "ranker", engine="tensorrt_rtx")
    sys.modules["tensorrt_rtx"].Runtime.validity = validity  # type: ignore[attr-defined]
    with pytest.raises(kind) as caught:
        load(damaged_plans, "ranker", FakeDevice())
    assert message in str(caught.value)


def test_a_slower_plan_serves_with_a_warning(
    damaged_plans: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    edit_plan(damaged_plans, "ranker", engine="tensorrt_rtx")
    sys.modules["tensorrt_rtx"].Runtime.validity = (EngineValidity.SUBOPTIMAL, 2)  # type: ignore[attr-defined]
    load(damaged_plans, "ranker", FakeDevice()).close()
    assert ["unsupported cc" in record.getMessage() for record in caplog.records] == [True]


def test_a_context_that_cannot_be_made_is_an_error_and_the_pipeline_closes(
    damaged_plans: Path, index: ItemIndex, machine: Machine
) -> None:
    edit_plan_file(damaged_plans, "enhancer", no_context=True)
    with machine.serve(damaged_plans) as pipeline:
        pipeline.generate(tokens_of(pipeline, [make_request(index, 3)]))
        with pytest.raises(DeviceError) as caught:
            pipeline.enhance()
    assert "enhancer: no execution context could be made at B=1 S=64 on cuda:0 (fake) (no room for a context)" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("profile", "the profile could not be chosen"),
        ("shape", "input 'token_fields' does not take the shape [1, 64, 3]"),
        ("address", "tensor 'token_fields' does not take its address"),
        ("inference", "the shapes cannot be inferred: shapes do not fit"),
        ("knowledge", "the shapes of token_time are not known"),
        ("launch", "the launch failed"),
    ],
)
def test_whatever_an_engine_refuses_is_one_error_and_the_pipeline_goes_on(
    planned: Path, index: ItemIndex, machine: Machine, what: str, message: str
) -> None:
    with machine.serve(planned) as pipeline:
        plan = pipeline._forward.chain.stages["generator"].loaded.engine.plan  # type: ignore[attr-defined]
        plan["refuses"] = what
        for _ in range(2):
            with pytest.raises(DeviceError) as caught:
                pipeline.recommend([make_request(index, 3)])
            assert str(caught.value) == (
                f"generator: {message} at B=1 S=64 on cuda:0 (fake) (no {what} today), expected a ready engine. "
                f"Free device memory, or {REBUILD}"
            )
        plan["refuses"] = None
        assert pipeline.recommend([make_request(index, 3)])


def test_an_output_of_another_shape_than_the_manifests_is_an_error(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        pipeline._forward.chain.stages["ranker"].loaded.engine.plan["refuses"] = "output"  # type: ignore[attr-defined]
        with pytest.raises(BundleError, match=r"the engine writes 'scores' as \[9, 6\], expected \[1, 6\]"):
            pipeline.recommend([make_request(index, 3)])


def test_run_answers_host_arrays_as_the_graph_does_and_keeps_nothing(planned: Path, machine: Machine) -> None:
    device, row = FakeDevice(), Manifest.read(planned).stages["enhancer"]
    stage = load(planned, "enhancer", device)
    graph = OnnxStage.load("enhancer", planned / row.file, stage.inputs, stage.outputs, threads=1)
    random = np.random.default_rng(0)
    for B, S in ((1, 80), (3, 64), (2, 65)):
        feed = {spec.name: random.normal(size=spec.sized({"B": B, "S": S})).astype(spec.dtype) for spec in stage.inputs}
        found, wanted = stage.run(feed), graph.run(feed)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert [block.size for block in device.live] == [300]  # its own scratch
    assert not CONTEXTS
    stage.close()
    device.close()
    assert device.left == []


def test_shapes_outside_of_every_profile_name_the_letter_and_the_ranges(planned: Path, machine: Machine) -> None:
    device = FakeDevice()
    stage = load(planned, "enhancer", device)
    with pytest.raises(FeedError) as caught:
        stage.run({spec.name: np.zeros(spec.sized({"B": 2, "S": 81}), spec.dtype) for spec in stage.inputs})
    assert str(caught.value) == (
        "enhancer: S=81 lies outside of every profile of the plan (single: S 1 .. 80; short: S 1 .. 64; "
        f"long: S 65 .. 80). Send other sizes, or with other --min-shapes and --max-shapes {REBUILD}"
    )
    assert [block.size for block in device.live] == []


def profile(name: str, **letters: tuple[int, int]) -> ProfileEntry:
    return ProfileEntry(name=name, letters={key: (low, high, high) for key, (low, high) in letters.items()})


def plan_of(*profiles: ProfileEntry) -> PlanEntry:
    return PlanEntry(
        file="", sha256="", bytes=0, engine="tensorrt", version="", compute_capabilities=(), profiles=profiles,
        verified="",
    )  # fmt: skip


def test_every_size_gets_a_profile_that_holds_it_and_no_tighter_one_does() -> None:
    plan = plan_of(
        profile("all", B=(1, 8), S=(3, 64)), profile("long", B=(1, 8), S=(33, 64)),
        profile("short", B=(1, 8), S=(3, 32)), profile("single", B=(1, 1), S=(3, 64)),
    )  # fmt: skip
    for B in range(1, 9):
        for S in range(3, 65):
            wanted = "single" if B == 1 else "short" if S <= 32 else "long"
            assert plan.profiles[choose_profile("x", plan, {"B": B, "S": S})].name == wanted, (B, S)


def test_sizes_that_no_profile_holds_together_are_told_together() -> None:
    plan = plan_of(profile("one", B=(1, 1), S=(1, 64)), profile("many", B=(1, 8), S=(1, 32)))
    with pytest.raises(FeedError, match=r"x: B=8, S=64 together lies outside of every profile .*many: B 1 \.\. 8, S 1"):
        choose_profile("x", plan, {"B": 8, "S": 64})
