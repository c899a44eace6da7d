"""Builds a bundle: `python -m export.build --stage all --preset paper --out bundle`; stdout carries one JSON line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from export.report import BuildReport
from export.settings import ALL_STAGES, BuildSettings, Engine, Precision, parse_shapes
from oneranker.config import PRESETS
from runtime.errors import OneRankerError

logger = logging.getLogger(__name__)
DEFAULT = BuildSettings()


def build_bundle(settings: BuildSettings) -> BuildReport:
    """Build what the settings say, prove it and put it at `settings.out`, all of it or nothing.

    Raises:
        BuildError: The settings, the checkpoint or the disk do not allow it.
        ParityError: The graphs answer too far from the model.
    """
    from export.assembly import assemble  # torch and onnx take seconds that `--help` does not need

    return assemble(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    parser = _parser()
    try:
        settings = BuildSettings(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("export").setLevel(logging.INFO)
    try:
        report = build_bundle(settings)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m export.build", description=__doc__)
    add = parser.add_argument
    add("--stage", default=DEFAULT.stage, choices=ALL_STAGES, help="what to build; one stage needs a bundle at --out")
    add("--checkpoint", type=Path, metavar="DIR", help="folder written by oneranker.train; without it: random weights")
    add("--preset", choices=sorted(PRESETS), help="architecture without a checkpoint (default: paper)")
    add("--out", type=Path, default=DEFAULT.out, help="bundle folder, replaced as a whole (default: %(default)s)")
    add("--precision", type=Precision, choices=list(Precision), default=DEFAULT.precision, metavar="PRECISION",
        help="auto, fp32, fp16 or bf16 (default: %(default)s)")  # fmt: skip
    add("--engine", type=Engine, choices=list(Engine), default=DEFAULT.engine, metavar="ENGINE",
        help="auto, none, tensorrt or tensorrt_rtx (default: %(default)s)")  # fmt: skip
    for flag, what in (("min", "smallest"), ("opt", "usual"), ("max", "largest")):
        add(f"--{flag}-shapes", type=_shapes, default={}, metavar="B:1,S:64,C:16", help=f"{what} sizes by letter")
    add("--items", type=int, help="size of the synthetic catalogue of a build with random weights (default: 10000)")
    add(
        "--max-items", type=int, default=DEFAULT.max_items, help="largest catalogue of an engine (default: %(default)s)"
    )
    add("--attention-block", type=int, default=DEFAULT.attention_block, metavar="ROWS",
        help="query rows per block of the generator's attention, 0 for one block (default: %(default)s)")  # fmt: skip
    for kept in ("fp32", "bf16"):
        add(f"--keep-{kept}", type=_words, default=(), metavar="A,B", help=f"modules whose inside stays {kept}")
    add("--check-requests", type=Path, metavar="FILE", help="real requests to verify with, one JSON object a line")
    add("--workspace-mib", type=int, help="most scratch memory that an engine's builder may plan with")
    add("--builder-level", type=int, help="how hard an engine's builder tries, from 0")
    add("--timing-cache", type=Path, metavar="FILE", help="TensorRT alone: read, and written after the build")
    add("--compute-capability", type=_words, default=(), dest="compute_capabilities", metavar="8.9,12.0",
        help="TensorRT-RTX alone: devices to build for (default: its portable set)")  # fmt: skip
    add("--seed", type=int, default=DEFAULT.seed, help="of random weights and of the requests that verify")
    return parser


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _shapes(text: str) -> dict[str, int]:
    try:
        return parse_shapes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
