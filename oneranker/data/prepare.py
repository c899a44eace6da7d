"""Names of known data sets, or a folder of one's own, to a data set in memory."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from oneranker.data import completejourney, ml_100k, s3rec
from oneranker.data.dataset import Dataset
from oneranker.data.prepared_folder import is_prepared, prepared_account
from oneranker.data.schema import SCHEMA_FILE
from oneranker.data.streams import Streams, build_streams
from oneranker.data.tables import DataReport
from oneranker.errors import DataError

__all__ = ["ADAPTERS", "S3REC", "Dataset", "Streams", "build_streams", "load_dataset", "prepare"]

logger = logging.getLogger(__name__)
ADAPTERS = ("completejourney", "ml-100k")  # an installed package holds the data, so the name is enough
S3REC = "s3rec"  # reads files of one's own


def prepare(
    name: str,
    out: Path,
    households: int | None = None,
    *,
    sequences: Path | None = None,
    attributes: Path | None = None,
) -> DataReport:
    """Write the schema folder of a known data set, or of s3rec's `sequences` and `attributes`.

    Raises: DataError for another name, a setting of another data set, or when its package or file is missing.
    """
    start = time.perf_counter()
    logger.info("preparing %s in %s", name, out)
    if name == S3REC:
        if sequences is None or households is not None:
            raise DataError(
                f"s3rec: sequences={sequences}, households={households}, expected a file of sequences and no "
                "households. Give --sequences FILE.txt and leave --households out."
            )
        report = s3rec.write_s3rec(out, sequences, attributes)
    else:
        _settings(name, households)
        if sequences is not None or attributes is not None:
            raise DataError(
                f"{name}: sequences={sequences}, attributes={attributes}, expected none: a package holds "
                "its data. Leave them out, or prepare s3rec."
            )
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
        raise DataError(f"data set: got {name!r}, expected one of {(*ADAPTERS, S3REC)}. Choose one, or give a folder.")
    return (completejourney if name == "completejourney" else ml_100k).settings(households)
