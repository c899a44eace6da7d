"""A data folder an adapter writes: tables, schema.toml and an account of what was left out; whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oneranker.errors import DataError

PREPARED_FILE = "prepared.json"


def check_place(out: Path, marker: str = PREPARED_FILE) -> None:
    """Ask before long work whether its result may go there.

    Raises: DataError when `out` holds something that was not prepared by this program.
    """
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: exists and has no {marker}, expected a new folder or one prepared before. "
            "Choose another --out, or remove it yourself."
        )


@contextmanager
def prepared_folder(out: Path, account: dict[str, Any], marker: str = PREPARED_FILE) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it takes the place of `out`, on an error `out` stays as it was.

    `account` is written last, as the marker file (prepared.json); fill it while the folder is filled.

    Raises: DataError when `out` holds something that was not prepared by this program.
    """
    check_place(out, marker)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh, old = work / "fresh", work / "old"
        fresh.mkdir()
        yield fresh
        (fresh / marker).write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(fresh, out)
        except OSError:
            if old.exists():
                os.replace(old, out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def prepared_account(folder: Path) -> dict[str, Any]:
    """What prepared.json says, {} where there is none."""
    try:
        account = json.loads((folder / PREPARED_FILE).read_text(encoding="utf-8"))
    except OSError:
        return {}
    except json.JSONDecodeError as error:
        raise DataError(
            f"{folder / PREPARED_FILE}: not JSON ({error}), expected an account. Prepare the folder again."
        ) from error
    return dict(account)


def is_prepared(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the folder was prepared from this source, by this adapter, with these settings."""
    account = prepared_account(folder)
    return bool(account) and all(account.get(key) == value for key, value in wanted.items())
