"""OneRanker: the four stages wired together; its forward is the reference answer for every export and runtime."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oneranker import masks
from oneranker.config import OneRankerConfig
from oneranker.enhancer import Enhancer
from oneranker.generator import Generator
from oneranker.ranker import ItemEncoder, Ranker
from oneranker.retriever import Retriever

HISTORY_TENSORS = ("token_fields", "token_kind", "token_time")


class OneRanker(nn.Module):
    """Generate, enhance, retrieve and rank in one model whose stages share keys and values (arXiv 2603.02999).

    Shapes of a request batch: token_fields int [B, S, F], token_kind int [B, S], token_time int64 [B, S],
        history_length int [B]; optional candidate_items int [B, C] (-1 pads) skips nothing but is ranked instead of
        what was retrieved; optional candidate_features x [B, C, K]
    Shapes of an index: see `oneranker.catalogue.index_tensors`
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.enhancer = Enhancer(config)
        self.retriever = Retriever(config)
        self.ranker = Ranker(config)
        self.item_encoder = ItemEncoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """Of what passes between the stages; a module inside one may have another."""
        return self.item_encoder.output.weight.dtype

    def forward(self, batch: dict[str, Tensor], index: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor of design's stage table, by its name, and `scores` fp32 [B, C]."""
        S = batch["token_kind"].shape[1]
        history_mask = self.additive(masks.history(batch["history_length"], S))
        out = self.generator(*(batch[name] for name in HISTORY_TENSORS), None, history_mask)  # None: causal
        out |= self.enhance(out, history_mask)
        out |= self.retriever(out["user_embedding"], index)
        candidates = batch.get("candidate_items", out["candidate_items"])
        out["scores"] = self.rank(candidates, index["item_table"], out, history_mask, batch.get("candidate_features"))
        return out

    def enhance(self, key_value: dict[str, Tensor], history_mask: Tensor) -> dict[str, Tensor]:
        """Step 2 with the config's task mask.

        Shapes: the generator's dict, history_mask x [B, 1, 1, S] -> the enhancer's dict
        """
        config = self.config
        task_mask = self.additive(masks.tasks(config.task_tokens, config.anchors, config.task_mask))
        return self.enhancer(key_value, history_mask, task_mask)

    def rank(
        self,
        candidate_items: Tensor,
        item_table: Tensor,
        key_value: dict[str, Tensor],
        history_mask: Tensor,
        candidate_features: Tensor | None = None,
    ) -> Tensor:
        """Step 3 over given candidates.

        Shapes: candidate_items int [B, C], item_table x [N, D], the earlier stages' dicts -> fp32 [B, C]
        """
        candidate_mask = self.additive(masks.candidates(candidate_items.shape[1]))
        return self.ranker(candidate_items, item_table, candidate_features, key_value, history_mask, candidate_mask)

    def item_table(self, item_fields: Tensor) -> Tensor:
        """Shapes: item_fields int [N, Fi] -> x [N, D]."""
        return self.item_encoder(item_fields, self.generator.token_embedding)

    def additive(self, mask: Tensor) -> Tensor:
        """A boolean mask in the form and on the device that the stages want."""
        device = self.enhancer.task_tokens.device
        return masks.additive(mask.to(device), self.dtype)
