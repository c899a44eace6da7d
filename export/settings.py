"""What the user of the exporter may choose, checked once; `auto` is resolved into new settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from oneranker.config import PRESETS, OneRankerConfig
from runtime.errors import BuildError
from runtime.manifest import STAGES

OPSET = 23  # one Attention node per softmax attention; torch 2.13 writes invalid graphs above 25
MIN_BLOCK = 16  # rows of an attention block; below it the blocks cost more than they save
MIN_HISTORY = 3  # the smallest S a graph takes: a user, an event and the request
DEFAULT_ITEMS = 10_000
PROFILE_LETTERS = ("B", "S", "C")
ALL_STAGES = ("all", *STAGES)


class Precision(StrEnum):
    """The type that is baked into a graph; `auto` follows the engine."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Engine(StrEnum):
    """What is built from the graphs besides the graphs themselves."""

    AUTO = "auto"
    NONE = "none"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSettings:
    """The part of the settings that decides what a stage's graph computes, and in which type."""

    precision: Precision
    attention_block: int = 0
    keep_fp32: tuple[str, ...] = ()

    def of_stage(self, stage: str) -> GraphSettings:
        """Without what concerns other stages only."""
        kept = tuple(sorted(name for name in self.keep_fp32 if name.split(".")[0] == stage))
        block = self.attention_block if stage == "generator" else 0
        return replace(self, attention_block=block, keep_fp32=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """One build.

    Raises:
        ValueError: A word or a number that no build can use.
    """

    stage: str = "all"
    checkpoint: Path | None = None
    preset: str | None = None  # without a checkpoint: "paper"
    out: Path = Path("bundle")
    precision: Precision = Precision.AUTO
    engine: Engine = Engine.AUTO
    min_shapes: Mapping[str, int] = field(default_factory=dict)
    opt_shapes: Mapping[str, int] = field(default_factory=dict)
    max_shapes: Mapping[str, int] = field(default_factory=dict)
    items: int | None = None  # size of the synthetic catalogue of a build with random weights
    seed: int = 0
    attention_block: int = 512  # query rows per block of HSTU's causal attention; 0: one block
    keep_fp32: tuple[str, ...] = ()  # modules whose inside stays fp32, such as "ranker.layer.feed"
    keep_bf16: tuple[str, ...] = ()  # refused, with the reason
    check_requests: Path | None = None  # real requests to verify with, beside the random ones
    max_items: int = 10_000_000  # N of an engine's profiles
    workspace_mib: int | None = None  # None: the engine's own limit
    builder_level: int | None = None  # None: the engine's own level
    timing_cache: Path | None = None  # TensorRT only
    compute_capabilities: tuple[str, ...] = ()  # TensorRT-RTX only, such as ("8.9", "12.0"); none: its portable set

    def __post_init__(self) -> None:
        if self.stage not in ALL_STAGES:
            raise ValueError(f"--stage: got {self.stage!r}, expected one of {', '.join(ALL_STAGES)}")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"--preset: got {self.preset!r}, expected one of {', '.join(sorted(PRESETS))}")
        if self.items is not None and self.checkpoint is not None:
            raise ValueError("--items: got a number beside --checkpoint, whose own catalogue is used; leave it out")
        if self.items is not None and self.items < 1:
            raise ValueError(f"--items: got {self.items}, expected at least 1")
        if self.seed < 0:
            raise ValueError(f"--seed: got {self.seed}, expected 0 or more")
        self._check_engine_options()
        for flag in ("min_shapes", "opt_shapes", "max_shapes"):
            for letter, size in getattr(self, flag).items():
                if letter not in PROFILE_LETTERS or size < 1:
                    raise ValueError(
                        f"--{flag.replace('_', '-')}: got {letter}:{size}, expected sizes of at least 1 for "
                        f"{', '.join(PROFILE_LETTERS)}, such as B:8,S:512"
                    )

    def _check_engine_options(self) -> None:
        for flag, least in (("max_items", 1), ("workspace_mib", 1), ("builder_level", 0)):
            if (value := getattr(self, flag)) is not None and value < least:
                raise ValueError(f"--{flag.replace('_', '-')}: got {value}, expected {least} or more")
        if wrong := [word for word in self.compute_capabilities if not re.fullmatch(r"\d+\.\d", word)]:
            raise ValueError(f"--compute-capability: got {wrong[0]!r}, expected such as 8.9,12.0")
        if 0 != self.attention_block < MIN_BLOCK:
            raise ValueError(
                f"--attention-block: got {self.attention_block}, expected 0 (one block) or at least {MIN_BLOCK}"
            )

    @property
    def graph(self) -> GraphSettings:
        """What decides the graphs."""
        return GraphSettings(precision=self.precision, attention_block=self.attention_block, keep_fp32=self.keep_fp32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Smallest, usual and largest size of every letter that a request decides.

    Raises:
        BuildError: The sizes do not rise.
    """

    B: tuple[int, int, int]
    S: tuple[int, int, int]
    C: tuple[int, int, int]

    def __post_init__(self) -> None:
        for letter, (low, usual, high) in self.ranges().items():
            if not low <= usual <= high:
                raise BuildError(
                    f"profile: {letter} is min {low}, opt {usual}, max {high}, expected rising sizes. "
                    "Correct --min-shapes, --opt-shapes or --max-shapes."
                )

    def ranges(self) -> dict[str, tuple[int, int, int]]:
        """Letter -> (min, opt, max)."""
        return {letter: getattr(self, letter) for letter in PROFILE_LETTERS}


def parse_shapes(text: str) -> dict[str, int]:
    """`B:1,S:64` -> {"B": 1, "S": 64}.

    Raises:
        ValueError: Anything else, or a letter twice.
    """
    shapes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        letter, colon, size = part.strip().partition(":")
        if not colon or not size.isdecimal() or letter in shapes:
            raise ValueError(f"got {part!r} in {text!r}, expected letter:size pairs such as B:8,S:512,C:128")
        shapes[letter] = int(size)
    return shapes


def resolve(settings: BuildSettings) -> BuildSettings:
    """Settings without `auto` and without a missing preset, after a check that this machine can build them.

    Raises:
        BuildError: An engine or a precision that cannot be built here.
    """
    from export.engine_module import choose_engine  # which reads these settings

    if settings.precision is Precision.BF16:
        raise BuildError(
            "--precision bf16: ONNX Runtime's CPU provider has no bf16 kernels, so the graphs could not be verified; "
            "expected auto, fp32 or fp16. Build with --precision fp16."
        )
    if settings.keep_bf16:
        raise BuildError(
            f"--keep-bf16 {settings.keep_bf16[0]}: ONNX Runtime's CPU provider multiplies no bf16 matrices, so the "
            "graph could neither be verified here nor served on a CPU; expected modules for --keep-fp32 alone. Use "
            "--keep-fp32: it holds all numbers that bf16 holds."
        )
    preset = "paper" if settings.preset is None and settings.checkpoint is None else settings.preset
    return replace(choose_engine(settings), preset=preset)


def profile_of(settings: BuildSettings, config: OneRankerConfig) -> Profile:
    """The profile that was asked for, filled up with what the model can take.

    Raises:
        BuildError: Sizes that the model cannot take.
    """
    ends = {
        "B": (1, 1, 8),
        "S": (MIN_HISTORY, config.max_history, config.max_history),
        "C": (1, config.candidates, config.candidates),
    }
    ranges = {}
    for letter, (low, usual, high) in ends.items():
        high = settings.max_shapes.get(letter, max(high, settings.opt_shapes.get(letter, 0)))
        usual = settings.opt_shapes.get(letter, min(usual, high))
        ranges[letter] = (settings.min_shapes.get(letter, min(low, usual)), usual, high)
    if ranges["S"][2] > config.max_history or ranges["S"][0] < MIN_HISTORY:
        raise BuildError(
            f"profile: S is {ranges['S'][0]} .. {ranges['S'][2]}, expected {MIN_HISTORY} .. {config.max_history}, the "
            "history the model was made for. Correct --min-shapes or --max-shapes, or train with a longer history."
        )
    if not ranges["C"][0] <= config.candidates <= ranges["C"][2]:
        raise BuildError(
            f"profile: C is {ranges['C'][0]} .. {ranges['C'][2]}, expected to hold {config.candidates}, what the "
            "retriever hands to the ranker. Correct C in --min-shapes or --max-shapes, or train with other candidates."
        )
    return Profile(**ranges)
