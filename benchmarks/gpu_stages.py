"""The yardsticks of a GPU run: eager PyTorch in fp32 and in the bundle's precision over a few hard batches."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.backend import Array, NotRunError, as_float
from benchmarks.environment import usable_cores
from benchmarks.gpu import ordinal_of
from benchmarks.gpu_checks import GpuJob
from benchmarks.measure import Laps
from benchmarks.requests import SHORTEST, random_requests
from benchmarks.source import checkpoint_of, source_of
from benchmarks.torch_backend import TorchBackend
from benchmarks.workload import Job, Workload
from export.parity import CandidateLists, StageParity, compare_lists
from runtime import onnx_cuda
from runtime.bundle import open_bundle
from runtime.cuda_device import CudaDevice
from runtime.device import Device
from runtime.manifest import Manifest
from runtime.onnx_stage import OnnxStage
from runtime.requests import SMALLEST_HISTORY, encode_requests
from runtime.stage import Stage, TensorSpec

SHORT = 64  # tokens, of the batch with mixed lengths


class Yardsticks:
    """Two models, a workload with the longest history, mixed lengths and a filter, and all their tensors."""

    def __init__(self, job: GpuJob) -> None:
        manifest = Manifest.read(job.folder)
        self._manifest = manifest
        self.workload = _workload(job, manifest)
        self._reference = TorchBackend(self.workload)
        self._plain = TorchBackend(self.workload, precision=self.workload.precision)
        self._device = torch.device(self.workload.job.device)

    @property
    def batches(self) -> int:
        return len(self.workload.encoded)

    def answers(self, *, rounded: bool) -> Mapping[str, Array]:
        """Every output tensor of every batch, named <batch>.<tensor>; in the bundle's precision or in fp32."""
        backend = self._plain if rounded else self._reference
        found: dict[str, Array] = {}
        for position in range(self.batches):
            backend.chain(position, Laps())
            found |= {f"{position}.{name}": np.array(array) for name, array in as_float(backend.outputs()).items()}
        return found

    def feed(self, stage: str, position: int = 0) -> dict[str, Array]:
        """What a stage reads when every stage before it is fp32, in the stage's own types."""
        self._reference.chain(position, Laps())
        return {spec.name: self._host(spec) for spec in _specs(self._manifest, stage)[0]}

    def compare(self, stage: Stage) -> StageParity:
        """One stage alone, on the reference's inputs, by the rule of export/parity.py."""
        report = StageParity()
        with torch.inference_mode():
            for position in range(self.batches):
                feed = self.feed(stage.name, position)
                real = {spec.name: self._host(spec, "float32") for spec in stage.outputs}
                found = as_float(stage.run(feed))
                given = {name: torch.from_numpy(array).to(self._device) for name, array in feed.items()}
                made = self._plain.run_stage(stage.name, given)
                eager = as_float({name: tensor.cpu().numpy() for name, tensor in made.items()})
                items = self._reference.tensors["candidate_items"].cpu().numpy()
                _add(report, stage, (found, eager, real), items, decoupled=self._manifest.model["task_decoupling"])
        return report

    def _host(self, spec: TensorSpec, floats: str | None = None) -> Array:
        """A tensor of the reference's last batch on the host, floats in the spec's type or in `floats`."""
        array: Array = self._reference.tensors[spec.name].cpu().numpy()
        return np.ascontiguousarray(array, floats if floats and array.dtype.kind == "f" else spec.numpy_dtype)


def open_onnx_stage(job: GpuJob, stage: str) -> OnnxStage:
    """One graph of the bundle on the job's device."""
    manifest = Manifest.read(job.folder)
    inputs, outputs = _specs(manifest, stage)
    device: Device | None = None
    if job.device != "cpu":
        device = CudaDevice.open(ordinal_of(job.device))
    return OnnxStage.load(stage, job.folder / manifest.stages[stage].file, inputs, outputs, device=device)


