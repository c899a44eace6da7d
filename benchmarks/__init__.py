"""Benchmarks: the runtime beside eager PyTorch and torch.compile on the same weights, requests and threads."""
