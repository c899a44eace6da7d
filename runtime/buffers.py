"""The memory between the stages: one place for each tensor name, and the ledger of everything that is copied."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from runtime.errors import BundleError
from runtime.memory import ALIGNMENT, Memory, view
from runtime.stage import Tensor, TensorSpec


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
    """Owns the memory of every tensor that travels between the stages: one block, one place in it for each name.

    A place is big enough for the largest shape of the profile. A smaller shape is a view of the place's start, so a
    tensor has the same address at every batch size and bucket.
    """

    def __init__(self, specs: Iterable[TensorSpec], limits: Mapping[str, int], memory: Memory) -> None:
        self._spec: dict[str, TensorSpec] = {}
        sizes: dict[str, int] = {}
        for spec in specs:
            known = self._spec.setdefault(spec.name, spec)
            if known.dtype != spec.dtype or len(known.shape) != len(spec.shape):
                raise BundleError(
                    f"tensor {spec.name!r}: one stage says {known.dtype} {list(known.shape)}, another {spec.dtype} "
                    f"{list(spec.shape)}, expected the same. Rebuild with `python -m export.build --stage all`."
                )
            size = math.prod(spec.sized(limits)) * spec.numpy_dtype.itemsize
            sizes[spec.name] = max(size, sizes.get(spec.name, 0))
        self._place: dict[str, range] = {}
        begin = 0
        for name, size in sizes.items():
            self._place[name] = range(begin, begin + size)
            begin += -(-size // ALIGNMENT) * ALIGNMENT
        self._block = memory.allocate(begin, "the tensors between the stages")

    @property
    def nbytes(self) -> int:
        """The capacity of all places together."""
        return self._block.nbytes

    def view(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The place of `name` as a tensor of `shape`, nothing copied."""
        place, dtype = self._place[name], self._spec[name].numpy_dtype
        size = math.prod(shape) * dtype.itemsize
        assert size <= len(place), f"{name} {list(shape)} is over its place of {len(place)} bytes"
        return view(self._block, place.start, dtype, shape)
