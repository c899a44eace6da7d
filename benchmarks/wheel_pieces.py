"""Cuts wheels into pieces that are small enough to carry, and joins them again where there is no network.

    python -m benchmarks.wheel_pieces split wheels --out pieces
    python -m benchmarks.wheel_pieces join pieces --out wheels

A piece holds at most 60 MB (`--piece-mb`); a wheel that is smaller travels whole. Every piece and every wheel has a
line in SHA256SUMS, and `join` writes nothing that does not match. Standard library alone: it runs before anything is
installed. Exit codes: 0 ok, 1 a file is missing, damaged or unknown, 2 usage.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SUMS = "SHA256SUMS"
PIECE = re.compile(r"(?P<wheel>.+\.whl)\.(?P<number>\d{3})")
PIECE_MB = 60.0
BLOCK = 2**20


class PiecesError(Exception):
    """A wheel or a piece of one is missing, damaged or unknown."""


def split(wheels: Path, out: Path, piece_bytes: int = int(PIECE_MB * 1e6)) -> list[Path]:
    """Cut every wheel of a folder into `out`, which must be empty or not there.

    Raises:
        PiecesError: There is no wheel, or something lies in `out` already.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise PiecesError(
            f"{wheels}: holds no *.whl, expected some. Get them with `pip download --no-deps -d {wheels}`."
        )
    if out.exists() and any(out.iterdir()):
        raise PiecesError(f"{out}: is not empty, expected a new folder. Name another one with --out.")
    out.mkdir(parents=True, exist_ok=True)
    written, sums = [], []
    for wheel in found:
        sums.append(f"{sha256(wheel)}  {wheel.name}")
        if wheel.stat().st_size <= piece_bytes:
            written.append(Path(shutil.copyfile(wheel, out / wheel.name)))
            continue
        with wheel.open("rb") as source:
            for number in range(-(-wheel.stat().st_size // piece_bytes)):
                path = out / f"{wheel.name}.{number:03d}"
                path.write_bytes(source.read(piece_bytes))
                sums.append(f"{sha256(path)}  {path.name}")
                written.append(path)
    (out / SUMS).write_text("\n".join(sums) + "\n", encoding="utf-8")
    return written


def join(pieces: Path, out: Path) -> list[Path]:
    """Put the wheels of `split` together again in `out`, each checked before and after.

    Raises:
        PiecesError: A piece is missing or damaged, or the folder holds one that has no line in SHA256SUMS.
    """
    sums = read_sums(pieces)
    out.mkdir(parents=True, exist_ok=True)
    if unknown := sorted(path.name for path in pieces.glob("*.whl*") if path.name not in sums):
        raise PiecesError(f"{pieces}: {unknown[0]} has no line in {SUMS}, expected one. Carry the folder again, whole.")
    wheels = [name for name in sums if not PIECE.fullmatch(name)]
    written = []
    for name in wheels:
        parts = sorted(other for other in sums if (match := PIECE.fullmatch(other)) and match["wheel"] == name)
        for part in parts or [name]:
            _check(pieces / part, sums[part])
        with tempfile.NamedTemporaryFile(dir=out, prefix=".joining-", delete=False) as joined:
            for part in parts or [name]:
                with (pieces / part).open("rb") as piece:
                    shutil.copyfileobj(piece, joined)
        try:
            _check(Path(joined.name), sums[name], name)
        except PiecesError:
            Path(joined.name).unlink()
            raise
        written.append(Path(joined.name).replace(out / name))
    return written


def read_sums(folder: Path) -> dict[str, str]:
    """File name -> sha256, in the order of SHA256SUMS.

    Raises:
        PiecesError: It is not there or not of that form.
    """
    path = folder / SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PiecesError(f"{path}: {error.strerror}, expected what `split` wrote. Carry the folder again.") from error
    rows = [re.fullmatch(r"(?P<sum>[0-9a-f]{64})  (?P<name>[^/\s]+)", line) for line in lines]
    if not rows or not all(rows):
        raise PiecesError(f"{path}: not lines of a sha256 and a file name. Carry the folder again.")
    return {row["name"]: row["sum"] for row in rows if row}


def sha256(path: Path) -> str:
    """Of a whole file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _check(path: Path, expected: str, name: str | None = None) -> None:
    if not path.is_file():
        raise PiecesError(f"{path}: is missing, expected it by {SUMS}. Carry it again.")
    if (found := sha256(path)) != expected:
        raise PiecesError(f"{name or path}: sha256 {found[:12]}…, expected {expected[:12]}…. Carry it again.")


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.wheel_pieces", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("split", "join"))
    parser.add_argument("folder", type=Path, help="of wheels to split, of pieces to join")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pieces or the wheels go")
    parser.add_argument("--piece-mb", type=float, default=PIECE_MB, help="largest piece in 10^6 bytes (%(default)s)")
    named = parser.parse_args(argv)
    if named.piece_mb <= 0:
        parser.error(f"--piece-mb: got {named.piece_mb:g}, expected more than 0")
    try:
        if named.verb == "split":
            written = split(named.folder, named.out, max(1, int(named.piece_mb * 1e6)))
        else:
            written = join(named.folder, named.out)
    except (PiecesError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("".join(f"{path}\t{path.stat().st_size}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
