"""OneRanker: generate, enhance, retrieve and rank in one model (arXiv 2603.02999)."""

__version__ = "0.3.0"
