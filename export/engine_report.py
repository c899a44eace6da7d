"""What is known of a built engine, for `<stage>/engine_report.json`: kernels, memory, types, the proof of precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from export.engine_kernels import Kernel
from export.engine_precision import PrecisionProof
from export.profiles import EngineProfile

NOT_RUN = "not run on a GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReport:
    """One profile; its kernels in the order of their launch."""

    name: str
    letters: dict[str, tuple[int, int, int]]
    scratch_bytes: int | None  # None: the builder did not tell
    fused_attention: list[str]  # kernels that hold a whole attention
    kernels: dict[str, int]  # short name -> launches of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One engine; `fingerprint`, `plan` and `verified` are filled in by the assembly."""

    stage: str
    engine: str
    version: str
    seconds: float
    bytes: int
    weight_bytes: int | None
    attention_layers: int  # of the network that the parser made; HSTU's SiLU attention is not one of them
    profiles: tuple[ProfileReport, ...]
    kernel_types: dict[str, int]  # the library's own words, over all profiles
    tensors: dict[str, Any]  # the network's types: boundary by name, inside by count
    precision: PrecisionProof
    inspected: str  # the engine opened on a GPU, or NOT_RUN
    fingerprint: str = ""
    plan_sha256: str = ""
    verified: str = NOT_RUN
    kernels: list[dict[str, Any]] = field(default_factory=list)  # every launch: profile, name, type, tensors, nodes


def profile_reports(
    profiles: Sequence[EngineProfile], kernels: Sequence[Kernel], scratch: Sequence[int]
) -> tuple[ProfileReport, ...]:
    """One row a profile; the scratch is left out where there is not one figure for each of them."""
    told = list(scratch) if len(scratch) == len(profiles) else [None] * len(profiles)
    rows = []
    for place, (profile, bytes_) in enumerate(zip(profiles, told, strict=True)):
        own = [kernel for kernel in kernels if kernel.profile == place]
        rows.append(
            ProfileReport(
                name=profile.name,
                letters=profile.letters,
                scratch_bytes=bytes_,
                fused_attention=[kernel.short_name for kernel in own if kernel.fused_attention],
                kernels=dict(Counter(kernel.short_name for kernel in own)),
            )
        )
    return tuple(rows)


def kernel_types(kernels: Sequence[Kernel]) -> dict[str, int]:
    """The library's own words for kinds of kernels, counted."""
    return dict(Counter(kernel.type for kernel in kernels))
