"""Which answers of the benchmark's backends count as the same."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from benchmarks.row import EAGER
from benchmarks.turn_process import CPP, TurnProcess, compare, find_program
from benchmarks.turn_worker import PYTHON
from runtime.errors import ParityError
from runtime.items import ItemIndex

Answers = list[list[tuple[str, float]]]
TRUTH: Answers = [[("a", 3.0), ("b", 2.0), ("c", 2.0 - 4e-6)], [("d", 1.0)]]
TIE_SWAPPED: Answers = [[("a", 3.0), ("c", 2.0 - 1e-6), ("b", 2.0 - 2e-6)], [("d", 1.0)]]
WRONG: dict[str, Answers] = {
    "no items": [[], []],
    "one item less": [TRUTH[0][:2], TRUTH[1]],
    "one item more": [TRUTH[0], [("d", 1.0), ("e", 0.5)]],
    "another item of the same score": [TRUTH[0], [("e", 1.0)]],
    "a score that is off": [TRUTH[0], [("d", 1.0 + 2e-5)]],
    "a score that is no number": [TRUTH[0], [("d", float("nan"))]],
    "two scores that changed places": [[("b", 3.0), ("a", 2.0), ("c", 2.0 - 4e-6)], TRUTH[1]],
}


@dataclass
class Backend:
    """Says what it was told to say."""

    name: str
    said: Answers

    def answers(self) -> Answers:
        return self.said


def compared(name: str, answers: Answers) -> None:
    compare(cast("list[TurnProcess]", [Backend(PYTHON, TRUTH), Backend(name, answers)]))


@pytest.mark.parametrize("name", [CPP, EAGER])
@pytest.mark.parametrize("what", WRONG)
def test_another_answer_than_pythons_is_refused(name: str, what: str) -> None:
    with pytest.raises(ParityError, match=f"{name}: request [01] is answered with"):
        compared(name, WRONG[what])


def test_items_whose_scores_tie_may_change_places_for_eager_pytorch_alone() -> None:
    compared(EAGER, TIE_SWAPPED)
    compared(CPP, TRUTH)
    with pytest.raises(ParityError):
        compared(CPP, TIE_SWAPPED)


def test_one_answer_less_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        compared(EAGER, TRUTH[:1])


@pytest.mark.cpp
def test_both_sides_fill_the_last_batch_with_the_same_requests(tiny_bundle: Path, tmp_path: Path) -> None:
    index = ItemIndex.read(tiny_bundle / "items")
    requests = [{"now": 9, "events": [{"item": index.id(i), "time": 1, "group": "g"}] * (i + 1)} for i in range(5)]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    job = {
        "bundle": str(tiny_bundle), "requests": str(tmp_path / "requests.jsonl"), "batch": 3, "top_k": 4,
        "threads": 1, "workers": 1, "checkpoint": None,
    }  # fmt: skip
    worker = [sys.executable, "-m", "benchmarks.turn_worker", PYTHON]
    with TurnProcess(CPP, [str(find_program(None))], job) as cpp, TurnProcess(PYTHON, worker, job) as python:
        compare([cpp, python])
        answers = python.answers()
    assert len(answers) == 6
    assert answers[5] == answers[0] != answers[1]
