from __future__ import annotations

import logging

import pytest

from export.build import main
from export.settings import BuildSettings, Engine, Precision, Profile, parse_shapes, profile_of, resolve
from oneranker.config import PRESETS
from runtime.errors import BuildError


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stage", "decoder"],
        ["--preset", "huge"],
        ["--precision", "int8"],
        ["--engine", "openvino"],
        ["--max-shapes", "B=8"],
        ["--max-shapes", "Q:8"],
        ["--min-shapes", "B:0"],
        ["--items", "0"],
        ["--seed", "-1"],
        ["--items", "5", "--checkpoint", "somewhere"],
        ["--max-items", "0"],
        ["--workspace-mib", "0"],
        ["--builder-level", "-1"],
        ["--attention-block", "-1"],
        ["--attention-block", "15"],
        ["--compute-capability", "8.9,sm120"],
        ["--no-such-flag"],
    ],
    ids=" ".join,
)
def test_a_word_no_build_can_use_exits_2_and_prints_nothing_on_stdout(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert capsys.readouterr().out == ""


def test_shapes_are_letter_size_pairs() -> None:
    assert parse_shapes("B:1,S:64, C:16") == {"B": 1, "S": 64, "C": 16}
    assert parse_shapes("") == {}
    for wrong in ("B", "B:", "B:-1", "B:1,B:2", "B:1x64"):
        with pytest.raises(ValueError, match="expected letter:size pairs"):
            parse_shapes(wrong)


def test_auto_becomes_fp32_onnx_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="export"):
        resolved = resolve(BuildSettings())
    assert (resolved.precision, resolved.engine, resolved.preset) == (Precision.FP32, Engine.NONE, "paper")
    assert "precision auto -> fp32" in caplog.text
    assert "engine auto -> none" in caplog.text


def test_bf16_is_refused_because_nothing_here_could_verify_it() -> None:
    with pytest.raises(BuildError, match="no bf16 kernels"):
        resolve(BuildSettings(precision=Precision.BF16))
    for kept in ((), ("ranker",)):
        with pytest.raises(BuildError, match=r"--keep-bf16 ranker: .*no bf16 matrices.*Use --keep-fp32"):
            resolve(BuildSettings(precision=Precision.FP16, keep_fp32=kept, keep_bf16=("ranker",)))


def test_the_profile_fills_up_with_what_the_model_can_take() -> None:
    config = PRESETS["tiny"]
    assert profile_of(BuildSettings(), config) == Profile(B=(1, 1, 8), S=(3, 20, 20), C=(1, 13, 13))
    asked = BuildSettings(min_shapes={"S": 4}, opt_shapes={"B": 16}, max_shapes={"S": 12, "C": 40})
    assert profile_of(asked, config) == Profile(B=(1, 16, 16), S=(4, 12, 12), C=(1, 13, 40))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"max_shapes": {"S": 21}}, "S is 3 .. 21, expected 3 .. 20"),
        ({"min_shapes": {"S": 2}}, "S is 2 .. 20"),
        ({"max_shapes": {"C": 12}}, "C is 1 .. 12, expected to hold 13"),
        ({"min_shapes": {"C": 14}, "opt_shapes": {"C": 15}}, "C is 14 .. 15, expected to hold 13"),
        ({"min_shapes": {"B": 9}}, "B is min 9, opt 1, max 8"),
    ],
)
def test_a_profile_the_model_cannot_take_is_refused(shapes: dict[str, dict[str, int]], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        profile_of(BuildSettings(**shapes), PRESETS["tiny"])
