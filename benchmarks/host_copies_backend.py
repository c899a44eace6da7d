"""A baseline: the bundle's graphs without our runtime, as a first server is written: one session.run after another.

Every stage hands fresh arrays to the caller, who hands them to the next one; masks and item tables are fed at every
call. The sessions have the runtime's number of threads, and like its own they do not spin while they wait: four pools
that do would take the cores from each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.backend import Array, Work
from benchmarks.measure import Laps
from benchmarks.workload import Workload
from runtime.item_tables import ELIGIBLE, ItemFilter
from runtime.items import ItemIndex
from runtime.manifest import STAGES, Manifest
from runtime.masks import NAMES as MASKS
from runtime.masks import Masks, fill_history_mask
from runtime.requests import fill_tokens
from runtime.stage import TensorSpec

Named = dict[str, Array]


class HostCopiesBackend:
    """Four sessions and a dictionary of arrays."""

    staged = True

    def __init__(self, workload: Workload) -> None:
        bundle = Path(workload.job.bundle)
        manifest = Manifest.read(bundle)
        self.precision = manifest.precision
        self._workload = workload
        self._masks = Masks.read(bundle / manifest.masks.file)
        self._index = ItemIndex.read(bundle / manifest.items.folder)
        rows = manifest.stages
        self._inputs = {name: [TensorSpec(**asdict(row)) for row in rows[name].inputs] for name in STAGES}
        self._outputs = {name: [row.name for row in rows[name].outputs] for name in STAGES}
        self._specs = {spec.name: spec for inputs in self._inputs.values() for spec in inputs}
        self._candidates = manifest.letters["C"]
        self._tables = {
            name: np.ascontiguousarray(self._index.tables[name], self._specs[name].numpy_dtype)
            for name in self._specs.keys() & self._index.tables.keys()
        }
        self._sessions = {name: _session(bundle / rows[name].file, workload.job.threads) for name in STAGES}
        self._tensors: Named = {}

    def prepare(self, workload: Workload) -> Mapping[str, float]:
        for position in range(len(workload.encoded)):
            self.chain(position, Laps())
        return {}

    def chain(self, position: int, laps: Laps) -> None:
        tensors = self._tables | self._tokens(position) | self._eligible(position)
        for name in STAGES:
            feed = {spec.name: tensors[spec.name] for spec in self._inputs[name]}
            answer = self._sessions[name].run(self._outputs[name], feed)
            tensors |= dict(zip(self._outputs[name], answer, strict=True))
            laps.lap(name)
        self._tensors = tensors

    def extras(self) -> Mapping[str, Work]:
        return {}

    def outputs(self) -> Mapping[str, Array]:
        return {name: self._tensors[name] for names in self._outputs.values() for name in names}

    def _tokens(self, position: int) -> Named:
        """Tokens side by side, the history mask, and the static masks of that size."""
        batch = [request.tokens for request in self._workload.encoded[position]]
        B, S = len(batch), self._workload.padded(position)
        sizes = {"B": B, "S": S, "C": self._candidates}
        made = {
            name: np.zeros(self._specs[name].sized(sizes), self._specs[name].numpy_dtype)
            for name in ("token_fields", "token_kind", "token_time", "history_mask")
        }
        fill_tokens(batch, made["token_fields"], made["token_kind"], made["token_time"])
        fill_history_mask([len(tokens.token_kind) for tokens in batch], made["history_mask"])
        for name in MASKS:
            spec = self._specs[name]
            made[name] = self._masks.additive(name, spec.sized(sizes)[-1], spec.numpy_dtype)
        return made

    def _eligible(self, position: int) -> Named:
        """Row 0 of item_eligible for requests without a filter, a row of its own for every other."""
        rows, used = [self._index.default_eligible()], []
        for request in self._workload.encoded[position]:
            used.append(0 if request.item_filter.is_default else len(rows))
            if not request.item_filter.is_default:
                rows.append(self._index.eligible_counts(self._mask(request.item_filter)))
        return {ELIGIBLE: np.stack(rows), "eligible_row": np.array(used, np.int32)}

    def _mask(self, item_filter: ItemFilter) -> Array:
        mask = self._index.listed
        if item_filter.only is not None:
            mask = np.zeros(len(self._index), np.bool_)
            mask[item_filter.only] = True
        if item_filter.without is not None:
            mask[item_filter.without] = False
        return mask


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
