"""A planted slowdown is called slower, a faster row faster, a re-run noise; nothing is compared that cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_rows import row_set

from benchmarks.compare import main
from benchmarks.comparison import FASTER, LARGER, MEMORY, NOISE, ONE_ROUND, SLOWER, SMALLER, TIME, compare_row_sets
from benchmarks.row import CHAIN, EAGER, ENGINE, KERNELS, OPEN, Row
from benchmarks.row_set import RowSet
from runtime.errors import OneRankerError


def verdicts(old: RowSet, new: RowSet, quantity: str = TIME, **how: bool) -> dict[str, set[str]]:
    changes = compare_row_sets(old, new, **how).changes
    kept = [change for change in changes if change.quantity == quantity]
    return {engine: {c.verdict for c in kept if c.engine == engine} for engine in {c.engine for c in kept}}


def one_row(p50_ms: float, spread: float | None, **more: object) -> RowSet:
    row = Row(case="demo-chain-b1", stage=CHAIN, engine=ENGINE, batch=1, p50_ms=p50_ms, spread=spread, rounds=3)
    return RowSet(row_set().run, [replace(row, **more)])


def test_a_planted_slowdown_of_20_percent_is_flagged_and_only_there() -> None:
    for seed in range(40):
        found = verdicts(row_set(seed), row_set(1000 + seed, {KERNELS: 1.2}))
        assert found.pop(KERNELS) == {SLOWER}, f"seed {seed}"
        assert all(SLOWER not in of and FASTER not in of for of in found.values()), f"seed {seed}"


@pytest.mark.parametrize("noise", [0.002, 0.02, 0.04])
def test_a_re_run_from_the_same_distribution_is_noise(noise: float) -> None:
    moved = sum(
        len(compare_row_sets(row_set(seed, noise=noise), row_set(5000 + seed, noise=noise)).worse) for seed in range(60)
    )
    rows = 60 * len(row_set().rows)
    assert moved <= 0.005 * rows, f"{moved} of {rows} rows"  # five rounds: a level outside of both spreads is rare


@pytest.mark.parametrize(
    ("rounds", "scatter", "least", "most"),
    [(3, 0.05, 1 / 30, 1 / 15), (5, 0.05, 0.0, 1 / 250), (3, 0.02, 0.0, 1 / 300), (5, 0.02, 0.0, 1 / 4000)],
)
def test_unchanged_code_moves_by_chance_as_rarely_as_the_page_says(
    rounds: int, scatter: float, least: float, most: float
) -> None:
    """docs/benchmarks.md, Spread and noise."""
    random = np.random.default_rng(0)

    def run() -> RowSet:
        levels = 1 + scatter * random.standard_normal((8000, rounds))
        middles, widths = levels.mean(axis=1), np.ptp(levels, axis=1)
        rows = [
            Row(case=f"x-chain-n{i}", stage="generator", engine=ENGINE, batch=1, p50_ms=p50, spread=width / p50)
            for i, (p50, width) in enumerate(zip(middles.tolist(), widths.tolist(), strict=True))
        ]
        return RowSet(row_set().run, rows)

    moved = [change for change in compare_row_sets(run(), run()).changes if change.verdict != NOISE]
    assert least <= len(moved) / 8000 <= most


def test_a_faster_row_is_called_faster() -> None:
    found = verdicts(row_set(1), row_set(2, {KERNELS: 0.7}))
    assert found[KERNELS] == {FASTER}


@pytest.mark.parametrize(
    ("old", "new", "spreads", "said"),
    [
        (100.0, 105.0, (0.0, 0.0), NOISE), (100.0, 105.1, (0.0, 0.0), SLOWER),
        (105.0, 100.0, (0.0, 0.0), NOISE), (105.1, 100.0, (0.0, 0.0), FASTER),
        (100.0, 129.0, (0.3, 0.0), NOISE), (100.0, 129.0, (0.0, 0.3), NOISE), (100.0, 131.0, (0.3, 0.2), SLOWER),
        (131.0, 100.0, (0.2, 0.3), FASTER), (129.0, 100.0, (0.2, 0.3), NOISE),
    ],
)  # fmt: skip
def test_noise_ends_at_the_largest_of_5_percent_and_both_spreads(
    old: float, new: float, spreads: tuple[float, float], said: str
) -> None:
    [change, _] = compare_row_sets(one_row(old, spreads[0]), one_row(new, spreads[1])).changes
    assert change.verdict == said


def test_a_row_of_one_round_is_given_the_tolerance_of_one() -> None:
    for factor, said in ((ONE_ROUND - 0.01, NOISE), (ONE_ROUND + 0.01, SLOWER)):
        [change, _] = compare_row_sets(one_row(100.0, 0.0), one_row(100.0 * (1 + factor), None)).changes
        assert change.verdict == said


@pytest.mark.parametrize(("new", "said"), [(109.0, NOISE), (111.0, LARGER), (90.0, SMALLER)])
def test_memory_is_flagged_above_a_tenth(new: float, said: str) -> None:
    old = one_row(1.0, 0.0, peak_memory_mib=100.0)
    assert verdicts(old, one_row(1.0, 0.0, peak_memory_mib=new), MEMORY) == {ENGINE: {said}}


def test_an_open_loop_is_compared_only_at_the_same_rate_of_arrivals() -> None:
    old = one_row(10.0, 0.0, stage=OPEN, offered_per_s=50.0)
    slow = one_row(20.0, 0.0, stage=OPEN, offered_per_s=51.0)
    busy = one_row(20.0, 0.0, stage=OPEN, offered_per_s=70.0)
    assert verdicts(old, slow) == {ENGINE: {SLOWER}}
    assert verdicts(old, busy) == {ENGINE: {"not compared: 50 and 70 requests arrived per second"}}


def test_what_was_not_measured_is_not_compared() -> None:
    found = verdicts(row_set(1), row_set(2))["pytorch-compile"]
    assert found == {"not compared: no p50_ms in old and new"}


@pytest.mark.parametrize("change", [{"machine": "Other CPU, 2 cores"}, {"threads": 1}])
def test_times_of_another_place_are_refused_and_ratios_are_not(change: dict[str, object]) -> None:
    other = row_set(2, dict.fromkeys((EAGER, ENGINE), 3.0), run=change)
    with pytest.raises(OneRankerError, match="--ratios") as raised:
        compare_row_sets(row_set(1), other)
    assert next(iter(change)) in str(raised.value)
    found = verdicts(row_set(1), other, "p50_vs_eager", ratios=True)
    assert found[EAGER] == {"yardstick"}
    assert NOISE in found[ENGINE]
    assert SLOWER not in found[ENGINE]  # three times slower, as eager is
    assert found[KERNELS] == {FASTER}


def test_a_ratio_that_fell_is_slower_and_eagers_own_spread_counts() -> None:
    assert verdicts(row_set(1), row_set(2, {KERNELS: 1.3}), "p50_vs_eager", ratios=True)[KERNELS] == {SLOWER}
    old, new = row_set(1), row_set(2, {KERNELS: 1.3})
    restless = [replace(row, spread=0.5) if row.engine == EAGER else row for row in new.rows]
    assert verdicts(old, RowSet(new.run, restless), "p50_vs_eager", ratios=True)[KERNELS] == {NOISE}


def test_row_sets_with_nothing_in_common_are_an_error() -> None:
    with pytest.raises(OneRankerError, match="expected some"):
        compare_row_sets(row_set(1), RowSet(row_set().run))


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.3, 1), (0.7, 0)])
def test_the_exit_code_says_whether_something_is_slower(
    factor: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = row_set(2, {KERNELS: factor})
    extra = replace(new.rows[0], case="demo-chain-b9")
    row_set(1).write(tmp_path / "old.jsonl")
    RowSet(new.run, [*new.rows[1:], extra], new.retrieval).write(tmp_path / "new.jsonl")
    assert main([str(tmp_path / "old.jsonl"), str(tmp_path / "new.jsonl")]) == code
    told = capsys.readouterr().out
    line = json.loads(told.splitlines()[-1])
    assert line["only_old"] == [[new.rows[0].case, EAGER]]
    assert line["only_new"] == [["demo-chain-b9", EAGER]]
    assert "only in the new row set: demo-chain-b9 on pytorch-eager" in told
    assert ("slower" in line["counts"], "faster" in line["counts"]) == (factor > 1, factor < 1)
    assert (f"x slower ({TIME}): demo-chain-b1-s64-c32-n1000 on {KERNELS}" in told) is (factor > 1)


def test_errors_and_usage_have_their_own_exit_codes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "expected a row set" in caplog.text
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "a"), str(tmp_path / "b"), "--tolerance", "-1"])
    assert stopped.value.code == 2
