"""Building blocks of Steps 2 and 3: attention over given keys and values, feed-forward, cross-first decoder layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, S, D] -> [B, H, S, E]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, S, E] -> [B, S, D]."""
    return x.transpose(1, 2).flatten(2)


class KeyValue(nn.Module):
    """Maps hidden states to the keys and values another block will read, computed once where the states are born.

    Shapes: hidden [B, S, D] -> key, value [B, H, S, E]
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return split_heads(self.key(hidden), self.heads), split_heads(self.value(hidden), self.heads)


class CrossAttention(nn.Module):
    """Softmax attention of queries over keys and values that somebody else computed; the mask alone decides reading.

    Shapes: queries [B, Q, D], key, value [B, H, S, E], mask additive, broadcast to [B, H, Q, S] -> [B, Q, D]
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        q = split_heads(self.query(queries), self.heads)
        return self.output(merge_heads(F.scaled_dot_product_attention(q, key, value, attn_mask=mask)))


class SelfAttention(nn.Module):
    """Softmax attention of a sequence over itself under an additive mask.

    Shapes: x [B, Q, D], mask broadcast to [B, H, Q, Q] -> [B, Q, D]
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.key_value = KeyValue(width, heads)
        self.attention = CrossAttention(width, heads)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attention(x, *self.key_value(x), mask)


class FeedForward(nn.Module):
    """Linear to 4D, GELU, back to D (E15).

    Shapes: [..., D] -> [..., D]
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer that reads the user first and itself second (3.2.3); `cross_first=False` is w/o CA-Pri.

    Shapes: x [B, Q, D], key, value [B, H, S, E], cross_mask, self_mask additive -> [B, Q, D]
    """

    def __init__(self, width: int, heads: int, *, cross_first: bool, dropout: float) -> None:
        super().__init__()
        self.cross_first = cross_first
        self.cross_norm = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = SelfAttention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, cross_mask: Tensor, self_mask: Tensor) -> Tensor:
        if self.cross_first:
            x = x + self.dropout(self.cross(self.cross_norm(x), key, value, cross_mask))
        x = x + self.dropout(self.self_attention(self.self_norm(x), self_mask))
        if not self.cross_first:
            x = x + self.dropout(self.cross(self.cross_norm(x), key, value, cross_mask))
        return x + self.dropout(self.feed(self.feed_norm(x)))


def take(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for a flat table and any shape of index; one node in a graph, the table is never cast or copied.

    As GatherElements: ONNX Runtime's Gather on the CPU copies element by element and takes twelve times as long.

    Shapes: table [n], index int64 [...] -> [...]
    """
    return table.gather(0, index.reshape(-1)).reshape(index.shape)


def unit(x: Tensor) -> Tensor:
    """Rows scaled to length 1, statistics in fp32; a zero row stays zero.

    Shapes: [..., D] -> fp32 [..., D]
    """
    x = x.float()
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-12)
