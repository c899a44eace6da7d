"""The baselines: the same stages of the same weights in PyTorch, eager or compiled, in any precision, on CPU or GPU."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.backend import Array, NotRunError, Work
from benchmarks.measure import Laps
from benchmarks.source import source_of
from benchmarks.torch_aoti import AotiStage
from benchmarks.workload import Workload
from export.precision import in_precision
from export.settings import Precision, Profile
from export.stages import StageModule, StageSpec, stage_specs, static_masks
from oneranker import masks
from oneranker.catalogue import index_tensors, running_counts
from oneranker.errors import DeviceError
from oneranker.hstu import AttentionForm
from oneranker.model import OneRanker
from oneranker.padding import pad_windows
from runtime.manifest import STAGES, Manifest

logger = logging.getLogger(__name__)

Named = dict[str, Tensor]
RESULTS = ("candidate_items", "candidate_logp", "candidate_head", "candidate_count", "scores")  # read by the host
RECORDED = 2  # calls behind the first until torch.compile replays a CUDA graph: one warms up, one records


class How(StrEnum):
    """How PyTorch runs a stage."""

    EAGER = "eager PyTorch"
    COMPILE = "torch.compile"
    COMPILE_MAX = "torch.compile with max-autotune"  # on a GPU its own CUDA graphs, into which inputs are copied
    AOTI = "AOTInductor"
    FUSED = "fused attention"  # eager, but for HSTU's attention in one kernel


class TorchBackend:
    """A model with its item tables and masks made once, as the runtime does; every call in inference mode."""

    staged = True

    def __init__(self, workload: Workload, *, how: How = How.EAGER, precision: str = "fp32") -> None:
        job = workload.job
        torch.set_num_threads(job.threads)
        bundle, manifest = Path(job.bundle), Manifest.read(job.bundle)
        self._device = torch.device(job.device)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        checkpoint = None if job.checkpoint is None else Path(job.checkpoint)
        source = source_of(bundle, manifest, checkpoint)
        model = _in_precision(source.model, precision)
        self.precision = precision
        self.config = model.config
        self._model = model
        self._workload = workload
        self._how = how
        self._compiled = how in (How.COMPILE, How.COMPILE_MAX, How.AOTI)
        self._absent: set[str] = set()  # inputs that this form of the model does without
        if how is How.FUSED:
            self._absent.add("causal_mask")
            _choose_fused(model)
        self._listed = source.catalogue.listed
        self._specs = stage_specs(model.config, Precision.FP32)  # for their names
        self._stages = {name: _stage(model, spec, how, Path(job.folder)) for name, spec in self._specs.items()}
        with torch.inference_mode():
            self._index = self._placed(index_tensors(model, source.catalogue))
            self._largest = self._placed(
                {
                    name: masks.additive(mask, model.dtype)
                    for name, mask in static_masks(model.config, Profile(**manifest.profile)).items()
                }
            )
            model.to(self._device)
        self._masks: dict[int, Named] = {}
        self._tensors: Named = {}

    def prepare(self, workload: Workload) -> Mapping[str, float]:
        first = {workload.padded(i): i for i in reversed(range(len(workload.encoded)))}  # one batch of every S
        seconds = dict.fromkeys(STAGES, 0.0)
        for position in first.values():
            laps = Laps()
            laps.begin()
            try:
                self.chain(position, laps if not self._compiled else _Told(laps, self._how.value))
                for _ in range(RECORDED if self._how is How.COMPILE_MAX else 0):
                    self.chain(position, Laps())
            except Exception as error:
                if not self._compiled:
                    raise
                raise NotRunError(reason_of(error, self._how.value)) from error
            for name, samples in laps.samples_ms.items():
                seconds[name] += samples[0] / 1e3
        return seconds if self._compiled else {}

    def chain(self, position: int, laps: Laps) -> None:
        if self._how is How.COMPILE_MAX:  # else every stage begins a new step, which takes the last one's answer away
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            tensors = self._placed(self.tokens(position)) | self.resident(position)
            for name in STAGES:
                if name == "retriever":
                    tensors |= self._placed(self.eligibility(position))
                tensors |= self.run_stage(name, tensors)
                if name == STAGES[-1]:
                    self.keep(tensors)
                laps.lap(name)

    def run_stage(self, name: str, tensors: Named) -> Named:
        """The outputs of one stage on whatever of `tensors` it reads."""
        spec = self._specs[name]
        answer = self._stages[name](*(None if row.name in self._absent else tensors[row.name] for row in spec.inputs))
        return {row.name: tensor for row, tensor in zip(spec.outputs, answer, strict=True)}

    def boundary(self) -> dict[str, tuple[list[str], list[str]]]:
        """Stage -> the names of its inputs and outputs, in order."""
        return {
            name: ([row.name for row in spec.inputs], [row.name for row in spec.outputs])
            for name, spec in self._specs.items()
        }

    def weights(self, stage: str) -> int:
        """How many numbers the stage's own weights are, without embedding tables, of which a batch reads few rows."""
        module = getattr(self._model, stage)
        rows = {id(table.weight) for table in module.modules() if isinstance(table, nn.Embedding)}
        return sum(part.numel() for part in module.parameters() if id(part) not in rows)

    def keep(self, tensors: Named) -> None:
        """Read the answer to the host, as a server must; the rest stays where it is until `outputs`."""
        self._tensors = tensors | {name: tensors[name].cpu() for name in RESULTS}

    @property
    def tensors(self) -> Named:
        """Every tensor of the last batch by name: what was read and what was made of it."""
        return self._tensors

    def extras(self) -> Mapping[str, Work]:
        return {}

    def outputs(self) -> Mapping[str, Array]:
        rows = [row for spec in self._specs.values() for row in spec.outputs]
        return {row.name: _array(self._tensors[row.name].cpu()) for row in rows}

    def tokens(self, position: int) -> Named:
        """Tokens side by side with their history mask, on the host."""
        tokens, padded = (
            [request.tokens for request in self._workload.encoded[position]],
            self._workload.padded(position),
        )
        inputs = pad_windows([(t.token_fields, t.token_kind, t.token_time) for t in tokens], padded)
        history_mask = masks.history(inputs.pop("history_length"), padded)
        inputs["history_mask"] = masks.additive(history_mask, self._model.dtype)
        return inputs

    def resident(self, position: int) -> Named:
        """What no request brings: item tables and the static masks at the batch's S, on the device."""
        return self._index | self._static(self._workload.padded(position))

    def _placed(self, tensors: Named) -> Named:
        """The same on the device."""
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def _static(self, padded: int) -> Named:
        """The static masks at one S: leading blocks of the largest, made contiguous once."""
        if padded not in self._masks:
            sizes = {"causal_mask": padded, "candidate_mask": 1 + self._model.config.candidates}
            self._masks[padded] = {
                name: mask[..., : sizes.get(name, mask.shape[-1]), : sizes.get(name, mask.shape[-1])].contiguous()
                for name, mask in self._largest.items()
            }
        return self._masks[padded]

    def eligibility(self, position: int) -> Named:
        """Row 0 of item_eligible for requests without a filter, a row of its own for every other; on the host."""
        rows, used = [self._listed], []
        for request in self._workload.encoded[position]:
            item_filter = request.item_filter
            used.append(0 if item_filter.is_default else len(rows))
            if item_filter.is_default:
                continue
            mask = self._listed.copy()
            if item_filter.only is not None:
                mask[:] = False
                mask[item_filter.only] = True
            if item_filter.without is not None:
                mask[item_filter.without] = False
            rows.append(mask)
        tables = {"eligible_row": torch.tensor(used, dtype=torch.int32)}
        if len(rows) > 1:
            tables["item_eligible"] = torch.from_numpy(running_counts(np.stack(rows)))
        return tables


