"""HSTU block: pointwise SiLU attention with a relative bias (arXiv 2402.17152, research layer)."""

from __future__ import annotations

import math
from enum import StrEnum
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneranker.config import OneRankerConfig, RelativeBias
from oneranker.layers import merge_heads, split_heads, take

TIME_BUCKETS = 129
BUCKET_WIDTH = 0.301  # natural-log units per time bucket
LARGEST_GAP = 2**31 - 2  # seconds; a longer gap counts as this one
SILU_ATTENTION = "rec::SiluAttention"  # custom-domain node; its portable body lives in export/silu_attention.py
SILU_ATTENTION_VERSION = 2  # 1 had the bias by position added to its mask


class AttentionForm(StrEnum):
    """How the blocks compute SiLU attention: `eager` anywhere; `fused` is a kernel for inference on a GPU."""

    EAGER = "eager"
    FUSED = "fused"


def silu_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """SiLU(q·k + mask)·scale @ v; `mask` is additive and carries the bias, scale = 1/n comes before the sum over keys.

    Shapes: query [B, H, Q, E], key, value [B, H, S, E], mask broadcast to [B, H, Q, S] -> [B, H, Q, E]
    """
    return (F.silu(query @ key.transpose(-1, -2) + mask) * scale) @ value


def bucket_starts() -> Tensor:
    """Smallest |Δt| in seconds of each time bucket: the integers where floor(ln(max(Δt, 1)) / 0.301) steps up.

    Shapes: -> int32 [TIME_BUCKETS + 1]; entries no int32 reaches hold the largest int32
    """
    largest = 2**31 - 1
    starts = [0]
    for bucket in range(1, TIME_BUCKETS + 1):
        start = math.ceil(math.exp(bucket * BUCKET_WIDTH)) if bucket * BUCKET_WIDTH < 22 else largest
        starts.append(min(start, largest))
    return torch.tensor(starts, dtype=torch.int32)


def time_buckets(query_time: Tensor, key_time: Tensor, starts: Tensor) -> Tensor:
    """Log-bucket of |query_time - key_time|: a logarithm finds the nearest edge, integers say on which side.

    Two engines round a logarithm differently; one comparison with the integer bucket edge makes every engine agree.

    Shapes: query_time int64 [B, Q], key_time int64 [B, S], starts int32 [129+1] -> int32 [B, Q, S]
    """
    gap = (query_time[:, :, None] - key_time[:, None, :]).abs().clamp(max=LARGEST_GAP).to(torch.int32)  # [B, Q, S]
    edge = (gap.float().clamp(min=1).log() / BUCKET_WIDTH + 0.5).to(torch.int32)
    return edge - (gap < take(starts, edge)).to(torch.int32)


class TimeGaps:
    """From when each row looks back, and when each key happened; the buckets are found once, for all layers.

    Shapes: query_time int64 [B, Q], key_time int64 [B, S], starts int32 [129+1]
    """

    def __init__(self, query_time: Tensor, key_time: Tensor, starts: Tensor) -> None:
        self.query_time = query_time
        self.key_time = key_time
        self.starts = starts

    @cached_property
    def buckets(self) -> Tensor:
        """int32 [B, Q, S]."""
        return time_buckets(self.query_time, self.key_time, self.starts)


class RelativeAttentionBias(nn.Module):
    """w_pos[(n-1)+(j-i)] + w_ts[bucket(|t_i' - t_j|)], one pair of tables per layer, shared by the heads (C.1).

    Shapes: buckets int32 [B, Q, S] or None -> [1 or B, 1, Q, S]; query row r stands at position S-Q+r
    """

    def __init__(self, max_history: int, mode: RelativeBias) -> None:
        super().__init__()
        self.max_history = max_history
        self.mode = mode
        if mode is not RelativeBias.NONE:
            self.position = nn.Parameter(torch.empty(2 * max_history - 1).normal_(std=0.02))
        if mode is RelativeBias.POSITION_TIME:
            self.time = nn.Parameter(torch.empty(TIME_BUCKETS).normal_(std=0.02))

    def forward(self, queries: int, keys: int, buckets: Tensor | None) -> Tensor | None:
        if self.mode is RelativeBias.NONE:
            return None
        bias = self.by_position(queries, keys)
        if buckets is not None and self.mode is RelativeBias.POSITION_TIME:
            bias = bias + take(self.time, buckets)[:, None]
        return bias

    def by_position(self, queries: int, keys: int) -> Tensor:
        """Row r is the table shifted right by r: one expand and two reshapes instead of an S x S gather.

        A row of 2S numbers repeated and cut to lines of 2S-1 slips by one each line (the relative shift).

        Shapes: -> [1, 1, Q, S]
        """
        middle = self.max_history - 1
        right = self.position[middle : middle + keys]  # j - i = 0 .. S-1
        left = self.position[middle - keys + 1 : middle]  # j - i = -(S-1) .. -1
        line = torch.cat([right, right[:1], left])  # [2S]; the middle cell is never read
        shifted = line.expand(keys, 2 * keys).reshape(-1)[: keys * (2 * keys - 1)].reshape(keys, 2 * keys - 1)
        return shifted[None, None, keys - queries :, :keys]


