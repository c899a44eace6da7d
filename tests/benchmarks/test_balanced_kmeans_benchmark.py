from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import balanced_kmeans
from benchmarks.balanced_kmeans import OURS, THEIRS, Case, Row, main, run_apart, run_case, slope, with_ratios

SMALL = Case(items=130, width=5, clusters=4, n_init=1, backend=OURS)


def test_a_row_says_how_long_how_good_and_how_even() -> None:
    row = run_case(SMALL)
    assert row.balanced
    assert row.seconds is not None
    assert row.seconds > 0
    points = balanced_kmeans.synthetic_points(130, 5, 0)
    assert points.dtype == np.float32
    assert row.objective is not None
    assert 0 < row.objective < float(((points - points.mean(axis=0)) ** 2).sum())


def test_without_the_other_package_its_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balanced_kmeans, "find_spec", lambda _: None)
    row = run_apart(replace(SMALL, backend=THEIRS), 60, 1)
    assert (row.note, row.seconds) == ("not run: k-means-constrained is not installed", None)


def test_a_row_that_takes_too_long_is_given_up() -> None:
    assert run_apart(SMALL, 1e-3, 1).note == "not run: not finished after 0.001 s"


def test_ratios_are_ours_over_theirs_on_the_same_data() -> None:
    other = replace(SMALL, items=500)
    ours, theirs = Row(case=SMALL, seconds=2.0, objective=9.0), Row(case=replace(SMALL, backend=THEIRS), seconds=8.0)
    alone = Row(case=other, seconds=1.0)
    found = with_ratios([ours, theirs, alone])
    assert (found[0].time_ratio, found[0].objective_ratio) == (0.25, None)
    assert found[1:] == [theirs, alone]


def test_the_slope_of_what_is_quadratic_is_2() -> None:
    rows = [Row(case=replace(SMALL, items=n), cpu_seconds=3e-6 * n**2) for n in (100, 700, 5000)]
    assert slope([*rows, Row(case=SMALL, note="not run: x")]) == pytest.approx(2)
    assert slope(rows[:1]) is None


def test_one_run_adds_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "rows.jsonl"
    words = ["--scale", "90", "--width", "4", "--clusters", "3", "--threads", "1", "--out", str(out)]
    assert main(words) == 0
    line = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == line
    assert line["command"].endswith(" ".join(words))
    assert line["threads"] == 1
    assert [row["case"]["items"] for row in line["rows"]] == [90]
    assert all(row["balanced"] and row["peak_memory_mib"] > 0 for row in line["rows"])
    assert set(line["slopes"]) == {OURS, THEIRS, f"{OURS} alone"}
