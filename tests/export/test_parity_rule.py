from __future__ import annotations

import itertools

import numpy as np
import pytest

from export.parity import CandidateLists, StageParity, compare_lists, kendall_tau


def value_failures(found: list[float], eager: list[float], reference: list[float]) -> list[str]:
    report = StageParity()
    report.value("tensor").add(np.array(found), np.array(eager), np.array(reference))
    return report.failures()


def test_an_export_may_be_twice_as_far_from_fp32_as_eager_and_no_further() -> None:
    reference = [1.0, -2.0, 3.0]
    assert not value_failures([1.0, -2.0, 3.019], [1.01, -2.0, 3.0], reference)
    assert value_failures([1.0, -2.0, 3.021], [1.01, -2.0, 3.0], reference) == [
        "'tensor' is off by 0.021, allowed 0.02"
    ]


def test_fp32_may_differ_by_a_hundred_thousandth_of_the_largest_value() -> None:
    assert not value_failures([100.0, 0.0009], [100.0, 0.0], [100.0, 0.0])
    assert value_failures([100.0, 0.0011], [100.0, 0.0], [100.0, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_whatever_eager_did(bad: float) -> None:
    assert value_failures([bad], [5.0], [1.0]) == ["'tensor' has values that are NaN or infinite"]


def test_tensors_of_other_shapes_are_never_compared() -> None:
    with pytest.raises(ValueError, match="shapes"):
        StageParity().value("tensor").add(np.zeros(3), np.zeros(3), np.zeros(4))


def test_kendall_tau_counts_pairs() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        left, right = generator.integers(0, 6, size=(2, 7))
        signs = [
            np.sign(left[i] - left[j]) * np.sign(right[i] - right[j]) for i, j in itertools.combinations(range(7), 2)
        ]
        untied = [sign for sign in signs if sign]
        assert kendall_tau(left, right) == pytest.approx(sum(untied) / len(untied) if untied else 1.0)
    assert kendall_tau(np.arange(5), np.arange(5)) == 1
    assert kendall_tau(np.arange(5), -np.arange(5)) == -1


def lists(items: list[int], values: list[float]) -> CandidateLists:
    return CandidateLists(np.array([items]), np.array([values]))


def list_failures(found: CandidateLists, eager: CandidateLists, reference: CandidateLists) -> list[str]:
    report = StageParity()
    compare_lists(report, "scores", found, eager, reference)
    return report.failures()


def test_neighbours_may_change_places_and_pads_are_no_items() -> None:
    reference = lists([4, 7, 9, -1], [3.0, 2.00001, 2.0, -1e30])
    swapped = lists([4, 9, 7, -1], [3.0, 2.00001, 2.00001, -1e30])
    assert not list_failures(swapped, reference, reference)


def test_other_items_fail_though_every_value_is_right() -> None:
    reference = lists(list(range(20)), [float(-i) for i in range(20)])
    other = lists([*range(8), *range(30, 42)], [float(-i) for i in range(20)])
    assert [line.split(" is ")[0] for line in list_failures(other, reference, reference)] == [
        "top10_overlap",
        "common_items",
    ]


def test_a_reversed_ranking_fails() -> None:
    reference = lists([1, 2, 3], [3e-9, 2e-9, 1.0])
    assert any(
        "kendall_tau" in line for line in list_failures(lists([1, 2, 3], [1e-9, 2e-9, 1.0]), reference, reference)
    )
