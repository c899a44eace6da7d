"""The library of kernels in ONNX Runtime: answers as the graph's own body, in its place, or an error by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cpp_library import KERNELS_FILE
from silu_attention_cases import LENGTHS, TIMED, case, feed_of, loop, one_node

from export.silu_attention import inputs_of
from oneranker.config import RelativeBias
from runtime import Pipeline
from runtime.errors import BundleError, DeviceError
from runtime.manifest import Manifest, file_sha256
from runtime.onnx_stage import OnnxStage
from runtime.stage import TensorSpec

REQUESTS: list[dict[str, Any]] = [
    {"now": 10**9, "events": [{"item": f"item{i * j % 97}", "time": 10**9 - 10**5 * j} for j in range(15, 0, -1)]}
    for i in range(1, 5)
]
CPP = pytest.mark.cpp


def session(bias: RelativeBias) -> onnxruntime.InferenceSession:
    """One node, without a body: what answers is the kernel."""
    model = one_node(bias=bias, block=0, kind="fp32")
    del model.functions[:]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.register_custom_ops_library(str(KERNELS_FILE))
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


@CPP
@pytest.mark.parametrize("bias", RelativeBias, ids=lambda bias: bias.value)
def test_the_kernel_answers_as_a_loop_over_the_definition_at_every_length(bias: RelativeBias) -> None:
    fused = session(bias)
    for length in LENGTHS:
        feed, expected = case(length, bias, "fp32")
        found = np.asarray(fused.run(None, feed)[0])
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), length


@CPP
def test_other_rows_than_keys_and_any_mask_are_taken() -> None:
    feed = feed_of(40, bias=TIMED, kind="fp32", causal=False)
    for name in ("query", "mask"):
        feed[name] = np.ascontiguousarray(feed[name][:, :, 29:])
    feed["query_time"] = feed["query_time"][:, 29:]
    found = np.asarray(session(TIMED).run(None, feed)[0])
    assert np.abs(found - loop(feed)).max() < 1e-5


@CPP
@pytest.mark.parametrize(
    ("name", "cut", "told"),
    [
        ("value", np.s_[:, :, 1:], r"value is \[2, 2, 16, 16\], expected \[2, 2, 17, 16\]"),
        ("mask", np.s_[:, :, :, 1:], r"mask is \[1, 1, 17, 16\], expected \[1, 1, 17, 17\]"),
        ("key_mask", np.s_[1:], r"key_mask is \[1, 1, 1, 17\], expected \[2, 1, 1, 17\]"),
        ("query", np.s_[..., 1:], r"query is \[2, 2, 17, 15\], expected \[B, H, Q, E\], E a multiple of 8"),
        ("position_bias", np.s_[1:], r"position_bias is \[98\], expected \[2n - 1\] with n >= S = 17"),
        ("time_bias", np.s_[1:], r"bucket_starts is \[130\], expected \[129\]"),
        ("key_time", np.s_[:, 1:], r"key_time is \[2, 16\], expected \[2, 17\]"),
    ],
)
def test_a_shape_that_does_not_fit_is_named_and_nothing_is_read(name: str, cut: Any, told: str) -> None:
    feed = feed_of(17, bias=TIMED, kind="fp32")
    feed[name] = np.ascontiguousarray(feed[name][cut])
    with pytest.raises(Exception, match=f"rec::SiluAttention: {told}.*(export.build|without kernels)"):
        session(TIMED).run(None, feed)


@CPP
def test_buckets_of_time_that_are_too_narrow_are_refused() -> None:
    feed = feed_of(17, bias=TIMED, kind="fp32")
    feed["bucket_starts"] = np.concatenate([[0], np.arange(1000, 1129)]).astype(np.int32)
    with pytest.raises(Exception, match=r"bucket_starts.*at least a 32nd of an octave wide"):
        session(TIMED).run(None, feed)


@CPP
def test_with_kernels_a_bundle_recommends_the_same_items(tiny_bundle: Path) -> None:
    with (
        Pipeline.load(tiny_bundle, device="cpu") as plain,
        Pipeline.load(tiny_bundle, device="cpu", kernels=KERNELS_FILE) as fused,
    ):
        for expected, found in zip(plain.recommend(REQUESTS, 20), fused.recommend(REQUESTS, 20), strict=True):
            assert [item.id for item in found.items] == [item.id for item in expected.items]
            assert [item.score for item in found.items] == pytest.approx([item.score for item in expected.items], 1e-4)


@CPP
def test_the_kernel_takes_the_place_of_the_body_and_not_the_other_way_round(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    graph = bundle / Manifest.read(bundle).stages["generator"].file
    model = onnx.load(graph)
    del model.functions[:]
    onnx.save(model, graph)
    raw = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    raw["stages"]["generator"] |= {"sha256": file_sha256(graph), "bytes": graph.stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(BundleError, match="neither a function body in this graph nor a kernel"):
        Pipeline.load(bundle, device="cpu")
    with (
        Pipeline.load(tiny_bundle, device="cpu", kernels=KERNELS_FILE) as whole,
        Pipeline.load(bundle, device="cpu", kernels=KERNELS_FILE) as bare,
    ):
        assert bare.recommend(REQUESTS) == whole.recommend(REQUESTS)


@CPP
def test_the_command_takes_kernels(tiny_bundle: Path, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("\n".join(map(json.dumps, REQUESTS)), encoding="utf-8")
    words = ["--bundle", str(tiny_bundle), "--requests", str(requests), "--json", "--device", "cpu"]
    command = [sys.executable, "-m", "runtime.recommend", *words]
    done = [
        subprocess.run([*command, *more], capture_output=True, text=True, check=True)
        for more in ([], ["--kernels", str(KERNELS_FILE)])
    ]
    plain, fused = ([json.loads(line) for line in one.stdout.splitlines()] for one in done)
    assert [[item["id"] for item in row["items"]] for row in fused] == [
        [item["id"] for item in row["items"]] for row in plain
    ]


def test_kernels_that_are_not_there_are_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"absent.so: no such file, expected the library of kernels.*make cpp"):
        Pipeline.load(tiny_bundle, device="cpu", kernels=tmp_path / "absent.so")


def test_a_file_that_is_no_library_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("this is no library", encoding="utf-8")
    with pytest.raises(DeviceError, match=r"text.so: ONNX Runtime cannot load these kernels.*make cpp"):
        Pipeline.load(tiny_bundle, device="cpu", kernels=path)


def test_kernels_for_half_precision_are_an_error_and_no_silent_body(tiny_fp16_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"for a bundle in fp16, expected onnxruntime, cpu and fp32. Leave them out"):
        Pipeline.load(tiny_fp16_bundle, kernels=tmp_path / "any.so")


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"engine": "tensorrt"}], ids=str)
def test_kernels_beside_another_engine_or_device_are_an_error(
    tiny_bundle: Path, tmp_path: Path, asked: dict[str, str]
) -> None:
    with pytest.raises(DeviceError, match=r"for a bundle in fp32, expected onnxruntime, cpu and fp32. Leave them out"):
        Pipeline.load(tiny_bundle, **asked, kernels=tmp_path / "any.so")


@CPP
def test_a_graph_with_the_node_of_before_is_refused_and_not_served_by_the_body(tmp_path: Path) -> None:
    """Version 1 had no position_bias: where the table stands now, it had the times."""
    model = one_node(bias=TIMED, block=0, kind="fp32")
    model.graph.node[0].input.remove("position_bias")
    model.graph.input.remove(next(each for each in model.graph.input if each.name == "position_bias"))
    model.opset_import[1].version = 1
    del model.functions[0].input[5]
    del model.functions[0].node[:]
    model.functions[0].node.append(onnx.helper.make_node("Identity", ["query"], ["mixed"]))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    OnnxStage.load("generator", path, *specs_of(path))
    with pytest.raises(BundleError, match=r"cannot load this graph .*SiluAttention.*export\.build"):
        OnnxStage.load("generator", path, *specs_of(path), kernels=KERNELS_FILE)


@CPP
def test_a_node_without_one_of_the_times_is_refused() -> None:
    model = one_node(bias=TIMED, block=0, kind="fp32")
    del model.functions[:]
    model.graph.node[0].input[6] = ""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.register_custom_ops_library(str(KERNELS_FILE))
    fused = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    feed = feed_of(17, bias=TIMED, kind="fp32")
    with pytest.raises(Exception, match=r"query_time is absent, expected all four of the inputs that know the time"):
        fused.run(None, feed)


def specs_of(path: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The graph's own tensors, as a manifest would say them."""
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64"}
    sides = (plain.get_inputs(), plain.get_outputs())
    return tuple([TensorSpec(one.name, kinds[one.type], tuple(one.shape)) for one in side] for side in sides)


def test_every_input_of_the_node_is_an_input_of_the_kernel() -> None:
    source = (Path(__file__).parents[2] / "runtime" / "cpp" / "kernels" / "onnx_kernels.cpp").read_text("utf-8")
    listed = source.partition("kNames = {")[2].partition("}")[0]
    assert [name.strip().strip('"') for name in listed.split(",")] == list(inputs_of(TIMED))
