"""How `python -m oneranker.semantic_ids` fails: 2 for words, 1 and one error for what they name; nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted_ids import QUICK, files_below

from oneranker.semantic_ids import __main__ as command
from oneranker.semantic_ids.__main__ import main


def usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err


def error(words: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    assert main(words) == 1
    assert not capsys.readouterr().out
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "expected" in record.getMessage()
    return record.getMessage()


WRONG_WORDS = [
    (["--method", "resid", "--embeddings"], "method resid with --embeddings, expected --data"),
    (["--method", "pq", "--embeddings"], "--method: .*'pq', expected one of rq-kmeans, rq-kmeans-plus, gaoq, resid"),
    (["--method", "gaoq", "--branching", "two", "--embeddings"], "got 'two', expected whole numbers and commas"),
    (["--method", "gaoq", "--branching", "4", "--embeddings"], "expected 2 factors"),
    (["--method", "gaoq", "--levels", "1", "--embeddings"], "expected at least 2"),
    (["--method", "rq-kmeans", "--branching", "2,2", "--embeddings"], "branching=.* beside method rq-kmeans"),
    (["--method", "rq-kmeans", "--anchors", "fitted", "--embeddings"], "anchors=fitted beside method rq-kmeans"),
    (["--method", "rq-kmeans-plus", "--spare-leaves", "2", "--embeddings"], "spare_leaves=2 beside"),
    (["--method", "gaoq", "--refine-steps", "2", "--embeddings"], "refine_steps=2 beside method gaoq"),
    (["--method", "rq-kmeans", "--famae-steps", "2", "--embeddings"], "--famae-steps .*--method resid only"),
    (["--method", "gaoq", "--famae-width", "128", "--data"], "--famae-width .*--method resid only"),
    (["--method", "gaoq", "--famae-history", "2", "--data"], "--famae-history .*--method resid only"),
    (["--method", "resid", "--width", "64", "--data"], "--width .*another method than resid only"),
    (["--method", "gaoq", "--width", "64", "--embeddings"], "--width .*expected it with --data"),
    (["--method", "gaoq", "--item-ids", "names", "--data"], "--item-ids .*expected it with --embeddings only"),
    (["--method", "resid", "--famae-width", "6", "--data"], "width=6 with heads=4"),
    (["--method", "resid", "--famae-steps", "0", "--data"], "max_steps=0"),
    (["--method", "rq-kmeans", "--codes", "0", "--embeddings"], "codes=0"),
    (["--method", "rq-kmeans", "--codes", "65537", "--embeddings"], "codes=65537, expected 1 to 65536"),
    (["--method", "rq-kmeans", "--seed", "-1", "--embeddings"], "seed=-1"),
    (["--embeddings"], "--method"),
    (["--method", "gaoq", "--data", "x", "--embeddings"], "not allowed with"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_WORDS, ids=[" ".join(words) for words, _ in WRONG_WORDS])
def test_words_that_contradict_each_other_are_usage_errors(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = usage_error(["build", "--out", str(tmp_path / "out"), *words, "nowhere"], capsys).replace("\n", " ")
    assert re.search(message, said), said
    assert not list(tmp_path.iterdir())


def test_assign_wants_ids_with_embeddings_and_data_with_famae_only(
    embeddings: Path, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, names = str(tmp_path / "ids"), tmp_path / "names.txt"
    main(["build", "--method", "gaoq", "--embeddings", str(embeddings), "--out", ids, *QUICK["gaoq"]])
    capsys.readouterr()
    words = ["assign", "--ids", ids, "--out", str(tmp_path / "grown")]
    assert "without --item-ids" in usage_error([*words, "--embeddings", str(embeddings)], capsys)
    assert "these with --data" in usage_error([*words, "--data", str(market), "--item-ids", str(names)], capsys)
    assert "--data with method gaoq" in usage_error([*words, "--data", str(market)], capsys)
    assert not (tmp_path / "grown").exists()


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_objects_are_never_unpickled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "x.npy", np.array([[Trap(tmp_path / "sprung")]], object), allow_pickle=True)
    spring, given = Trap(tmp_path / "sprung").__reduce__()  # what unpickling would do
    spring(*given)
    (tmp_path / "sprung").unlink()
    words = ["build", "--method", "rq-kmeans", "--embeddings", str(tmp_path / "x.npy"), "--out", str(tmp_path / "out")]
    assert "x.npy: got Object arrays" in error(words, capsys, caplog)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_files_that_hold_no_embeddings_are_one_error(
    tmp_path: Path, embeddings: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole, path = embeddings.read_bytes(), tmp_path / "bad.npy"
    huge = whole.replace(b"(20, 8), }".ljust(24), b"(1000000000000000, 8), }")
    assert len(huge) == len(whole) != huge.count(b"(20")
    written: dict[str, bytes] = {
        "empty": b"",
        "six bytes": whole[:6],
        "cut": whole[:-5],
        "text": b"0.5 0.25\n",
        "more than memory": huge,
        "half a zip": b"PK\x03\x04",
    }
    arrays = {
        "text array": np.array([["a", "b"]]),
        "bools": np.ones((3, 2), bool),
        "complex": np.ones((3, 2), complex),
        "flat": np.ones(4),
        "cube": np.ones((2, 2, 2)),
        "no rows": np.ones((0, 4)),
        "no columns": np.ones((4, 0)),
        "NaN": np.full((4, 2), np.nan),
    }
    words = ["build", "--method", "rq-kmeans", "--embeddings", str(path), "--out", str(tmp_path / "out")]
    for data in written.values():
        path.write_bytes(data)
        assert "bad.npy: got " in error(words, capsys, caplog)
    for array in arrays.values():
        np.save(path, array)
        error(words, capsys, caplog)
    with path.open("wb") as file:
        np.savez(file, x=np.ones((3, 2)))
    assert "got NpzFile" in error(words, capsys, caplog)
    path.unlink()
    assert "bad.npy: no such file" in error(words, capsys, caplog)
    assert not (tmp_path / "out").exists()


def test_ids_that_do_not_fit_are_one_error(
    tmp_path: Path, embeddings: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    names = tmp_path / "names.txt"
    words = ["build", "--method", "rq-kmeans", "--embeddings", str(embeddings), "--out", str(tmp_path / "out")]
    words += ["--item-ids", str(names)]
    assert "names.txt: no such file" in error(words, capsys, caplog)
    names.write_bytes("é\n".encode("latin-1") * 20)
    assert "names.txt: got 'utf-8' codec" in error(words, capsys, caplog)
    names.write_text("a\n" * 20)
    assert "['a'] more than once" in error(words, capsys, caplog)
    names.write_text("\n".join(map(str, range(19))))
    assert "got 19 item ids" in error(words, capsys, caplog)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_built_is_one_error_and_leaves_what_was_there(
    tmp_path: Path, market: Path, embeddings: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    before = files_below(tmp_path)
    tree = ["build", "--method", "gaoq", "--embeddings", str(embeddings)]
    assert "has no semantic_ids.json" in error([*tree, "--out", str(mine)], capsys, caplog)
    few = [*tree, "--branching", "21,2", "--out", str(tmp_path / "out")]
    assert "20 points for 21 clusters" in error(few, capsys, caplog)
    wide = [*tree, "--branching", "65537,2", "--out", str(tmp_path / "out")]
    assert "levels of [65537, 2, 1] codes, expected at most 65536" in error(wide, capsys, caplog)
    full = ["build", "--method", "rq-kmeans", "--codes", "2", "--embeddings", str(embeddings)]
    assert "at most V**L = 2**3" in error([*full, "--out", str(tmp_path / "out")], capsys, caplog)
    below = [*full[:3], "--embeddings", str(embeddings), "--out", str(embeddings / "out")]
    assert "could not be read or written" in error(below, capsys, caplog)
    narrow = ["build", "--method", "gaoq", "--data", str(market), "--width", "0", "--out", str(tmp_path / "out")]
    assert "width 0" in error(narrow, capsys, caplog)
    nowhere = ["build", "--method", "gaoq", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert "schema.toml" in error(nowhere, capsys, caplog)
    assert "semantic_ids.json" in error(["report", "--ids", str(mine)], capsys, caplog)
    assign = ["assign", "--ids", str(mine), "--data", str(market), "--out", str(tmp_path / "out")]
    assert "semantic_ids.json" in error(assign, capsys, caplog)
    assert files_below(tmp_path) == before


def test_a_place_that_is_taken_is_refused_before_the_work(
    tmp_path: Path, embeddings: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    monkeypatch.setattr(command, "fit", lambda *_, **__: pytest.fail("codes were fitted for a place that is taken"))
    words = ["build", "--method", "rq-kmeans", "--embeddings", str(embeddings), "--out", str(tmp_path / "mine")]
    assert main(words) == 1
    assert "has no semantic_ids.json" in caplog.text
