"""A checkpoint comes back bit by bit, or is refused with what was found, what was expected and what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from assertions import World, assert_bitwise, tiny_world
from safetensors.torch import load_file, save_file

from oneranker import weights
from oneranker.config import preset
from oneranker.errors import CheckpointError


@pytest.fixture
def saved(tmp_path: Path) -> tuple[World, Path]:
    world = tiny_world()
    weights.save(world.model, tmp_path / "checkpoint")
    return world, tmp_path / "checkpoint"


def test_a_saved_model_comes_back_bit_by_bit_and_answers_the_same(saved: tuple[World, Path]) -> None:
    world, folder = saved
    model = weights.load(folder)
    assert not model.training
    assert model.config == world.config
    assert_bitwise(model.state_dict(), world.model.state_dict())
    batch = world.batch([9, 5])
    assert_bitwise(World(model.config, world.catalogue, model, world.index).answer(batch), world.answer(batch))


def test_a_checkpoint_holds_two_files_and_no_pickle(saved: tuple[World, Path]) -> None:
    _, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["width"] == 32


def test_saving_again_replaces_the_weights_whole(saved: tuple[World, Path]) -> None:
    _, folder = saved
    other = tiny_world(seed=1)
    weights.save(other.model, folder)
    assert_bitwise(weights.load(folder).state_dict(), other.model.state_dict())


def test_the_same_seed_gives_the_same_weights_whatever_ran_before_and_disturbs_nobody() -> None:
    torch.manual_seed(5)
    first = weights.initialise(preset("tiny"), seed=3)
    after_one = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after_one), "the global generator is where it was"
    second, other = weights.initialise(preset("tiny"), seed=3), weights.initialise(preset("tiny"), seed=4)
    assert_bitwise(second.state_dict(), first.state_dict())
    assert not torch.equal(other.enhancer.task_tokens, first.enhancer.task_tokens)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_weight_file_is_refused(saved: tuple[World, Path], share: float) -> None:
    path = saved[1] / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: weights do not fit .*expected .*train again"):
        weights.load(saved[1])


@pytest.mark.parametrize("change", ["missing", "unknown", "other shape"])
def test_weights_of_other_tensors_are_refused_and_named(saved: tuple[World, Path], change: str) -> None:
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    name = "enhancer.task_tokens" if change != "unknown" else "enhancer.more"
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3, 32)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=name):
        weights.load(saved[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_with_the_tensors_name(saved: tuple[World, Path], bad: float) -> None:
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    tensors["ranker.score_output.weight"][0, 3] = bad
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"'ranker\.score_output\.weight' has 1 values .*expected finite.*resume"):
        weights.load(saved[1])


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"width": 32}', '{"width": "32"}'])
def test_a_missing_or_damaged_config_is_refused(saved: tuple[World, Path], text: str | None) -> None:
    path = saved[1] / "config.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: no readable model config .*expected a folder .*train"):
        weights.load(saved[1])


def test_a_config_of_wrong_types_is_refused(saved: tuple[World, Path]) -> None:
    path = saved[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"width": "32"}))
    with pytest.raises(CheckpointError, match=r"config\.json: no readable model config"):
        weights.load(saved[1])


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable model config"):
        weights.load(tmp_path / "nothing")


def test_a_missing_weight_file_is_refused(saved: tuple[World, Path]) -> None:
    (saved[1] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: weights do not fit"):
        weights.load(saved[1])


def test_a_checkpoint_of_another_preset_is_refused_with_every_difference(saved: tuple[World, Path]) -> None:
    expected = replace(preset("tiny"), beams=10, anchors=8)
    with pytest.raises(CheckpointError, match=r"another preset \(anchors=7 not 8, beams=9 not 10\); drop --preset"):
        weights.load(saved[1], expected)


def test_the_tokenizers_sizes_do_not_make_it_another_preset(saved: tuple[World, Path]) -> None:
    assert preset("tiny").vocabulary != saved[0].config.vocabulary
    assert weights.load(saved[1], preset("tiny")).config == saved[0].config
