"""Step 3: a ranking token and C candidates over the keys and values of Steps 1 and 2; one value score per candidate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneranker.config import OneRankerConfig
from oneranker.layers import DecoderLayer, unit
from oneranker.retriever import NOTHING


class ItemEncoder(nn.Module):
    """Item embedding from an item's token fields: semantic-ID codes and content (E23).

    It reads the generator's embedding table, so an item looks the same in a history and as a candidate. The table of
    all items is computed at build time and enters the graphs as an input.

    Shapes: item_fields int [N, Fi] -> item_table [N, D]
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.embedding_scale = config.width**0.5
        self.output = nn.Linear(config.width, config.width)

    def forward(self, item_fields: Tensor, token_embedding: nn.Embedding) -> Tensor:
        return self.output(token_embedding(item_fields).sum(dim=-2) * self.embedding_scale)


def item_vectors(item_table: Tensor, reconstruction: Tensor, anchors: Tensor) -> Tensor:
    """Eq. 3: [e_item ; cos(e_item, anchors)], the cosine in the reconstruction space where the anchors live (E5, E6).

    Shapes: item_table [N, D], reconstruction [N, D], anchors [A, D] -> [N, D+A]
    """
    return torch.cat([item_table, (unit(reconstruction) @ unit(anchors).T).to(item_table.dtype)], dim=-1)


class Ranker(nn.Module):
    """R-decoder: one cross-first layer; candidates see the ranking token and themselves only (3.3.1, E22).

    Shapes: candidate_items int [B, C] (-1 pads), item_table x [N, D], [candidate_features x [B, C, K]],
        history K/V x [B, H, S, E], tasks K/V x [B, H, T+A, E], history_mask x [B, 1, 1, S],
        candidate_mask x [1, 1, 1+C, 1+C] -> scores fp32 [B, C]; pads score -1e30
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.ranking_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.candidate = nn.Linear(width, width)
        self.candidate_type = nn.Parameter(torch.empty(width).normal_(std=0.02))
        if config.candidate_features:
            self.features = nn.Linear(config.candidate_features, width)
        self.layer = DecoderLayer(width, config.heads, cross_first=config.cross_first, dropout=config.dropout)
        self.final_norm = nn.LayerNorm(width)
        self.score_hidden = nn.Linear(width, width)
        self.score_output = nn.Linear(width, 1)

    def forward(
        self,
        candidate_items: Tensor,
        item_table: Tensor,
        candidate_features: Tensor | None,
        key_value: dict[str, Tensor],
        history_mask: Tensor,
        candidate_mask: Tensor,
    ) -> Tensor:
        B, C = candidate_items.shape
        rows = item_table.index_select(0, candidate_items.clamp(min=0).reshape(-1)).reshape(B, C, -1)
        tokens = self.candidate(rows) + self.candidate_type
        if candidate_features is not None:
            tokens = tokens + self.features(candidate_features)
        x = torch.cat([self.ranking_token.expand(B, 1, -1), tokens], dim=1)  # [B, 1+C, D]
        key, value, mask = self._read(key_value, history_mask)
        mask = mask.expand(-1, -1, 1 + C, -1)  # ONNX Runtime's Attention broadcasts no query axis
        x = self.layer(x, key, value, mask, candidate_mask)[:, 1:]
        hidden = F.gelu(self.score_hidden(self.final_norm(x)))
        last = self.score_output
        scores = (hidden * last.weight[0]).float().sum(-1) + last.bias.float()  # [B, C], summed in fp32 always
        return torch.where(candidate_items >= 0, scores, NOTHING)

    def _read(self, key_value: dict[str, Tensor], history_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps 1 and 2 side by side along the sequence (E24); w/o S2 token injection reads Step 1 only."""
        key, value = key_value["ranker_key_history"], key_value["ranker_value_history"]
        if not self.config.ranker_reads_tasks:
            return key, value, history_mask
        tasks = key_value["ranker_key_tasks"]
        open_mask = torch.zeros_like(tasks[:, :1, :, :1]).transpose(2, 3)  # [B, 1, 1, T+A], nothing blocked
        mask = torch.cat([history_mask, open_mask], dim=-1)
        return torch.cat([key, tasks], dim=2), torch.cat([value, key_value["ranker_value_tasks"]], dim=2), mask
