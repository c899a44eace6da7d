"""The portable body of rec::SiluAttention against a loop over its definition, in blocks and in one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from silu_attention_cases import BLOCK, DTYPES, LENGTHS, MAX, TIMED, Array, E, case, feed_of, loop, one_node

from export.settings import BuildSettings, Profile, profile_of
from export.silu_attention import INPUTS, blocks, function_body, inputs_of
from export.stages import static_masks
from oneranker.config import PRESETS, RelativeBias
from oneranker.hstu import RelativeAttentionBias, silu_attention, time_buckets
from runtime.errors import BuildError, BundleError
from runtime.onnx_stage import OnnxStage

ROOT = Path(__file__).resolve().parents[2]
BIASES = pytest.mark.parametrize("bias", RelativeBias, ids=lambda bias: bias.value)


@cache
def session(*, bias: RelativeBias, block: int, kind: str) -> onnxruntime.InferenceSession:
    """A graph of one node, every size but E free."""
    return onnxruntime.InferenceSession(
        one_node(bias=bias, block=block, kind=kind).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def eager(feed: dict[str, Array], dtype: torch.dtype = torch.float32) -> Array:
    named = {name: torch.from_numpy(array) for name, array in feed.items()}
    query, key, value, mask, key_mask = (named[name].to(dtype) for name in INPUTS)
    if "position_bias" in named:
        relative = RelativeAttentionBias(MAX, RelativeBias.POSITION)
        relative.position = torch.nn.Parameter(named["position_bias"].to(dtype))
        mask = mask + relative.by_position(query.shape[2], key.shape[2])
    mask = mask + key_mask
    if "time_bias" in named:
        buckets = time_buckets(named["query_time"], named["key_time"], named["bucket_starts"])
        mask = mask + named["time_bias"].to(dtype)[buckets.long()][:, None]
    return silu_attention(query, key, value, mask, 1 / MAX).detach().float().numpy()


def answer(feed: dict[str, Array], *, block: int, kind: str) -> Array:
    (bias,) = (each for each in RelativeBias if set(inputs_of(each)) == set(feed))
    graph = session(bias=bias, block=block, kind=kind)
    return np.asarray(graph.run(None, feed)[0])


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("block", [0, BLOCK], ids="block={}".format)
@BIASES
def test_blocks_answer_as_a_loop_over_the_definition_at_every_length(bias: RelativeBias, block: int, kind: str) -> None:
    for length in LENGTHS:
        feed, expected = case(length, bias, kind)
        found = answer(feed, block=block, kind=kind)
        assert found.shape == expected.shape, length
        real = eager({name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in feed.items()})
        assert np.abs(real - expected).max() < 1e-5, length
        allowed = 1e-5 * np.abs(expected).max()
        if kind == "fp16":
            allowed += 2 * np.abs(eager(feed, torch.float16) - expected).max()
        assert np.abs(found.astype(np.float64) - expected).max() <= allowed, length


@BIASES
def test_one_block_takes_other_rows_than_keys_and_any_mask(bias: RelativeBias) -> None:
    feed = feed_of(40, bias=bias, kind="fp32", causal=False)
    for name in ("query", "mask"):
        feed[name] = feed[name][:, :, 29:]
    if bias is TIMED:
        feed["query_time"] = feed["query_time"][:, 29:]
    assert np.abs(answer(feed, block=0, kind="fp32") - loop(feed)).max() < 1e-5


def read_cells(length: int) -> Array:
    """bool [S, S]: which keys a row reads under a mask that blocks nothing: what the body itself leaves out."""
    same = np.ones((1, 1, length, E), np.float32)
    feed = {"query": same, "key": same, "value": np.eye(length, dtype=np.float32)[None, None]}
    feed |= {"mask": np.zeros((1, 1, length, length), np.float32), "key_mask": np.zeros((1, 1, 1, length), np.float32)}
    return answer(feed, block=BLOCK, kind="fp32")[0, 0] > 0


def test_the_causal_mask_blocks_all_that_the_blocks_leave_out_at_every_length() -> None:
    profile = Profile(B=(1, 1, 1), S=(3, MAX, MAX), C=(1, 13, 13))
    whole = static_masks(PRESETS["tiny"], profile)["causal_mask"].numpy()[0, 0]
    for length in range(1, MAX + 1):
        read, allowed = read_cells(length), whole[:length, :length]
        assert not (allowed & ~read).any(), f"S={length}: a key that the mask allows is never read"
        if length > BLOCK:
            assert not read.all(), f"S={length}: nothing is left out"
    for name in PRESETS:  # and in the masks that a build writes
        config = PRESETS[name]
        longest = profile_of(BuildSettings(preset=name), config).S[2]
        mask = static_masks(config, Profile(B=(1, 1, 1), S=(3, longest, longest), C=(1, 13, 1000)))["causal_mask"]
        assert not mask[0, 0].triu(1).any()
        assert mask[0, 0].tril().equal(torch.ones(longest, longest).tril().bool())


def test_padding_content_cannot_change_a_real_row() -> None:
    feed = feed_of(33, bias=TIMED, kind="fp32")
    before = answer(feed, block=BLOCK, kind="fp32")
    for name in ("key", "value"):
        feed[name][1, :, 31:] = 1e3
    after = answer(feed, block=BLOCK, kind="fp32")
    assert np.array_equal(before[1, :, :31], after[1, :, :31])
    assert np.array_equal(before[0], after[0])


def test_a_request_that_is_not_a_number_stays_alone() -> None:
    """The zero that orders the blocks hangs on the first request's answers; it must be a zero whatever they are."""
    feed = feed_of(33, bias=TIMED, kind="fp32")
    before = answer(feed, block=BLOCK, kind="fp32")
    for bad in (np.nan, np.inf):
        feed["query"][0] = bad
        assert np.array_equal(answer(feed, block=BLOCK, kind="fp32")[1], before[1])


