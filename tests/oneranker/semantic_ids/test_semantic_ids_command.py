"""`python -m oneranker.semantic_ids`, in process: what it writes, what it says, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted_ids import QUICK, D, drawn, files_below
from small_market import write_market

from oneranker.semantic_ids import Method, SemanticIds, fit
from oneranker.semantic_ids.__main__ import main

by_method = pytest.mark.parametrize("method", list(QUICK))


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one line of stdout."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


@by_method
def test_a_data_set_becomes_a_folder_of_codes_for_its_items(
    method: str, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ids"
    assert main(["build", "--method", method, "--data", str(market), "--out", str(out), *QUICK[method]]) == 0
    said = told(capsys)
    ids = SemanticIds.load(out)
    assert ids.settings.method is Method(method)
    assert sorted(ids.item_ids, key=int) == [str(ware) for ware in range(12)]
    assert said == {
        "out": str(out),
        "method": method,
        "items": 12,
        "widths": list(ids.widths),
        "seconds": {name: round(took, 3) for name, took in ids.seconds.items()},
    }
    assert ids.embeddings.shape[1] == (6 * 8 if method == "resid" else 64)
    before = files_below(out)
    assert main(["report", "--ids", str(out), "--data", str(market)]) == 0
    report = told(capsys)
    assert report["out"] == str(tmp_path / "ids-report")
    assert report["dataset"]["name"] == "market"
    assert files_below(out) == before


@pytest.mark.parametrize("method", [method for method in QUICK if method != "resid"])
def test_embeddings_become_the_codes_that_fit_gives_them(
    method: str, embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ids"
    words = ["build", "--method", method, "--embeddings", str(embeddings), "--out", str(out), *QUICK[method]]
    assert main(words) == 0
    assert told(capsys)["items"] == 20
    ids = SemanticIds.load(out)
    assert ids.item_ids == tuple(str(row) for row in range(20))
    np.testing.assert_array_equal(ids.codes, fit(drawn(20), ids.settings).codes)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"a {row}\x85\u2028" for row in range(20)) + "\n", encoding="utf-8")
    assert main([*words, "--item-ids", str(names)]) == 0
    assert SemanticIds.load(out).item_ids == tuple(f"a {row}\x85\u2028" for row in range(20))


def test_new_embeddings_are_given_codes_and_old_ones_keep_theirs(
    embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, more, names = tmp_path / "ids", tmp_path / "more.npy", tmp_path / "names.txt"
    main(["build", "--method", "gaoq", "--embeddings", str(embeddings), "--out", str(ids), *QUICK["gaoq"]])
    np.save(more, drawn(3, seed=1).astype(np.float64))
    names.write_bytes(b"a\r\nb\r\nc")
    capsys.readouterr()
    words = ["assign", "--ids", str(ids), "--embeddings", str(more), "--item-ids", str(names), "--out"]
    assert main([*words, str(tmp_path / "grown")]) == 0
    said = told(capsys)
    assert (said["items"], said["new"], said["out"]) == (23, 3, str(tmp_path / "grown"))
    known, grown = SemanticIds.load(ids), SemanticIds.load(tmp_path / "grown")
    assert grown.item_ids == (*known.item_ids, "a", "b", "c")
    np.testing.assert_array_equal(grown.codes, known.assign(["a", "b", "c"], drawn(3, seed=1)).codes)
    assert main([*words, str(ids)]) == 0  # in its own place
    np.testing.assert_array_equal(SemanticIds.load(ids).codes, grown.codes)


def test_the_new_items_of_a_data_set_are_embedded_by_famae(
    market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ids, out = tmp_path / "ids", tmp_path / "grown"
    main(["build", "--method", "resid", "--data", str(market), "--out", str(ids), *QUICK["resid"]])
    later = write_market(tmp_path / "later", listed=14, sort=[*(["s0", "s1", "s2"] * 4), "unheard of", ""])
    capsys.readouterr()
    words = ["assign", "--ids", str(ids), "--out", str(out), "--data"]
    assert main([*words, str(later)]) == 0
    assert told(capsys)["new"] == 2
    known, grown = SemanticIds.load(ids), SemanticIds.load(out)
    assert set(grown.item_ids[12:]) == {"12", "13"}
    np.testing.assert_array_equal(grown.codes[:12], known.codes)
    assert len({tuple(path) for path in grown.codes.tolist()}) == 14
    assert main([*words, str(market)]) == 1
    assert "0 of 12 items are new" in caplog.text


def test_equal_rows_are_different_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.ones((9, D), np.int64))
    for method in ("rq-kmeans", "gaoq"):
        words = ["build", "--method", method, "--embeddings", str(tmp_path / "x.npy"), "--out", str(tmp_path / "ids")]
        assert main([*words, *QUICK[method]]) == 0
        assert len({tuple(path) for path in SemanticIds.load(tmp_path / "ids").codes.tolist()}) == 9
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_report_of_the_folder_one_stands_in_lies_beside_it(
    tmp_path: Path, embeddings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["build", "--method", "gaoq", "--embeddings", str(embeddings), "--out", str(tmp_path / "ids"), *QUICK["gaoq"]])
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "ids")
    assert main(["report", "--ids", "."]) == 0
    assert told(capsys)["out"] == str(tmp_path / "ids-report")
    assert main(["report", "--ids", ".", "--out", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere" / "report.json").is_file()


@pytest.mark.parametrize("command", ["build", "assign", "report"])
def test_help_shows_words_that_can_be_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "Indexing." not in shown
    assert "Method." not in shown
