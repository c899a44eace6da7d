from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu_install import InstallError, install
from benchmarks.wheel_pieces import split


def wheel(folder: Path, tag: str = "py3-none-any") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"carried_thing-1.0-{tag}.whl"
    info = "carried_thing-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("carried_thing.py", "ANSWER = 42\n" + "#" * 3000)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried-thing\nVersion: 1.0\nRequires-Dist: gone\n"
        )
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.parametrize("pieces", [False, True], ids=["wheels", "pieces"])
def test_carried_wheels_can_be_imported_from_their_folder_and_nowhere_else(tmp_path: Path, pieces: bool) -> None:
    wheel(tmp_path / "wheels")
    folder = tmp_path / "wheels"
    if pieces:
        split(folder, tmp_path / "pieces", 1000)
        folder = tmp_path / "pieces"
    site, names = install(folder, tmp_path / "work", sys.executable)
    assert names == ["carried_thing-1.0-py3-none-any.whl"]
    program = "import sys; sys.path.insert(0, sys.argv[1]); import carried_thing; assert carried_thing.ANSWER == 42"
    assert subprocess.run([sys.executable, "-c", program, str(site)], check=False).returncode == 0
    assert (
        subprocess.run([sys.executable, "-c", "import carried_thing"], check=False, capture_output=True).returncode == 1
    )


def test_a_wheel_for_another_python_is_refused_in_pips_words(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "cp27-cp27m-win32")
    with pytest.raises(InstallError, match=r"pip answered '.*not a supported wheel"):
        install(tmp_path / "wheels", tmp_path / "work", sys.executable)


def test_damaged_pieces_and_empty_folders_are_refused(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    split(tmp_path / "wheels", tmp_path / "pieces", 1000)
    next((tmp_path / "pieces").glob("*.000")).write_bytes(b"x")
    with pytest.raises(InstallError, match="sha256"):
        install(tmp_path / "pieces", tmp_path / "work", sys.executable)
    with pytest.raises(InstallError, match=r"holds no \*.whl"):
        install(tmp_path / "none", tmp_path / "work", sys.executable)
