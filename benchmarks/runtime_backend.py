"""The product: the bundle's stages chained by the runtime on one of its engines, in a process without torch."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.backend import Array, NotRunError, Work
from benchmarks.measure import Laps
from benchmarks.row import ENGINE, KERNELS, PLAIN, RECOMMEND, TENSORRT, TOKENS
from benchmarks.workload import Workload
from runtime import Pipeline
from runtime.manifest import Manifest


class RuntimeBackend:
    """One loaded pipeline."""

    staged = True

    def __init__(self, workload: Workload, name: str) -> None:
        job = workload.job
        self._workload = workload
        self.precision = Manifest.read(job.bundle).precision
        self._pipeline = _load(workload, name)

    def prepare(self, workload: Workload) -> Mapping[str, float]:
        rounds = 1 if workload.job.device == "cpu" else 3  # a CUDA graph is captured at the second run of a size
        for position in list(range(len(workload.encoded))) * rounds:
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


def _load(workload: Workload, name: str) -> Pipeline:
    """The pipeline of one backend.

    Raises:
        NotRunError: The bundle has no plans for it.
        DeviceError: The engine cannot run on the device.
    """
    job = workload.job
    if job.device == "cpu":
        kernels = job.kernels if name == KERNELS else None
        return Pipeline.load(job.bundle, engine=ENGINE, device="cpu", threads=job.threads, kernels=kernels)
    engine = ENGINE if name == PLAIN else name
    if name == TENSORRT:
        built = Manifest.read(job.bundle).engine
        if not built.startswith(TENSORRT):
            raise NotRunError(f"{job.bundle} has no TensorRT plans; build it with --engine tensorrt")
        engine = built
    graphs = name != PLAIN
    return Pipeline.load(job.bundle, engine=engine, device=job.device, threads=job.threads, cuda_graphs=graphs)
