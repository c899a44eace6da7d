"""Unchanged code is seldom called slower by chance, and a slowdown of a fifth is seen: as often as the page says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_rows import row_set

from benchmarks.comparison import FASTER, SLOWER, TIME, compare_row_sets
from benchmarks.row import CHAIN, ENGINE, KERNELS, Row, timed
from benchmarks.row_set import RowSet


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
    assert moved <= 0.005 * rows, f"{moved} of {rows} rows"  # five rounds: a level outside of both spreads is rare


def test_the_level_of_a_row_of_alike_samples_is_the_median_of_its_rounds() -> None:
    found = re_runs(np.random.default_rng(3), 20, 5, 0.05)
    levels = 1 + 0.05 * np.random.default_rng(3).standard_normal((20, 5))
    for row, level in zip(found.rows, levels.tolist(), strict=True):
        real = timed(row, [[one] * 7 for one in level])
        assert (real.p50_ms, real.spread) == pytest.approx((row.p50_ms, row.spread))


def re_runs(random: np.random.Generator, rows: int, rounds: int, scatter: float, stage: str = CHAIN) -> RowSet:
    """Rows of unchanged code whose rounds' levels scatter; the samples of one round are alike, which is the worst."""
    levels = 1 + scatter * random.standard_normal((rows, rounds))
    middles, widths = np.median(levels, axis=1), np.ptp(levels, axis=1)  # of as many samples of every round
    plain = Row(case="", stage=stage, engine=ENGINE, batch=1)
    found = [
        replace(plain, case=f"x-{stage}-n{i}", p50_ms=p50, spread=width / p50, rounds=rounds)
        for i, (p50, width) in enumerate(zip(middles.tolist(), widths.tolist(), strict=True))
    ]
    return RowSet(row_set().run, found)


@pytest.mark.parametrize(
    ("rounds", "scatter", "least", "most"),
    [(3, 0.05, 1 / 18, 1 / 14), (5, 0.05, 1 / 300, 1 / 150), (3, 0.02, 1 / 200, 1 / 130), (5, 0.02, 0.0, 1 / 1000)],
)
def test_unchanged_code_moves_by_chance_as_rarely_as_the_page_says(
    rounds: int, scatter: float, least: float, most: float
) -> None:
    """docs/benchmarks.md, Spread and noise."""
    random = np.random.default_rng(0)
    old, new = (re_runs(random, 8_000, rounds, scatter) for _ in range(2))
    moved = [change for change in compare_row_sets(old, new).changes if change.verdict in (SLOWER, FASTER)]
    assert least <= len(moved) / 8_000 <= most


def test_a_re_run_of_a_matrix_in_five_rounds_hardly_ever_fails_and_one_of_20_percent_more_does() -> None:
    """35 rows of the chain, levels that scatter by 2 %."""
    random = np.random.default_rng(1)
    runs = 100
    failed = caught = 0
    for _ in range(runs):
        old, new = (re_runs(random, 35, 5, 0.02) for _ in range(2))
        failed += bool(compare_row_sets(old, new).worse)
        slow = [replace(row, p50_ms=1.2 * (row.p50_ms or 0.0)) if i == 7 else row for i, row in enumerate(new.rows)]
        worse = compare_row_sets(old, RowSet(new.run, slow)).worse
        caught += slow[7].case in {change.case for change in worse}
    assert failed <= 0.02 * runs
    assert caught >= 0.98 * runs
