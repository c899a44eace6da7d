from __future__ import annotations

import numpy as np

from benchmarks.errors import errors
from benchmarks.row import CHAIN

OUTPUTS = {
    "generator": ["history_hidden"],
    "retriever": ["candidate_items", "candidate_logp", "candidate_head", "candidate_count"],
    "ranker": ["scores"],
}


def answers(**changed: np.ndarray) -> dict[str, np.ndarray]:
    plain = {
        "history_hidden": np.array([[1.0, 2.0]], np.float32),
        "candidate_items": np.array([[4, 7, -1]], np.int32),
        "candidate_logp": np.array([[-1.0, -2.0, -1e30]], np.float32),
        "candidate_head": np.array([[0, 1, -1]], np.int32),
        "candidate_count": np.array([2], np.int32),
        "scores": np.array([[0.5, 3.0, -1e30]], np.float32),
    }
    return {f"0.{name}": array for name, array in (plain | changed).items()}


def test_equal_answers_have_no_error() -> None:
    found = errors(answers(), answers(), answers(), OUTPUTS)
    assert {stage: error.max_error for stage, error in found.items()} == dict.fromkeys([*OUTPUTS, CHAIN], 0)
    assert not any(error.failures for error in found.values())


def test_an_error_is_the_largest_difference_and_stays_with_its_stage() -> None:
    found = errors(answers(history_hidden=np.array([[1.0, 2.5]], np.float32)), answers(), answers(), OUTPUTS)
    assert found["generator"].max_error == 0.5
    assert found["generator"].failures
    assert found["ranker"].max_error == found["retriever"].max_error == found[CHAIN].max_error == 0


def test_candidates_that_change_places_are_compared_item_by_item() -> None:
    swapped = answers(
        candidate_items=np.array([[7, 4, -1]], np.int32),
        candidate_logp=np.array([[-2.0, -1.0, -1e30]], np.float32),
        candidate_head=np.array([[1, 0, -1]], np.int32),
        scores=np.array([[3.0, 0.5, -1e30]], np.float32),
    )
    found = errors(swapped, answers(), answers(), OUTPUTS)
    assert found["retriever"].max_error == found[CHAIN].max_error == 0


def test_twice_the_rounding_of_eager_pytorch_is_allowed() -> None:
    scores = np.array([[0.5, 3.0, -1e30]], np.float32)
    rounded, fine, bad = (answers(scores=scores + np.float32(step)) for step in (0.1, 0.19, 0.3))
    assert not errors(fine, rounded, answers(), OUTPUTS)[CHAIN].failures
    assert errors(bad, rounded, answers(), OUTPUTS)[CHAIN].failures


def test_an_answer_that_is_not_a_number_has_no_error_and_fails() -> None:
    found = errors(answers(scores=np.array([[np.nan, 3.0, -1e30]], np.float32)), answers(), answers(), OUTPUTS)
    assert found[CHAIN].max_error is None
    assert found[CHAIN].failures
