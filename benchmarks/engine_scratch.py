"""Scratch memory of the generator's engine with and without blocks in its attention: one run, one JSON line.

`python -m benchmarks.engine_scratch --preset paper` needs TensorRT-RTX and no GPU; nothing is run, an engine is built.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.environment import ROOT, commit, processor, usable_cores
from export.engine_from_onnx import EngineOptions, build_engine
from export.engine_module import engine_module
from export.fingerprint import versions
from export.model_source import read_source
from export.onnx_from_stage import export_stage
from export.precision import in_precision
from export.profiles import EngineProfile, engine_profiles
from export.settings import BuildSettings, Engine, Precision, profile_of
from export.stages import stage_specs
from oneranker.config import PRESETS
from runtime.errors import OneRankerError

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).resolve().parent / "results" / "engine-build.jsonl"
STAGE = "generator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The engine of one form of the attention."""

    attention_block: int  # query rows per block; 0: one block
    scratch_bytes: int | None
    weight_bytes: int | None
    plan_bytes: int
    seconds: float
    kernels: dict[str, int]  # the library's own words for their kinds, counted


def measure(settings: BuildSettings, batch: int) -> dict[str, Any]:
    """Build both forms for the profile that holds the largest batch and history.

    Raises:
        BuildError: TensorRT-RTX is not here, or does not build one of them.
    """
    module = engine_module(Engine.TENSORRT_RTX)
    assert module is not None, "only --engine none has no module"
    source = read_source(settings)
    model, config = in_precision(source.model, settings.precision), source.model.config
    spec, envelope = stage_specs(config, settings.precision)[STAGE], profile_of(settings, config)
    largest = {"B": batch, "S": envelope.S[2]}
    profiles = engine_profiles(spec.inputs, envelope, settings, config.code_levels)
    profile = next(row for row in profiles if row.holds(largest))
    forms = []
    with tempfile.TemporaryDirectory() as folder:
        for block in (settings.attention_block, 0):
            graph = Path(folder) / f"block-{block}" / STAGE / "model.onnx"
            export_stage(model, spec, replace(settings.graph, attention_block=block), "", graph)
            forms.append(_form(module, graph, profile, settings, block))
    blocked, unblocked = forms
    told = blocked.scratch_bytes is not None and unblocked.scratch_bytes is not None
    return {
        "preset": settings.preset,
        "stage": STAGE,
        "precision": settings.precision.value,
        "largest": largest,
        "profile": asdict(profile),
        "blocked": asdict(blocked),
        "unblocked": asdict(unblocked),
        "ratio": (blocked.scratch_bytes or 0) / (unblocked.scratch_bytes or 1) if told else None,
        "run": "not run on a GPU: the builder's own figures",
        "engine": f"tensorrt_rtx {module.__version__}",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one JSON line out, on stdout and in the file of results."""
    default = BuildSettings()
    parser = argparse.ArgumentParser("python -m benchmarks.engine_scratch", description=__doc__)
    parser.add_argument("--preset", default="paper", choices=sorted(PRESETS))
    parser.add_argument("--attention-block", type=int, default=default.attention_block, metavar="ROWS")
    parser.add_argument("--batch", type=int, default=8, help="largest B (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that the line is added to")
    words = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    settings = BuildSettings(
        preset=words.preset,
        precision=Precision.FP16,
        attention_block=words.attention_block,
        max_shapes={"B": words.batch},
    )
    try:
        found = measure(settings, words.batch)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    line = json.dumps(
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(["python -m benchmarks.engine_scratch", *(sys.argv[1:] if argv is None else argv)]),
            "commit": commit(ROOT),
            "machine": f"{processor()}, {usable_cores()} cores",
            "system": platform.platform(),
            "versions": versions(),
            **found,
        }
    )
    words.results.parent.mkdir(parents=True, exist_ok=True)
    with words.results.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    sys.stdout.write(line + "\n")
    return 0


def _form(module: ModuleType, graph: Path, profile: EngineProfile, settings: BuildSettings, block: int) -> Form:
    report = build_engine(module, graph, [profile], EngineOptions(precision=settings.precision)).report
    (row,) = report.profiles
    logger.info("attention block %d: scratch %s bytes", block, row.scratch_bytes)
    return Form(
        attention_block=block,
        scratch_bytes=row.scratch_bytes,
        weight_bytes=report.weight_bytes,
        plan_bytes=report.bytes,
        seconds=report.seconds,
        kernels=report.kernel_types,
    )


if __name__ == "__main__":
    sys.exit(main())
