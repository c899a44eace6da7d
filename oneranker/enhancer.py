"""Step 2: task tokens and fake item tokens over the generator's keys and values, dual-channel user embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneranker.config import DualChannel, OneRankerConfig
from oneranker.layers import DecoderLayer, KeyValue


class TargetChannel(nn.Module):
    """s_target of Eq. 1: what a task thinks of each fake item.

    One MLP for all tasks and all fakes (E3). `sum` is the literal Eq. 1: every pair gives A numbers, summed over the
    fakes. `diag` gives one number per pair, placed at the fake's own index (E2). A learned scale keeps the channel
    comparable with e_task·e_item.

    Shapes: tasks [B, T, D], fakes [B, A, D] -> [B, T, A]
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.mode = config.dual_channel
        self.factor = 1.0 / config.anchors if config.anchor_mean else 1.0
        self.from_task = nn.Linear(config.width, config.width)
        self.from_fake = nn.Linear(config.width, config.width, bias=False)
        self.score = nn.Linear(config.width, config.anchors if self.mode is DualChannel.SUM else 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, tasks: Tensor, fakes: Tensor) -> Tensor:
        # the first layer over [T_i; F_j] is the sum of a layer over T_i and one over F_j
        pair = F.gelu(self.from_task(tasks)[:, :, None] + self.from_fake(fakes)[:, None])  # [B, T, A, D]
        scores = self.score(pair)  # [B, T, A, A] or [B, T, A, 1]
        aggregated = scores.sum(dim=2) * self.factor if self.mode is DualChannel.SUM else scores.squeeze(-1)
        return aggregated * self.scale


class Enhancer(nn.Module):
    """Queries [T task tokens ; A fake items], cross-attention first, heterogeneous mask, one head per task (3.2).

    Fake items are the frozen K-means centres; what enters as a query is Linear(centre) + a type embedding (E4).

    Shapes: history K/V [B, H, S, E], history_mask x [B, 1, 1, S], task_mask x [1, 1, T+A, T+A] -> dict of
        user_embedding [B, T, D+A]; ranker_key_tasks, ranker_value_tasks [B, H, T+A, E]
    """

    anchors: Tensor

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, config.task_tokens
        self.task_tokens = nn.Parameter(torch.empty(tokens, width).normal_(std=0.02))
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.heads, cross_first=config.cross_first, dropout=config.dropout)
            for _ in range(config.enhancer_layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.head_weight = nn.Parameter(torch.empty(tokens, width, width).normal_(std=width**-0.5))
        self.head_bias = nn.Parameter(torch.zeros(tokens, width))
        self.kind_embedding = nn.Parameter(torch.empty(3, width).normal_(std=0.02))  # interest, value, fake (E24)
        self.ranker_key_value = KeyValue(width, config.heads)
        self.register_buffer("anchors", torch.zeros(config.anchors, width))
        if config.anchors:
            self.anchor_query = nn.Linear(width, width)
            self.anchor_type = nn.Parameter(torch.empty(width).normal_(std=0.02))
            self.target_channel = TargetChannel(config)

    def forward(
        self, history_key_value: Mapping[str, Tensor], history_mask: Tensor, task_mask: Tensor
    ) -> dict[str, Tensor]:
        T = self.config.task_tokens
        queries: Tensor = self.task_tokens
        if self.config.anchors:
            queries = torch.cat([queries, self.anchor_query(self.anchors) + self.anchor_type])
        x = queries.expand(history_mask.shape[0], -1, -1)  # [B, T+A, D]
        history_mask = history_mask.expand(-1, -1, x.shape[1], -1)  # once: ONNX Runtime broadcasts no query axis
        for index, layer in enumerate(self.layers):
            key, value = history_key_value[f"enhancer_key_{index}"], history_key_value[f"enhancer_value_{index}"]
            x = layer(x, key, value, history_mask, task_mask)
        x = self.final_norm(x)
        key, value = self.ranker_key_value(x + self._kinds())
        return {
            "user_embedding": self._user_embedding(x[:, :T], x[:, T:]),
            "ranker_key_tasks": key,
            "ranker_value_tasks": value,
        }

    def _user_embedding(self, tasks: Tensor, fakes: Tensor) -> Tensor:
        """Eq. 2: [e_task ; s_target] per task token; without decoupling all tasks share the mean state.

        Shapes: tasks [B, T, D], fakes [B, A, D] -> [B, T, D+A]
        """
        if not self.config.task_decoupling:
            tasks = tasks.mean(dim=1, keepdim=True).expand_as(tasks)
            weight, bias = self.head_weight[:1], self.head_bias[:1]
        else:
            weight, bias = self.head_weight, self.head_bias
        e_task = torch.matmul(tasks[:, :, None], weight).squeeze(2) + bias  # [B, T, D], one head per task (E19)
        if not self.config.anchors:
            return e_task
        return torch.cat([e_task, self.target_channel(tasks, fakes)], dim=-1)

    def _kinds(self) -> Tensor:
        config = self.config
        counts = [config.interest_tokens, config.value_tokens, config.anchors]
        return torch.cat([self.kind_embedding[i].expand(n, -1) for i, n in enumerate(counts)])  # [T+A, D]


def retrieval_heads(user_embedding: Tensor, interest_tokens: int) -> Tensor:
    """One embedding per retrieval head: the interest tokens' own, and the mean of the value tokens' (E10).

    Logits are affine in the user embedding, so the mean embedding gives exactly the mean logits (bagging).

    Shapes: [B, T, D+A] -> [B, M, D+A]
    """
    value = user_embedding[:, interest_tokens:].mean(dim=1, keepdim=True)
    return torch.cat([user_embedding[:, :interest_tokens], value], dim=1)
