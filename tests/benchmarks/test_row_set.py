"""A row set is read as it was written, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_rows import row_set

from benchmarks.row import CHAIN, EAGER, ENGINE, KERNELS, RECOMPUTE, Row
from benchmarks.row_set import BOUND, FUSED, GROWTH, HANDED_ON, RowSet, derived, sizes_of
from runtime.errors import OneRankerError

Lines = list[dict[str, Any]]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = row_set()
    written.write(tmp_path / "new" / "rows.jsonl")
    read = RowSet.read(tmp_path / "new" / "rows.jsonl")
    assert (read.run, read.rows, read.retrieval, read.ratios) == (
        written.run, written.rows, written.retrieval, written.ratios,
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.jsonl"]


def test_every_line_says_its_kind_and_the_first_is_the_run(tmp_path: Path) -> None:
    row_set().write(tmp_path / "rows.jsonl")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert kinds[0] == "run"
    assert set(kinds[1:]) == {"latency", "retrieval", "ratio"}


def test_a_number_that_is_not_finite_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row_set().write(path)
    before = path.read_bytes()
    with pytest.raises(OneRankerError, match="expected finite numbers"):
        RowSet(row_set().run, [replace(row_set().rows[0], p50_ms=float("nan"))]).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def changed(number: int, **fields: Any) -> Callable[[Lines], Lines]:
    return lambda lines: [{**line, **fields} if i == number else line for i, line in enumerate(lines)]


DAMAGE: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "another kind": (changed(2, kind="quality"), r":3: kind is 'quality', expected one of run, latency"),
    "no run": (lambda lines: lines[1:], ":1: kind is 'latency', expected one line of kind run, the first"),
    "two runs": (lambda lines: [lines[0], *lines], ":2: kind is 'run', expected one line of kind run"),
    "empty": (lambda lines: [], "got an empty file"),
    "a field more": (changed(1, p51_ms=1.0), "got p51_ms beside the fields of a Row"),
    "text for a number": (changed(1, p50_ms="fast"), "p50_ms is 'fast', expected float | None"),
    "a boolean for a number": (changed(1, p50_ms=True), "p50_ms is True"),
    "not finite": (changed(1, p50_ms=float("nan")), "got NaN, which is no number of JSON"),
    "a run without its threads": (
        lambda lines: [{k: v for k, v in lines[0].items() if k != "threads"}, *lines[1:]],
        "got no threads, expected date, command",
    ),
    "a row twice": (lambda lines: [*lines, lines[1]], "demo-generator-b1-s64-c32-n1000 on pytorch-eager twice"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_with_what_was_found_and_the_next_step(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row_set().write(path)
    damage, said = DAMAGE[name]
    lines = damage([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(OneRankerError) as raised:
        RowSet.read(path)
    assert said in str(raised.value)
    assert "python -m benchmarks.bench" in str(raised.value)


def test_a_file_that_is_cut_short_or_absent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row_set().write(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(OneRankerError, match="expected a JSON object"):
        RowSet.read(path)
    with pytest.raises(OneRankerError, match="expected a row set"):
        RowSet.read(tmp_path / "absent.jsonl")


def test_a_field_that_a_row_got_later_has_its_default_in_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row_set().write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[1]["offered_per_s"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert RowSet.read(path).rows[0].offered_per_s is None


def test_a_ratio_is_one_p50_over_the_other_of_the_same_case_and_unmeasured_pairs_have_none() -> None:
    def row(engine: str, p50_ms: float | None, spread: float | None = None) -> Row:
        return Row(case="x-chain-b1", stage=CHAIN, engine=engine, batch=1, p50_ms=p50_ms, spread=spread)

    rows = [row(EAGER, 9.0), row(ENGINE, 4.0, 0.1), row(RECOMPUTE, 6.0, 0.2), row(KERNELS, None)]
    [ratio] = derived(rows)
    assert (ratio.name, ratio.engine, ratio.against, ratio.value, ratio.spread) == (
        HANDED_ON, ENGINE, RECOMPUTE, 1.5, 0.2,
    )  # fmt: skip
    assert [one.value for one in derived([*rows[:3], row(KERNELS, 1.0)]) if one.name == FUSED] == [4.0]
    assert derived([replace(one, stage="ranker") for one in rows]) == []  # its time is not its own where it recomputes
    assert {one.name for one in row_set().ratios} == {HANDED_ON, FUSED, BOUND, GROWTH}


def test_growth_compares_a_hundred_times_as_many_items_of_the_same_case_and_engine() -> None:
    def row(items: int, p50_ms: float | None, engine: str = "trie", beams: int = 8) -> dict[str, Any]:
        return {"case": f"b1-w{beams}-n{items}", "engine": engine, "p50_ms": p50_ms}

    rows = [row(10**4, 2.0), row(10**5, 3.0), row(10**6, 2.5), row(10**7, 4.5), row(10**7, 50.0, "dense")]
    rows += [row(10**6, 99.0, beams=64), row(10**5, None, "dense")]
    found = {ratio.case: (ratio.against_case, ratio.value) for ratio in derived([], rows)}
    assert found == {"b1-w8-n1000000": ("b1-w8-n10000", 1.25), "b1-w8-n10000000": ("b1-w8-n100000", 1.5)}


def test_the_sizes_are_the_case_without_its_stage() -> None:
    row = Row(case="paper-chain-b1-s2048-c512-n100000", stage=CHAIN, engine=ENGINE, batch=1)
    assert sizes_of(row) == "paper-b1-s2048-c512-n100000"
