"""Frozen architecture of OneRanker: the alphabet of dimensions, the paper's readings as flags, and the presets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self


class RelativeBias(StrEnum):
    """What an HSTU block adds to q·k (reference: HSTU, arXiv 2402.17152)."""

    NONE = "none"
    POSITION = "position"
    POSITION_TIME = "position_time"


class DualChannel(StrEnum):
    """Reading of Eq. 1: `sum` is literal; `diag` keeps score j at index j and survives a relabelling of the anchors."""

    SUM = "sum"
    DIAG = "diag"


class RetrieverMode(StrEnum):
    """`trie`: semantic-ID paths by constrained beam search; `dense`: Eq. 4 literally, over the item vectors."""

    TRIE = "trie"
    DENSE = "dense"


class TaskMask(StrEnum):
    """Who reads whom in Step 2: the paper's text, its leak-free variant (E13), or no mask (Table 3, w/o H-Mask)."""

    HETEROGENEOUS = "heterogeneous"
    STRICT = "strict"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRankerConfig:
    """One letter a dimension, the same letter in comments, ONNX axes, manifest and messages; flags name paper rows.

    Raises: ValueError when two fields cannot stand together.
    """

    vocabulary: int = 1  # rows of the token embedding table; row 0 = absent; set by the tokenizer
    fields: int = 1  # F, integers per token; set by the tokenizer
    max_history: int = 2048  # S, also the constant n of HSTU's 1/n
    width: int = 128  # D
    heads: int = 4  # H; E = D / H
    generator_layers: int = 4
    enhancer_layers: int = 2
    interest_tokens: int = 6  # m
    value_tokens: int = 2
    anchors: int = 32  # A; 0 = Table 2 "w/o Target"
    code_levels: int = 3  # L
    codes: int = 256  # V
    beams: int = 64  # W
    candidates: int = 512  # C
    candidate_features: int = 0  # K extra numbers per candidate (bid, pCTR …), E23
    relative_bias: RelativeBias = RelativeBias.POSITION_TIME
    dual_channel: DualChannel = DualChannel.SUM
    anchor_mean: bool = False  # 1/A before the sum of Eq. 1 (E3)
    retriever: RetrieverMode = RetrieverMode.TRIE
    task_mask: TaskMask = TaskMask.HETEROGENEOUS
    cross_first: bool = True  # False = Table 3 "w/o CA-Pri"
    task_decoupling: bool = True  # False = Table 2 "w/o MDA": one head state shared by all tasks
    prefix_conditioned: bool = True  # False = no G_l (E7); with anchors = 0 as well, Eq. 6 without earlier codes
    ranker_reads_tasks: bool = True  # False = Table 2 "w/o S2 token injection"
    ranker_detached: bool = False  # True = ranking loss stays out of Steps 1-2 (E30)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"config: width={self.width} is no multiple of heads={self.heads}; change one of them")
        if not (16 <= self.head_dim <= 256 and self.head_dim % 8 == 0):
            raise ValueError(
                f"config: head dimension E={self.head_dim}, expected 16..256 in steps of 8 (fused attention needs it); "
                "change width or heads"
            )
        for name in ("max_history", "interest_tokens", "value_tokens", "code_levels", "codes", "beams", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"config: {name}={getattr(self, name)}, expected at least 1; raise it")
        for name in ("anchors", "candidate_features", "enhancer_layers", "generator_layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"config: {name}={getattr(self, name)}, expected at least 0; raise it")
        if self.max_history < 3:
            raise ValueError("config: max_history below 3 has no room for a user, an event and the request; raise it")

    @property
    def head_dim(self) -> int:
        """E, width of one attention head."""
        return self.width // self.heads

    @property
    def task_tokens(self) -> int:
        """T = m interest tokens + value tokens."""
        return self.interest_tokens + self.value_tokens

    @property
    def retrieval_heads(self) -> int:
        """M = m interest heads + one value head."""
        return self.interest_tokens + 1

    def letters(self) -> dict[str, int]:
        """The alphabet with this model's sizes; B, N, P and R belong to requests and catalogues."""
        return {
            "S": self.max_history, "F": self.fields, "D": self.width, "H": self.heads, "E": self.head_dim,
            "T": self.task_tokens, "A": self.anchors, "M": self.retrieval_heads, "L": self.code_levels,
            "V": self.codes, "W": self.beams, "C": self.candidates, "K": self.candidate_features,
        }  # fmt: skip

    def with_tokens(self, vocabulary: int, fields: int) -> Self:
        """The same model over a tokenizer's table size and F."""
        return replace(self, vocabulary=vocabulary, fields=fields)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """Read a saved config; an unknown or missing key is an error, never dropped."""
        known = {field.name for field in fields(cls)}
        if wrong := sorted(known ^ set(raw)):
            raise ValueError(f"config: keys {wrong} are unknown or missing, expected exactly {sorted(known)}; retrain")
        enums: dict[str, Callable[[str], Any]] = {
            "relative_bias": RelativeBias,
            "dual_channel": DualChannel,
            "retriever": RetrieverMode,
            "task_mask": TaskMask,
        }
        return cls(**{key: enums[key](value) if key in enums else value for key, value in raw.items()})


PRESETS: dict[str, OneRankerConfig] = {
    "paper": OneRankerConfig(),
    "demo": OneRankerConfig(
        max_history=256, width=64, heads=2, generator_layers=2, enhancer_layers=1, interest_tokens=3, value_tokens=2,
        anchors=16, codes=256, beams=48, candidates=128, dropout=0.0,
    ),
    "tiny": OneRankerConfig(
        max_history=20, width=32, heads=2, generator_layers=2, enhancer_layers=2, interest_tokens=5, value_tokens=3,
        anchors=7, code_levels=3, codes=11, beams=9, candidates=13, dropout=0.0,
    ),
}  # fmt: skip


def preset(name: str) -> OneRankerConfig:
    """A preset by name.

    Raises: ValueError naming the presets there are.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: got {name!r}, expected one of {sorted(PRESETS)}; choose one of these")
    return PRESETS[name]
