"""Specs and check_feed: what fits, and what a message says of what does not."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import BundleError, FeedError
from runtime.stage import TensorSpec, check_feed

KEYS = TensorSpec("keys", "float32", ("B", 2, "S"))
COUNTS = TensorSpec("counts", "int32", ("B", "S+1"))


def feed(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {"keys": np.zeros((3, 2, 5), np.float32), "counts": np.zeros((3, 6), np.int32)} | changes


def test_letters_bind_to_the_sizes_of_the_feed() -> None:
    assert check_feed("ranker", [KEYS, COUNTS], feed()) == {"B": 3, "S": 5}


def test_a_sum_binds_its_free_letter() -> None:
    assert check_feed("ranker", [COUNTS], {"counts": np.zeros((3, 6), np.int32)}) == {"B": 3, "S": 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"counts": np.zeros((3, 5), np.int32)},
            "ranker: input 'counts' is int32 [3, 5], expected int32 ['B', 'S+1'] (bound so far: B=3, S=5)",
        ),
        (
            {"keys": np.zeros((3, 2, 5), np.float64)},
            "ranker: input 'keys' is float64 [3, 2, 5], expected float32 ['B', 2, 'S'] (bound so far: nothing)",
        ),
        (
            {"keys": np.zeros((3, 4, 5), np.float32)},
            "ranker: input 'keys' is float32 [3, 4, 5], expected float32 ['B', 2, 'S'] (bound so far: nothing)",
        ),
        (
            {"keys": np.zeros((3, 2), np.float32)},
            "ranker: input 'keys' is float32 [3, 2], expected float32 ['B', 2, 'S'] (bound so far: nothing)",
        ),
        ({"more": np.zeros(1)}, "ranker: input 'more' is unknown, expected keys, counts. Leave it out."),
        (
            {"keys": np.zeros((3, 5, 2), np.float32).transpose(0, 2, 1)},
            "ranker: input 'keys' is strided, expected one block; use np.ascontiguousarray",
        ),
    ],
    ids=["letter", "dtype", "number", "rank", "unknown", "strided"],
)
def test_a_misfit_is_told_with_place_found_expected_and_bound(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(FeedError) as caught:
        check_feed("ranker", [KEYS, COUNTS], feed(**changes))
    assert str(caught.value) == message


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(FeedError, match="input 'counts' is missing, got keys"):
        check_feed("ranker", [KEYS, COUNTS], {"keys": feed()["keys"]})


def test_a_shape_in_numbers_needs_every_letter() -> None:
    assert TensorSpec("t", "float16", ("1+C", "N+1", 4)).sized({"C": 6, "N": 10}) == (7, 11, 4)
    with pytest.raises(FeedError, match="needs the letter N, bound so far: C=6"):
        TensorSpec("t", "float16", ("1+C", "N+1")).sized({"C": 6})


def test_an_unknown_dtype_or_dim_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="dtype 'bfloat16' is unknown"):
        TensorSpec("t", "bfloat16", ())
    with pytest.raises(BundleError, match="dim 'N-1' is neither"):
        TensorSpec("t", "int32", ("N-1",))
