"""Writes the item index folder that the runtime reads: sorted by semantic ID, checked, whole or absent."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from export.tensor_file import write_tensors
from oneranker.errors import DataError
from oneranker.trie import Trie, lexicographic_order
from runtime.errors import BuildError, BundleError
from runtime.id_lookup import IdLookup
from runtime.item_checks import check_tables, code_space_of
from runtime.item_header import HEADER_FILE, SCHEMA_VERSION, TABLES_FILE, ItemIndexHeader

_FLOAT_TABLES = ("codebooks", "anchors", "item_table", "item_vectors")
_TEXTS_AT_ONCE = 1024  # characters of several bytes cost the texts around them only


def write_item_index(
    out: Path,
    *,
    ids: Sequence[str],
    names: Sequence[str],
    codes: ArrayLike,
    codebooks: ArrayLike,
    anchors: ArrayLike,
    item_table: ArrayLike,
    item_fields: ArrayLike,
    item_vectors: ArrayLike | None = None,
    listed: ArrayLike | None = None,
) -> str:
    """Write a catalogue, whose rows may come in any order, and return its version; an older index is replaced.

    Same items, same numbers: same bytes and version, whatever the order of the rows.

    Shapes: codes int [N, L], codebooks [L, V, D], anchors [A, D], item_table [N, D], item_fields int [N, Fi],
        item_vectors [N, D+A], listed bool [N] (default: all)

    Raises:
        BuildError: rows are missing or repeated, numbers are not finite, or shapes do not fit each other.
    """
    code_rows = _integers("codes", codes)
    _check_texts(ids, names, len(code_rows))
    tables: dict[str, NDArray[Any]] = {
        "codes": code_rows,
        "codebooks": _floats("codebooks", codebooks),
        "anchors": _floats("anchors", anchors),
        "item_table": _floats("item_table", item_table),
        "item_fields": _integers("item_fields", item_fields),
        "item_listed": np.ones(len(code_rows), np.uint8) if listed is None else _flags(listed),
    }
    if item_vectors is not None:
        tables["item_vectors"] = _floats("item_vectors", item_vectors)
    for name in tables.keys() - {"codebooks", "anchors"}:
        if len(tables[name]) != len(ids):
            raise BuildError(
                f"item index: '{name}' has {len(tables[name])} rows, expected {len(ids)}, one per id. "
                "Give every table in the order of the ids."
            )
    order = lexicographic_order(code_rows)
    if sorted_already := bool((order[1:] > order[:-1]).all()):
        order = order[:0]
    else:
        for name in tables.keys() - {"codebooks", "anchors"}:
            tables[name] = np.ascontiguousarray(tables[name][order])
    try:
        tables |= Trie.from_codes(tables["codes"]).tables()
    except DataError as error:
        raise BuildError(f"item index: {error}") from error
    for kind, texts in (("id", ids), ("name", names)):
        in_order = texts if sorted_already else [texts[row] for row in order.tolist()]
        tables[f"{kind}_bytes"], tables[f"{kind}_offsets"] = _packed(in_order)
    if IdLookup(tables["id_bytes"], tables["id_offsets"]).distinct() != len(ids):
        _refuse_repeated(ids)
    return _write_folder(Path(out), tables)


def _write_folder(out: Path, tables: dict[str, NDArray[Any]]) -> str:
    """Write beside the target, check, then rename: a reader sees the old index or the new one, never half of one."""
    if out.exists() and not _may_be_replaced(out):
        raise BuildError(
            f"item index: {out} holds other files, expected an item index or nothing there. Choose another folder."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    partial, replaced = (out.with_name(f".{out.name}.{mark}.{word}") for word in ("partial", "replaced"))
    try:
        partial.mkdir()
        header = _header(tables, write_tensors(tables, partial / TABLES_FILE))
        check_tables(tables, header, where="item index")
        (partial / HEADER_FILE).write_text(header.to_json(), encoding="utf-8")
        try:
            if out.exists():
                out.rename(replaced)
            partial.rename(out)
        except BaseException:
            if replaced.exists() and not out.exists():
                replaced.rename(out)
            raise
    except BundleError as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(
            f"item index: {out} could not be written ({error}). Free space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return header.version


def _header(tables: dict[str, NDArray[Any]], version: str) -> ItemIndexHeader:
    codebooks, anchors = tables["codebooks"], tables["anchors"]
    if codebooks.ndim != 3 or anchors.ndim != 2:
        raise BuildError(
            f"item index: codebooks {list(codebooks.shape)} and anchors {list(anchors.shape)}, "
            "expected [L, V, D] and [A, D]. Give one codebook per level."
        )
    return ItemIndexHeader(
        schema_version=SCHEMA_VERSION,
        version=version,
        code_space=code_space_of(codebooks, anchors),
        items=len(tables["codes"]),
        levels=codebooks.shape[0],
        codes=codebooks.shape[1],
        width=codebooks.shape[2],
        anchors=anchors.shape[0],
        nodes=len(tables["trie_code"]),
    )


def _may_be_replaced(out: Path) -> bool:
    return out.is_dir() and {path.name for path in out.iterdir()} <= {HEADER_FILE, TABLES_FILE}


def _check_texts(ids: Sequence[str], names: Sequence[str], items: int) -> None:
    if not len(ids) == len(names) == items or not items:
        raise BuildError(
            f"item index: got {len(ids)} ids, {len(names)} names and {items} rows of codes, expected the same number "
            "of each, at least 1. Give every item an id, a name and codes."
        )
    if not all(ids) or not all(issubclass(kind, str) for kind in set(map(type, ids))):
        row = next(row for row, item_id in enumerate(ids) if not isinstance(item_id, str) or not item_id)
        raise BuildError(f"item index: id of row {row} is {ids[row]!r}, expected a non-empty string. Use str(id).")


def _refuse_repeated(ids: Sequence[str]) -> NoReturn:
    first = {item_id: row for row, item_id in reversed(list(enumerate(ids)))}
    row, item_id = next((row, item_id) for row, item_id in enumerate(ids) if first[item_id] != row)
    raise BuildError(f"item index: id {item_id!r} of row {row} stands twice, expected unique ids. Drop one row.")


def _integers(name: str, values: ArrayLike) -> NDArray[np.int32]:
    array = np.asarray(values)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise BuildError(
            f"item index: '{name}' is {array.dtype} {list(array.shape)}, expected integers with one row per item. "
            "Cast it first."
        )
    if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
        raise BuildError(f"item index: '{name}' reaches {array.max()}, expected int32. Use smaller numbers.")
    return np.ascontiguousarray(array, np.int32)


def _floats(name: str, values: ArrayLike) -> NDArray[np.float32]:
    array = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        raise BuildError(
            f"item index: '{name}' has {array[tuple(at)]} at {at}, expected finite numbers (float32). "
            "Look at the training run, or refit the semantic IDs."
        )
    return array


def _flags(values: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise BuildError(
            f"item index: 'listed' is {array.dtype} {list(array.shape)}, expected one flag 0 or 1 per item. "
            "Give a bool array."
        )
    return array.astype(np.uint8)


def _packed(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Join texts into bytes and cut points: id_bytes [bytes], id_offsets [N+1]."""
    lengths, joined = np.empty(len(texts), np.int64), []
    try:
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            here = texts[begin : begin + _TEXTS_AT_ONCE]
            whole = "".join(here)
            joined.append(whole.encode())
            told = map(len, here) if whole.isascii() else (len(text.encode()) for text in here)
            lengths[begin : begin + len(here)] = np.fromiter(told, np.int64, len(here))
    except (UnicodeEncodeError, TypeError) as error:
        raise BuildError(
            f"item index: got a text that is not valid ({error}), expected UTF-8 strings. Clean it."
        ) from error
    return np.frombuffer(b"".join(joined), np.uint8), np.append(0, np.cumsum(lengths))
