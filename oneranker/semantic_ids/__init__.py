"""Semantic IDs: embeddings in, codes out, by `fit` or by `python -m oneranker.semantic_ids`."""

from oneranker.semantic_ids.semantic_ids import SemanticIds, fit
from oneranker.semantic_ids.settings import IdSettings, Method

__all__ = ["IdSettings", "Method", "SemanticIds", "fit"]
