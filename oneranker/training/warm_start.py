"""Start from what the semantic IDs already know, instead of from noise (docs/decisions/0003-warm-start.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oneranker.layers import DecoderLayer, KeyValue
from oneranker.model import OneRanker

CODE_TOKEN_SCALE = 2.0  # size of code embeddings in the residual stream, against centroids of about unit length
CODE_LOGIT_SCALE = 4.0  # size of e_c in e_task·e_c
OTHER_TOKEN_SCALE = 0.1  # every other field starts quiet
TARGET_CHANNEL_SCALE = 0.1


@torch.no_grad()
def warm_start(model: OneRanker, codebooks: Tensor) -> None:
    """Token and code embeddings from the centroids, and identity maps along the path history -> e_task.

    Then an untrained model's e_task is a mean over the history in the space of the item embeddings, and e_task·e_c is
    the similarity of a code to that history. The ranker starts alike: a candidate attends to similar items of the
    history, and weighs the ranking token, which reads the whole history, against itself. Everything stays trainable.

    Shapes: codebooks fp32 [L, V, D]
    """
    L, V, D = codebooks.shape
    generator, enhancer, ranker = model.generator, model.enhancer, model.ranker
    generator.token_embedding.weight.mul_(OTHER_TOKEN_SCALE)
    generator.kind_embedding.weight.mul_(OTHER_TOKEN_SCALE)
    scaled = codebooks.reshape(L * V, D) * (CODE_TOKEN_SCALE / generator.embedding_scale)
    generator.token_embedding.weight[1 : 1 + L * V] = scaled  # code c of level l is row 1 + l*V + c
    model.retriever.scorer.code_embedding.copy_(codebooks * CODE_LOGIT_SCALE)
    enhancer.head_weight.copy_(torch.eye(D).expand_as(enhancer.head_weight))
    if model.config.anchors:
        enhancer.target_channel.scale.fill_(TARGET_CHANNEL_SCALE)
    history_values = [kv.value for kv in generator.enhancer_key_value if isinstance(kv, KeyValue)]
    outputs = [layer.cross.output for layer in enhancer.layers if isinstance(layer, DecoderLayer)]
    cross = ranker.layer.cross
    own = ranker.layer.self_attention
    reading = [generator.ranker_key_value.key, generator.ranker_key_value.value, enhancer.ranker_key_value.key]
    asking = [cross.query, cross.output, own.attention.query, own.key_value.key]
    for linear in (*history_values, *outputs, *reading, *asking, model.item_encoder.output, ranker.candidate):
        to_identity(linear)


def to_identity(linear: nn.Linear) -> None:
    """Make the layer y = x."""
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
