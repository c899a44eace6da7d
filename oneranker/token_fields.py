"""Turns columns of raw values into rows of an embedding table: categories, numbers, lists and times (numpy only)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np

FIELD_TYPES = ("category", "integer", "number", "list")
LIST_SEPARATOR = "|"
LIST_SLOTS = 3
NUMBER_BUCKETS = 16
UNKNOWN = 1  # local row of a value that is missing or was not there when the field was fitted; 0 = absent
TIME_ROWS = {"hour": 24, "day_of_week": 7, "gap": 33}  # gap: "first", then 32 buckets of log2 seconds

Columns = Mapping[str, np.ndarray]


class TokenError(ValueError):
    """A request or a tokenizer file that cannot be turned into tokens."""


def text_of(value: object) -> str:
    """The one spelling of a raw value: 12, 12.0 and "12" are "12", True is "1"; None and NaN are ""."""
    if type(value) is str:  # nearly always, when a request is read
        return value
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))  # True == 1 == 1.0 in Python, so in one column they are one value
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return ""
        return str(int(value)) if float(value).is_integer() else str(float(value))
    if isinstance(value, list | tuple):
        return LIST_SEPARATOR.join(map(text_of, value))
    return str(value)


def name_of(value: object, where: str) -> str:
    """The text of a value that names something: an item, a group, an action.

    Raises: TokenError for what is neither text nor a number.
    """
    if value is None or (isinstance(value, str | int | float | np.number) and not isinstance(value, bool)):
        return text_of(value)
    raise TokenError(
        f"{where}: got {type(value).__name__}, expected text or a number. Send the one name that is meant."
    )


def display_name(values: Iterable[object]) -> str:
    """A readable name out of a row of display columns; missing ones are left out."""
    return " · ".join(text for text in map(text_of, values) if text)


def column_of(values: Sequence[object]) -> np.ndarray:
    """Raw values as an object array, whatever they are (lists stay single values).

    Shapes: -> object [n]
    """
    return np.fromiter(values, dtype=object, count=len(values))


def distinct_texts(values: np.ndarray, name: str) -> tuple[list[str], np.ndarray]:
    """Distinct spellings of a column, and which of them each row has; no python per row for numbers.

    Shapes: values [n] -> texts, int64 [n]
    Raises: TokenError for values that are neither text nor numbers.
    """
    if values.dtype.kind in "iubfU":
        distinct, inverse = np.unique(values, return_inverse=True)
        return [text_of(value) for value in distinct.tolist()], inverse.reshape(-1)
    rows = values.tolist()
    try:
        number = {value: i for i, value in enumerate(dict.fromkeys(rows))}
    except TypeError as error:
        raise TokenError(
            f"field '{name}': got a value that is a list or an object ({error}), expected text or a number. "
            "Give one plain value, or declare the column as 'list'."
        ) from error
    return [text_of(value) for value in number], np.fromiter(map(number.__getitem__, rows), np.int64, len(rows))


def floats_of(values: np.ndarray, name: str) -> np.ndarray:
    """A number column as floats, missing values as NaN.

    Shapes: values [n] -> float64 [n]
    Raises: TokenError for text that is no number.
    """
    if values.dtype.kind in "iubf":
        return values.astype(np.float64)
    texts, inverse = distinct_texts(values, name)
    try:
        numbers = np.array([_number(text) if text else math.nan for text in texts], dtype=np.float64)
    except ValueError as error:
        raise TokenError(
            f"field '{name}': {error}, expected a number. Send a number, or declare the column as 'category'."
        ) from error
    return numbers[inverse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One fitted column: its values or bucket edges, and the local row each raw value takes.

    Local rows: 0 absent, 1 unknown, then one per value or bucket.
    """

    name: str
    type: str
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    slots: int = 1
    row_of: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.type not in FIELD_TYPES:
            raise TokenError(
                f"field '{self.name}': type is {self.type!r}, expected one of {', '.join(FIELD_TYPES)}. "
                "Correct the schema or the tokenizer file."
            )
        if self.slots < 1 or (self.slots > 1 and self.type != "list"):
            raise TokenError(
                f"field '{self.name}' ({self.type}): slots is {self.slots}, expected 1, or more for a list. "
                "Correct the schema or the tokenizer file."
            )
        if any(not low < high for low, high in pairwise(self.edges)) or not all(map(math.isfinite, self.edges)):
            raise TokenError(
                f"field '{self.name}': edges are {self.edges}, expected finite rising numbers. Fit the tokenizer again."
            )
        rows = {value: UNKNOWN + 1 + i for i, value in enumerate(self.values)}
        if len(rows) != len(self.values) or "" in rows:
            raise TokenError(
                f"field '{self.name}': {len(self.values)} values of which {len(rows)} differ, "
                "expected distinct non-empty values. Fit the tokenizer again."
            )
        object.__setattr__(self, "row_of", rows)

    @classmethod
    def fit(
        cls, name: str, type: str, values: np.ndarray, *, slots: int = LIST_SLOTS, buckets: int = NUMBER_BUCKETS
    ) -> Self:
        """Learn the values (sorted) or the quantile edges of a column.

        Shapes: values [n]
        """
        if type == "number":
            numbers = floats_of(values, name)
            numbers = numbers[np.isfinite(numbers)]
            if numbers.size == 0:
                return cls(name=name, type=type)
            edges = np.unique(np.quantile(numbers, np.arange(1, buckets) / buckets))
            return cls(name=name, type=type, edges=tuple(edges.tolist()))
        if type == "list":
            texts = {part for text in set(map(text_of, values.tolist())) for part in _parts(text)}
            return cls(name=name, type=type, values=tuple(sorted(texts)), slots=slots)
        texts = set(distinct_texts(values, name)[0])
        return cls(name=name, type=type, values=tuple(sorted(texts - {""})))

    @property
    def rows(self) -> int:
        """Rows of the embedding table that this field takes."""
        return UNKNOWN + (len(self.edges) + 1 if self.type == "number" else len(self.values))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Local rows of a raw column.

        Shapes: values [n] -> int32 [n, slots]
        """
        if self.type == "number":
            numbers = floats_of(values, self.name)
            buckets = UNKNOWN + 1 + np.searchsorted(np.asarray(self.edges), numbers, side="right")
            return np.where(np.isnan(numbers), UNKNOWN, buckets).astype(np.int32)[:, None]
        if self.type == "list" and values.dtype == object:
            values = column_of([_list_text(value, self.name) for value in values.tolist()])
        texts, inverse = distinct_texts(values, self.name)
        table = np.zeros((len(texts), self.slots), dtype=np.int32)
        for i, text in enumerate(texts):
            parts = _parts(text)[: self.slots] if self.type == "list" else [text]
            for slot, part in enumerate(parts or [""]):
                table[i, slot] = self.row_of.get(part, UNKNOWN)
        return table[inverse]

    def to_dict(self) -> dict[str, Any]:
        """Only what is needed to build it again."""
        return {"name": self.name, "type": self.type} | (
            {"edges": list(self.edges)}
            if self.type == "number"
            else {"values": list(self.values)} | ({"slots": self.slots} if self.type == "list" else {})
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str) -> Self:
        """Build it from `to_dict`; keys it does not know are errors.

        Raises: TokenError naming the key.
        """
        if not isinstance(raw, Mapping):
            raise TokenError(f"{where}: got {type(raw).__name__}, expected an object. Fit the tokenizer again.")
        kind = raw.get("type")
        required = {"name", "type", "edges" if kind == "number" else "values"} | (
            {"slots"} if kind == "list" else set()
        )
        if set(raw) != required:
            raise TokenError(
                f"{where}: a {kind} field has keys {sorted(raw)}, expected {sorted(required)}. Fit the tokenizer again."
            )
        check_types(raw, {"name": (str,), "type": (str,), "slots": (int,)}, where)
        check_types(raw, {"values": (list,), "edges": (list,)}, where)
        for key, types in (("values", (str,)), ("edges", (int, float))):
            for entry in raw.get(key, ()):
                check_types({key: entry}, {key: types}, where)
        try:
            edges = tuple(map(float, raw.get("edges", ())))
        except OverflowError as error:
            raise TokenError(f"{where}: edges ({error}), expected finite numbers. Fit the tokenizer again.") from error
        return cls(
            name=raw["name"],
            type=raw["type"],
            values=tuple(raw.get("values", ())),
            edges=edges,
            slots=raw.get("slots", 1),
        )


def time_columns(time: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Local rows of hour, day of week (0 = Monday) and the gap since the previous group (-1 = none).

    Shapes: time int64 [n], previous int64 [n] -> int32 [n, 3]
    """
    gap = np.maximum(time - previous, 0)
    bucket = np.frexp(gap.astype(np.float64))[1]  # 0 for 0 s, then floor(log2 s) + 1
    columns = np.empty((len(time), 3), dtype=np.int32)
    columns[:, 0] = 1 + time // 3600 % 24
    columns[:, 1] = 1 + (time // 86400 + 3) % 7  # 1970-01-01 was a Thursday
    columns[:, 2] = np.where(previous < 0, 1, 2 + np.minimum(bucket, 31))
    return columns


def check_keys(raw: Any, expected: set[str], schema_version: int, where: str) -> None:
    """Refuse a tokenizer of another schema, or one with keys too many or too few.

    Raises: TokenError naming the keys.
    """
    found = raw.get("schema_version") if isinstance(raw, dict) else type(raw).__name__
    if found != schema_version:
        raise TokenError(
            f"{where}: schema {found!r}, this release reads schema {schema_version}. "
            "Build the bundle again, or install the release that wrote it."
        )
    if set(raw) != expected:
        raise TokenError(
            f"{where}: missing keys {sorted(expected - set(raw))}, unknown keys {sorted(set(raw) - expected)}, "
            f"expected exactly {sorted(expected)}. Fit the tokenizer again."
        )


def check_types(raw: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Refuse values of other JSON types; a boolean is no integer.

    Raises: TokenError naming the key.
    """
    for key, expected in types.items():
        if key in raw and type(raw[key]) not in expected:
            raise TokenError(
                f"{where}: {key} is {raw[key]!r:.60}, expected {' or '.join(t.__name__ for t in expected)}. "
                "Fit the tokenizer again."
            )


def _number(text: str) -> float:
    """Python's float(), less its digits of other scripts."""
    stripped = text.strip()
    try:
        return float(stripped if stripped.isascii() else "")
    except ValueError as error:
        raise ValueError(f"could not convert string to float: {text!r}") from error


def _list_text(value: object, name: str) -> str:
    inner = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(part, list | tuple | Mapping) for part in inner):
        raise TokenError(
            f"field '{name}': got a list or an object inside a list, expected text, numbers or a list of these. "
            "Send one flat list."
        )
    return text_of(value)


def _parts(text: str) -> list[str]:
    return [part for part in map(str.strip, text.split(LIST_SEPARATOR)) if part]
