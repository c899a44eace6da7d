"""The arena: one owner a tensor, one address at every shape."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.buffers import Arena, Copies
from runtime.errors import BundleError
from runtime.memory import ALIGNMENT, HostMemory, address
from runtime.stage import TensorSpec

LIMITS = {"B": 4, "S": 10}
KEYS = TensorSpec("keys", "float16", ("B", 3, "S"))


def test_a_tensor_has_one_aligned_address_at_every_shape() -> None:
    arena = Arena([KEYS, TensorSpec("kind", "int32", ("B", "S"))], LIMITS, HostMemory())
    small, large = arena.view("keys", (1, 3, 2)), arena.view("keys", (4, 3, 10))
    assert address(small) == address(large)
    assert address(small) % ALIGNMENT == 0
    assert small.flags.c_contiguous
    assert address(arena.view("kind", (1, 1))) % ALIGNMENT == 0


def test_buffers_of_different_tensors_do_not_overlap() -> None:
    arena = Arena([KEYS, TensorSpec("kind", "int32", ("B", "S"))], LIMITS, HostMemory())
    arena.view("kind", (4, 10))[:] = 7
    arena.view("keys", (4, 3, 10))[:] = -1
    assert (arena.view("kind", (4, 10)) == 7).all()


def test_a_tensor_of_two_stages_gets_the_larger_buffer() -> None:
    arena = Arena(
        [TensorSpec("items", "int32", ("B", 2)), TensorSpec("items", "int32", ("B", "S"))], LIMITS, HostMemory()
    )
    assert arena.nbytes == 256  # 4 x 10 x 4 bytes, rounded up


def test_two_stages_that_disagree_on_a_tensor_are_refused() -> None:
    with pytest.raises(BundleError, match="'keys': one stage says float16"):
        Arena([KEYS, TensorSpec("keys", "float32", ("B", 3, "S"))], LIMITS, HostMemory())


def test_a_snapshot_of_the_counters_stands_still() -> None:
    copies = Copies()
    copies.stage_to_stage["keys"] += 1
    before = copies.snapshot()
    copies.stage_to_stage["keys"] += 1
    assert (before.stage_to_stage["keys"], copies.stage_to_stage["keys"]) == (1, 2)
    copies.clear()
    assert copies == Copies()


def test_a_view_shares_the_buffers_memory() -> None:
    arena = Arena([KEYS], LIMITS, HostMemory())
    arena.view("keys", (2, 3, 4))[:] = 5
    assert np.count_nonzero(arena.view("keys", (4, 3, 10))) == 2 * 3 * 4
