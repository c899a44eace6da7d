"""A row set is read as it was written, or refused with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_rows import row_set

from benchmarks.retrieval_row import RetrievalRow
from benchmarks.row import CHAIN, COMPILED_BF16, EAGER, ENGINE, KERNELS, NAIVE, PEERS, RECOMPUTE, RUNTIME, TOKENS, Row
from benchmarks.row_set import BEST, BOUND, FUSED, GROWTH, HANDED_ON, RowSet, derived, sizes_of, write_whole
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


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_mode_and_a_new_one_gets_that_of_the_umask(mode: int, tmp_path: Path) -> None:
    path, plain = tmp_path / "rows.jsonl", tmp_path / "plain"
    write_whole(path, "one")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(mode)
    write_whole(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", mode)


@pytest.mark.parametrize(("text", "said"), [("new", "No space left"), ("half\ud800", "surrogates not allowed")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OneRankerError, match=rf"rows\.jsonl: got .*{said}.*expected a file that can be written"):
        write_whole(path, text)
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]
    assert path.read_text() == "old"


def changed(number: int, **fields: Any) -> Callable[[Lines], Lines]:
    return lambda lines: [{**line, **fields} if i == number else line for i, line in enumerate(lines)]


def of_kind(kind: str, **fields: Any) -> Callable[[Lines], Lines]:
    """The first line of the kind, with other fields."""

    def damage(lines: Lines) -> Lines:
        return changed(next(i for i, line in enumerate(lines) if line["kind"] == kind), **fields)(lines)

    return damage


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
    "a kind that is no text": (changed(2, kind=[]), ":3: kind is [], expected one of run, latency"),
    "infinite": (changed(1, p50_ms=float("inf")), "got Infinity, which is no number of JSON"),
    "text for a run's threads": (of_kind("run", threads="2"), ":1: threads is '2', expected int"),
    "a number for a run's machine": (of_kind("run", machine=7), ":1: machine is 7, expected str"),
    "no versions": (of_kind("run", versions=None), ":1: versions is None, expected Mapping[str, str]"),
    "a version that is no text": (of_kind("run", versions={"torch": 2}), "versions is {'torch': 2}, expected Mapping"),
    "ceilings that are no numbers": (of_kind("run", ceilings={"copy_gb_s": "10"}), "expected Mapping[str, float] | No"),
    "a field of retrieval more": (of_kind("retrieval", p51_ms=1.0), "got p51_ms beside the fields of a RetrievalRow"),
    "text for items": (of_kind("retrieval", items="10000"), "items is '10000', expected int"),
    "text for nodes": (of_kind("retrieval", nodes="many"), "nodes is 'many', expected int | None"),
    "retrieval without a retriever": (
        lambda lines: [{k: v for k, v in line.items() if k != "retriever"} for line in lines],
        "without retriever",
    ),
    "a ratio without its value": (
        lambda lines: [{k: v for k, v in line.items() if k != "value"} for line in lines],
        "without value",
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


def test_a_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row_set().write(path)
    path.write_text(path.read_text().replace('"seconds": 12.5', '"seconds": 1e999'))
    with pytest.raises(OneRankerError, match="seconds is inf, expected float"):
        RowSet.read(path)


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
    [ratio] = [one for one in derived(rows) if one.name != BEST]
    assert (ratio.name, ratio.engine, ratio.against, ratio.value, ratio.spread) == (
        HANDED_ON, ENGINE, RECOMPUTE, 1.5, 0.2,
    )  # fmt: skip
    assert [one.value for one in derived([*rows[:3], row(KERNELS, 1.0)]) if one.name == FUSED] == [4.0]
    assert derived([replace(one, stage="ranker") for one in rows]) == []  # its time is not its own where it recomputes
    assert {one.name for one in row_set().ratios} == {BEST, HANDED_ON, FUSED, BOUND, GROWTH}


def test_the_best_of_ours_is_held_against_the_best_peer_of_every_generator_and_chain() -> None:
    times = {EAGER: 9.0, COMPILED_BF16: 5.0, NAIVE: 6.0, RECOMPUTE: 0.1, ENGINE: 4.0, KERNELS: 2.0}
    rows = [
        Row(
            case=f"x-{stage}-b{batch}",
            stage=stage,
            engine=engine,
            batch=batch,
            p50_ms=p50_ms * batch,
            spread=p50_ms / 100,
        )
        for stage in ("generator", CHAIN, "ranker", TOKENS)
        for batch in (1, 2)
        for engine, p50_ms in times.items()
    ]
    found = [one for one in derived(rows) if one.name == BEST]
    assert [(one.case, one.engine, one.against, one.value, one.spread) for one in found] == [
        (f"x-{stage}-b{batch}", KERNELS, COMPILED_BF16, 2.5, 0.05) for stage in ("generator", CHAIN) for batch in (1, 2)
    ]
    gone = [replace(row, p50_ms=None) if row.engine in (KERNELS, COMPILED_BF16) else row for row in rows]
    assert [(one.engine, one.against) for one in derived(gone) if one.name == BEST] == [(ENGINE, NAIVE)] * 4
    for engines in (RUNTIME, PEERS):
        assert [one for one in derived([row for row in rows if row.engine in engines]) if one.name == BEST] == []


def test_growth_is_what_was_measured_in_turn_with_fewer_items() -> None:
    more = RetrievalRow(
        case="trie-n10000000", retriever="trie", items=10**7, p50_ms=4.5, reference_p50_ms=3.0, reference_items=10**5,
        p50_vs_reference=1.5,
    )  # fmt: skip
    rows = [RetrievalRow(case="trie-n100000", retriever="trie", items=10**5, p50_ms=2.0), more]
    [ratio] = derived([], [asdict(row) for row in rows])
    assert (ratio.case, ratio.against_case, ratio.p50_ms, ratio.against_p50_ms, ratio.value) == (
        "trie-n10000000", "trie-n100000", 4.5, 3.0, 1.5,
    )  # fmt: skip


def test_the_sizes_are_the_case_without_its_stage() -> None:
    row = Row(case="paper-chain-b1-s2048-c512-n100000", stage=CHAIN, engine=ENGINE, batch=1)
    assert sizes_of(row) == "paper-b1-s2048-c512-n100000"