class _Told(Laps):
    """Says on stderr which stage has been compiled: that takes much longer than two seconds."""

    def __init__(self, laps: Laps, what: str) -> None:
        super().__init__()
        self._what = what
        self.samples_ms = laps.samples_ms
        self._told = time.perf_counter()
        self._count = 0
        self.begin()

    def lap(self, name: str) -> None:
        super().lap(name)
        self._count += 1
        seconds = time.perf_counter() - self._told
        logger.info("%s: %s ready after %.0f s, %d of %d stages", self._what, name, seconds, self._count, len(STAGES))


def _choose_fused(model: OneRanker) -> None:
    try:
        model.generator.choose_attention(AttentionForm.FUSED)
    except DeviceError as error:
        raise NotRunError(str(error)) from error


def _stage(model: OneRanker, spec: StageSpec, how: How, folder: Path) -> Callable[..., tuple[Tensor, ...]]:
    """One stage as a callable over the tensors of its spec, in order."""
    module = StageModule(model, spec)
    if how in (How.COMPILE, How.COMPILE_MAX):
        mode = "max-autotune" if how is How.COMPILE_MAX else "default"
        return torch.compile(module, dynamic=False, mode=mode)
    return AotiStage(module, folder, spec.name) if how is How.AOTI else module


def _in_precision(model: OneRanker, precision: str) -> OneRanker:
    """As a bundle has it; in bf16, which no bundle has, all weights are cast and the fp32 islands of the code stay."""
    if precision == "bf16":
        return copy.deepcopy(model).to(torch.bfloat16)
    return in_precision(model, Precision(precision))


def _array(tensor: Tensor) -> Array:
    """A tensor of the host as numpy has it, which knows no bf16."""
    array: Array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


def reason_of(error: BaseException, what: str = How.COMPILE.value) -> str:
    """The first line of the innermost error: torch wraps a missing compiler several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{what} raised {type(error).__name__}: {line[:200]}"
