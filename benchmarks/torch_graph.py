"""A baseline for GPUs: PyTorch's whole forward, from tokens to scores, as one captured CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.backend import Array, NotRunError, Work
from benchmarks.measure import Laps
from benchmarks.torch_backend import How, Named, TorchBackend, reason_of
from benchmarks.workload import Workload
from runtime.manifest import STAGES

WARM_UP = 3  # runs on a side stream before the capture, as torch.cuda.graph asks for
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class GraphBackend:
    """Eager PyTorch's own stages, captured once for each set of input shapes and replayed. Not run on a GPU."""

    staged = False

    def __init__(self, workload: Workload, *, how: How = How.EAGER) -> None:
        self._eager = TorchBackend(workload, how=how, precision=workload.precision)
        self._device = torch.device(workload.job.device)
        self._captured: dict[Shapes, _Captured] = {}
        self.precision = self._eager.precision

    def prepare(self, workload: Workload) -> Mapping[str, float]:
        """Capture every shape; returns the seconds of all captures, under the first stage's name."""
        start = time.perf_counter()
        try:
            for position in range(len(workload.encoded)):
                self.chain(position, Laps())
        except Exception as error:  # whatever a model does that a stream under capture forbids
            raise NotRunError(reason_of(error, "torch.cuda.graph")) from error
        return {STAGES[0]: time.perf_counter() - start}

    def chain(self, position: int, laps: Laps) -> None:
        with torch.inference_mode():
            given = self._eager.tokens(position) | self._eager.eligibility(position)
            key = tuple((name, tuple(tensor.shape)) for name, tensor in given.items())
            captured = self._captured.get(key)
            if captured is None:
                captured = self._captured[key] = self._capture(given, self._eager.resident(position))
            self._eager.keep(captured.replay(given))

    def extras(self) -> Mapping[str, Work]:
        return {}

    def outputs(self) -> Mapping[str, Array]:
        return self._eager.outputs()

    def _capture(self, given: Named, resident: Named) -> _Captured:
        """Run on a side stream until every library is ready, then once more under capture."""
        static = {name: tensor.to(self._device) for name, tensor in given.items()}
        side: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._forward(resident | static)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = self._forward(resident | static)
        return _Captured(graph, static, made)

    def _forward(self, tensors: Named) -> Named:
        for name in STAGES:
            tensors = tensors | self._eager.run_stage(name, tensors)
        return tensors


class _Captured:
    """A graph with the tensors that it reads and writes at every replay."""

    def __init__(self, graph: torch.cuda.CUDAGraph, static: Mapping[str, Tensor], made: Named) -> None:
        self._graph, self._static, self._made = graph, static, made

    def replay(self, given: Named) -> Named:
        for name, tensor in given.items():
            self._static[name].copy_(tensor)
        self._graph.replay()
        return self._made
