"""Reads the needed columns of a parquet or csv file, and turns them into plain arrays."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from oneranker.errors import DataError
from oneranker.tokens import column_of, text_of

INTEGERS = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}  # a column with gaps must not become floats


def read_columns(path: Path, columns: Collection[str], numeric: Collection[str]) -> Any:
    """A data frame of these columns; text comes as categories, so that a repeated value is held once.

    `numeric` are columns of numbers or times; all others are names, and a csv's 007 stays "007".
    Raises: DataError for a missing file, an unknown format, a missing column or an empty table.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise DataError(
            f"{path}: no such file, expected a table. Correct `file` in schema.toml, or put the table there."
        )
    try:
        if path.suffix == ".parquet":
            _check_columns(path, pq.read_schema(path).names, wanted)
            frame = pq.read_table(path, columns=wanted).to_pandas(
                strings_to_categorical=True, types_mapper=INTEGERS.get
            )
        elif path.suffix == ".csv":
            _check_columns(path, list(pd.read_csv(path, nrows=0).columns), wanted)
            texts = {name: str for name in wanted if name not in numeric}  # "category" would read 007 as 7
            frame = pd.read_csv(path, usecols=wanted, dtype=texts, keep_default_na=False, na_values=[""])
            frame = frame.astype(dict.fromkeys(texts, "category"))
        else:
            raise DataError(f"{path}: format is '{path.suffix}', expected .parquet or .csv. Convert the table.")
    except (pa.ArrowInvalid, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}), expected a {path.suffix} table. Write it again.") from error
    if frame.empty:
        raise DataError(f"{path}: the table has 0 rows, expected at least one. Check how it was written.")
    return frame


def ids_of(series: Any) -> tuple[np.ndarray, list[str]]:
    """Which of the distinct ids each row has (-1 = missing), and the ids as text in sorted order.

    Shapes: series [n] -> int64 [n], ids
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, distinct = series.cat.codes.to_numpy(), series.cat.categories.tolist()
    else:
        codes, index = pd.factorize(series)
        distinct = index.tolist()
    texts = [text_of(value) for value in distinct]
    used = np.zeros(len(texts) + 1, dtype=bool)
    used[codes] = True  # the last place is for -1
    ids = sorted({text for text, seen in zip(texts, used.tolist()[:-1], strict=True) if seen} - {""})
    place = {text: i for i, text in enumerate(ids)}
    table = np.array([place.get(text, -1) for text in texts] + [-1], dtype=np.int64)
    return table[codes], ids


def values_of(series: Any) -> np.ndarray:
    """Raw values for the tokenizer: numbers as they are, everything else as objects with None for missing.

    Shapes: series [n] -> [n]
    """
    if isinstance(series.dtype, pd.Int64Dtype | pd.Int32Dtype) and not series.isna().any():
        return np.asarray(series.to_numpy(dtype=np.int64))
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iufb":
        return np.asarray(series.to_numpy())
    if isinstance(series.dtype, pd.CategoricalDtype):
        distinct = np.empty(len(series.cat.categories) + 1, dtype=object)
        distinct[:-1] = series.cat.categories.astype(object)  # the last place is None, for code -1
        return distinct[series.cat.codes.to_numpy()]
    return column_of([_plain(value) for value in series.astype(object).tolist()])


def numbers_of(series: Any, where: str) -> np.ndarray:
    """A column of numbers, missing as NaN.

    Shapes: series [n] -> float64 [n]
    Raises: DataError naming the first value that is no number.
    """
    numbers = pd.to_numeric(series.astype(object) if _is_text(series) else series, errors="coerce")
    bad = pd.isna(numbers) & ~pd.isna(series)
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise DataError(
            f"{where}: row {row} holds {series.iloc[row]!r}, expected a number. Correct the value, or declare the "
            "column as 'category'."
        )
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def seconds_of(series: Any, unit: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Times as seconds since 1970 (or plain order), and which rows have one; a time without a zone is UTC.

    Shapes: series [n] -> int64 [n], bool [n]
    Raises: DataError for a value that is no time, or a negative one.
    """
    if unit == "datetime":
        try:
            time = pd.to_datetime(series.astype(object) if _is_text(series) else series, utc=True)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{where}: {error}, expected dates. Write ISO dates or set time_unit = 'seconds'."
            ) from error
        present = time.notna().to_numpy()
        seconds = np.where(present, time.dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype(np.int64), 0)
    else:
        numbers = numbers_of(series, where)
        present = np.isfinite(numbers)
        seconds = np.floor(np.where(present, numbers, 0)).astype(np.int64)
    if (negative := np.flatnonzero(seconds < 0)).size:
        raise DataError(
            f"{where}: row {negative[0]} has time {seconds[negative[0]]}, expected none below 0 "
            f"({negative.size} rows have one). Correct or remove these rows."
        )
    return seconds, present


def _plain(value: Any) -> Any:
    """What JSON can carry: a list joined, a date or a decimal as text."""
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return text_of(list(value))
    if pd.isna(value):
        return None
    return value if isinstance(value, float) else text_of(value)


def _check_columns(path: Path, found: list[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing))}, the table has {found}, expected the columns that "
            "schema.toml names. Correct the name there."
        )


def _is_text(series: Any) -> bool:
    return isinstance(series.dtype, pd.CategoricalDtype)
