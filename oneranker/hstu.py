"""HSTU block: pointwise SiLU attention with a relative bias (arXiv 2402.17152, research layer)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneranker.config import OneRankerConfig, RelativeBias
from oneranker.layers import merge_heads, split_heads, take

TIME_BUCKETS = 129
BUCKET_WIDTH = 0.301  # natural-log units per time bucket
SILU_ATTENTION = "rec::SiluAttention"  # custom-domain node; its portable body lives in export/silu_attention.py


def silu_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """SiLU(q·k + mask)·scale @ v; `mask` is additive and carries the bias, scale = 1/n comes before the sum over keys.

    Shapes: query [B, H, Q, E], key, value [B, H, S, E], mask broadcast to [B, H, Q, S] -> [B, H, Q, E]
    """
    if torch.compiler.is_exporting():
        return torch.onnx.ops.symbolic(
            SILU_ATTENTION,
            [query, key, value, mask],
            {"scale": scale},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )
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
    """Log-bucket of |query_time - key_time|: fp32 logarithm for a first guess, integers for the truth.

    Two engines round a logarithm differently; one comparison with the integer bucket edges makes every engine agree.

    Shapes: query_time int64 [B, Q], key_time int64 [B, S], starts int32 [129+1] -> int32 [B, Q, S]
    """
    gap = (query_time[:, :, None] - key_time[:, None, :]).abs().clamp(max=2**31 - 2).to(torch.int32)  # [B, Q, S]
    guess = (gap.clamp(min=1).float().log() / BUCKET_WIDTH).to(torch.int32).clamp(max=TIME_BUCKETS - 1)
    above, below = gap >= take(starts, guess + 1), gap < take(starts, guess)  # never at the last and the first bucket
    return guess + above.to(torch.int32) - below.to(torch.int32)


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
        bias = self._by_position(queries, keys)[None, None]
        if buckets is not None and self.mode is RelativeBias.POSITION_TIME:
            bias = bias + take(self.time, buckets)[:, None]
        return bias

    def _by_position(self, queries: int, keys: int) -> Tensor:
        """Row r is the table shifted right by r: one expand and two reshapes instead of an S x S gather.

        A row of 2S numbers repeated and cut to lines of 2S-1 slips by one each line (the relative shift).
        """
        middle = self.max_history - 1
        right = self.position[middle : middle + keys]  # j - i = 0 .. S-1
        left = self.position[middle - keys + 1 : middle]  # j - i = -(S-1) .. -1
        line = torch.cat([right, right[:1], left])  # [2S]; the middle cell is never read
        shifted = line.expand(keys, 2 * keys).reshape(-1)[: keys * (2 * keys - 1)].reshape(keys, 2 * keys - 1)
        return shifted[keys - queries :, :keys]  # [Q, S]


class HSTUBlock(nn.Module):
    """One HSTU layer: SiLU on u, v, q, k; SiLU attention over n; gate; no feed-forward (HSTU Eq. 1-3).

    Shapes: x [B, Q, D], mask additive [B, 1, Q, S] without bias, buckets int32 [B, Q, S],
        past key, value [B, H, S-Q, E] of the tokens before x -> y [B, Q, D], key, value [B, H, S, E]
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 1.0 / config.max_history  # n is a constant: padding further changes nothing
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
        self, x: Tensor, mask: Tensor, buckets: Tensor | None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        u, v, q, k = F.silu(self.input(self.norm(x))).chunk(4, dim=-1)
        key, value = split_heads(k, self.heads), split_heads(v, self.heads)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        bias = self.bias(x.shape[1], key.shape[2], buckets)
        mixed = silu_attention(
            split_heads(q, self.heads), key, value, mask if bias is None else mask + bias, self.scale
        )
        gated = self.dropout(u * self.output_norm(merge_heads(mixed)))
        return x + self.output(gated), key, value
