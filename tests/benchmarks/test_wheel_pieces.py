from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.wheel_pieces import PiecesError, join, main, split

LARGE, SMALL = "large-1.0-py3-none-any.whl", "small-1.0-py3-none-any.whl"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / LARGE).write_bytes(np.random.default_rng(0).bytes(2501))
    (folder / SMALL).write_bytes(b"small")
    (folder / "notes.txt").write_text("not a wheel", encoding="utf-8")
    return folder


@pytest.fixture
def pieces(wheels: Path, tmp_path: Path) -> Path:
    split(wheels, tmp_path / "pieces", 1000)
    return tmp_path / "pieces"


def test_joined_wheels_are_the_ones_that_were_split(wheels: Path, pieces: Path, tmp_path: Path) -> None:
    joined = join(pieces, tmp_path / "out")
    assert [path.name for path in joined] == [LARGE, SMALL]
    assert all(path.read_bytes() == (wheels / path.name).read_bytes() for path in joined)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_no_piece_is_over_the_limit_and_small_wheels_travel_whole(pieces: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in pieces.glob("*.whl*")}
    assert sizes == {f"{LARGE}.000": 1000, f"{LARGE}.001": 1000, f"{LARGE}.002": 501, SMALL: 5}


def test_the_sums_can_be_checked_with_the_usual_tool(wheels: Path, pieces: Path) -> None:
    (pieces / LARGE).write_bytes((wheels / LARGE).read_bytes())
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=pieces, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda pieces: flip(pieces / f"{LARGE}.001"), r"large.*\.001: sha256"),
        (lambda pieces: flip(pieces / SMALL), r"small.*: sha256"),
        (lambda pieces: (pieces / f"{LARGE}.002").unlink(), r"\.002: is missing"),
        (lambda pieces: (pieces / "SHA256SUMS").unlink(), "No such file"),
        (lambda pieces: (pieces / "SHA256SUMS").write_text("../evil  x\n"), "not lines of a sha256"),
        (lambda pieces: (pieces / f"{LARGE}.003").write_bytes(b"x"), "has no line"),
    ],
    ids=["flipped", "flipped whole", "missing", "no sums", "bad sums", "unknown"],
)
def test_what_is_damaged_is_named_and_nothing_is_written(
    pieces: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(pieces)
    with pytest.raises(PiecesError, match=said):
        join(pieces, tmp_path / "out")
    assert LARGE not in {path.name for path in (tmp_path / "out").glob("*")} or "small" in said


def test_pieces_of_another_wheel_that_are_whole_themselves_do_not_pass(pieces: Path, tmp_path: Path) -> None:
    text = (pieces / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    first = next(line for line in text if line.endswith(f"{LARGE}.000"))
    (pieces / f"{LARGE}.001").write_bytes((pieces / f"{LARGE}.000").read_bytes())
    swapped = [f"{first[:64]}  {LARGE}.001" if line.endswith(f"{LARGE}.001") else line for line in text]
    (pieces / "SHA256SUMS").write_text("\n".join(swapped) + "\n", encoding="utf-8")
    with pytest.raises(PiecesError, match=rf"{LARGE}: sha256"):
        join(pieces, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_is_in_use_is_not_written_into(wheels: Path) -> None:
    with pytest.raises(PiecesError, match="is not empty"):
        split(wheels, wheels)
    with pytest.raises(PiecesError, match=r"holds no \*.whl"):
        split(wheels / "none", wheels / "out")


def test_the_command_needs_nothing_installed(wheels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(Path("benchmarks/wheel_pieces.py").resolve())]
    for words in (
        ["split", wheels, "--out", tmp_path / "p", "--piece-mb", "0.001"],
        ["join", tmp_path / "p", "--out", tmp_path / "w"],
    ):
        done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "w" / LARGE).read_bytes() == (wheels / LARGE).read_bytes()


def test_exit_codes(wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["join", str(wheels), "--out", str(tmp_path / "out")]) == 1
    assert "SHA256SUMS" in capsys.readouterr().err
    for words in (["--piece-mb", "0"], ["--nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            main(["split", str(wheels), "--out", str(tmp_path / "out"), *words])
        assert stopped.value.code == 2
