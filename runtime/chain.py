"""Runs one stage after another over shared memory, and keeps the ledger of what had to be copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.buffers import Arena, Copies
from runtime.device import GraphCounts
from runtime.errors import BundleError, UsageError
from runtime.item_header import TABLE_SPECS
from runtime.item_tables import ELIGIBLE, ItemTables
from runtime.manifest import STAGES
from runtime.masks import NAMES as MASKS
from runtime.masks import Masks
from runtime.memory import Memory, address
from runtime.stage import Array, Binding, Stage, Tensor, TensorSpec
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

    A producer is bound to write into the very memory that its consumers are bound to read. A stage that brings its own
    memory instead is served by a copy, and the copy is counted.
    """

    def __init__(self, stages: Mapping[str, Stage], masks: Masks, limits: dict[str, int], memory: Memory) -> None:
        self.stages = {name: stages[name] for name in STAGES}
        self.memory = memory
        self.copies = Copies()
        self.timing = Timing()
        self._evicted: Counter[str] = Counter()
        self._masks = masks
        self._mask_at: dict[tuple[str, int, np.dtype[Any]], Tensor] = {}
        self._bound: dict[Any, Bound] = {}
        self._staged: dict[str, Tensor] = {}  # filled by the host, not sent yet
        self._at: dict[str, Tensor] = {}  # where the current value of each tensor lies
        self._address: dict[str, int] = {}  # the same, as a number
        specs = [spec for stage in self.stages.values() for spec in (*stage.inputs, *stage.outputs)]
        for spec in specs:
            if spec.name in MASKS:
                masks.check(spec, limits)
        _check_joints(self.stages.values())
        self.arena = Arena([spec for spec in specs if spec.name not in RESIDENT], limits, memory)

    @property
    def graphs(self) -> GraphCounts:
        """What became of every run on a device so far: a snapshot over all stages."""
        counts = GraphCounts(evicted=Counter(self._evicted))
        for stage in self.stages.values():
            counts.add(stage.graph_counts)
        return counts

    def item_specs(self) -> list[TensorSpec]:
        """The tensors that an item index must bring."""
        specs = [spec for stage in self.stages.values() for spec in stage.inputs if spec.name in ITEM_TENSORS]
        return list({spec.name: spec for spec in specs}.values())

    def staging(self, name: str, shape: tuple[int, ...]) -> Array:
        """Where the host writes an input before the next stage runs; counted as one write."""
        self.copies.host_to_stage[name] += 1
        tensor = self._staged[name] = self._at[name] = self.arena.view(name, shape)
        self._address[name] = address(tensor)
        return self.memory.staging(tensor)

    def read(self, *names: str) -> list[Array]:
        """Fresh host copies of the current values of some tensors; each is counted as one read."""
        for name in names:
            if name not in self._at:
                raise UsageError(
                    f"tensor {name!r} has not been written, got {', '.join(self._at) or 'nothing'} so far."
                )
            self.copies.results_read[name] += 1
        self._send()
        return self.memory.fetch([self._at[name] for name in names])

    def run(self, stage: str, letters: dict[str, int], tables: ItemTables | None = None) -> None:
        """Run one stage at the sizes of `letters`, on the values that were written last."""
        bound = self._binding(stage, letters, tables)
        self._send()
        for name, wanted in bound.reads.items():
            if self._address.get(name, wanted) != wanted:
                self.memory.copy(bound.binding.inputs[name], self._at[name])
                self.copies.stage_to_stage[name] += 1
        with self.timing.span(stage):
            bound.binding.run()
        self._at.update(bound.binding.outputs)
        self._address.update(bound.writes)

    def close(self) -> None:
        """Give everything back: bindings, then engines, then memory; a failure on the way stops nothing."""
        with ExitStack() as last:  # runs from the end
            last.callback(self.memory.close)
            for stage in self.stages.values():
                last.callback(stage.close)
            for bound in self._bound.values():
                last.callback(bound.binding.close)
            last.callback(self.memory.wait)
            self._bound = {}

    def _send(self) -> None:
        for tensor in self._staged.values():
            self.memory.send(tensor)
        self._staged.clear()

    def _binding(self, stage: str, letters: dict[str, int], tables: ItemTables | None) -> Bound:
        """The binding of a stage at these sizes, made at the first call; the one unused for longest makes room."""
        cache = self._bound if tables is None else tables.bound
        key = (stage, *letters.values())
        bound = cache.pop(key, None)
        if bound is None:
            while len(cache) >= MAX_BINDINGS:
                self.memory.wait()  # what it launched last may still run
                oldest = next(iter(cache))
                cache.pop(oldest).binding.close()
                self._evicted[oldest[0]] += 1
            binding = self._bind(self.stages[stage], letters, tables)
            bound = Bound(
                binding,
                {name: address(tensor) for name, tensor in binding.inputs.items()},
                {name: address(tensor) for name, tensor in binding.outputs.items()},
            )
        cache[key] = bound  # at the end: the cache is in the order of use
        return bound

    def _bind(self, stage: Stage, letters: dict[str, int], tables: ItemTables | None) -> Binding:
        """Tie a stage to the arena and to the resident tensors at one set of sizes."""
        sizes = letters if tables is None else {**letters, **tables.letters}
        inputs: dict[str, Tensor] = {}
        for spec in stage.inputs:
            shape = spec.sized(sizes)
            if spec.name in MASKS:
                inputs[spec.name] = self._mask(spec, shape[-1])
            elif spec.name in ITEM_TENSORS:
                assert tables is not None, f"{stage.name} reads {spec.name} and must be run with item tables"
                inputs[spec.name] = tables.tensor(spec.name, shape)
            else:
                inputs[spec.name] = self.arena.view(spec.name, shape)
        outputs = {spec.name: self.arena.view(spec.name, spec.sized(sizes)) for spec in stage.outputs}
        return stage.bind(inputs, outputs)

    def _mask(self, spec: TensorSpec, size: int) -> Tensor:
        """A static mask where the engines read it, moved there at the first call and kept."""
        key = (spec.name, size, spec.numpy_dtype)
        if key not in self._mask_at:
            self._mask_at[key] = self.memory.resident(self._masks.additive(*key), f"the {spec.name} of {size} rows")
        return self._mask_at[key]


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
