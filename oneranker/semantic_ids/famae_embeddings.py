"""What FAMAE gives to a quantiser: each item's raw field rows side by side, and the same for items that come later."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats
from oneranker.semantic_ids.famae_metrics import Evaluation
from oneranker.token_fields import UNKNOWN, Field, column_of, text_of

SCHEMA_VERSION = 1
TABLES_FILE, NOTES_FILE = "famae.safetensors", "famae.json"
KEYS = {"schema_version", "fields", "evaluations", "settings", "seconds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FamaeEmbeddings:
    """Item embeddings: the concatenation of J raw table rows, no encoder pass and no normalisation (resid.md 1.7).

    Row 0 of a table stands for every value that training has not seen, or that is missing: the mean of the field's
    rows. So a new item_id tells nothing, and a cold item is where its other fields put it.

    Shapes: tables J times float32 [V_j + 1, D], codes int32 [N, J]
    """

    fields: tuple[Field, ...]
    tables: tuple[Floats, ...]
    codes: NDArray[np.int32]
    evaluations: tuple[Evaluation, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def embeddings(self) -> Floats:
        """All items that it was fitted on.

        Shapes: -> float32 [N, J*D]
        """
        return self._rows(self.codes)

    def embed(self, columns: Mapping[str, NDArray[Any]]) -> Floats:
        """Embed items by their raw values; a field that is not given counts as unknown.

        Shapes: columns [n] each -> float32 [n, J*D]

        Raises:
            DataError: a column has no field, or lengths differ.
        """
        return self._rows(item_codes(self.fields, columns, "FAMAE embed"))

    def _rows(self, codes: NDArray[np.integer]) -> Floats:
        out = np.empty((len(codes), len(self.tables), self.tables[0].shape[1]), np.float32)
        for j, table in enumerate(self.tables):
            out[:, j] = table[codes[:, j]]
        return out.reshape(len(codes), -1)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tables = {f"table.{j}": table for j, table in enumerate(self.tables)}
        save_file(tables | {"codes": self.codes}, folder / TABLES_FILE)
        notes = {
            "schema_version": SCHEMA_VERSION,
            "fields": [each.to_dict() for each in self.fields],
            "evaluations": [
                {key: None if value != value else value for key, value in asdict(each).items()}
                for each in self.evaluations
            ],
            "settings": dict(self.settings),
            "seconds": self.seconds,
        }
        (folder / NOTES_FILE).write_text(json.dumps(notes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            DataError: a file is missing or damaged, or the two do not fit each other.
        """
        where = folder / NOTES_FILE
        try:
            arrays = load_file(folder / TABLES_FILE)
            notes = json.loads(where.read_text(encoding="utf-8"))
            if set(notes) != KEYS or notes["schema_version"] != SCHEMA_VERSION:
                raise DataError(
                    f"{where}: got keys {sorted(notes)} of schema {notes.get('schema_version')}, expected "
                    f"{sorted(KEYS)} of schema {SCHEMA_VERSION}. Fit it again."
                )
            fields = tuple(Field.from_dict(each, str(where)) for each in notes["fields"])
            evaluations = tuple(map(_evaluation, notes["evaluations"]))
        except DataError:
            raise
        except (OSError, SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise DataError(
                f"{folder}: got {type(error).__name__}: {error}, expected {TABLES_FILE} and {NOTES_FILE} as FAMAE "
                "writes them. Fit it again."
            ) from error
        _check_arrays(arrays, fields, folder)
        return cls(
            fields=fields,
            tables=tuple(arrays[f"table.{j}"] for j in range(len(fields))),
            codes=arrays["codes"],
            evaluations=evaluations,
            settings=notes["settings"],
            seconds=float(notes["seconds"]),
        )


def value_count(each: Field) -> int:
    """Give V_j, the values or buckets of a field."""
    return each.rows - UNKNOWN


def item_codes(fields: tuple[Field, ...], columns: Mapping[str, NDArray[Any]], where: str) -> NDArray[np.int32]:
    """Code each item's values: 0 = missing or unknown, then 1 .. V_j.

    Shapes: columns [n] each -> int32 [n, J]

    Raises:
        DataError: no column, a column without a field, or lengths that differ.
    """
    names = [each.name for each in fields]
    lengths = {name: np.shape(column) for name, column in columns.items()}
    if not columns or not set(columns) <= set(names) or len(set(lengths.values())) != 1:
        raise DataError(
            f"{where}: got columns {lengths}, expected some of {names}, one value per item each. "
            "Correct the names and give columns of one length."
        )
    items = len(next(iter(columns.values())))
    codes = np.zeros((items, len(fields)), np.int32)
    for j, each in enumerate(fields):
        if each.name in columns:
            column = single_values(columns[each.name], each.type)
            codes[:, j] = np.maximum(each.encode(column)[:, 0] - UNKNOWN, 0)
    return codes


def single_values(column: NDArray[Any], kind: str) -> NDArray[Any]:
    """Spell objects as text, a list as one value: FAMAE's fields have one value per item (1.1).

    Shapes: column [n] -> [n]
    """
    values = np.asarray(column)
    return column_of([text_of(value) for value in values.tolist()]) if values.dtype == object else values


def _evaluation(raw: Mapping[str, Any]) -> Evaluation:
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in raw.items()}
    return Evaluation(**known)


def _check_arrays(arrays: dict[str, NDArray[Any]], fields: tuple[Field, ...], folder: Path) -> None:
    widths = {table.shape[1:] for name, table in arrays.items() if name != "codes"}
    expected = {f"table.{j}": ("float32", value_count(each) + 1) for j, each in enumerate(fields)}
    found = {name: (table.dtype.name, len(table)) for name, table in arrays.items() if name != "codes"}
    codes = arrays.get("codes", np.zeros(0))
    fits = codes.dtype == np.int32 and codes.ndim == 2 and codes.shape[1] == len(fields)
    if not fields or found != expected or len(widths) != 1 or len(next(iter(widths))) != 1 or not fits:
        raise DataError(
            f"{folder}: got tables {found} and codes {codes.dtype.name} {list(codes.shape)}, expected {expected} and "
            f"codes int32 [N, {len(fields)}]. Fit it again."
        )
    rows = np.array([value_count(each) for each in fields])
    if codes.size and (codes.min() < 0 or (codes.max(axis=0) > rows).any()):
        raise DataError(
            f"{folder}: codes reach {codes.max(axis=0).tolist()}, expected at most {rows.tolist()}. Fit it again."
        )
