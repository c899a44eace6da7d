"""Unchanged code is seldom called slower by chance, and a slowdown of a fifth is seen: as often as the page says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_rows import row_set

from benchmarks.comparison import FASTER, SLOWER, TIME, compare_row_sets
from benchmarks.rounds import Rounds
from benchmarks.row import CHAIN, ENGINE, KERNELS, Row, timed
from benchmarks.row_set import RowSet
from benchmarks.worker import Measured


def times(old: RowSet, new: RowSet) -> dict[str, set[str]]:
    """Verdicts of every engine's times."""
    kept = [change for change in compare_row_sets(old, new).changes if change.quantity == TIME]
    return {engine: {c.verdict for c in kept if c.engine == engine} for engine in {c.engine for c in kept}}


def test_a_planted_slowdown_of_20_percent_is_flagged_and_only_there() -> None:
    for seed in range(40):
        found = times(row_set(seed), row_set(1000 + seed, {KERNELS: 1.2}))
        assert found.pop(KERNELS) == {SLOWER}, f"seed {seed}"
        assert all(SLOWER not in of and FASTER not in of for of in found.values()), f"seed {seed}"


@pytest.mark.parametrize("noise", [0.002, 0.02, 0.04])
def test_a_re_run_from_the_same_distribution_is_noise(noise: float) -> None:
    moved = sum(
        len(compare_row_sets(row_set(seed, noise=noise), row_set(5000 + seed, noise=noise)).worse) for seed in range(60)
    )
    rows = 60 * len(row_set().rows)
    assert moved <= 0.005 * rows, f"{moved} of {rows} rows"  # a level outside of 10 % and both spreads is rare


def measured(random: np.random.Generator, scatter: float, disturbed: float, factor: float = 1.0) -> tuple[Row, int]:
    """A row of rounds whose levels scatter, some of them slowed by up to twice; the samples of a round are alike."""
    rounds = Rounds([], keep=3, most=8)
    while rounds.due:
        level = factor * (1 + scatter * random.standard_normal())
        if random.random() < disturbed:
            level *= 1 + random.random()
        rounds.found.append(Measured(samples_ms={CHAIN: [level]}))
    row = Row(case="", stage=CHAIN, engine=ENGINE, batch=1)
    return timed(row, rounds.samples_ms(CHAIN), rounds.keep), len(rounds.found)


def runs(random: np.random.Generator, rows: int, *how: float) -> tuple[RowSet, float]:
    """So many rows, and the rounds that one took on average."""
    found = [measured(random, *how) for _ in range(rows)]
    named = [replace(row, case=f"x-{CHAIN}-n{i}") for i, (row, _) in enumerate(found)]
    return RowSet(row_set().run, named), sum(count for _, count in found) / rows


@pytest.mark.parametrize(
    ("scatter", "disturbed", "rounds", "alarms", "seen"),
    [(0.02, 0.0, 3.3, 0.0, 1.0), (0.02, 0.3, 4.5, 1 / 1200, 0.99), (0.02, 0.5, 5.7, 1 / 100, 0.91),
     (0.05, 0.0, 5.5, 1 / 40, 0.96)],
)  # fmt: skip
def test_unchanged_code_is_called_slower_and_20_percent_are_seen_as_often_as_the_page_says(
    scatter: float, disturbed: float, rounds: float, alarms: float, seen: float
) -> None:
    """docs/benchmarks.md, Spread and noise."""
    random, rows = np.random.default_rng(0), 2000
    (old, took), (new, _) = (runs(random, rows, scatter, disturbed) for _ in range(2))
    slow, _ = runs(random, rows, scatter, disturbed, 1.2)
    assert took == pytest.approx(rounds, abs=0.2)
    assert len(compare_row_sets(old, new).worse) / rows == pytest.approx(alarms, rel=0.5, abs=1 / 800)
    assert len(compare_row_sets(old, slow).worse) / rows == pytest.approx(seen, abs=0.015)
