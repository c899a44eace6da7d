"""The one-pass writer against the safetensors package."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from export import tensor_file
from export.tensor_file import write_tensors


@pytest.mark.parametrize("at_once", [5, 1 << 24])
@pytest.mark.parametrize("seed", range(3))
def test_bytes_are_those_of_safetensors_and_the_hash_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, at_once: int
) -> None:
    monkeypatch.setattr(tensor_file, "_AT_ONCE", at_once)
    rng = np.random.default_rng(seed)
    tables = {
        "".join(rng.choice(list("abcé_ "), 9)): rng.integers(0, 200, rng.integers(0, 5, 1 + i % 3)).astype(dtype)
        for i, dtype in enumerate(["uint8", "int64", "float32", "int32"] * 3)
    }
    save_file(tables, tmp_path / "theirs")
    version = write_tensors(tables, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert version == hashlib.sha256((tmp_path / "theirs").read_bytes()).hexdigest()


def test_a_table_that_is_a_view_is_written_in_its_own_order(tmp_path: Path) -> None:
    table = np.arange(12, dtype=np.int32).reshape(3, 4).T[::2]
    save_file({"t": np.ascontiguousarray(table)}, tmp_path / "theirs")
    write_tensors({"t": table}, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_type_that_no_index_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'t' is float64, expected one of int64, float32, int32, uint8"):
        write_tensors({"t": np.zeros(2)}, tmp_path / "ours")
