"""The engines of a bundle: each stage's plan built or carried over, its report and its log beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from export.bundle import BUILD_LOG, ENGINE_REPORT, GRAPH, PLAN, OldBundle
from export.engine_from_onnx import EngineOptions, build_engine, compute_capabilities
from export.engine_module import cuda_device, engine_module
from export.engine_report import NOT_RUN
from export.fingerprint import plan_fingerprint
from export.profiles import EngineProfile, engine_profiles
from export.report import PlanReport, StageReport, step
from export.settings import BuildSettings, Profile
from export.stages import StageSpec
from oneranker.config import OneRankerConfig
from runtime.errors import BuildError
from runtime.manifest import PlanEntry, ProfileEntry, file_sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """What decides every plan of one build besides the graphs."""

    module: ModuleType
    options: EngineOptions
    profiles: Mapping[str, tuple[EngineProfile, ...]]
    capability: str  # of the CUDA device that is here, "" where there is none

    @classmethod
    def of(
        cls, settings: BuildSettings, config: OneRankerConfig, specs: Mapping[str, StageSpec], envelope: Profile
    ) -> EngineBuild | None:
        """None for `--engine none`.

        Raises:
            BuildError: The library is not here, does not build for a device that was named, or cannot take a profile.
        """
        module = engine_module(settings.engine)
        if module is None:
            return None
        compute_capabilities(module, settings.compute_capabilities)
        options = EngineOptions(
            precision=settings.precision,
            workspace_mib=settings.workspace_mib,
            builder_level=settings.builder_level,
            timing_cache=settings.timing_cache,
            compute_capabilities=settings.compute_capabilities,
            kept=settings.keep_fp32,
        )
        profiles = {
            name: engine_profiles(spec.inputs, envelope, settings, config.code_levels) for name, spec in specs.items()
        }
        return cls(module, options, profiles, cuda_device().capability)

    @property
    def name(self) -> str:
        return self.module.__name__

    @property
    def capabilities(self) -> tuple[str, ...]:
        """TensorRT builds for the device that is here, TensorRT-RTX for those that were named."""
        return (self.capability,) if self.name == "tensorrt" else self.options.compute_capabilities

    def fingerprint(self, stage: str, graph_sha256: str) -> str:
        """Of one plan; the timing cache is left out, which is another way to the same engine."""
        options = {key: value for key, value in asdict(self.options).items() if key != "timing_cache"}
        facts = {
            "engine": [self.name, str(self.module.__version__)],
            "profiles": [asdict(row) for row in self.profiles[stage]],
            "options": options,
            "capabilities": self.capabilities,
        }
        return plan_fingerprint(graph_sha256, facts)

    def entry(self, stage: str, report: StageReport) -> PlanEntry:
        """The manifest's row of a plan that has been written."""
        assert report.plan is not None, "every stage of an engine build has a plan"
        return PlanEntry(
            file=report.plan.file,
            sha256=report.plan.sha256,
            bytes=report.plan.bytes,
            engine=self.name,
            version=str(self.module.__version__),
            compute_capabilities=self.capabilities,
            profiles=tuple(ProfileEntry(name=row.name, letters=row.letters) for row in self.profiles[stage]),
            verified=report.plan.verified,
        )


def write_plan(
    build: EngineBuild, stage: str, asked: bool, old: OldBundle, folder: Path, graph_sha256: str
) -> PlanReport:
    """Carry a plan over, or build it of the graph that already lies in `folder`.

    Raises:
        BuildError: The engine cannot be built or proved, or is not among what was `asked` for.
    """
    fingerprint = build.fingerprint(stage, graph_sha256)
    with step(f"{stage} engine") as running:
        reused = old.carry_plan(stage, fingerprint, folder)
        running.note = " reused" if reused else " built"
        if not reused:
            if not asked:
                raise BuildError(
                    f"{stage}: the engine of {old.out} was built from another graph, library or settings, expected a "
                    "bundle that differs in nothing else. Build with --stage all."
                )
            _build(build, stage, folder / stage, fingerprint)
    report = json.loads((folder / stage / ENGINE_REPORT).read_text(encoding="utf-8"))
    scratch = [row["scratch_bytes"] for row in report["profiles"]]
    plan = PlanReport(
        file=f"{stage}/{PLAN}",
        sha256=report["plan_sha256"],
        bytes=report["bytes"],
        seconds=running.seconds,
        reused=bool(reused),
        scratch_bytes=None if None in scratch else max(scratch),
        weight_bytes=report["weight_bytes"],
        attention_layers=report["attention_layers"],
        fused_attention=min((row["fused_attention"] for row in report["profiles"]), key=len),
        verified=NOT_RUN,
    )
    logger.info("%s engine: %s", stage, _in_words(plan))
    return plan


def note_verified(folder: Path, stages: Mapping[str, StageReport], device: str) -> None:
    """Say in every engine's report on which device its answers were compared, or that they were not."""
    for name, stage in stages.items():
        if stage.plan is None:
            continue
        stage.plan.verified = device
        path = folder / name / ENGINE_REPORT
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if report["verified"] != device:
            path.write_text(json.dumps(report | {"verified": device}, indent=1) + "\n", encoding="utf-8")


def _build(build: EngineBuild, stage: str, folder: Path, fingerprint: str) -> None:
    built = build_engine(build.module, folder / GRAPH, build.profiles[stage], build.options)
    (folder / PLAN).write_bytes(built.plan)
    (folder / BUILD_LOG).write_text("\n".join(built.log) + "\n", encoding="utf-8")
    report = asdict(built.report) | {"fingerprint": fingerprint, "plan_sha256": file_sha256(folder / PLAN)}
    (folder / ENGINE_REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _in_words(plan: PlanReport) -> str:
    scratch = "unknown" if plan.scratch_bytes is None else f"{plan.scratch_bytes / 2**20:.1f} MiB"
    fused = f"{len(plan.fused_attention)} of {plan.attention_layers} attentions fused"
    return f"{plan.bytes / 2**20:.1f} MiB, scratch at most {scratch}, {fused}"