class HSTUBlock(nn.Module):
    """One HSTU layer: SiLU on u, v, q, k; SiLU attention over n; gate; no feed-forward (HSTU Eq. 1-3).

    `attention` is a choice of the running process, no part of the model: it is neither saved nor exported.

    Shapes: x [B, Q, D], mask additive [1 or B, 1, Q, S] and key_mask additive [B, 1, 1, S], both without bias,
        past key, value [B, H, S-Q, E] of the tokens before x -> y [B, Q, D], key, value [B, H, S, E];
        without a mask, which the fused form alone takes, a row reads itself and what came before it
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 1.0 / config.max_history  # n is a constant: padding further changes nothing
        self.attention = AttentionForm.EAGER
        self.norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.input = nn.Linear(config.width, 4 * config.width, bias=False)
        self.bias = RelativeAttentionBias(config.max_history, config.relative_bias)
        self.output_norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.output = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.input.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        gaps: TimeGaps | None,
        past: tuple[Tensor, Tensor] | None = None,
        *,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        u, v, q, k = F.silu(self.input(self.norm(x))).chunk(4, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in (q, k, v))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        if torch.compiler.is_exporting():
            assert mask is not None, "graphs are exported from Generator.forward, which has both masks"
            assert key_mask is not None
            mixed = self._attention_node(query, key, value, mask, key_mask, gaps)
        elif self.attention is AttentionForm.FUSED:
            mixed = self._fused(query, key, value, mask, key_mask, gaps)
        else:
            assert mask is not None, "Generator.encode makes one where none was given"
            bias = self.bias(query.shape[2], key.shape[2], None if gaps is None else gaps.buckets)
            for part in (bias, key_mask):
                mask = mask if part is None else mask + part
            mixed = silu_attention(query, key, value, mask, self.scale)
        gated = self.dropout(u * self.output_norm(merge_heads(mixed)))
        return x + self.output(gated), key, value

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        key_mask: Tensor | None,
        gaps: TimeGaps | None,
    ) -> Tensor:
        """The same in one kernel, which is handed the parts of the bias."""
        from oneranker.fused_attention import fused_silu_attention  # needs this module's constants

        return fused_silu_attention(
            query,
            key,
            value,
            scale=self.scale,
            mask=mask,
            key_mask=key_mask,
            position_bias=None if self.bias.mode is RelativeBias.NONE else self.bias.position,
            time_bias=self.bias.time if self.bias.mode is RelativeBias.POSITION_TIME else None,
            gaps=gaps,
        )

    def _attention_node(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, key_mask: Tensor, gaps: TimeGaps | None
    ) -> Tensor:
        """The same in a graph: one node that is handed the parts of the bias, so that no [B, S, S] need ever exist."""
        inputs = [query, key, value, mask, key_mask]
        if self.bias.mode is not RelativeBias.NONE:
            inputs.append(self.bias.position)
        if gaps is not None and self.bias.mode is RelativeBias.POSITION_TIME:
            inputs += [gaps.query_time, gaps.key_time, gaps.starts, self.bias.time]
        return torch.onnx.ops.symbolic(
            SILU_ATTENTION,
            inputs,
            {"scale": self.scale},
            dtype=query.dtype,
            shape=query.shape,
            version=SILU_ATTENTION_VERSION,
        )
