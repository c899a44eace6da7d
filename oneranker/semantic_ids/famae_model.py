"""The FAMAE network: sums of field embeddings, a bidirectional Transformer, a cosine softmax on the same tables.

Source: ReSID (arXiv 2602.02338), sections 3.1 and C; what the paper leaves open is marked [inferred].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_SPREAD = 0.1  # [inferred]; 0.02 leaves the tokens behind the layers' outputs, 1 leaves noise in the rows


class Famae(nn.Module):
    """J field tables, each [V_j + 2, D]: row 0 pads (always zero), rows 1 .. V_j are values, the last row is the mask.

    Code 0 is a value that is missing or unknown: it adds nothing to its token and is never predicted [inferred].
    """

    def __init__(
        self,
        values: Sequence[int],
        *,
        width: int,
        history: int,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        tables = [nn.Embedding(count + 2, width, padding_idx=0) for count in values]
        blocks = [
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="relu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        ]
        for number, block in enumerate(blocks):
            for place, name in enumerate(("dropout", "dropout1", "dropout2")):
                setattr(block, name, QuickDropout(dropout, np.random.default_rng([seed, number, place])))
        self.tables, self.layers = nn.ModuleList(tables), nn.ModuleList(blocks)
        self.positions = nn.Parameter(torch.empty(history + 1, width))  # the last row is the target's
        for parameter in (self.positions, *(table.weight for table in tables)):
            nn.init.normal_(parameter, std=INITIAL_SPREAD)
        for table in tables:
            table.weight.data[0] = 0

    def forward(self, codes: Tensor, present: Tensor, masked: Tensor) -> Tensor:
        """Hidden state of the target, which is the last position; the history is never masked.

        Shapes: codes int64 [B, T, J], present bool [B, T] (False = padding, on the left), masked bool [B, J]
            -> [B, D]
        """
        ends = [torch.where(masked[:, j], len(table.weight) - 1, codes[:, -1, j]) for j, table in self._tables()]
        target = torch.stack(ends, dim=-1)
        codes = torch.cat([codes[:, :-1], target[:, None]], dim=1)
        x = self.positions[len(self.positions) - codes.shape[1] :].expand(len(codes), -1, -1)
        for j, table in self._tables():
            x = x + table(codes[:, :, j])  # [B, T, D]
        for layer in self.layers[:-1]:
            x = layer(x, src_key_padding_mask=~present)
        return _last_position(cast(nn.TransformerEncoderLayer, self.layers[-1]), x, ~present)

    def value_rows(self, field: int) -> Tensor:
        """The table of one field without padding and mask: input and output share it.

        Shapes: -> [V_j, D]
        """
        return self._tables()[field][1].weight[1:-1]

    def _tables(self) -> list[tuple[int, nn.Embedding]]:
        return list(enumerate(cast(Iterable[nn.Embedding], self.tables)))


class QuickDropout(nn.Module):
    """nn.Dropout with its random bits from numpy: torch draws them one by one on a CPU, half of a step's time."""

    def __init__(self, probability: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.dropped, self.rng = round(probability * 65536), rng  # of 65536

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropped):
            return x
        bits = np.frombuffer(self.rng.bytes(2 * x.numel()), np.uint16).reshape(x.shape)
        kept = np.multiply(bits >= self.dropped, 65536 / (65536 - self.dropped), dtype=np.float32)
        return x * torch.from_numpy(kept)


def _last_position(layer: nn.TransformerEncoderLayer, x: Tensor, padding: Tensor) -> Tensor:
    """Run nn.TransformerEncoderLayer (norm first) for the last position alone: nobody reads the others.

    Shapes: x [B, T, D], padding bool [B, T] -> [B, D]
    """
    normed = layer.norm1(x)
    read, _ = layer.self_attn(normed[:, -1:], normed, normed, key_padding_mask=padding, need_weights=False)
    last = x[:, -1] + layer.dropout1(read[:, 0])
    inner = layer.dropout(F.relu(layer.linear1(layer.norm2(last))))
    return last + layer.dropout2(layer.linear2(inner))


def famae_loss(
    model: Famae,
    hidden: Tensor,
    target: Tensor,
    masked: Tensor,
    weights: Sequence[float],
    negatives: Sequence[Tensor | None],
) -> Tensor:
    """Σ over masked fields k of α_k · cross-entropy, averaged over samples (1.4); negatives [B, n] = sampled softmax.

    Shapes: hidden [B, D], target int64 [B, J], masked bool [B, J] -> scalar
    """
    total = hidden.new_zeros(())
    for k, (weight, drawn) in enumerate(zip(weights, negatives, strict=True)):
        asked = (masked[:, k] & (target[:, k] > 0)).nonzero()[:, 0]
        if weight and len(asked):
            rows, wanted = model.value_rows(k), target[asked, k] - 1
            entropy = (
                F.cross_entropy(cosine_logits(hidden[asked], rows), wanted, reduction="sum")
                if drawn is None
                else sampled_cross_entropy(hidden[asked], rows, wanted, drawn[asked])
            )
            total = total + weight * entropy
    return total / len(hidden)


def cosine_logits(hidden: Tensor, rows: Tensor) -> Tensor:
    """sqrt(D) · cos(h, e_v) for every value (1.4).

    Shapes: hidden [B, D], rows [V, D] -> [B, V]
    """
    return hidden.shape[-1] ** 0.5 * F.normalize(hidden, dim=-1) @ F.normalize(rows, dim=-1).T


def sampled_cross_entropy(hidden: Tensor, rows: Tensor, wanted: Tensor, drawn: Tensor) -> Tensor:
    """Cross-entropy whose normaliser is estimated from n negatives drawn uniformly, with replacement, per sample.

    A draw d in 0 .. V-2 means the d-th of the other values, so the target is never its own negative. Each negative
    stands for (V-1)/n values: log((V-1)/n) is added to its logit, and exp(s_target) + Σ exp(s_neg)·(V-1)/n is an
    unbiased estimate of the full normaliser; the loss goes to the full one as n grows. The paper names 128 negatives
    and no correction [inferred].

    Shapes: hidden [B, D], rows [V, D], wanted int64 [B], drawn int64 [B, n] -> scalar, the sum over samples
    """
    others = drawn + (drawn >= wanted[:, None])
    direction = F.normalize(hidden, dim=-1) * hidden.shape[-1] ** 0.5
    right = (direction * F.normalize(rows[wanted], dim=-1)).sum(-1, keepdim=True)  # [B, 1]
    wrong = (F.normalize(rows[others], dim=-1) @ direction[:, :, None])[:, :, 0]  # [B, n]
    wrong = wrong + torch.log(torch.tensor((len(rows) - 1) / drawn.shape[1]))
    return (torch.cat([right, wrong], dim=1).logsumexp(dim=1) - right[:, 0]).sum()
