from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny import tiny_source, write_checkpoint

from export.build import build_bundle, main
from export.overflow import PeakMeter
from export.settings import BuildSettings, Precision
from runtime.errors import BuildError, FeedError
from runtime.manifest import Manifest


def small_graph() -> onnx.ModelProto:
    """scores = ((x + history_mask) @ up) @ down, all halves but the sum of x, which is fp32."""
    rng = np.random.default_rng(0)
    up = rng.normal(size=(4, 6)).astype(np.float16)
    down = rng.normal(size=(6, 4)).astype(np.float16)
    nodes = [
        helper.make_node("Add", ["x", "history_mask"], ["masked"]),
        helper.make_node("MatMul", ["x", "ranker.layer.feed.up.weight"], ["inside"], name="first"),
        helper.make_node("MatMul", ["inside", "ranker.layer.feed.down.weight"], ["after"], name="second"),
        helper.make_node("Relu", ["after"], ["curved"]),
        helper.make_node("Cast", ["curved"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["wide"], ["scores"], keepdims=0),
        helper.make_node("Transpose", ["curved"], ["handed_on"], perm=[1, 0]),
    ]
    half = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["N", 4]) for name in ("x", "history_mask")}
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("handed_on", TensorProto.FLOAT16, [4, "N"]),
    ]
    weights = {"ranker.layer.feed.up.weight": up, "ranker.layer.feed.down.weight": down}
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "small", list(half.values()), outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def feed(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": x.astype(np.float16), "history_mask": np.full(x.shape, -1e4, np.float16)}


def test_every_half_tensor_has_the_largest_absolute_number_of_all_batches() -> None:
    model, meter = small_graph(), PeakMeter("ranker", small_graph(), {})
    weights = {row.name: numpy_helper.to_array(row).astype(np.float64) for row in model.graph.initializer}
    up, down = weights["ranker.layer.feed.up.weight"], weights["ranker.layer.feed.down.weight"]
    batches = [np.array([[1, -2, 0.5, 3]]), np.array([[-4, 0, 1, 1], [0, 0, 0, -1]]), np.zeros((0, 4))]
    expected = dict.fromkeys(["x", "masked", "inside", "after", "curved", "handed_on"], 0.0)
    for x in batches:
        meter.add(feed(x))
        inside = x @ up
        values = {"x": x, "masked": x - 1e4, "inside": inside, "after": inside @ down}
        values["curved"] = values["handed_on"] = np.maximum(inside @ down, 0)
        for name, value in values.items():
            expected[name] = max(expected[name], float(np.abs(value).max(initial=0)))
    assert meter.peaks.keys() == expected.keys()
    for name, peak in expected.items():
        assert meter.peaks[name] == pytest.approx(peak, rel=2e-3), name
    assert meter.failure() == ""
    report = meter.to_json()
    assert (report["limit"], report["tensors"]) == (65504.0, 6)
    assert report["largest"] == max(peak for name, peak in meter.peaks.items() if name != "masked")
    assert "masked" not in report["top"]  # -1e4 is no activation


def test_the_first_tensor_that_overflows_is_named_with_the_module_to_keep() -> None:
    meter = PeakMeter("ranker", small_graph(), {})
    meter.add(feed(np.full((1, 4), 6e4)))
    assert meter.peaks["inside"] > 65504  # infinite, or the number itself where ONNX Runtime adds up in fp32
    failure = meter.failure()
    assert failure.startswith("ranker: 'inside' (behind ranker.layer.feed.up.weight) reaches ")
    assert "expected at most 65504, the largest float16" in failure
    assert failure.endswith("Build with --keep-fp32 ranker.layer.feed, or with --precision fp32.")
    around = PeakMeter("ranker", small_graph(), {"ranker.layer.feed": torch.float32})
    around.add(feed(np.full((1, 4), 6e4)))
    assert "--keep-fp32 ranker.layer, or" in around.failure()


def test_a_not_a_number_counts_as_an_overflow() -> None:
    meter = PeakMeter("ranker", small_graph(), {})
    meter.add(feed(np.array([[np.nan, 0, 0, 0]])))
    assert "overflow" in meter.failure()


def test_what_crosses_the_boundary_cannot_be_kept() -> None:
    model = small_graph()
    for row in model.graph.initializer:
        if "down" in row.name:  # only the answer is too large
            row.CopyFrom(numpy_helper.from_array(np.full((6, 4), 6e4, np.float16), row.name))
    meter = PeakMeter("ranker", model, {})
    meter.add(feed(np.full((1, 4), 30.0)))
    failure = meter.failure()
    assert "'after'" in failure
    model.graph.node[3].op_type = "Identity"
    meter = PeakMeter("ranker", model, {})
    meter.add(feed(np.full((1, 4), 30.0)))
    assert "crosses the stage's boundary in float16: build with --precision fp32" in meter.failure()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The tiny model, whose ranker's feed-forward layer counts in hundreds of thousands inside."""
    source = tiny_source()
    feed = source.model.ranker.layer.feed
    with torch.no_grad():
        feed.up.weight.mul_(2e5)
        feed.down.weight.div_(2e5)
    return write_checkpoint(source, tmp_path / "checkpoint")


def test_a_model_that_overflows_exits_4_with_the_hint_and_following_it_builds(
    tiny_fp16_bundle: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    bundle = Path(shutil.copytree(tiny_fp16_bundle, tmp_path / "bundle"))
    arguments = ["--stage", "ranker", "--checkpoint", str(checkpoint), "--out", str(bundle), "--precision", "fp16"]
    before = (bundle / "manifest.json").read_bytes()
    assert main(arguments) == 4
    assert re.search(
        r"ranker: '\S+' \(behind ranker\.layer\.feed\.up\.\w+\) reaches \S+, expected at most 65504", caplog.text
    )
    assert "Build with --keep-fp32 ranker.layer.feed, or" in caplog.text
    assert (bundle / "manifest.json").read_bytes() == before
    capsys.readouterr()

    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps({"events": [], "now": 1}) + "\n")
    assert main([*arguments, "--keep-fp32", "ranker.layer.feed", "--check-requests", str(requests)]) == 0
    parity = json.loads(capsys.readouterr().out)["stages"]["ranker"]["parity"]
    assert 0 < parity["activations"]["largest"] < 65504
    assert parity["activations"]["tensors"] > 20
    assert len(parity["types"]["islands"]) == 2
    proof = Manifest.read(bundle).parity
    assert proof["numbers"]["ranker"]["activations"] == parity["activations"]
    assert len(proof["requests"]["tokens"]) == 3  # two random batches and the file's


def test_fp32_has_room_and_is_not_measured(tiny_bundle: Path, tiny_fp16_bundle: Path) -> None:
    rows = [Manifest.read(bundle).parity["numbers"] for bundle in (tiny_bundle, tiny_fp16_bundle)]
    assert [{"activations" in row for row in stages.values()} for stages in rows] == [{False}, {True}]
    assert [row["types"]["islands"] for row in rows[0].values()] == [[], [], [], []]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (None, BuildError, "no such file, expected one JSON request a line"),
        ("{", FeedError, "line 1: not JSON"),
        ('{"events": []}\n{"evnts": []}', FeedError, "line "),
    ],
    ids=["missing", "json", "request"],
)
def test_requests_that_cannot_be_read_stop_the_build(
    tiny_bundle: Path, tmp_path: Path, text: str | None, error: type[Exception], words: str
) -> None:
    path, bundle = tmp_path / "requests.jsonl", shutil.copytree(tiny_bundle, tmp_path / "bundle")
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=words):
        build_bundle(BuildSettings(preset="tiny", out=bundle, check_requests=path, precision=Precision.FP32))
