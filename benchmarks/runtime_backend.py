"""The product: the bundle's stages chained by the runtime on one of its engines, in a process without torch."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.backend import Array, NotRunError, Work
from benchmarks.measure import Laps
from benchmarks.row import ENGINE, KERNELS_RECOMPUTE, NEED_KERNELS, PLAIN, RECOMMEND, RECOMPUTE, TENSORRT, TOKENS
from benchmarks.workload import Workload
from runtime import Pipeline
from runtime.manifest import Manifest


class RuntimeBackend:
    """One loaded pipeline; or, to be compared with it, the same engines without the keys and values handed on.

    Then the ranking is a service of its own, as where retrieval and ranking are two models: it is given the candidates
    and reads the history anew, through generator and enhancer, before it ranks.
    """

    staged = True

    def __init__(self, workload: Workload, name: str) -> None:
        job = workload.job
        self._workload = workload
        self.precision = Manifest.read(job.bundle).precision
        self._pipeline = _load(workload, name)
        self._recompute = name in (RECOMPUTE, KERNELS_RECOMPUTE)

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
        found = pipeline.retrieve([request.item_filter for request in batch])
        laps.lap("retriever")
        if self._recompute:
            pipeline.generate([request.tokens for request in batch])
            pipeline.enhance()
            pipeline.rank(found.items)
        else:
            pipeline.rank()
        laps.lap("ranker")

    def extras(self) -> Mapping[str, Work]:
        if self._recompute:
            return {}
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
        kernels = job.kernels if name in NEED_KERNELS else None
        return Pipeline.load(job.bundle, engine=ENGINE, device="cpu", threads=job.threads, kernels=kernels)
    engine = ENGINE if name == PLAIN else name
    if name == TENSORRT:
        built = Manifest.read(job.bundle).engine
        if not built.startswith(TENSORRT):
            raise NotRunError(f"{job.bundle} has no TensorRT plans; build it with --engine tensorrt")
        engine = built
    graphs = name != PLAIN
    return Pipeline.load(job.bundle, engine=engine, device=job.device, threads=job.threads, cuda_graphs=graphs)
