"""Looks for numbers that float16 cannot hold: the largest |activation| of every tensor, on the requests that verify."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.islands import Kept, kept_around
from export.precision import typed

LIMIT = 65504.0  # the largest float16
SHOWN = 10  # tensors that the report names
# nodes that hand numbers on as they are; a mask's -1e4 travels through them and is no activation
_CARRIES = frozenset(
    {"Add", "Cast", "CastLike", "Concat", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


class PeakMeter:
    """One fp16 graph that answers, instead of its outputs, the largest |value| of every float16 tensor in it."""

    def __init__(self, stage: str, model: onnx.ModelProto, kept: Kept) -> None:
        self.stage = stage
        self.kept = kept
        self.peaks: dict[str, float] = {}  # in the order of the graph
        graph, types = typed(model)
        self._weights = {row.name for row in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._outputs = {row.name for row in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._masks = set(self._carried(row.name for row in graph.input if row.name.endswith("_mask")))
        self._watched = [name for node in graph.node for name in node.output if types.get(name) == "float16"]
        measured = onnx.ModelProto()
        measured.CopyFrom(model)
        del measured.functions[:]
        measured.graph.CopyFrom(graph)
        _measure(measured.graph, self._watched)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # the default holds every tensor to the end
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = onnxruntime.InferenceSession(
            measured.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def open(cls, stage: str, path: Path, kept: Kept) -> Self:
        """The meter of a graph on disk."""
        return cls(stage, onnx.load(path), kept)

    def add(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Run one batch; a peak only rises.

        Shapes: feed as the stage's inputs
        """
        for name, array in feed.items():
            if array.dtype == np.float16 and array.size and name not in self._masks:
                self._note(name, float(np.abs(array).max()))
        for name, peak in zip(self._watched, self._session.run(None, dict(feed)), strict=True):
            self._note(name, float(peak))

    def failure(self) -> str:
        """The first tensor that overflows, with the module to keep in fp32; "" if all of them fit."""
        over = [name for name, peak in self.peaks.items() if not peak <= LIMIT]
        if not over:
            return ""
        first = over[0]
        weight = self._nearest_weight(first)
        where = f"{first!r}" + (f" (behind {weight})" if weight else "")
        return (
            f"{self.stage}: {where} reaches {self.peaks[first]:.3g}, expected at most {LIMIT:.0f}, the largest float16 "
            f"({len(over)} of {len(self.peaks)} tensors overflow). {self._advice(first, weight)}"
        )

    def to_json(self) -> dict[str, Any]:
        """What was measured: masks aside, the largest of all and the first few."""
        peaks = {name: peak for name, peak in self.peaks.items() if name not in self._masks}
        ordered = sorted(peaks, key=lambda name: -peaks[name])
        return {
            "limit": LIMIT,
            "tensors": len(self.peaks),
            "largest": peaks[ordered[0]] if ordered else 0.0,
            "top": {name: peaks[name] for name in ordered[:SHOWN]},
        }

    def _note(self, name: str, peak: float) -> None:
        peak = math.inf if math.isnan(peak) else max(peak, 0.0)  # an empty tensor's maximum is -inf
        self.peaks[name] = max(self.peaks.get(name, 0.0), peak)

    def _advice(self, tensor: str, weight: str) -> str:
        if not self._outputs.isdisjoint(self._carried([tensor])) or tensor not in self._producers:
            return (
                "It crosses the stage's boundary in float16: build with --precision fp32, or train to smaller values."
            )
        module = weight.rpartition(".")[0].rpartition(".")[0] or self.stage
        while kept_around(module, self.kept) and "." in module:
            module = module.rpartition(".")[0]
        return f"Build with --keep-fp32 {module}, or with --precision fp32."

    def _nearest_weight(self, tensor: str) -> str:
        """The closest named weight before a tensor, breadth first."""
        waiting, seen = [tensor], {tensor}
        while waiting:
            name = waiting.pop(0)
            if name in self._weights and name.startswith(f"{self.stage}."):
                return name
            node = self._producers.get(name)
            waiting += [new for new in (node.input if node else []) if new not in seen]
            seen.update(waiting)
        return ""

    def _carried(self, names: Any) -> Iterator[str]:
        """These tensors and all that holds their numbers unchanged, or added to others."""
        waiting, seen = list(names), set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            yield name
            waiting += [out for node in self._readers.get(name, []) if node.op_type in _CARRIES for out in node.output]


def _measure(graph: onnx.GraphProto, names: list[str]) -> None:
    """Replace the outputs by the largest |value| of each named tensor, measured where the tensor is made."""
    places, nodes = {name: place for place, name in enumerate(names)}, list(graph.node)
    for repeated in (graph.output, graph.value_info, graph.node):
        del repeated[:]
    for node in nodes:
        graph.node.append(node)
        for name in (name for name in node.output if name in places):
            wide, size, peak = (f"__{word}_{places[name]}" for word in ("wide", "size", "peak"))
            graph.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
            graph.node.append(helper.make_node("Abs", [wide], [size]))
            graph.node.append(helper.make_node("ReduceMax", [size], [peak], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
