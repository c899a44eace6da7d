from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.rounds import Rounds
from benchmarks.row import CHAIN, COMPILED, EAGER
from benchmarks.timed_case import TimedCase
from benchmarks.worker import Measured


def rounds_of(*middles: float, keep: int = 3, most: int = 8) -> Rounds:
    return Rounds([Measured(samples_ms={CHAIN: [middle]}) for middle in middles], keep, most)


@pytest.mark.parametrize(
    ("middles", "due"),
    [((), 3), ((1.0,), 2), ((1.0, 1.02, 1.04), 0), ((1.0, 1.02, 1.1), 1), ((1.0, 1.02, 1.1, 1.5), 1),
     ((1.0, 1.02, 1.1, 1.5, 1.01), 0), ((1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7), 0)],
)  # fmt: skip
def test_an_engine_takes_turns_until_its_quickest_rounds_agree_within_5_percent(
    middles: tuple[float, ...], due: int
) -> None:
    assert rounds_of(*middles).due == due


def test_one_round_is_enough_where_one_is_asked_for() -> None:
    assert rounds_of(1.0, keep=1, most=8).due == 0


def test_what_could_not_run_is_not_asked_again() -> None:
    assert Rounds([Measured(not_run="no compiler")], 3, 8).due == 0


def test_slow_starters_need_fewer_rounds_and_never_more_than_the_others() -> None:
    assert [(r.keep, r.most) for r in (Rounds.of_engine(EAGER, 3, 8), Rounds.of_engine(COMPILED, 3, 8))] == [
        (3, 8),
        (2, 3),
    ]
    assert (Rounds.of_engine(COMPILED, 1, 1).keep, Rounds.of_engine(COMPILED, 1, 1).most) == (1, 1)


def test_a_round_s_level_is_that_of_its_quiet_samples_if_there_are_some() -> None:
    found = Rounds(
        [
            Measured(samples_ms={CHAIN: [9.0, 1.0, 1.0, 1.0]}, quiet_ms={CHAIN: [1.0, 1.0, 1.0]}),
            Measured(samples_ms={CHAIN: [9.0, 1.0, 5.0]}, quiet_ms={CHAIN: [1.0]}),
            Measured(samples_ms={CHAIN: [7.0]}),
        ]
    )
    assert found.quiet_ms(CHAIN) == [[1.0, 1.0, 1.0], [9.0, 1.0, 5.0], [7.0]]


def test_when_time_is_over_an_engine_still_gets_the_rounds_to_keep_and_no_more() -> None:
    found = {"a": rounds_of(), "b": rounds_of(1.0, 2.0), "c": rounds_of(1.0, 2.0, 3.0), "d": rounds_of(1.0, 1.0, 1.0)}
    case = TimedCase(cast("Any", None), cast("Any", None), Path(), found)
    assert case.due(until=-math.inf) == ["a", "b"]
    assert case.due(until=math.inf) == ["a", "b", "c"]
