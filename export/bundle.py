"""Writes a bundle into a temporary folder beside its place and swaps it in: whole or absent, the old one never lost."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from runtime.errors import BuildError, BundleError
from runtime.manifest import STAGES, Manifest, PlanEntry, check_file

logger = logging.getLogger(__name__)

GRAPH, PLAN, ENGINE_REPORT, BUILD_LOG = "model.onnx", "model.plan", "engine_report.json", "build.log"
_LOCK = ".building"
BUNDLE_ENTRIES = {"manifest.json", *STAGES, "items", "tokenizer.json", "masks.safetensors", _LOCK}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """A temporary folder for the new bundle, removed at the end unless `swap_in` has put it in place.

    Raises:
        BuildError: Something else than a bundle is at `out`, or the disk refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _recover(out)
        if out.exists() and not _is_bundle(out):
            raise BuildError(
                f"{out}: holds something that is not a bundle, expected a bundle, an empty folder or nothing there. "
                "Choose another --out."
            )
        folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
        folder.mkdir()
        lock = _locked(folder)
        assert lock is not None, "nobody else knows the new folder"
        try:
            yield folder
        finally:
            lock.close()
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise BuildError(
            f"{out}: the bundle could not be written ({error}), expected a writable folder with room. Free space or "
            "choose another --out; what was there before is untouched."
        ) from error


def swap_in(folder: Path, out: Path) -> None:
    """Put a finished folder at `out`; at every moment either the old bundle or the new one stands there."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):  # safetensors writes files that only their owner may read
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
    try:
        _rename_in(folder, out)
    finally:
        (out / _LOCK).unlink(missing_ok=True)  # held until now: another build must not take the folder for a dead one's


def _rename_in(folder: Path, out: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    if _exchange(folder, out):  # the old bundle now has the temporary name and goes with it
        return
    replaced = out.with_name(f".{out.name}.{secrets.token_hex(4)}.replaced")
    out.rename(replaced)
    try:
        folder.rename(out)
    except BaseException:
        replaced.rename(out)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


class OldBundle:
    """What an earlier build left at `out`: its manifest, and which of its files are still what the manifest says."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.manifest: Manifest | None = None
        self.reason = f"{out}: no bundle there"
        if (out / "manifest.json").exists():
            try:
                self.manifest = Manifest.read(out)
            except BundleError as error:
                self.reason = str(error)
                logger.warning("the old bundle is not reused: %s", error)

    def carry(self, stage: str, fingerprint: str, folder: Path) -> bool:
        """Copy a stage over if it was built from the same things and no byte of it has changed since."""
        if self.manifest is None or self.manifest.stages[stage].fingerprint != fingerprint:
            return False
        row = self.manifest.stages[stage]
        try:
            path = check_file(self.out, row.file, row.sha256, row.bytes)
        except BundleError as error:
            logger.warning("%s is built again: %s", stage, error)
            return False
        (folder / stage).mkdir()
        shutil.copyfile(path, folder / stage / GRAPH)
        return True

    def carry_plan(self, stage: str, fingerprint: str, folder: Path) -> PlanEntry | None:
        """Copy a stage's engine over, with its report and its log, under the same conditions."""
        if self.manifest is None or (row := self.manifest.stages[stage].plan) is None:
            return None
        try:
            path = check_file(self.out, row.file, row.sha256, row.bytes)
            report = json.loads((self.out / stage / ENGINE_REPORT).read_text(encoding="utf-8"))
            if (report["fingerprint"], report["plan_sha256"]) != (fingerprint, row.sha256):
                return None
            for source in (path, self.out / stage / ENGINE_REPORT, self.out / stage / BUILD_LOG):
                shutil.copyfile(source, folder / stage / source.name)
        except (BundleError, OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("the engine of %s is built again: %s", stage, error)
            return None
        return row


def _is_bundle(out: Path) -> bool:
    """An empty folder, or one with a manifest and nothing beside what a bundle has: nobody else's files are in it."""
    if not out.is_dir():
        return False
    found = {path.name for path in out.iterdir()}
    return not found or ("manifest.json" in found and found <= BUNDLE_ENTRIES)


def _recover(out: Path) -> None:
    """Remove what dead builds left behind; put a bundle back whose replacement was cut in between."""
    for left in out.parent.glob(f".{out.name}.*.replaced"):
        if not out.exists():
            left.rename(out)
            logger.warning("%s: put back, an earlier build was stopped while replacing it", out)
        else:
            shutil.rmtree(left, ignore_errors=True)
    for left in out.parent.glob(f".{out.name}.*.partial"):
        lock = _locked(left)
        if lock is None:
            continue  # another build is at work
        lock.close()
        shutil.rmtree(left, ignore_errors=True)
        logger.info("removed %s, left by an earlier build", left.name)


def _locked(folder: Path) -> IO[bytes] | None:
    """Hold the folder's lock, which falls with the process; None if a live build holds it."""
    file = (folder / _LOCK).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return file


def _exchange(left: Path, right: Path) -> bool:
    """Swap two folders in one step where the system can (Linux renameat2)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0)
