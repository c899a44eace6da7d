"""Semantic IDs: item embeddings, residual K-means codes with one leaf per item, and the anchors of the item space."""
