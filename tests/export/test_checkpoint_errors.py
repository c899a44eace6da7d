from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_source, write_checkpoint

from export.build import main
from export.model_source import ModelSource
from oneranker import weights


@pytest.fixture
def source() -> ModelSource:
    return tiny_source()


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """Builds from a checkpoint: exit code 1, nothing on stdout, nothing at --out; returns the message."""

    def build(checkpoint: Path, *more: str) -> str:
        out = tmp_path / "out" / "bundle"
        caplog.clear()
        assert main(["--checkpoint", str(checkpoint), "--out", str(out), *more]) == 1
        assert capsys.readouterr().out == ""
        assert not list(out.parent.iterdir())
        return caplog.messages[-1]

    return build


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    source: ModelSource, tmp_path: Path, refused: Callable[..., str], bad: float
) -> None:
    with torch.no_grad():
        source.model.ranker.score_output.weight[0, 3] = bad
    message = refused(write_checkpoint(source, tmp_path / "checkpoint"))
    assert "ranker.score_output.weight" in message
    assert "expected finite weights" in message


def test_a_checkpoint_of_another_preset_is_refused(
    source: ModelSource, tmp_path: Path, refused: Callable[..., str]
) -> None:
    message = refused(write_checkpoint(source, tmp_path / "checkpoint"), "--preset", "demo")
    assert "checkpoint of another preset" in message
    assert "width=32 not 64" in message


def test_a_tokenizer_of_another_training_is_refused(
    source: ModelSource, tmp_path: Path, refused: Callable[..., str]
) -> None:
    checkpoint = write_checkpoint(source, tmp_path / "checkpoint")
    path = checkpoint / weights.TOKENIZER_FILE
    path.write_text(path.read_text().replace('"old"', '"old","older"'))
    message = refused(checkpoint)
    assert "rows of the embedding table" in message
    assert "of one training" in message


def test_anchors_of_another_catalogue_are_refused(
    source: ModelSource, tmp_path: Path, refused: Callable[..., str]
) -> None:
    source.catalogue.anchors[0] += np.float32(1)
    assert "fake items are not the catalogue's anchors" in refused(write_checkpoint(source, tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    "name", [weights.CONFIG_FILE, weights.WEIGHTS_FILE, weights.TOKENIZER_FILE, weights.CATALOGUE_FILE]
)
def test_a_missing_or_damaged_file_is_named(
    source: ModelSource, tmp_path: Path, refused: Callable[..., str], name: str
) -> None:
    checkpoint = write_checkpoint(source, tmp_path / "checkpoint")
    (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:40])
    assert name in refused(checkpoint)
    (checkpoint / name).unlink()
    assert name in refused(checkpoint)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "nowhere" in refused(tmp_path / "nowhere")