def require_cuda_provider() -> None:
    """Say that a package without CUDA was not run, not that it failed.

    Raises:
        NotRunError: The installed onnxruntime was not built for CUDA.
    """
    import onnxruntime

    if onnx_cuda.PROVIDER not in onnxruntime.get_available_providers():
        raise NotRunError(f"the installed onnxruntime {onnxruntime.__version__} was not built for CUDA")


def operators_of(job: GpuJob, stage: str, feed: Mapping[str, Array]) -> dict[str, Counter[str]]:
    """Which operators ran on which provider, by ONNX Runtime's own profile: copies inside the graph are among them."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.enable_profiling = True
    settings.log_severity_level = 4
    provider: tuple[str, dict[str, str]] = (onnx_cuda.HOST_PROVIDER, {})
    if job.device != "cpu":
        provider = (onnx_cuda.PROVIDER, {"device_id": str(ordinal_of(job.device))})
    with tempfile.TemporaryDirectory(prefix="oneranker-profile-") as folder:
        settings.profile_file_prefix = str(Path(folder) / stage)
        path = job.folder / Manifest.read(job.folder).stages[stage].file
        session = onnxruntime.InferenceSession(str(path), settings, providers=[provider], enable_fallback=0)
        session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for event in events:
        facts = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[facts.get("provider", "?")][facts.get("op_name", "?")] += 1
    return dict(found)


def _specs(manifest: Manifest, stage: str) -> tuple[list[TensorSpec], list[TensorSpec]]:
    row = manifest.stages[stage]
    sides = ([TensorSpec(one.name, one.dtype, one.shape) for one in side] for side in (row.inputs, row.outputs))
    inputs, outputs = sides
    return inputs, outputs


def _workload(job: GpuJob, manifest: Manifest) -> Workload:
    """One request of the longest history, then a full batch of mixed lengths, one of them with a filter."""
    checkpoint = job.checkpoint
    if checkpoint is None and manifest.weights.source != "random":
        checkpoint = checkpoint_of(job.folder, manifest)
    opened = open_bundle(job.folder, engine="onnxruntime", device="cpu", threads=1)
    source = source_of(job.folder, manifest, checkpoint)
    least, _, longest = manifest.profile["S"]
    short = min(SHORT, longest)
    lengths = [short, max(SHORTEST, short // 2), SHORTEST, max(SHORTEST, short - 1)][: manifest.profile["B"][2]]
    raw = [
        random_requests(source, manifest, 1, longest),
        [request for length in lengths for request in random_requests(source, manifest, 1, length)],
    ]
    raw[1][0] |= {"eligible": source.catalogue.ids[: max(1, len(source.catalogue.ids) // 2)]}
    encoded = [encode_requests(requests, opened.tokenizer, opened.index, longest) for requests in raw]
    settings = Job(
        bundle=str(job.folder),
        checkpoint=None if checkpoint is None else str(checkpoint),
        batch=len(lengths),
        iterations=1,
        warmup=0,
        threads=usable_cores(),
        device="cpu" if job.device == "cpu" else f"cuda:{ordinal_of(job.device)}",
        smallest_history=max(SMALLEST_HISTORY, least),
        largest_history=longest,
    )
    return Workload(settings, raw, encoded)


def _add(
    report: StageParity, stage: Stage, three: tuple[Mapping[str, Array], ...], items: Array, *, decoupled: bool
) -> None:
    """One batch: found, eager in the same precision, reference. Retriever and ranker answer lists of items."""
    found, eager, real = three
    if stage.name == "retriever":
        lists = [
            CandidateLists(t["candidate_items"], t["candidate_logp"], t["candidate_head"] if decoupled else None)
            for t in (found, eager, real)
        ]
        compare_lists(report, "candidate_logp", *lists)
    elif stage.name == "ranker":
        compare_lists(report, "scores", *(CandidateLists(items, t["scores"]) for t in (found, eager, real)))
    else:
        for spec in stage.outputs:
            report.value(spec.name).add(found[spec.name], eager[spec.name], real[spec.name])
