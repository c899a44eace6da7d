"""Packages for one GPU run from a folder of wheels: beside what the machine has, into a folder of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.wheel_pieces import SUMS, PiecesError, join

MINUTES = 10


class InstallError(Exception):
    """The wheels cannot be installed."""


def install(wheels: Path, work: Path, python: str) -> tuple[Path, list[str]]:
    """Install every wheel of a folder without a network and without what it depends on; pieces are joined first.

    Returns:
        The folder for PYTHONPATH, and the names of the wheels.

    Raises:
        InstallError: A piece is damaged, or pip refuses a wheel, as one for another Python.
    """
    if (wheels / SUMS).is_file():
        try:
            found = join(wheels, work / "wheels")
        except PiecesError as error:
            raise InstallError(str(error)) from error
    else:
        found = sorted(wheels.glob("*.whl"))
    if not found:
        raise InstallError(f"{wheels}: holds no *.whl, expected some. Name the folder that you carried with --wheels.")
    site = work / "site"
    shutil.rmtree(site, ignore_errors=True)
    options = ["--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "--quiet"]
    command = [python, "-m", "pip", "install", *options, "--target", str(site), *map(str, found)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 * MINUTES)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(
            f"{wheels}: pip of {python} could not be run ({error}). Name another one with --python."
        ) from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise InstallError(
            f"{wheels}: pip answered '{lines[-1]}', expected wheels for {python}. Carry those of its version."
        )
    return site, [path.name for path in found]
