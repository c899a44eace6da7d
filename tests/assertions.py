"""What many tests say: two tensors agree, a precision's rounding bounds an error, and one small world to say it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oneranker import synthetic
from oneranker.catalogue import Catalogue, index_tensors
from oneranker.config import OneRankerConfig, preset
from oneranker.model import OneRanker


def assert_parity(candidate: Tensor, eager_same_precision: Tensor, eager_fp32: Tensor, *, slack: float = 2.0) -> None:
    """An exported graph may be at most `slack` times as far from fp32 as eager PyTorch is in its own precision."""
    assert candidate.shape == eager_fp32.shape, f"shape {list(candidate.shape)}, fp32 has {list(eager_fp32.shape)}"
    error = (candidate.float() - eager_fp32).abs()
    rounding = (eager_same_precision.float() - eager_fp32).abs().max()
    allowed = slack * rounding + 1e-5 * eager_fp32.abs().max()
    at = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)]
    assert error.max() <= allowed, f"off by {error.max():.3g} at {at}, allowed {allowed:.3g}"  # NaN fails too


def assert_close(got: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    """Whole tensors, same shape, no element further than `atol`; NaN fails."""
    assert got.shape == expected.shape, f"shape {list(got.shape)}, expected {list(expected.shape)}"
    if not got.numel():
        return
    error = (got.double() - expected.double()).abs()
    at = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)]
    assert error.max() <= atol, f"off by {error.max():.3g} at {at}, allowed {atol:.3g}"


def assert_bitwise(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names, and under each name the same bits."""
    assert list(got) == list(expected)
    wrong = [name for name in got if not torch.equal(got[name], expected[name])]
    assert not wrong, f"{wrong} changed"


@dataclass(frozen=True)
class World:
    """A tiny model, its catalogue and the tables of that catalogue."""

    config: OneRankerConfig
    catalogue: Catalogue
    model: OneRanker
    index: dict[str, Tensor]

    def tokens(self, lengths: Sequence[int], seed: int = 0) -> list[Any]:
        """One synthetic request of each length, as tokens."""
        generator = np.random.default_rng(seed)
        requests = [synthetic.synthetic_request(self.catalogue, generator, n) for n in lengths]
        return [synthetic.encode(self.config, self.catalogue, request) for request in requests]

    def batch(self, lengths: Sequence[int], padded: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        return synthetic.padded_batch(self.tokens(lengths, seed), padded)

    def index_for(self, requests: int) -> dict[str, Tensor]:
        """The catalogue's tables, every request allowed everything that is listed."""
        return self.index | {"eligible_row": torch.zeros(requests, dtype=torch.int32)}

    @torch.no_grad()
    def answer(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model(batch, self.index_for(len(batch["history_length"])))


def tiny_world(items: int = 60, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> World:
    """The tiny preset with `changes`, over `items` synthetic items."""
    config = replace(preset("tiny"), **changes)
    catalogue = synthetic.synthetic_catalogue(config, items, seed)
    model = synthetic.synthetic_model(config, catalogue, seed).to(dtype)
    with torch.no_grad():
        index = index_tensors(model, catalogue)
    return World(model.config, catalogue, model, index)
