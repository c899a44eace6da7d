from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.row import COMPILED, EAGER, ENGINE, Row, not_run, timed, with_ratios
from benchmarks.table import table


def row(engine: str, samples: list[float], stage: str = "chain", batch: int = 1) -> Row:
    return timed(Row(case=f"{stage}-b{batch}-s64", stage=stage, engine=engine, batch=batch), [samples])


def test_the_rate_counts_requests_not_batches() -> None:
    assert row(ENGINE, [100.0, 300.0], batch=8).requests_per_s == pytest.approx(2 * 8 / 0.4)


def test_ratios_compare_with_the_eager_row_of_the_same_case() -> None:
    rows = with_ratios(
        [row(EAGER, [10.0]), row(EAGER, [7.0], "ranker"), row(ENGINE, [4.0]), row(ENGINE, [14.0], "ranker")]
    )
    assert [r.p50_vs_eager for r in rows] == [1, 1, 2.5, 0.5]
    assert [r.p99_vs_eager for r in rows] == [1, 1, 2.5, 0.5]


def test_what_eager_does_not_do_has_no_ratio() -> None:
    rows = with_ratios([row(EAGER, [10.0]), row(ENGINE, [4.0], "tokens")])
    assert rows[1].p50_vs_eager is None


def test_what_could_not_run_stays_in_the_table_with_its_reason_and_without_numbers() -> None:
    missing = not_run(Row(case="chain-b1-s64", stage="chain", engine=COMPILED, batch=1), "no C++ compiler")
    rows = with_ratios([row(EAGER, [10.0]), missing])
    assert rows[1].note == "not run: no C++ compiler"
    assert rows[1].p50_ms is rows[1].p50_vs_eager is rows[1].max_error is rows[1].requests_per_s is None
    assert table(report(rows)).count("no C++ compiler") == 1


def test_the_table_can_be_made_from_the_json() -> None:
    rows = with_ratios([row(EAGER, [10.0]), row(ENGINE, [4.0])])
    text = table(json.loads(json.dumps(report(rows))))
    assert "2.50x" in text
    assert text.endswith("\n")


@pytest.mark.parametrize(("load", "said"), [(0.2, False), (None, False), (3.9, True)])
def test_the_table_says_when_the_machine_was_busy(load: float | None, said: bool) -> None:
    assert ("NOISY" in table(report([row(EAGER, [1.0])], load))) is said


def test_the_table_names_the_gpu_and_says_how_its_chain_was_timed() -> None:
    rows = [row(EAGER, [1.0])]
    assert "stages add up to it" in table(report(rows))
    on_gpu = table(report(rows, device="cuda:0 (NVIDIA H200, compute capability 9.0)"))
    assert on_gpu.startswith("cuda:0 (NVIDIA H200, compute capability 9.0)\n")
    assert "timed in one piece" in on_gpu


def report(rows: list[Row], load: float | None = 0.0, device: str = "cpu") -> dict[str, object]:
    environment = {
        "device": device,
        "bundle": "b", "weights": "w", "items": 3, "precision": "fp32", "processor": "p", "cores": 2, "threads": 2,
        "versions": {"python": "3"}, "load_average": load,
    }  # fmt: skip
    return {"environment": environment, "rows": [asdict(r) for r in rows]}


def test_the_spread_is_the_distance_between_the_rounds_over_the_median_of_all() -> None:
    timed_row = timed(Row(case="c", stage="chain", engine=ENGINE, batch=1), [[9.0, 10.0, 30.0], [12.0], [10.0]])
    assert (timed_row.samples, timed_row.rounds, timed_row.max_ms) == (5, 3, 30.0)
    assert timed_row.p50_ms == 10
    assert timed_row.spread == pytest.approx((12 - 10) / 10)
    assert row(ENGINE, [1.0, 2.0]).spread is None


def test_p50_spread_and_rate_are_of_the_quickest_rounds_and_the_tail_is_of_all() -> None:
    plain = Row(case="c", stage="chain", engine=ENGINE, batch=2)
    found = timed(plain, [[20.0, 21.0], [10.0, 99.0, 10.0], [11.0], [40.0], [10.5]], keep=3)
    assert (found.rounds, found.kept, found.samples) == (5, 3, 8)
    assert found.p50_ms == 10.5  # of 10, 10, 10.5, 11, 99
    assert found.spread == pytest.approx((11 - 10) / 10.5)
    assert found.requests_per_s == pytest.approx(2 * 5 / 0.1405)
    assert found.max_ms == 99
    assert found.p90_ms == pytest.approx(np.percentile([20, 21, 10, 99, 10, 11, 40, 10.5], 90))
