"""Masks from the bundle: blocks cut, turned additive, and never changed otherwise."""

from __future__ import annotations

from pathlib import Path

import fake_bundle
import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.errors import BundleError
from runtime.masks import Masks, fill_history_mask


def written(tmp_path: Path, **changes: np.ndarray | None) -> Path:
    masks = fake_bundle.make_masks() | changes
    path = tmp_path / "masks.safetensors"
    save_file({name: mask for name, mask in masks.items() if mask is not None}, path)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_leading_block_becomes_zero_or_minus_ten_thousand(tmp_path: Path, dtype: str) -> None:
    mask = Masks.read(written(tmp_path)).additive("causal_mask", 5, np.dtype(dtype))
    assert mask.dtype == dtype
    assert mask.tolist() == [[[[0.0 if c <= r else -1e4 for c in range(5)] for r in range(5)]]]


def test_a_mask_of_one_size_is_made_once(tmp_path: Path) -> None:
    masks, dtype = Masks.read(written(tmp_path)), np.dtype("float32")
    assert masks.additive("task_mask", 8, dtype) is masks.additive("task_mask", 8, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_history_mask_opens_exactly_the_real_keys(dtype: str) -> None:
    mask = np.full((3, 1, 1, 4), 9, dtype)
    fill_history_mask([1, 4, 2], mask)
    assert mask[:, 0, 0].tolist() == [[0.0 if key < n else -1e4 for key in range(4)] for n in (1, 4, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_mask": None}, "got the masks"),
        ({"more_mask": np.ones((1, 1, 2, 2), np.uint8)}, "got the masks"),
        ({"task_mask": np.ones((1, 1, 8, 8), np.float32)}, "'task_mask' is float32"),
        ({"task_mask": np.full((1, 1, 8, 8), 2, np.uint8)}, "of 0 and 1"),
        ({"task_mask": np.ones((1, 1, 8, 7), np.uint8)}, "expected uint8 [1, 1, n, n]"),
        ({"task_mask": np.tril(np.ones((8, 8), np.uint8), -1)[None, None]}, "row 0 of 'task_mask' may read nothing"),
    ],
    ids=["missing", "more", "dtype", "values", "square", "empty row"],
)
def test_a_wrong_mask_file_is_a_bundle_error(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        Masks.read(written(tmp_path, **changes))
    assert message in str(caught.value)
