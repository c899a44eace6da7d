"""Writes a safetensors file in one pass and hashes it on the way: no table is copied, nothing is read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = {"int64": "I64", "float32": "F32", "int32": "I32", "uint8": "U8"}  # in this order: so all are aligned
_AT_ONCE = 1 << 24  # bytes
_ALIGNMENT = 8  # of the first table: the header is filled up with spaces


def write_tensors(tables: Mapping[str, NDArray[Any]], path: Path) -> str:
    """Write tables as the safetensors package does, byte for byte, and return the file's sha256.

    Raises:
        OSError: The file cannot be written.
        ValueError: A table is of a type that no item index has.
    """
    for name, table in tables.items():
        if table.dtype.name not in _NAMES:
            raise ValueError(f"'{name}' is {table.dtype}, expected one of {', '.join(_NAMES)}. Cast it first.")
    order = sorted(tables, key=lambda name: ([*_NAMES].index(tables[name].dtype.name), name))
    ordered = {name: np.ascontiguousarray(tables[name]) for name in order}
    header, begin = {}, 0
    for name, table in ordered.items():
        header[name] = {
            "dtype": _NAMES[table.dtype.name],
            "shape": list(table.shape),
            "data_offsets": [begin, begin + table.nbytes],
        }
        begin += table.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as hashing:  # the next bytes are written meanwhile
        for part in _parts(len(text).to_bytes(8, "little") + text, ordered):
            hashed = hashing.submit(digest.update, part)
            file.write(part)
            hashed.result()
    return digest.hexdigest()


def _parts(head: bytes, tables: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
    yield head
    for table in tables.values():
        octets = table.reshape(-1).view(np.uint8)
        for begin in range(0, len(octets), _AT_ONCE):
            yield octets[begin : begin + _AT_ONCE].data
