"""How far a backend's answers are from eager PyTorch in fp32, by the exporter's own parity rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from benchmarks.backend import Array
from benchmarks.row import CHAIN
from export.parity import CandidateLists, StageParity, compare_lists

RETRIEVED = ("candidate_items", "candidate_logp", "candidate_head")  # compared as lists: ties may change places
Answers = Mapping[str, Array]  # <batch>.<tensor> -> array


@dataclass(frozen=True, slots=True)
class Error:
    """The largest error of one stage's numbers and what the rule allows; `failures` is empty if it passed."""

    max_error: float | None  # None: an answer is NaN or infinite, which `failures` says
    allowed: float
    failures: list[str]


def read_answers(folder: Path, name: str) -> Answers:
    """What one backend's process answered."""
    answers: dict[str, Array] = load_file(folder / f"{name}.safetensors")
    return answers


def errors(
    found: Answers, rounded: Answers, reference: Answers, outputs: Mapping[str, Sequence[str]]
) -> dict[str, Error]:
    """Stage -> error, with the chain: its scores and its ranking.

    `rounded` is eager PyTorch in the bundle's precision, the reference itself for fp32; `outputs` names the tensors of
    every stage. Each backend's stages are fed by its own earlier stages, so errors add up along the chain.
    """
    reports = {stage: StageParity() for stage in (*outputs, CHAIN)}
    for position in sorted({name.partition(".")[0] for name in reference}):
        three = [
            {name: given[f"{position}.{name}"] for name in _names(outputs)} for given in (found, rounded, reference)
        ]
        for stage, names in outputs.items():
            _add(reports[stage], three, stage, names)
        _add(reports[CHAIN], three, CHAIN, ("scores",))
    return {stage: _error(report) for stage, report in reports.items()}


def _names(outputs: Mapping[str, Sequence[str]]) -> list[str]:
    return [name for names in outputs.values() for name in names]


def _add(report: StageParity, three: Sequence[Answers], stage: str, names: Sequence[str]) -> None:
    """One batch of the found, the rounded and the reference answers."""
    if stage == "retriever":
        found, rounded, real = (CandidateLists(*(answer[name] for name in RETRIEVED)) for answer in three)
        compare_lists(report, "candidate_logp", found, rounded, real)
        return
    for name in names:
        if name == "scores":  # of the items that both have retrieved
            found, rounded, real = (CandidateLists(answer["candidate_items"], answer[name]) for answer in three)
            compare_lists(report, name, found, rounded, real)
        else:
            report.value(name).add(*(answer[name] for answer in three))


def _error(report: StageParity) -> Error:
    worst = max(report.values.values(), key=lambda value: value.max_abs_error / (value.allowed or 1.0))
    finite = all(value.finite for value in report.values.values())
    return Error(worst.max_abs_error if finite else None, worst.allowed, report.failures())
