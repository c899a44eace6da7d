"""Assembles a bundle step by step: stages reused or exported, items, tokenizer, masks, verification, manifest."""

from __future__ import annotations

import filecmp
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from export.bundle import GRAPH, OldBundle, new_bundle, swap_in
from export.engine_module import cuda_device
from export.engine_plans import EngineBuild, note_verified, write_plan
from export.engine_report import NOT_RUN
from export.fingerprint import digest_of, files_digest, imported_files, stage_fingerprint, version_of, versions
from export.islands import Kept, kept_modules
from export.item_index import write_item_index
from export.model_source import ModelSource, read_source
from export.onnx_from_stage import export_stage
from export.precision import in_precision
from export.report import BuildReport, StageReport, peak_memory_mib, step
from export.settings import OPSET, BuildSettings, Profile, profile_of, resolve
from export.stages import StageSpec, stage_specs, static_masks
from export.verify import Subject, verify
from oneranker.catalogue import index_tensors
from oneranker.model import OneRanker
from runtime.errors import BuildError
from runtime.manifest import (
    STAGES,
    FileEntry,
    ItemsEntry,
    Manifest,
    StageEntry,
    TensorEntry,
    file_sha256,
)
from runtime.stage import TensorSpec

logger = logging.getLogger(__name__)

