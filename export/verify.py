"""Compares the graphs and the engines with the model, stage by stage and as a chain; what fails stops the build."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from export import parity
from export.bundle import GRAPH
from export.engine_report import NOT_RUN
from export.engine_stages import open_engines
from export.islands import Kept
from export.overflow import PeakMeter
from export.parity import Array, CandidateLists, StageParity, compare_lists
from export.precision import in_precision, types_report
from export.settings import Precision, Profile
from export.stages import TORCH_DTYPES, StageModule, StageSpec, static_masks
from export.verify_requests import batches_of_file, random_batches
from oneranker import masks
from oneranker.catalogue import Catalogue
from oneranker.model import OneRanker
from oneranker.synthetic import padded_batch
from oneranker.tokens import Tokenizer, Tokens
from runtime.errors import ParityError
from runtime.items import ItemIndex
from runtime.manifest import STAGES, PlanEntry
from runtime.onnx_stage import OnnxStage
from runtime.stage import Stage

logger = logging.getLogger(__name__)
Named = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared: a model and its catalogue, and the graphs that claim to be it."""

    model: OneRanker
    index: Named  # the model's own item tables; the graphs read the written ones
    catalogue: Catalogue
    tokenizer: Tokenizer
    specs: Mapping[str, StageSpec]
    precision: Precision
    profile: Profile
    seed: int
    kept: Kept = field(default_factory=dict)  # modules of another type, as in the graphs
    requests: Path | None = None  # real ones beside the random ones, a JSON object a line


def verify(subject: Subject, folder: Path, plans: Mapping[str, PlanEntry] | None = None) -> dict[str, Any]:
    """Compare the graphs, the engines and the item index in `folder` with the model on random requests.

    Returns:
        The parity report: per stage and for the chain the errors, what was allowed, and the rank measures; under
        "numbers" the types and, in fp16, the largest activations; the errors once more under "engine" where there are
        plans and a device that runs them, else why they were not run.

    Raises:
        ParityError: A check failed; the message names every one.
    """
    graphs: dict[str, Stage] = {
        name: OnnxStage.load(name, folder / name / GRAPH, s.inputs, s.outputs) for name, s in subject.specs.items()
    }
    batches = random_batches(subject.tokenizer, subject.catalogue, subject.profile, subject.seed)
    if subject.requests is not None:
        batches += batches_of_file(subject.requests, subject.tokenizer, subject.catalogue, subject.profile)
    with torch.inference_mode(), open_engines(subject.specs, folder, plans or {}) as (engines, where):
        runs = {"graph": _Run(graphs)} | ({"engine": _Run(engines)} if engines else {})
        meters = _meters(subject, folder)
        comparison = _Comparison(subject, runs, ItemIndex.read(folder / "items"), meters)
        for tokens in batches:
            comparison.add(tokens)
    for graph in graphs.values():
        graph.close()
    if over := list(filter(None, (meter.failure() for meter in meters.values()))):
        raise ParityError(f"verification: {' '.join(over)} Nothing was written.")
    if failures := [line for name, run in runs.items() for line in run.failures(name)]:
        raise ParityError(
            f"verification: {'; '.join(failures)} (graph or engine against eager PyTorch, at most {parity.SLACK:g}x "
            f"its own rounding in {subject.precision.value}). Nothing was written; try --precision fp32, or report the "
            "model."
        )
    lengths = [[len(tokens.token_kind) for tokens in batch] for batch in batches]
    proof = {
        "rule": parity.rule(),
        "requests": {"tokens": lengths, "seed": subject.seed},
        **runs["graph"].to_json(),
        "numbers": {name: _numbers(subject, name, folder, meters) for name in subject.specs},
    }
    if plans:
        if not engines:
            logger.warning("the engines were %s: %s", NOT_RUN, where)
        proof["engine"] = {"device": where, **runs["engine"].to_json()} if engines else {NOT_RUN: where}
    return proof


def _meters(subject: Subject, folder: Path) -> dict[str, PeakMeter]:
    """Per stage what looks for overflows; fp32 and bf16 have room for any activation."""
    if subject.precision is not Precision.FP16:
        return {}
    return {name: PeakMeter.open(name, folder / name / GRAPH, subject.kept) for name in subject.specs}


def _numbers(subject: Subject, name: str, folder: Path, meters: Mapping[str, PeakMeter]) -> dict[str, Any]:
    """Which type a stage computes in, and, if it was measured, how large its numbers become."""
    report = {"types": types_report(onnx.load(folder / name / GRAPH), subject.precision)}
    return report | ({"activations": meters[name].to_json()} if name in meters else {})


class _Run:
    """The four stages on one engine, and how far their answers are off."""

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        self.stages = stages
        self.reports = {name: StageParity() for name in (*STAGES, "chain")}

    def failures(self, kind: str) -> list[str]:
        prefix = "" if kind == "graph" else f"{kind} "
        return [f"{prefix}{name}: {line}" for name, report in self.reports.items() for line in report.failures()]

    def to_json(self) -> dict[str, Any]:
        rows = {name: report.to_json() for name, report in self.reports.items()}
        return {"stages": {name: rows[name] for name in STAGES}, "chain": rows["chain"]}


