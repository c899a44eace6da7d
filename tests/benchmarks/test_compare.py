"""A planted slowdown is called slower, a faster row faster, a re-run noise; nothing is compared that cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_rows import row_set

from benchmarks.compare import main
from benchmarks.comparison import (
    FASTER,
    LARGER,
    LOST,
    MEMORY,
    NOISE,
    NOISY,
    ONE_ROUND,
    SLOWER,
    SMALLER,
    TIME,
    compare_row_sets,
    differences,
)
from benchmarks.row import CHAIN, EAGER, ENGINE, KERNELS, NAIVE, OPEN, Row
from benchmarks.row_set import RowSet
from runtime.errors import OneRankerError


def verdicts(old: RowSet, new: RowSet, quantity: str = TIME, **how: bool) -> dict[str, set[str]]:
    changes = compare_row_sets(old, new, **how).changes
    kept = [change for change in changes if change.quantity == quantity]
    return {engine: {c.verdict for c in kept if c.engine == engine} for engine in {c.engine for c in kept}}


def one_row(p50_ms: float, spread: float | None, **more: object) -> RowSet:
    row = Row(case="demo-chain-b1", stage=CHAIN, engine=ENGINE, batch=1, p50_ms=p50_ms, spread=spread, rounds=3)
    return RowSet(row_set().run, [replace(row, **more)])


@pytest.mark.parametrize("engine", [ENGINE, EAGER])
def test_a_stage_that_is_slower_is_listed_and_does_not_decide(engine: str) -> None:
    old = row_set(1)
    rows = [
        replace(row, p50_ms=2 * row.p50_ms) if (row.stage, row.engine) == ("generator", engine) and row.p50_ms else row
        for row in old.rows
    ]
    found = compare_row_sets(old, RowSet(old.run, rows, old.retrieval))
    assert [(change.stage, change.engine) for change in found.changes if change.verdict == SLOWER] == [
        ("generator", engine)
    ]
    assert found.worse == []


def test_a_slower_search_is_listed_and_does_not_decide() -> None:
    old = row_set(1)
    slow = [{**row, "p50_ms": row["p50_ms"] and 2 * row["p50_ms"]} for row in old.retrieval]
    found = compare_row_sets(old, RowSet(old.run, old.rows, slow))
    assert [change.case for change in found.changes if change.verdict == SLOWER] == [
        row["case"] for row in old.retrieval if row["p50_ms"]
    ]
    assert found.worse == []


@pytest.mark.parametrize("ratios", [False, True])
@pytest.mark.parametrize(
    ("engine", "decides"), [(ENGINE, True), (KERNELS, True), (NAIVE, False)], ids=["ours", "kernels", "peer"]
)
@pytest.mark.parametrize("told", [True, False], ids=["not run", "missing"])
def test_what_is_no_longer_measured_is_lost_and_decides_if_it_is_our_chain(
    told: bool, engine: str, decides: bool, ratios: bool
) -> None:
    old = row_set(1)
    gone = [row for row in old.rows if row.engine != engine or row.stage == OPEN]
    if told:
        gone += [Row(case=r.case, stage=r.stage, engine=engine, batch=1, note="not run: no library") for r in old.rows
                 if r.engine == engine and r.stage != OPEN]  # fmt: skip
    found = compare_row_sets(old, RowSet(old.run, gone, old.retrieval), ratios=ratios)
    lost = [change for change in found.changes if change.verdict == LOST]
    assert {(change.stage, change.engine) for change in lost} == {("generator", engine), (CHAIN, engine)}
    assert [(change.stage, change.engine) for change in found.worse] == ([(CHAIN, engine)] if decides else [])
    assert found.only_old == []


def test_without_eager_every_ratio_of_ours_is_lost() -> None:
    old = row_set(1)
    new = [replace(row, p50_vs_eager=None) for row in old.rows if row.engine != EAGER]
    found = compare_row_sets(old, RowSet(old.run, new, old.retrieval), ratios=True)
    assert {change.engine for change in found.worse} == {ENGINE, KERNELS}
    assert {change.verdict for change in found.worse} == {LOST}


def test_a_case_that_was_not_run_again_is_listed_and_not_lost() -> None:
    old = row_set(1)
    other = [replace(row, case=row.case.replace("-b1-", "-b8-")) for row in old.rows]
    found = compare_row_sets(RowSet(old.run, [*old.rows, *other], old.retrieval), RowSet(old.run, old.rows))
    listed = [(row.case, row.engine) for row in other] + [(row["case"], row["engine"]) for row in old.retrieval]
    assert sorted(found.only_old) == sorted(listed)
    assert found.worse == []
    assert LOST not in {change.verdict for change in found.changes}


@pytest.mark.parametrize(
    ("new", "spread", "tolerance", "said"),
    [
        (110.0, 0.30, 0.05, NOISE), (110.0, 0.31, 0.05, NOISY), (90.0, 0.31, 0.05, NOISY), (100.0, 2.0, 0.05, NOISY),
        (150.0, 0.31, 0.05, SLOWER), (50.0, 0.31, 0.05, FASTER), (110.0, 0.31, 0.4, NOISE), (110.0, 0.41, 0.4, NOISY),
    ],
)  # fmt: skip
def test_a_row_whose_noise_is_above_30_percent_is_noisy_unless_so_much_was_asked_for(
    new: float, spread: float, tolerance: float, said: str
) -> None:
    for spreads in ((spread, 0.0), (0.0, spread)):
        found = compare_row_sets(one_row(100.0, spreads[0]), one_row(new, spreads[1]), tolerance=tolerance)
        assert found.changes[0].verdict == said
        assert found.noisy == ([found.changes[0]] if said == NOISY else [])
        assert found.worse == ([found.changes[0]] if said == SLOWER else [])


def test_noisy_rows_are_told_and_do_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_row(100.0, 0.5).write(tmp_path / "old.jsonl")
    one_row(101.0, 0.0).write(tmp_path / "new.jsonl")
    assert main([str(tmp_path / "old.jsonl"), str(tmp_path / "new.jsonl")]) == 0
    *_, said, _, line = capsys.readouterr().out.strip().splitlines()
    assert json.loads(line)["noisy"] == 1
    assert json.loads(line)["worse"] == []
    assert "1 rows of the chain are noisy, by more than 30%: nothing can be said" in said


def test_a_faster_row_is_called_faster() -> None:
    found = verdicts(row_set(1), row_set(2, {KERNELS: 0.7}))
    assert found[KERNELS] == {FASTER}


@pytest.mark.parametrize(
    ("old", "new", "spreads", "said"),
    [
        (100.0, 110.0, (0.0, 0.0), NOISE), (100.0, 110.1, (0.0, 0.0), SLOWER),
        (110.0, 100.0, (0.0, 0.0), NOISE), (110.1, 100.0, (0.0, 0.0), FASTER),
        (100.0, 129.0, (0.3, 0.0), NOISE), (100.0, 129.0, (0.0, 0.3), NOISE), (100.0, 131.0, (0.3, 0.2), SLOWER),
        (131.0, 100.0, (0.2, 0.3), FASTER), (129.0, 100.0, (0.2, 0.3), NOISE),
    ],
)  # fmt: skip
def test_noise_ends_at_the_largest_of_10_percent_and_both_spreads(
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


def test_an_open_loop_has_no_ratios_to_compare() -> None:
    old = one_row(10.0, 0.0, stage=OPEN, offered_per_s=50.0, p50_vs_eager=2.0)
    new = one_row(20.0, 0.0, stage=OPEN, offered_per_s=50.0, p50_vs_eager=1.0)
    [said] = verdicts(old, new, "p50_vs_eager", ratios=True)[ENGINE]
    assert said.startswith("not compared: requests arrive by chance")


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
    assert verdicts(old, RowSet(new.run, restless), "p50_vs_eager", ratios=True)[KERNELS] == {NOISY}
    restless = [replace(row, spread=0.29) if row.engine == EAGER else row for row in row_set(2, {KERNELS: 1.2}).rows]
    assert verdicts(old, RowSet(new.run, restless), "p50_vs_eager", ratios=True)[KERNELS] == {NOISE}


def test_row_sets_with_nothing_in_common_are_an_error() -> None:
    with pytest.raises(OneRankerError, match="expected some"):
        compare_row_sets(row_set(1), RowSet(row_set().run))


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.3, 1), (0.7, 0)])
def test_the_exit_code_says_whether_something_is_slower(
    factor: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = row_set(2, {KERNELS: factor})
    extra = replace(new.rows[0], case="demo-chain-b9", stage=CHAIN)
    gone = replace(new.rows[0], case="demo-chain-b7", stage=CHAIN)
    RowSet(new.run, [*row_set(1).rows, gone], new.retrieval).write(tmp_path / "old.jsonl")
    RowSet(new.run, [*new.rows, extra], new.retrieval).write(tmp_path / "new.jsonl")
    assert main([str(tmp_path / "old.jsonl"), str(tmp_path / "new.jsonl")]) == code
    told = capsys.readouterr().out
    line = json.loads(told.splitlines()[-1])
    assert line["only_old"] == [["demo-chain-b7", EAGER]]
    assert line["only_new"] == [["demo-chain-b9", EAGER]]
    assert "only in the old row set, its case was not run again: demo-chain-b7 on pytorch-eager" in told
    assert "only in the new row set: demo-chain-b9 on pytorch-eager" in told
    case = "demo-chain-b1-s64-c32-n1000"
    assert line["worse"] == ([[case, KERNELS, TIME]] if code else [])
    assert ("slower" in line["counts"], "faster" in line["counts"]) == (factor > 1, factor < 1)
    assert (f"x slower ({TIME}): demo-chain-b1-s64-c32-n1000 on {KERNELS}; this decides" in told) is (factor > 1)


def test_errors_and_usage_have_their_own_exit_codes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "expected a row set" in caplog.text
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "a"), str(tmp_path / "b"), "--tolerance", "-1"])
    assert stopped.value.code == 2


def test_a_machine_whose_ceilings_moved_is_told_apart_from_code_that_did() -> None:
    slower = {"ceilings": {"gemm_fp32_gflops": 80.0, "gemm_bf16_gflops": 204.0, "copy_gb_s": 10.0}}
    assert differences(row_set().run, row_set(run=slower).run) == ["ceiling gemm_fp32_gflops: 100 -> 80"]
    assert differences(row_set().run, row_set(run={"ceilings": None}).run) == []
