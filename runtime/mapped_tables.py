"""A safetensors file as read-only arrays over its pages: what is not read takes no memory, and processes share it."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_LENGTH = 8  # bytes of the number before the header


def map_tables(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    """Map the tables of a file with this hash; the file must stay as it is while they are in use.

    Raises:
        OSError: It cannot be read.
        ValueError: It has another hash, or is no safetensors file.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise WrongHashError(found)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _tables(mapping)


class WrongHashError(ValueError):
    """The file's own hash, where another one was expected."""

    def __init__(self, found: str) -> None:
        super().__init__(f"sha256 {found}")
        self.found = found


def _tables(mapping: mmap.mmap) -> dict[str, NDArray[Any]]:
    size = int.from_bytes(mapping[:_LENGTH], "little")
    begin = _LENGTH + size
    if begin > len(mapping):
        raise ValueError(f"a header of {size} bytes in a file of {len(mapping)}")
    header = json.loads(mapping[_LENGTH:begin])
    if not isinstance(header, dict):
        raise ValueError(f"a header that is a {type(header).__name__}")
    header.pop("__metadata__", None)
    tables, ranges = {}, [(begin, begin)]
    for name, row in header.items():
        try:
            dtype, shape = np.dtype(_DTYPES[row["dtype"]]), tuple(int(length) for length in row["shape"])
            start, stop = (begin + int(offset) for offset in row["data_offsets"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"a row of {name!r} that is {row}") from error
        fits = begin <= start <= stop <= len(mapping) and min(shape, default=0) >= 0
        if not fits or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name!r} of {dtype} {list(shape)} in the bytes {start} .. {stop} of {len(mapping)}")
        tables[name] = np.ndarray(shape, dtype, mapping, start)
        ranges.append((start, stop))
    ranges.sort()
    ends = [stop for _, stop in ranges]
    if [start for start, _ in ranges[1:]] != ends[:-1] or ends[-1] != len(mapping):
        raise ValueError("tables that overlap or leave bytes between them")
    return tables