class _Comparison:
    """The reference model, the same model in the graphs' precision, and every run of the stages."""

    def __init__(
        self, subject: Subject, runs: Mapping[str, _Run], written: ItemIndex, meters: Mapping[str, PeakMeter]
    ) -> None:
        self.runs = runs
        self.meters = meters
        self.least = subject.profile.S[0]
        self.specs = subject.specs
        self.reference = subject.model
        self.plain = in_precision(subject.model, subject.precision, subject.kept)
        self.random = torch.Generator().manual_seed(subject.seed)
        self.index = subject.index
        self.written = {name: torch.tensor(table) for name, table in written.tables.items() if name in self.index}
        self.written["item_eligible"] = torch.tensor(written.default_eligible())[None]
        self.masks = static_masks(subject.model.config, subject.profile)

    def add(self, tokens: Sequence[Tokens]) -> None:
        """Run one batch through all of them and note the differences.

        Shapes: tokens [B]
        """
        longest = max(len(row.token_kind) for row in tokens)
        batch = padded_batch(list(tokens), max(longest, self.least))
        if features := self.reference.config.candidate_features:
            shape = (len(tokens), self.reference.config.candidates, features)
            batch["candidate_features"] = torch.randn(shape, generator=self.random)
        index = self.index | {"eligible_row": torch.zeros(len(tokens), dtype=torch.int32)}
        inputs = {name: tensor for name, tensor in batch.items() if name != "history_length"}
        inputs |= index | self._masks(batch["history_length"], batch["token_kind"].shape[1])
        real = inputs | self.reference(batch, index)
        cast = self._cast(index)
        plain = inputs | (real if self.plain is self.reference else self.plain(self._cast(batch), cast))
        eager = {name: self._run_eager(name, real) for name in STAGES}
        for name, meter in self.meters.items():
            meter.add(self._arrays(name, real | self.written))
        for run in self.runs.values():
            chain = inputs | self.written
            for name in STAGES:
                found = self._run_stage(run.stages[name], real | self.written)
                decoupled = self.reference.config.task_decoupling
                _compare_stage(run.reports[name], self.specs[name], found, eager[name], real, decoupled)
                chain |= self._run_stage(run.stages[name], chain)
            _compare_chain(run.reports["chain"], chain, plain, real)

    def _masks(self, lengths: Tensor, padded: int) -> Named:
        out = {"history_mask": masks.additive(masks.history(lengths, padded))}
        sizes = {"causal_mask": padded, "candidate_mask": 1 + self.reference.config.candidates}
        for name, mask in self.masks.items():
            size = sizes.get(name, mask.shape[-1])
            out[name] = masks.additive(mask[..., :size, :size])
        return out

    def _cast(self, tensors: Named) -> Named:
        dtype = self.plain.dtype
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

    def _feed(self, name: str, tensors: Named) -> Named:
        return {row.name: tensors[row.name].to(TORCH_DTYPES[row.dtype]) for row in self.specs[name].inputs}

    def _run_stage(self, stage: Stage, tensors: Named) -> Named:
        return {key: torch.from_numpy(array) for key, array in stage.run(self._arrays(stage.name, tensors)).items()}

    def _arrays(self, name: str, tensors: Named) -> dict[str, Array]:
        return {key: tensor.contiguous().numpy() for key, tensor in self._feed(name, tensors).items()}

    def _run_eager(self, name: str, tensors: Named) -> Named:
        """The stage in the graph's precision on the reference's inputs; in fp32 that is the reference itself."""
        spec = self.specs[name]
        if self.plain is self.reference:
            return {row.name: tensors[row.name] for row in spec.outputs}
        answer = StageModule(self.plain, spec)(*self._feed(name, tensors).values())
        return {row.name: tensor for row, tensor in zip(spec.outputs, answer, strict=True)}


def _compare_stage(
    report: StageParity, spec: StageSpec, found: Named, eager: Named, real: Named, heads_differ: bool
) -> None:
    """Retriever and ranker answer lists of items, the others tensors; heads that are all alike tie for every item."""
    if spec.name == "retriever":
        lists = [_retrieved(tensors, heads_differ) for tensors in (found, eager, real)]
        compare_lists(report, "candidate_logp", *lists)
    elif spec.name == "ranker":
        items = real["candidate_items"].numpy()
        compare_lists(report, "scores", *(CandidateLists(items, _array(t["scores"])) for t in (found, eager, real)))
    else:
        for row in spec.outputs:
            report.value(row.name).add(*(_array(tensors[row.name]) for tensors in (found, eager, real)))


def _compare_chain(report: StageParity, found: Named, eager: Named, real: Named) -> None:
    """What the first stage hands on, and the final ranking."""
    report.value("user_embedding").add(*(_array(tensors["user_embedding"]) for tensors in (found, eager, real)))
    lists = (CandidateLists(t["candidate_items"].numpy(), _array(t["scores"])) for t in (found, eager, real))
    compare_lists(report, "scores", *lists)


def _retrieved(tensors: Named, heads_differ: bool) -> CandidateLists:
    heads = tensors["candidate_head"].numpy() if heads_differ else None
    return CandidateLists(tensors["candidate_items"].numpy(), _array(tensors["candidate_logp"]), heads)


def _array(tensor: Tensor) -> Array:
    return tensor.to(torch.float64).numpy() if tensor.is_floating_point() else np.asarray(tensor.numpy())
