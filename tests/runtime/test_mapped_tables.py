"""Mapping a safetensors file, against the safetensors package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.mapped_tables import WrongHashError, map_tables


def tables() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "?")
    every = {f"of {name}": rng.integers(0, 2, (3, 5)).astype(name) for name in names}
    return every | {"none": np.empty((0, 4), np.float32), "number": np.array(7, np.int64), "z": np.empty(0, np.uint8)}


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_mapped_tables_are_those_that_safetensors_loads(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file(tables(), path, metadata={"a": "b"})
    mapped = map_tables(path, hashlib.sha256(path.read_bytes()).hexdigest())
    loaded = load_file(path)
    assert mapped.keys() == loaded.keys()
    for name, table in loaded.items():
        assert (mapped[name].dtype, mapped[name].shape) == (table.dtype, table.shape), name
        assert mapped[name].tobytes() == table.tobytes(), name
        assert not mapped[name].flags.writeable, name


def test_tables_outlive_their_name_in_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file(tables(), path)
    mapped = map_tables(path, hashlib.sha256(path.read_bytes()).hexdigest())
    path.unlink()
    assert mapped["of f4"].tobytes() == tables()["of f4"].tobytes()


def test_another_hash_is_told(tmp_path: Path) -> None:
    found = written(tmp_path / "t", b"x")
    with pytest.raises(WrongHashError) as caught:
        map_tables(tmp_path / "t", "0" * 64)
    assert caught.value.found == found


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"x", "a header of"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "a header of 1099511627776 bytes in a file of 10"),
        (file_of(b"{"), "Expecting"),
        (file_of(b"\xff"), "decode"),
        (file_of([]), "a header that is a list"),
        (file_of({"a": 1}), "a row of 'a' that is 1"),
        (file_of({"a": {**ROW, "dtype": "F8_E4M3"}}, bytes(8)), "a row of 'a'"),
        (file_of({"a": {**ROW, "shape": [3]}}, bytes(8)), r"'a' of float32 \[3\]"),
        (file_of({"a": {**ROW, "shape": [-1, -2]}}, bytes(8)), r"'a' of float32 \[-1, -2\]"),
        (file_of({"a": ROW}, bytes(7)), "'a' of float32"),
        (file_of({"a": {**ROW, "data_offsets": [-4, 4]}}, bytes(8)), "'a' of float32"),
        (file_of({"a": ROW}, bytes(9)), "overlap or leave bytes"),
        (file_of({"a": ROW, "b": {**ROW, "data_offsets": [4, 12]}}, bytes(12)), "overlap or leave bytes"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    version = written(tmp_path / "t", data)
    with pytest.raises(ValueError, match=words):
        map_tables(tmp_path / "t", version)
