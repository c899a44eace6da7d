"""The frozen architecture refuses what cannot work and reads back exactly what it wrote."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from oneranker.config import (
    PRESETS,
    DualChannel,
    OneRankerConfig,
    RelativeBias,
    RetrieverMode,
    TaskMask,
    preset,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 30, "heads": 4}, r"width=30 is no multiple of heads=4; change"),
        ({"width": 32, "heads": 4}, r"E=8, expected 16\.\.256 in steps of 8.*change width or heads"),
        ({"width": 40, "heads": 2}, r"E=20, expected 16\.\.256 in steps of 8"),
        ({"width": 528, "heads": 2}, r"E=264, expected 16\.\.256"),
        ({"max_history": 0}, "max_history=0, expected at least 1"),
        ({"max_history": 2}, "max_history below 3 has no room"),
        ({"interest_tokens": 0}, "interest_tokens=0, expected at least 1; raise it"),
        ({"value_tokens": 0}, "value_tokens=0"),
        ({"code_levels": 0}, "code_levels=0"),
        ({"codes": -1}, "codes=-1"),
        ({"beams": 0}, "beams=0"),
        ({"candidates": 0}, "candidates=0"),
    ],
)
def test_a_model_that_cannot_work_is_refused_with_the_field_and_its_value(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(preset("tiny"), **changes)


@pytest.mark.parametrize("field", ["anchors", "candidate_features", "enhancer_layers", "generator_layers"])
def test_a_negative_size_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=-1, expected at least 0"):
        dataclasses.replace(preset("tiny"), **{field: -1})


def test_a_config_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("tiny").width = 64  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_json_round_trip_keeps_every_field_and_its_type(name: str) -> None:
    config = dataclasses.replace(
        preset(name),
        relative_bias=RelativeBias.NONE,
        dual_channel=DualChannel.DIAG,
        retriever=RetrieverMode.DENSE,
        task_mask=TaskMask.STRICT,
    )
    again = OneRankerConfig.from_dict(json.loads(config.to_json()))
    assert again == config
    for field in dataclasses.fields(config):
        assert type(getattr(again, field.name)) is type(getattr(config, field.name)), field.name


@pytest.mark.parametrize("change", ["unknown", "missing"])
def test_an_unknown_or_missing_key_is_an_error_that_names_it(change: str) -> None:
    raw = dataclasses.asdict(preset("tiny"))
    if change == "unknown":
        raw["hidden_dim_2"] = 7
    else:
        del raw["beams"]
    with pytest.raises(ValueError, match=r"keys \['(hidden_dim_2|beams)'\] are unknown or missing"):
        OneRankerConfig.from_dict(raw)


def test_a_flag_value_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="circular"):
        OneRankerConfig.from_dict(dataclasses.asdict(preset("tiny")) | {"task_mask": "circular"})


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"got 'huge', expected one of \['demo', 'paper', 'tiny'\]"):
        preset("huge")


def test_the_paper_preset_is_the_papers_table() -> None:
    expected: dict[str, Any] = {
        "S": 2048, "D": 128, "H": 4, "E": 32, "T": 8, "A": 32, "M": 7, "V": 256, "W": 64, "C": 512,
    }  # fmt: skip
    config = preset("paper")
    assert {letter: config.letters()[letter] for letter in expected} == expected
    assert (config.generator_layers, config.enhancer_layers, config.interest_tokens, config.value_tokens) == (
        4,
        2,
        6,
        2,
    )


def test_no_two_letters_of_the_tiny_preset_are_equal() -> None:
    sizes = preset("tiny").with_tokens(vocabulary=100, fields=5).letters()
    assert len(set(sizes.values())) == len(sizes), sizes


def test_with_tokens_changes_nothing_else() -> None:
    config = preset("tiny").with_tokens(vocabulary=100, fields=5)
    assert (config.vocabulary, config.fields) == (100, 5)
    assert config.with_tokens(preset("tiny").vocabulary, preset("tiny").fields) == preset("tiny")
