"""The bundles of a GPU run: built in fp16 with random weights, and once more with plans of an engine.

The exporter and torch, seconds to import, are imported only by what builds.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from benchmarks.backend import NotRunError
from benchmarks.gpu_checks import Figures, GpuJob, Rows
from benchmarks.gpu_plan import RTX
from runtime.bundle import open_bundle
from runtime.errors import OneRankerError
from runtime.manifest import STAGES, Manifest


def bundle(job: GpuJob, rows: Rows) -> None:
    """Build the preset's bundle, or read the one that was given."""
    (check,) = job.checks
    with rows.check(check) as figures:
        if job.given is None:
            _build(job, "none", job.folder)
        manifest = Manifest.read(job.folder)
        figures |= {
            "weights": manifest.weights.detail,
            "precision": manifest.precision,
            "engine": manifest.engine,
            "items": manifest.items.items,
            "profile": manifest.profile,
            "graph_bytes": {name: row.bytes for name, row in manifest.stages.items()},
        }


def rtx_plans(job: GpuJob, rows: Rows) -> None:
    """TensorRT-RTX builds without a GPU."""
    (check,) = job.checks
    with rows.check(check) as figures:
        figures |= plan_figures(with_plans(job, RTX))


def rtx_probe(job: GpuJob, rows: Rows) -> None:
    """Whether TensorRT-RTX runs here at all; NVIDIA names no data centre GPU. Any answer is one."""
    (check,) = job.checks
    with rows.check(check) as figures:
        folder = with_plans(job, RTX)
        if job.device == "cpu":
            try:
                open_bundle(folder, engine=RTX, device="cuda")
            except OneRankerError as error:
                raise NotRunError(f"there is no CUDA device here: {error}") from error
        try:
            from benchmarks.gpu_stages import Yardsticks

            yard, stages = Yardsticks(job), open_bundle(folder, engine=RTX, device=job.device).stages
            reports = {stage: yard.compare(stages[stage]) for stage in STAGES}
        except Exception as error:  # the answer that is looked for
            figures |= {"runs": False, "answer": f"{type(error).__name__}: {error}"[:2000]}
        else:
            figures |= {"runs": True, "answer": {stage: report.failures() for stage, report in reports.items()}}


def with_plans(job: GpuJob, engine: str) -> Path:
    """A copy of the bundle with plans of an engine; a given bundle must have brought them.

    Raises:
        NotRunError: The engine cannot be imported, or the given bundle has no plans of it.
    """
    if importlib.util.find_spec(engine) is None:
        raise NotRunError(f"{engine} cannot be imported")
    if job.given is not None:
        if (built := Manifest.read(job.given).engine) != engine:
            raise NotRunError(f"{job.given} was built for {built}; its plans would have to be {engine}'s")
        return job.given
    folder = job.work / f"{job.bundle}-{engine}"
    if not folder.exists():
        shutil.copytree(job.folder, folder)  # its graphs are reused
    _build(job, engine, folder)
    return folder


def plan_figures(folder: Path) -> Figures:
    """Size, version and profiles of every plan."""
    manifest = Manifest.read(folder)
    plans = {name: manifest.stages[name].plan for name in STAGES}
    if missing := [name for name, plan in plans.items() if plan is None]:
        raise NotRunError(f"{folder}: the build left no plan of {', '.join(missing)}")
    return {
        name: {"bytes": plan.bytes, "version": plan.version, "profiles": [row.name for row in plan.profiles]}
        for name, plan in plans.items()
        if plan is not None
    }


def _build(job: GpuJob, engine: str, out: Path) -> None:
    from export.build import build_bundle
    from export.settings import BuildSettings, Engine, Precision

    build_bundle(BuildSettings(preset=job.bundle, precision=Precision.FP16, engine=Engine(engine), out=out))
