"""docs/architecture.md and docs/readings.md say what the code says: files, letters, contracts, readings, flags."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import pytest
from markdown_pages import ROOT, rows, section, text

from export.settings import Precision
from export.stages import stage_specs
from oneranker.config import PRESETS, OneRankerConfig, RetrieverMode
from runtime.stage import parse_dim

PACKAGES = ("oneranker", "export", "runtime", "benchmarks")


def test_the_table_of_concepts_covers_every_file_of_some_length() -> None:
    places = [
        re.findall(r"`([^`]+)`", row[1])[0] for row in rows(section("docs/architecture.md", "Where to find what"))
    ]
    assert len(set(places)) == len(places)
    assert [place for place in places if not (ROOT / place).exists()] == []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if len(path.read_text(encoding="utf-8").splitlines()) >= 40:
            assert any(name == place or (place.endswith("/") and name.startswith(place)) for place in places), name


def test_the_alphabet_shows_the_presets_as_they_are() -> None:
    table = rows(section("docs/architecture.md", "One alphabet"))
    shown = {row[0]: row[2:] for row in table}
    for column, name in enumerate(("paper", "demo", "tiny")):
        letters = {**PRESETS[name].letters()}
        letters.pop("F")
        assert {letter: int(cells[column]) for letter, cells in shown.items() if cells[column].isdigit()} == letters


CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "trie": ({}, {"", "per enhancer layer", "trie", "trie, A > 0"}),
    "dense": ({"retriever": RetrieverMode.DENSE}, {"", "per enhancer layer", "dense"}),
    "without anchors": ({"anchors": 0}, {"", "per enhancer layer", "trie"}),
    "with features": ({"candidate_features": 4}, {"", "per enhancer layer", "trie", "trie, A > 0", "K > 0"}),
}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("case", CASES)
def test_the_contract_table_is_what_export_stages_says(case: str, precision: Precision) -> None:
    changes, when = CASES[case]
    config = replace(PRESETS["tiny"].with_tokens(vocabulary=100, fields=6), **changes)
    table = rows(section("docs/architecture.md", "Stage contracts"))
    assert {row[5] for row in table} == set.union(*(conditions for _, conditions in CASES.values()))
    told = [
        (stage, side, name.strip("`"), kind, resolved(shape.split(", "), config))
        for stage, side, name, kind, shape, condition in table
        if condition in when
    ]
    x = {Precision.FP32: "float32", Precision.FP16: "float16"}[precision]
    told = [(stage, side, name, x if kind == "x" else kind, shape) for stage, side, name, kind, shape in told]
    found = []
    for stage, spec in stage_specs(config, precision).items():
        for side, tensors in (("in", spec.inputs), ("out", spec.outputs)):
            for row in tensors:
                name = re.sub(r"(?<=^enhancer_key_)\d+$|(?<=^enhancer_value_)\d+$", "i", row.name)
                found.append((stage, side, name, row.dtype, resolved(row.shape, config)))
    assert told == list(dict.fromkeys(found))


def resolved(shape: Any, config: OneRankerConfig) -> tuple[Any, ...]:
    """Dims with the model's own letters in numbers, those that a request or a catalogue decides as they are."""
    known = {letter: size for letter, size in config.letters().items() if letter not in "SC"}
    out = []
    for dim in shape:
        letters, constant = parse_dim(int(dim) if str(dim).isdecimal() else dim)
        open_letters = [letter for letter in letters if letter not in known]
        out.append((tuple(open_letters), constant + sum(known[letter] for letter in letters if letter in known)))
    return tuple(dim if dim != (("C",), 0) else ((), config.candidates) for dim in out)


def test_every_reading_is_taken_or_said_not_to_be_and_its_file_says_so_too() -> None:
    table = rows(text("docs/readings.md").split("## ")[0])
    assert [row[0] for row in table] == [f"E{n}" for n in range(1, 42)]
    quoted = {path: text(path) for path in (row[3].strip("`") for row in table)}
    quotes = {name for body in quoted.values() for name in re.findall(r"\bE\d+\b", body)}
    for name, taken, reading, file in table:
        assert taken in {"yes", "partly", "no", "–"}
        assert reading
        everywhere = [path for path in (ROOT / "oneranker").rglob("*.py") if re.search(rf"\b{name}\b", text(path))]
        if everywhere:
            assert name in quotes
            assert ROOT / file.strip("`") in everywhere, f"{name} stands in {everywhere}"


def test_the_flags_of_the_ablations_exist() -> None:
    known = {field.name for field in fields(OneRankerConfig)}
    part = section("docs/readings.md", "The paper's ablation rows as flags")
    assert set(re.findall(r"`(\w+) = ", part)) - known == {"gamma"}
    assert "gamma: float" in text("oneranker/training/step.py")