ENGINE = "onnxruntime"
TOKENIZER, MASKS, ITEMS = "tokenizer.json", "masks.safetensors", "items"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is known before the first byte is written."""

    settings: BuildSettings
    source: ModelSource
    profile: Profile
    specs: Mapping[str, StageSpec]
    fingerprints: Mapping[str, str]
    engines: EngineBuild | None
    kept: Kept


def assemble(settings: BuildSettings) -> BuildReport:
    """Build the bundle that `settings` describe; see `export.build.build_bundle`."""
    start = time.perf_counter()
    settings = resolve(settings)
    report = BuildReport(
        bundle=str(settings.out), weights={}, precision=settings.precision.value, engine=settings.engine.value
    )
    with new_bundle(settings.out) as folder, torch.inference_mode():
        plan = _plan(settings)
        report.weights = asdict(plan.source.weights)
        old = OldBundle(settings.out)
        _write_stages(plan, old, folder, report)
        index = _write_rest(plan, folder, report)
        manifest = _manifest(plan, folder, report)
        manifest = replace(manifest, parity=_proof(plan, old, manifest, index, folder, report))
        manifest = replace(manifest, stages=_with_plans(plan, manifest, folder, report))
        if old.manifest is not None and _same(manifest, old.manifest, folder, settings.out):
            logger.info("nothing has changed: %s stays as it is", settings.out)
            report.changed = False
        else:
            manifest.write(folder)
            swap_in(folder, settings.out)
            logger.info("bundle: %s", settings.out)
    report.items["reused"] = bool(old.manifest and old.manifest.items == manifest.items)
    report.seconds = round(time.perf_counter() - start, 3)
    report.peak_memory_mib = peak_memory_mib()
    return report


def _plan(settings: BuildSettings) -> Plan:
    if (path := settings.check_requests) is not None and not path.is_file():
        raise BuildError(f"--check-requests {path}: no such file, expected one JSON request a line. Correct the path.")
    with step("weights"):
        source = read_source(settings)
        config = source.model.config
        kept = kept_modules(source.model, settings.graph)
        specs = stage_specs(config, settings.precision)
        fingerprints = {
            name: stage_fingerprint(getattr(source.model, name), spec, config, settings.graph)
            for name, spec in specs.items()
        }
        profile = profile_of(settings, config)
    engines = EngineBuild.of(settings, config, specs, profile)
    return Plan(settings, source, profile, specs, fingerprints, engines, kept)


def _write_stages(plan: Plan, old: OldBundle, folder: Path, report: BuildReport) -> None:
    """Carry over every stage that would come out the same; export the others, if they were asked for."""
    model: OneRanker | None = None
    for name in STAGES:
        with step(name) as running:
            reused = old.carry(name, plan.fingerprints[name], folder)
            running.note = " reused" if reused else " exported"
            if not reused:
                if plan.settings.stage not in ("all", name):
                    raise BuildError(_not_asked_for(plan, old, name))
                model = model or in_precision(plan.source.model, plan.settings.precision, plan.kept)
                export_stage(
                    model, plan.specs[name], plan.settings.graph, plan.fingerprints[name], _graph(folder, name)
                )
        path = _graph(folder, name)
        report.stages[name] = StageReport(
            file=f"{name}/{path.name}",
            sha256=file_sha256(path),
            bytes=path.stat().st_size,
            seconds=running.seconds,
            reused=reused,
            parity={},
        )
        if plan.engines is not None:
            asked = plan.settings.stage in ("all", name)
            stage = report.stages[name]
            stage.plan = write_plan(plan.engines, name, asked, old, folder, stage.sha256)


def _not_asked_for(plan: Plan, old: OldBundle, name: str) -> str:
    where = f"--stage {plan.settings.stage}"
    if old.manifest is None:
        return f"{where}: {old.reason}, expected one to take the other stages from. Build with --stage all first."
    return (
        f"{where}: the {name} of {plan.settings.out} was built from other weights, settings or code, expected a bundle "
        "that differs in nothing else. Build with --stage all."
    )


def _write_rest(plan: Plan, folder: Path, report: BuildReport) -> dict[str, Tensor]:
    """Items, tokenizer and masks; returns the item tables of the reference model."""
    source, config = plan.source, plan.source.model.config
    catalogue = source.catalogue
    with step("items") as running:
        index = index_tensors(source.model, catalogue)
        vectors = index.get("item_vectors")
        version = write_item_index(
            folder / ITEMS,
            ids=catalogue.ids,
            names=catalogue.names,
            codes=catalogue.codes,
            codebooks=catalogue.codebooks,
            anchors=catalogue.anchors,
            item_table=index["item_table"].numpy(),
            item_fields=catalogue.item_fields,
            item_vectors=None if vectors is None else vectors.numpy(),
            listed=catalogue.listed,
        )
        running.note = f" ({len(catalogue.ids)})"
    report.items = {"version": version, "items": len(catalogue.ids), "seconds": running.seconds}
    source.tokenizer.write(folder / TOKENIZER)
    masks = static_masks(config, plan.profile)
    save_file({name: mask.numpy().astype(np.uint8) for name, mask in masks.items()}, folder / MASKS)
    return index


def _manifest(plan: Plan, folder: Path, report: BuildReport) -> Manifest:
    config = plan.source.model.config
    stages = {
        name: StageEntry(
            file=report.stages[name].file,
            sha256=report.stages[name].sha256,
            bytes=report.stages[name].bytes,
            fingerprint=plan.fingerprints[name],
            inputs=_entries(spec.inputs),
            outputs=_entries(spec.outputs),
            plan=plan.engines.entry(name, report.stages[name]) if plan.engines else None,
        )
        for name, spec in plan.specs.items()
    }
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        weights=plan.source.weights,
        model={**asdict(config), **config.letters()},
        precision=plan.settings.precision.value,
        engine=plan.engines.name if plan.engines else ENGINE,
        opset=OPSET,
        profile=plan.profile.ranges(),
        versions=versions(),
        stages=stages,
        items=ItemsEntry(folder=ITEMS, version=report.items["version"], items=report.items["items"]),
        tokenizer=FileEntry(file=TOKENIZER, sha256=file_sha256(folder / TOKENIZER)),
        masks=FileEntry(file=MASKS, sha256=file_sha256(folder / MASKS)),
    )


def _proof(
    plan: Plan, old: OldBundle, manifest: Manifest, index: dict[str, Tensor], folder: Path, report: BuildReport
) -> dict[str, Any]:
    """The parity report: the old one if all it depends on is the same, else a new verification."""
    fingerprint = digest_of(
        {
            "stages": {name: row.sha256 for name, row in manifest.stages.items()},
            "fingerprints": dict(plan.fingerprints),
            "files": [manifest.items.version, manifest.tokenizer.sha256, manifest.masks.sha256],
            "profile": plan.profile.ranges(),
            "seed": plan.settings.seed,
            "requests": file_sha256(path) if (path := plan.settings.check_requests) else "",
            "engine": version_of(ENGINE),
            "plans": {name: row.plan.sha256 for name, row in manifest.stages.items() if row.plan},
            "device": cuda_device().capability if plan.engines else "",
            "code": files_digest(imported_files("export.verify")),
        }
    )
    reused = old.manifest is not None and old.manifest.parity.get("fingerprint") == fingerprint
    with step("verification") as running:
        running.note = " reused" if reused else ""
        if reused and old.manifest is not None:
            proof = old.manifest.parity
        else:
            source = plan.source
            subject = Subject(
                model=source.model,
                index=index,
                catalogue=source.catalogue,
                tokenizer=source.tokenizer,
                specs=plan.specs,
                precision=plan.settings.precision,
                kept=plan.kept,
                requests=plan.settings.check_requests,
                profile=plan.profile,
                seed=plan.settings.seed,
            )
            plans = {name: row.plan for name, row in manifest.stages.items() if row.plan}
            proof = {"fingerprint": fingerprint, **verify(subject, folder, plans)}
    report.verification = {"seconds": running.seconds, "reused": reused}
    for name, row in proof["stages"].items():
        report.stages[name].parity = _short(row) | proof["numbers"][name]
    report.chain = _short(proof["chain"])
    return dict(proof)


def _with_plans(plan: Plan, manifest: Manifest, folder: Path, report: BuildReport) -> dict[str, StageEntry]:
    """The manifest's stages, whose plans now say where they were run."""
    if plan.engines is None:
        return manifest.stages
    note_verified(folder, report.stages, manifest.parity["engine"].get("device", NOT_RUN))
    engines = plan.engines
    return {name: replace(row, plan=engines.entry(name, report.stages[name])) for name, row in manifest.stages.items()}


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "tensors"}


def _same(new: Manifest, old: Manifest, folder: Path, out: Path) -> bool:
    """Whether the bundle at `out` already is this one, in every byte but the manifest's date."""
    if replace(new, created=old.created) != old:
        return False
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    if names | {Path("manifest.json")} != {path.relative_to(out) for path in out.rglob("*") if path.is_file()}:
        return False
    return all(filecmp.cmp(folder / name, out / name, shallow=False) for name in names)


def _entries(specs: tuple[TensorSpec, ...]) -> tuple[TensorEntry, ...]:
    return tuple(TensorEntry(name=row.name, dtype=row.dtype, shape=row.shape) for row in specs)


def _graph(folder: Path, name: str) -> Path:
    return folder / name / GRAPH
