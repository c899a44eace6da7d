"""One item index as the stages read it: tables in the graphs' precision, bound once, and who may be recommended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import BundleError, DeviceError, FeedError
from runtime.items import ItemIndex
from runtime.memory import Memory, view
from runtime.stage import Array, Tensor, TensorSpec, check_feed

ELIGIBLE = "item_eligible"
MOST_RUNS = 1 << 14  # of counts written one after another; a filter that names more rows is counted item by item


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items one request may get, as rows of the index; `None` for both = the index's default.

    Shapes: only int64 [n] or None, without int64 [m] or None
    """

    only: npt.NDArray[np.int64] | None = None  # exactly these, delisted ones too
    without: npt.NDArray[np.int64] | None = None  # what is left after taking these away

    @property
    def is_default(self) -> bool:
        return self.only is None and self.without is None


class ItemTables:
    """Owns everything that a swap of the index replaces: tables, eligibility rows, and the bindings that point at them.

    Made in two steps, since only the second touches the device: the constructor checks and converts, `settle` moves.

    Shapes: item_eligible int32 [R, N+1], row 0 = the index's default, rows 1..B = the filters of the current batch
    """

    def __init__(self, index: ItemIndex, specs: Iterable[TensorSpec], max_batch: int, memory: Memory) -> None:
        self.index = index
        self.bound: dict[Any, Any] = {}  # the chain's bindings to these tables
        self.letters = {"N": index.header.items, "P": index.header.nodes}
        self._memory = memory
        self._rows, self._row_bytes = 1 + max_batch, 4 * (len(index) + 1)
        self._converted = {spec.name: self._table(spec) for spec in specs if spec.name != ELIGIBLE}
        self._tables: dict[str, Tensor] = {}
        self._default = np.zeros(0, np.int32)  # row 0 of item_eligible as the host reads it, once settled

    def settle(self) -> None:
        """Move the tables to where the engines read them.

        Raises:
            DeviceError: If the device has no room; nothing of these tables is left on it.
        """
        what = f"item index {self.index.version[:12]}…"
        try:
            for name, table in self._converted.items():
                self._tables[name] = self._memory.resident(table, f"{name} of {what}")
            self._tables[ELIGIBLE] = self._memory.allocate(self._rows * self._row_bytes, f"{ELIGIBLE} of {what}")
            self._default = self.index.default_eligible()
            self._memory.put(self._eligible(0), self._default)
            if self._memory.device is None:
                self._default = self._memory.staging(self._eligible(0))  # the same numbers, not twice
        except DeviceError:
            self.release()
            raise
        self._converted = {}

    def release(self) -> None:
        """Drop the bindings to these tables and give their memory back; they serve no more."""
        with ExitStack() as last:  # runs from the end
            for tensor in self._tables.values():
                last.callback(self._memory.free, tensor)
            for bound in self.bound.values():
                last.callback(bound.binding.close)
            last.callback(self._memory.wait)
            self.bound, self._tables, self._default = {}, {}, self._default[:0].copy()

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A resident tensor by name; `item_eligible` is cut to the R rows of `shape`."""
        table = self._tables[name]
        return view(table, 0, np.dtype(np.int32), shape) if name == ELIGIBLE else table

    def fill_filters(self, filters: Sequence[ItemFilter]) -> list[int]:
        """Write a row of item_eligible for each request that has a filter.

        Returns:
            The row that each request uses, 0 where it has no filter.
        """
        rows, used = [], 0
        for item_filter in filters:
            if item_filter.is_default:
                rows.append(0)
                continue
            used += 1
            rows.append(used)
            row = self._eligible(used)
            fill_counts(self._memory.staging(row), self.index, item_filter, self._default)
            self._memory.send(row)
        return rows

    def _eligible(self, row: int) -> Tensor:
        """One row of item_eligible.

        Shapes: -> int32 [N+1]
        """
        return view(self._tables[ELIGIBLE], row * self._row_bytes, np.dtype(np.int32), (self._row_bytes // 4,))

    def _table(self, spec: TensorSpec) -> Array:
        """One table of the index in the graph's dtype, checked against the graph's shape."""
        where = f"{self.index.folder}: version {self.index.version[:12]}…"
        if spec.name not in self.index.tables:
            raise BundleError(
                f"{where}: table {spec.name!r} is missing, the bundle's graphs read it. Write the item index again "
                "for this bundle's retriever."
            )
        table = np.ascontiguousarray(self.index.tables[spec.name], spec.numpy_dtype)
        try:
            bound = check_feed("items", [spec], {spec.name: table})
        except FeedError as error:
            raise BundleError(f"{where}: {error}. Write the item index again for this bundle's model.") from error
        for letter, size in bound.items():
            if self.letters.get(letter, size) != size:
                raise BundleError(f"{where}: {spec.name!r} has {letter}={size}, expected {self.letters[letter]}.")
        return table


def fill_counts(
    counts: npt.NDArray[np.int32], index: ItemIndex, item_filter: ItemFilter, default: npt.NDArray[np.int32]
) -> None:
    """Write the running counts of what a filter leaves, run by run between the rows that it names.

    Shapes: counts int32 [N+1], out; default int32 [N+1], the counts of an index without a filter
    """
    only, without = (np.unique(rows) if rows is not None else rows for rows in (item_filter.only, item_filter.without))
    named = [rows for rows in (only, without) if rows is not None and len(rows)]
    inside = all(rows[0] >= 0 and rows[-1] < len(index) for rows in named)
    if not inside or sum(map(len, named)) > MOST_RUNS:
        mask = index.listed.copy() if only is None else np.zeros(len(index), np.bool_)
        if only is not None:
            mask[only] = True
        if without is not None:
            mask[without] = False
        counts[:] = index.eligible_counts(mask)
        return
    if only is None:
        assert without is not None, "a filter that names nothing is the default"
        steps = without[index.listed[without]]
    else:
        steps = only if without is None else np.setdiff1d(only, without, assume_unique=True)
    ends = [*(steps + 1).tolist(), len(counts)]
    for taken, (begin, end) in enumerate(pairwise([0, *ends])):
        if only is None:
            np.subtract(default[begin:end], taken, out=counts[begin:end])
        else:
            counts[begin:end] = taken


def check_same_family(new: ItemIndex, old: ItemIndex) -> None:
    """Refuse an index that the loaded model cannot read.

    Raises:
        BundleError: If its code space, its shapes or its token fields differ.
    """
    facts = [
        (name, getattr(new.header, name), getattr(old.header, name)) for name in ("levels", "codes", "width", "anchors")
    ]
    facts.append(("item fields", new.item_fields.shape[1], old.item_fields.shape[1]))
    facts.append(("code space", new.code_space, old.code_space))
    for name, found, expected in facts:
        if found != expected:
            raise BundleError(
                f"{new.folder}: {name} {found}, the serving model was built for {expected}; the old index "
                f"{old.version[:12]}… keeps serving. Write the new index with this bundle's codebooks and anchors."
            )
