"""Runs one stage after another over shared memory, and keeps the ledger of what had to be copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.buffers import Arena, Copies, address
from runtime.errors import BundleError, UsageError
from runtime.item_tables import ELIGIBLE, ItemTables
from runtime.items import TABLE_SPECS
from runtime.manifest import STAGES
from runtime.masks import NAMES as MASKS
from runtime.masks import Masks
from runtime.stage import Array, Binding, Stage, TensorSpec
from runtime.timing import Timing

ITEM_TENSORS = frozenset({*TABLE_SPECS, ELIGIBLE})
RESIDENT = ITEM_TENSORS | frozenset(MASKS)
MAX_BINDINGS = 256  # sizes kept ready, for the stages that read no item table and again for those that do


@dataclass(frozen=True, slots=True)
class Bound:
    """A binding with the addresses that the engine really reads and writes, noted once."""

    binding: Binding
    reads: dict[str, int]
    writes: dict[str, int]


class Chain:
    """The four stages, the arena between them and the resident masks; sole owner of all of it.

    A producer is bound to write into the very buffer that its consumers are bound to read. A stage that brings its own
    memory instead is served by a copy, and the copy is counted.
    """

    def __init__(self, stages: Mapping[str, Stage], masks: Masks, limits: dict[str, int]) -> None:
        self.stages = {name: stages[name] for name in STAGES}
        self.copies = Copies()
        self.timing = Timing()
        self._masks = masks
        self._bound: dict[Any, Bound] = {}
        self._at: dict[str, Array] = {}  # where the current value of each tensor lies
        self._address: dict[str, int] = {}  # the same, as a number
        specs = [spec for stage in self.stages.values() for spec in (*stage.inputs, *stage.outputs)]
        for spec in specs:
            if spec.name in MASKS:
                masks.check(spec, limits)
        _check_joints(self.stages.values())
        self.arena = Arena([spec for spec in specs if spec.name not in RESIDENT], limits)
        self._spec = {spec.name: spec for spec in specs}

    def item_specs(self) -> list[TensorSpec]:
        """The tensors that an item index must bring."""
        specs = [spec for stage in self.stages.values() for spec in stage.inputs if spec.name in ITEM_TENSORS]
        return list({spec.name: spec for spec in specs}.values())

    def staging(self, name: str, shape: tuple[int, ...]) -> Array:
        """The buffer of an input for the host to fill, in place; counted as one write."""
        self.copies.host_to_stage[name] += 1
        view = self._at[name] = self.arena.view(name, shape)
        self._address[name] = address(view)
        return view

    def read(self, name: str) -> Array:
        """A fresh copy of a tensor's current value; counted as one read."""
        if name not in self._at:
            raise UsageError(f"tensor {name!r} has not been written, got {', '.join(self._at) or 'nothing'} so far.")
        self.copies.results_read[name] += 1
        return self._at[name].copy()

    def run(self, stage: str, letters: dict[str, int], tables: ItemTables | None = None) -> None:
        """Run one stage at the sizes of `letters`, on the values that lie in the buffers now."""
        cache = self._bound if tables is None else tables.bound
        key = (stage, *letters.values())
        bound = cache.get(key)
        if bound is None:
            while len(cache) >= MAX_BINDINGS:
                del cache[next(iter(cache))]
            binding = self._bind(self.stages[stage], letters, tables)
            bound = cache[key] = Bound(
                binding,
                {name: address(array) for name, array in binding.inputs.items()},
                {name: address(array) for name, array in binding.outputs.items()},
            )
        for name, wanted in bound.reads.items():
            if self._address.get(name, wanted) != wanted:
                np.copyto(bound.binding.inputs[name], self._at[name])
                self.copies.stage_to_stage[name] += 1
        with self.timing.span(stage):
            bound.binding.run()
        self._at.update(bound.binding.outputs)
        self._address.update(bound.writes)

    def _bind(self, stage: Stage, letters: dict[str, int], tables: ItemTables | None) -> Binding:
        """Tie a stage to the arena and to the resident tensors at one set of sizes."""
        sizes = letters if tables is None else {**letters, **tables.letters}
        inputs: dict[str, Array] = {}
        for spec in stage.inputs:
            shape = spec.sized(sizes)
            if spec.name in MASKS:
                inputs[spec.name] = self._masks.additive(spec.name, shape[-1], spec.numpy_dtype)
            elif spec.name in ITEM_TENSORS:
                assert tables is not None, f"{stage.name} reads {spec.name} and must be run with item tables"
                inputs[spec.name] = tables.tensor(spec.name, shape)
            else:
                inputs[spec.name] = self.arena.view(spec.name, shape)
        outputs = {spec.name: self.arena.view(spec.name, spec.sized(sizes)) for spec in stage.outputs}
        return stage.bind(inputs, outputs)

    def close(self) -> None:
        self._bound.clear()
        for stage in self.stages.values():
            stage.close()


def _check_joints(stages: Iterable[Stage]) -> None:
    """Compare what a stage reads with what an earlier stage writes under the same name."""
    made: dict[str, tuple[str, TensorSpec]] = {}
    for stage in stages:
        for spec in stage.inputs:
            if spec.name in made and not _same_tensor(spec, made[spec.name][1]):
                producer, other = made[spec.name]
                raise BundleError(
                    f"{stage.name}: reads {spec.name!r} as {spec.dtype} {list(spec.shape)}, {producer} writes "
                    f"{other.dtype} {list(other.shape)}. Rebuild with `python -m export.build --stage all`."
                )
        made.update({spec.name: (stage.name, spec) for spec in stage.outputs})


def _same_tensor(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether dtype and rank agree, and every pair of dims that are both numbers."""
    return (
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(one.shape, other.shape, strict=True))
    )
