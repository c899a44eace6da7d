"""The memory between the stages: one owner buffer for each tensor name, and the ledger of everything that is copied."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.errors import BundleError
from runtime.stage import Array, TensorSpec

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


@dataclass(slots=True)
class Copies:
    """How often each tensor was copied, by tensor name, since the pipeline was loaded or `clear` was called."""

    host_to_stage: Counter[str] = field(default_factory=Counter)  # written by the host for a stage to read
    stage_to_stage: Counter[str] = field(default_factory=Counter)  # a producer and a consumer that share no memory
    results_read: Counter[str] = field(default_factory=Counter)  # handed out to the caller as a fresh array

    def clear(self) -> None:
        for counter in (self.host_to_stage, self.stage_to_stage, self.results_read):
            counter.clear()

    def snapshot(self) -> Copies:
        """An independent copy of the counters."""
        return Copies(Counter(self.host_to_stage), Counter(self.stage_to_stage), Counter(self.results_read))


class Arena:
    """Owns one buffer for each tensor name, big enough for the largest shape of the profile.

    A smaller shape is a view of the buffer's start, so a tensor has the same address at every batch size and bucket.
    Untouched pages of a large buffer take no physical memory.
    """

    def __init__(self, specs: Iterable[TensorSpec], limits: Mapping[str, int]) -> None:
        self._spec: dict[str, TensorSpec] = {}
        self._memory: dict[str, Array] = {}
        for spec in specs:
            known = self._spec.setdefault(spec.name, spec)
            if known.dtype != spec.dtype or len(known.shape) != len(spec.shape):
                raise BundleError(
                    f"tensor {spec.name!r}: one stage says {known.dtype} {list(known.shape)}, another {spec.dtype} "
                    f"{list(spec.shape)}, expected the same. Rebuild with `python -m export.build --stage all`."
                )
            size = math.prod(spec.sized(limits)) * spec.numpy_dtype.itemsize
            if spec.name not in self._memory or self._memory[spec.name].nbytes < size:
                self._memory[spec.name] = aligned_bytes(size)

    @property
    def nbytes(self) -> int:
        """The capacity of all buffers together."""
        return sum(memory.nbytes for memory in self._memory.values())

    def view(self, name: str, shape: tuple[int, ...]) -> Array:
        """The buffer of `name` as an array of `shape`, in place."""
        memory, dtype = self._memory[name], self._spec[name].numpy_dtype
        size = math.prod(shape) * dtype.itemsize
        assert size <= memory.nbytes, f"{name} {list(shape)} is over its buffer of {memory.nbytes} bytes"
        return memory[:size].view(dtype).reshape(shape)


def aligned_bytes(size: int) -> Array:
    """Zeroed memory whose address is a multiple of ALIGNMENT.

    Shapes: -> uint8 [size]
    """
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -address(memory) % ALIGNMENT
    return memory[start : start + size]


def address(array: Array) -> int:
    """Where the first element of `array` lies."""
    pointer: int = array.__array_interface__["data"][0]
    return pointer
