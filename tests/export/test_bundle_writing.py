from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export import bundle as bundle_module
from export.build import main
from export.bundle import new_bundle, swap_in
from runtime.errors import BuildError
from runtime.manifest import Manifest, file_sha256

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def killed_build(out: Path, at: str) -> None:
    """A build of its own process, which kills itself the hard way when it calls `at`."""
    script = f"""
import os, signal, sys
from export import assembly, bundle
from export.build import main
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
{at}
main(["--preset", "tiny", "--out", {str(out)!r}, "--max-shapes", "B:3"])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    "at",
    [
        "assembly.write_item_index = die",
        "assembly.verify = die",
        "assembly.Manifest.write = die",
        "assembly.swap_in = die",
        "bundle.shutil.rmtree = die",
    ],
    ids=["stages written", "before verification", "before the manifest", "before the swap", "before the clean-up"],
)
def test_a_build_killed_half_way_leaves_a_whole_bundle_and_the_next_build_cleans_up(bundle: Path, at: str) -> None:
    before = snapshot(bundle)
    killed_build(bundle, at)
    assert Manifest.read(bundle).items
    if "rmtree" not in at:
        assert snapshot(bundle) == before
    assert len(list(bundle.parent.iterdir())) == 2
    assert main(["--preset", "tiny", "--out", str(bundle), "--max-shapes", "B:3"]) == 0
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert Manifest.read(bundle).profile["B"] == (1, 1, 3)


def test_without_an_atomic_exchange_a_bundle_cut_off_between_two_renames_is_put_back(bundle: Path) -> None:
    before = snapshot(bundle)
    killed_build(bundle, "bundle._exchange = lambda left, right: False\nbundle.secrets.token_hex = lambda n: 'same'\n"
                 "real = bundle.Path.rename\n"
                 "def rename(self, to):\n    real(self, to)\n    str(to).endswith('.replaced') and die()\n"
                 "bundle.Path.rename = rename")  # fmt: skip
    assert not bundle.exists()
    with new_bundle(bundle):
        assert snapshot(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_build_that_is_still_at_work_keeps_its_folder(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "bundle") as first:
        with new_bundle(tmp_path / "bundle") as second:
            assert first.is_dir()
            assert second.is_dir()
            assert first != second
        assert first.is_dir()
        assert not second.exists()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_swap_replaces_a_whole_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr(bundle_module, "_exchange", lambda left, right: False)
    with new_bundle(bundle) as folder:
        (folder / "manifest.json").write_text("new")
        swap_in(folder, bundle)
    assert [path.name for path in bundle.iterdir()] == ["manifest.json"]
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_swap_that_fails_puts_the_old_bundle_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = snapshot(bundle), Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no")
        return real(self, target)

    monkeypatch.setattr(bundle_module, "_exchange", lambda left, right: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(BuildError, match="could not be written"), new_bundle(bundle) as folder:
        swap_in(folder, bundle)
    assert snapshot(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_place_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--preset", "tiny", "--out", str(tmp_path / "file" / "bundle")]) == 1
    assert "could not be written" in caplog.text
    assert capsys.readouterr().out == ""


def test_a_read_only_folder_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **named: object) -> None:
        raise PermissionError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BuildError, match=r"Read-only file system.*choose another --out"), new_bundle(tmp_path / "b"):
        raise AssertionError("nothing may run without a folder")


def test_a_full_disk_leaves_the_old_bundle_and_nothing_half_written(
    bundle: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(bundle)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # a write beyond fails as on a full disk
    try:
        code = main(["--preset", "tiny", "--out", str(bundle), "--max-shapes", "B:3"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert "could not be written" in caplog.text
    assert capsys.readouterr().out == ""
    assert snapshot(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("also", [None, "manifest.json"], ids="with {}".format)
def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path, also: str | None) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("years of work")
    if also:
        (tmp_path / "bundle" / also).write_text("{}")
    with pytest.raises(BuildError, match="holds something that is not a bundle"), new_bundle(tmp_path / "bundle"):
        raise AssertionError("nothing may run")
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "years of work"
