"""The comparison of methods: rows that say what they are, nothing run twice, and a table that adds up."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import semantic_ids
from benchmarks.semantic_ids import RESULTS, main, table
from oneranker.config import preset

ROOT = Path(__file__).parents[2]
SCHEMA = """
schema_version = 1
name = "stall"
events = { file = "log.csv", user = "person", item = "ware" }
items = { file = "wares.csv", key = "ware" }
content = { sort = "category" }
split = { by = "leave_one_out" }
"""


@pytest.fixture
def stall(tmp_path: Path) -> Path:
    folder = tmp_path / "stall"
    folder.mkdir()
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"person": np.repeat(np.arange(20), 8), "ware": rng.integers(0, 40, 160)})
    log.to_csv(folder / "log.csv", index=False)
    pd.DataFrame({"ware": range(40), "sort": [f"s{i % 4}" for i in range(40)]}).to_csv(
        folder / "wares.csv", index=False
    )
    (folder / "schema.toml").write_text(SCHEMA)
    return folder


def test_rows_are_measured_once_and_the_rest_is_run_the_next_time(
    stall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    words = f"--data {stall} --preset tiny --history 11 --windows 2 --steps 2 --users 9 --famae-width 8".split()
    words += ["--famae-steps", "2", "--work", str(tmp_path / "work"), "--out", str(out)]
    assert main([*words, "--seeds", "1", "--method", "gaoq"]) == 0
    first = out.read_text().splitlines()
    assert main([*words, "--seeds", "2", "--method", "gaoq", "--method", "resid"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert out.read_text().splitlines()[:1] == first
    assert [(row["method"], row["seed"]) for row in rows] == [("gaoq", 0), ("resid", 0), ("gaoq", 1), ("resid", 1)]
    for row in rows:
        assert row["requests"] == 9
        assert 0 <= row["new_items"]["hr@10"] <= 1
        assert set(row["seconds"]) == {"embedding", "quantisation", "training"}
        assert (row["famae_metrics"] is not None) == (row["method"] == "resid")
        assert row["embedding_width"] == (2 * 8 if row["method"] == "resid" else preset("tiny").width)
    monkeypatch.setattr(semantic_ids, "run", lambda *_: pytest.fail("a row that is there was run again"))
    capsys.readouterr()
    assert main([*words, "--seeds", "2", "--method", "gaoq", "--method", "resid"]) == 0
    assert capsys.readouterr().out == table(rows) + "\n"


def row(method: str, seed: int, hits: float, **others: Any) -> dict[str, Any]:
    case = {
        "data": "a/b", "method": method, "codes": None, "anchors": "orthogonal", "seed": seed, "until": "valid",
        "users": None, "preset": "tiny", "history": 8, "windows": 2, "steps": 3, "parts": ["new_items"], "famae": {},
    }  # fmt: skip
    return case | {
        "widths": [4, 5],
        "new_items": {"hr@10": hits, "ndcg@10": hits / 2},
        "seconds": {"embedding": 10.0, "quantisation": 20.0 + seed},
        **others,
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_means_half_the_distance_of_the_extremes_and_differences_by_seed() -> None:
    plain, other = [0.1, 0.2, 0.6], [0.2, 0.1, 0.9]
    rows = [row("rq-kmeans", seed, value) for seed, value in enumerate(plain)]
    rows += [row("gaoq", seed, value) for seed, value in enumerate(other)]
    lines = [cells(line) for line in table(rows).splitlines()]
    assert [line[:5] for line in lines[2:]] == [["b", "3", name, "4 × 5", "3"] for name in ("rq-kmeans", "gaoq")]
    assert lines[2][5] == f"{statistics.mean(plain):.4f} ± {(max(plain) - min(plain)) / 2:.4f}"
    assert lines[2][7:] == ["", "", "", "10", "21"]
    assert lines[3][7] == "+0.1000 (-0.1000 to +0.3000)"


def test_rows_of_unlike_budgets_stand_in_lines_of_their_own() -> None:
    rows = [row("rq-kmeans", 0, 0.1), row("rq-kmeans", 0, 0.3, steps=9), row("gaoq", 0, 0.2, steps=9)]
    lines = [cells(line) for line in table(rows).splitlines()[2:]]
    assert [(line[1], line[2], line[4], line[7]) for line in lines] == [
        ("3", "rq-kmeans", "1", ""), ("9", "rq-kmeans", "1", ""), ("9", "gaoq", "1", "-0.1000 (-0.1000 to -0.1000)"),
    ]  # fmt: skip


def test_another_shape_and_other_anchors_are_lines_of_their_own_against_the_same_peer(
    stall: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    words = f"--data {stall} --preset tiny --history 11 --windows 2 --steps 1 --users 9 --seeds 1".split()
    words += ["--work", str(tmp_path / "work"), "--out", str(out)]
    assert main([*words, "--method", "rq-kmeans"]) == 0
    assert main([*words, "--method", "rq-kmeans", "--codes", "7"]) == 0
    assert main([*words, "--method", "gaoq", "--anchors", "fitted"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    widths = preset("tiny").codes
    assert [row["widths"] for row in rows[:2]] == [[widths] * 3, [7] * 3]
    lines = [cells(line) for line in table(rows).splitlines()[2:]]
    assert [line[2] for line in lines] == ["rq-kmeans", "rq-kmeans", "gaoq, fitted anchors"]
    gains = [row["new_items"]["hr@10"] - rows[0]["new_items"]["hr@10"] for row in rows]
    assert [line[7] for line in lines] == ["", *(f"{gain:+.4f} ({gain:+.4f} to {gain:+.4f})" for gain in gains[1:])]


def test_codes_alone_are_built_and_their_seconds_kept_for_the_row(stall: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "rows.jsonl", tmp_path / "work"
    words = f"--data {stall} --preset tiny --history 11 --windows 2 --steps 1 --users 9 --seeds 1".split()
    words += ["--method", "gaoq", "--work", str(work), "--out", str(out)]
    assert main([*words, "--codes-only"]) == 0
    assert not out.exists()
    (notes,) = work.rglob("semantic_ids.json")
    took = json.loads(notes.read_text())["seconds"]
    notes.write_text(notes.read_text().replace(json.dumps(took["quantisation"]), "77.7"))
    assert main(words) == 0
    assert json.loads(out.read_text())["seconds"]["quantisation"] == 77.7


def test_another_budget_of_famae_in_the_same_folder_learns_anew(stall: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    words = f"--data {stall} --preset tiny --history 11 --windows 2 --steps 1 --users 9 --method resid".split()
    words += ["--seeds", "1", "--work", str(tmp_path / "work"), "--out", str(out), "--famae-steps", "2"]
    assert main([*words, "--famae-width", "8"]) == 0
    assert main([*words, "--famae-width", "16"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["embedding_width"] for row in rows] == [2 * 8, 2 * 16]


def test_the_table_in_the_docs_is_that_of_the_committed_rows() -> None:
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    assert table(rows) in (ROOT / "docs" / "semantic-ids.md").read_text(encoding="utf-8")