def test_a_block_as_long_as_the_history_is_no_block() -> None:
    assert [blocks(block, 50) for block in (0, 16, 25, 49, 50, 51)] == [1, 4, 2, 2, 1, 1]
    whole = function_body(bias=TIMED, block=0, max_history=50)
    assert function_body(bias=TIMED, block=50, max_history=50) == whole
    assert function_body(bias=TIMED, block=49, max_history=50) != whole


def without_body(bundle: Path, folder: Path) -> Path:
    """The generator of a bundle with the function removed, as if only a plugin would do."""
    model = onnx.load(bundle / "generator" / "model.onnx")
    del model.functions[:]
    path = folder / "generator" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    return path


def test_onnx_runtime_names_the_node_that_has_neither_body_nor_kernel(tiny_bundle: Path, tmp_path: Path) -> None:
    path = without_body(tiny_bundle, tmp_path)
    with pytest.raises(BundleError, match=r"rec::SiluAttention has neither a function body.*export\.build"):
        OnnxStage.load("generator", path, (), ())


def test_every_node_names_the_plugin_that_tensorrt_may_take_instead(tiny_bundle: Path) -> None:
    source = (ROOT / "runtime/cpp/tensorrt_plugin/silu_attention_plugin.cpp").read_text(encoding="utf-8")
    reported = dict(re.findall(r'constexpr const char\* k(Name|Version|Namespace) = "(\w+)";', source))
    nodes = [node for node in onnx.load(tiny_bundle / "generator" / "model.onnx").graph.node if node.domain == "rec"]
    assert len(nodes) == 2, "one a layer"
    for node in nodes:
        named = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        assert node.op_type == reported["Name"]
        assert named["plugin_version"].decode() == reported["Version"]
        assert named["plugin_namespace"].decode() == reported["Namespace"]


@pytest.mark.trt
def test_tensorrt_names_the_node_that_has_neither_body_nor_plugin(tiny_bundle: Path, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx cannot be imported")
    from export.engine_from_onnx import EngineOptions, build_engine
    from export.settings import Precision

    path = without_body(tiny_bundle, tmp_path)
    with pytest.raises(BuildError, match=r"rec::SiluAttention.*no function body.*plugin"):
        build_engine(trt, path, [], EngineOptions(precision=Precision.FP32))
