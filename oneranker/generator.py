"""Step 1: HSTU over the history; its keys and values for Steps 2 and 3 are computed here, once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oneranker import masks
from oneranker.config import OneRankerConfig, RelativeBias
from oneranker.hstu import AttentionForm, HSTUBlock, TimeGaps, bucket_starts
from oneranker.layers import KeyValue
from oneranker.tokens import CONTEXT

KINDS = 5  # pad, user, content, context, item


@dataclass(frozen=True)
class Past:
    """What a known user's earlier tokens left behind: per block key and value [B, H, S, E], and times int64 [B, S]."""

    blocks: list[tuple[Tensor, Tensor]]
    time: Tensor


class Generator(nn.Module):
    """4 HSTU blocks (E16) over one token per event (E20), then linear maps to what later stages read (E17).

    Shapes: token_fields int [B, S, F], token_kind int [B, S], token_time int64 [B, S],
        causal_mask x [1, 1, S, S] or None for the same, history_mask x [B, 1, 1, S] -> dict of
        history_hidden [B, S, D]; enhancer_key_i, enhancer_value_i [B, H, S, E] per enhancer layer;
        ranker_key_history, ranker_value_history [B, H, S, E]
    """

    bucket_starts: Tensor

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = AttentionForm.EAGER
        self.embedding_scale = math.sqrt(config.width)
        self.token_embedding = nn.Embedding(config.vocabulary, config.width, padding_idx=0)
        self.kind_embedding = nn.Embedding(KINDS, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(HSTUBlock(config) for _ in range(config.generator_layers))
        self.final_norm = nn.LayerNorm(config.width)
        self.enhancer_key_value = nn.ModuleList(
            KeyValue(config.width, config.heads) for _ in range(config.enhancer_layers)
        )
        self.ranker_key_value = KeyValue(config.width, config.heads)
        self.register_buffer("bucket_starts", bucket_starts(), persistent=False)
        nn.init.trunc_normal_(self.token_embedding.weight, std=0.02)
        nn.init.trunc_normal_(self.kind_embedding.weight, std=0.02)
        with torch.no_grad():
            self.token_embedding.weight[0] = 0

    def choose_attention(self, form: AttentionForm) -> None:
        """How the blocks compute their attention from now on; `fused` is for inference on a GPU. Not run on a GPU.

        Raises:
            DeviceError: torch sees no CUDA device, or one older than 8.0; triton cannot be imported, or not be started.
        """
        if form is AttentionForm.FUSED:
            from oneranker.fused_attention import require_fused  # which needs what this module imports

            require_fused()
        self.attention = form
        for block in self.blocks:
            assert isinstance(block, HSTUBlock)
            block.attention = form

    def forward(
        self,
        token_fields: Tensor,
        token_kind: Tensor,
        token_time: Tensor,
        causal_mask: Tensor | None,
        history_mask: Tensor,
    ) -> dict[str, Tensor]:
        hidden, _ = self.encode(token_fields, token_kind, token_time, causal_mask, key_mask=history_mask)
        return self.keys_and_values(hidden)

    def encode(
        self,
        token_fields: Tensor,
        token_kind: Tensor,
        token_time: Tensor,
        mask: Tensor | None,
        past: Past | None = None,
        *,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """The blocks alone; with `past`, the tokens given are the new ones of a known history.

        Shapes: mask additive [1 or B, 1, Q, S] or None for the causal one, S counts past and new tokens; key_mask
            additive [B, 1, 1, S] -> hidden [B, Q, D], the Past for next time
        """
        x = self.token_embedding(token_fields).sum(dim=2) * self.embedding_scale  # [B, S, F, D] -> [B, S, D]
        x = self.dropout(x + self.kind_embedding(token_kind) * self.embedding_scale)
        time = token_time if past is None else torch.cat([past.time, token_time], dim=1)
        if mask is None and self.attention is not AttentionForm.FUSED:
            rows = masks.causal(time.shape[1])[:, :, -x.shape[1] :]
            mask = masks.additive(rows.to(x.device), x.dtype)
        gaps = None
        if self.config.relative_bias is RelativeBias.POSITION_TIME:
            gaps = TimeGaps(reading_time(token_time, token_kind), time, self.bucket_starts)
        kept = []
        for index, block in enumerate(self.blocks):
            x, key, value = block(x, mask, gaps, None if past is None else past.blocks[index], key_mask=key_mask)
            kept.append((key, value))
        return self.final_norm(x), Past(kept, time)

    def keys_and_values(self, hidden: Tensor) -> dict[str, Tensor]:
        """Everything Steps 2 and 3 will read of the history.

        Shapes: hidden [B, S, D] -> the dict of `forward`
        """
        out = {"history_hidden": hidden}
        for index, key_value in enumerate(self.enhancer_key_value):
            out[f"enhancer_key_{index}"], out[f"enhancer_value_{index}"] = key_value(hidden)
        out["ranker_key_history"], out["ranker_value_history"] = self.ranker_key_value(hidden)
        return out


def reading_time(token_time: Tensor, token_kind: Tensor) -> Tensor:
    """From when a row looks back: the next event's time (C.1), but its own for a request token and the last token.

    A request token already carries the request's time; the time of what was bought then must never reach it (E21).

    Shapes: token_time int64 [B, S], token_kind int [B, S] (0 = pad) -> int64 [B, S]
    """
    next_time = torch.cat([token_time[:, 1:], token_time[:, -1:]], dim=1)
    next_kind = torch.cat([token_kind[:, 1:], torch.zeros_like(token_kind[:, -1:])], dim=1)
    own = (token_kind == CONTEXT) | (next_kind == 0)
    return torch.where(own, token_time, next_time)
