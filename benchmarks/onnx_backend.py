"""The product: the bundle's graphs chained by the runtime on ONNX Runtime, in a process without torch."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.backend import Array, Work
from benchmarks.measure import Laps
from benchmarks.row import RECOMMEND, TOKENS
from benchmarks.workload import Workload
from runtime import Pipeline


class OnnxBackend:
    """One loaded pipeline."""

    def __init__(self, workload: Workload) -> None:
        job = workload.job
        self._workload = workload
        self._pipeline = Pipeline.load(job.bundle, engine="onnxruntime", threads=job.threads)

    def prepare(self, workload: Workload) -> Mapping[str, float]:
        for position in range(len(workload.encoded)):
            self.chain(position, Laps())
        return {}

    def chain(self, position: int, laps: Laps) -> None:
        batch = self._workload.encoded[position]
        pipeline = self._pipeline
        pipeline.generate([request.tokens for request in batch])
        laps.lap("generator")
        pipeline.enhance()
        laps.lap("enhancer")
        pipeline.retrieve([request.item_filter for request in batch])
        laps.lap("retriever")
        pipeline.rank()
        laps.lap("ranker")

    def extras(self) -> Mapping[str, Work]:
        return {TOKENS: self._tokens, RECOMMEND: self._recommend}

    def _tokens(self, position: int, laps: Laps) -> None:
        self._pipeline.encode(self._workload.raw[position])
        laps.lap(TOKENS)

    def _recommend(self, position: int, laps: Laps) -> None:
        self._pipeline.recommend(self._workload.raw[position])
        laps.lap(RECOMMEND)

    def outputs(self) -> Mapping[str, Array]:
        stages = self._pipeline.manifest.stages.values()
        names = [row.name for stage in stages for row in stage.outputs]
        return {name: self._pipeline.read(name) for name in names}
