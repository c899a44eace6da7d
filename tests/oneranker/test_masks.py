"""Every mask against the sentence of its docstring written as a nested loop."""

from __future__ import annotations

import pytest
import torch

from oneranker import masks
from oneranker.config import TaskMask


@pytest.mark.parametrize("length", [1, 2, 5])
def test_history_rows_read_themselves_and_what_came_before(length: int) -> None:
    mask = masks.causal(length)
    assert mask.shape == (1, 1, length, length)
    for row in range(length):
        assert mask[0, 0, row].tolist() == [key <= row for key in range(length)], f"row {row}"


def test_real_tokens_are_read_and_pads_are_not() -> None:
    lengths = [5, 3, 1]
    mask = masks.history(torch.tensor(lengths), 5)
    assert mask.shape == (3, 1, 1, 5)
    for request, length in enumerate(lengths):
        assert mask[request, 0, 0].tolist() == [key < length for key in range(5)], f"request {request}"


def test_an_empty_row_keeps_its_first_cell() -> None:
    assert masks.history(torch.tensor([0]), 4)[0, 0, 0].tolist() == [True, False, False, False]


def may_read(kind: TaskMask, row: int, key: int, task_tokens: int) -> bool:
    if kind is TaskMask.OPEN or row == key:
        return True
    row_is_task, key_is_task = row < task_tokens, key < task_tokens
    if row_is_task:
        return not key_is_task or key < row
    return key_is_task and kind is TaskMask.HETEROGENEOUS


@pytest.mark.parametrize("kind", list(TaskMask))
@pytest.mark.parametrize(("task_tokens", "anchors"), [(3, 2), (4, 7), (2, 0), (1, 1)])
def test_tasks_are_causal_and_meet_the_fakes_as_the_kind_says(task_tokens: int, anchors: int, kind: TaskMask) -> None:
    total = task_tokens + anchors
    mask = masks.tasks(task_tokens, anchors, kind)
    assert mask.shape == (1, 1, total, total)
    for row in range(total):
        expected = [may_read(kind, row, key, task_tokens) for key in range(total)]
        assert mask[0, 0, row].tolist() == expected, f"row {row}"


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_candidate_sees_the_ranking_token_and_itself_and_the_ranking_token_only_itself(count: int) -> None:
    mask = masks.candidates(count)
    assert mask.shape == (1, 1, 1 + count, 1 + count)
    for row in range(1 + count):
        assert mask[0, 0, row].tolist() == [key in (0, row) for key in range(1 + count)], f"row {row}"


def test_candidate_mask_of_fewer_candidates_is_the_leading_block() -> None:
    assert torch.equal(masks.candidates(9)[:, :, :5, :5], masks.candidates(4))
    assert torch.equal(masks.causal(9)[:, :, :4, :4], masks.causal(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_additive_form_is_0_where_read_and_minus_1e4_elsewhere(dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, False], [False, True]])
    additive = masks.additive(mask, dtype)
    assert additive.dtype == dtype
    expected = [[0.0, torch.tensor(-1e4, dtype=dtype).item()], [torch.tensor(-1e4, dtype=dtype).item(), 0.0]]
    assert additive.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_may_not_be_read_weighs_exactly_nothing(dtype: torch.dtype) -> None:
    score = torch.tensor([30.0, -30.0], dtype=dtype) + masks.BLOCKED
    assert torch.nn.functional.silu(score).tolist() == [0.0, 0.0]
    assert torch.softmax(torch.cat([score, torch.zeros(1, dtype=dtype)]), dim=0).tolist() == [0.0, 0.0, 1.0]
