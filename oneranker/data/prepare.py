"""Names of known data sets, or a folder of one's own, to a data set in memory."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from oneranker.data import completejourney, ml_100k
from oneranker.data.dataset import Dataset
from oneranker.data.prepared_folder import is_prepared, prepared_account
from oneranker.data.schema import SCHEMA_FILE
from oneranker.data.streams import Streams, build_streams
from oneranker.data.tables import DataReport
from oneranker.errors import DataError

__all__ = ["ADAPTERS", "Dataset", "Streams", "build_streams", "load_dataset", "prepare"]

logger = logging.getLogger(__name__)
ADAPTERS = ("completejourney", "ml-100k")


def prepare(name: str, out: Path, households: int | None = None) -> DataReport:
    """Write the schema folder of a known data set.

    Raises: DataError for another name, or when its package is missing.
    """
    start = time.perf_counter()
    _settings(name, households)
    logger.info("preparing %s in %s", name, out)
    report = (
        completejourney.write_completejourney(out, households)
        if name == "completejourney"
        else ml_100k.write_ml_100k(out)
    )
    logger.info("prepared %s: %s events, %.1f s", name, f"{report.events_kept:,}", time.perf_counter() - start)
    return report


def load_dataset(data: str | Path, root: Path, households: int | None = None) -> Dataset:
    """Read a data set: a known name is prepared under `root` unless it is there; anything else is a schema folder.

    Raises: DataError when it is neither, or naming file and column of what cannot be used.
    """
    start = time.perf_counter()
    if str(data) in ADAPTERS:
        wanted = _settings(str(data), households)
        folder = root / (str(data) if households is None else f"{data}-{households}")
        if not is_prepared(folder, wanted):
            prepare(str(data), folder, households)
    else:
        folder = Path(data)
        if not (folder / SCHEMA_FILE).is_file() or households is not None:
            raise DataError(
                f"{folder}: got data={str(data)!r}, households={households}; expected one of {ADAPTERS}, or a folder "
                f"with {SCHEMA_FILE} and households left out. Correct the name, or write a schema there."
            )
    dataset = Dataset.read(folder)
    account = prepared_account(folder)
    dataset.report.dropped = account.get("dropped", {}) | dataset.report.dropped
    dataset.report.counted = account.get("counted", {}) | dataset.report.counted
    report = dataset.report
    logger.info(
        "read %s: %s events, %s users, %s items, %s requests, %.1f s",
        *(dataset.schema.name, f"{report.events_kept:,}", f"{report.users:,}", f"{report.items:,}"),
        *(f"{report.groups:,}", time.perf_counter() - start),
    )
    return dataset


def _settings(name: str, households: int | None) -> dict[str, Any]:
    if name not in ADAPTERS:
        raise DataError(f"data set: got {name!r}, expected one of {ADAPTERS}. Choose one, or give a schema folder.")
    return (completejourney if name == "completejourney" else ml_100k).settings(households)
