"""Seeded catalogues, tokenizers and raw requests that need no data set: for tests, benchmarks and untrained builds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneranker.catalogue import Catalogue
from oneranker.config import OneRankerConfig
from oneranker.model import OneRanker
from oneranker.padding import pad_windows
from oneranker.token_fields import Field
from oneranker.tokens import SimpleItemLookup, Tokenizer, Tokens
from oneranker.weights import initialise

START = 1_700_000_000  # seconds; any fixed moment


def synthetic_tokenizer(config: OneRankerConfig) -> Tokenizer:
    """A tokenizer with every kind of field and token, fitted on nothing."""
    return Tokenizer(
        levels=config.code_levels,
        codes=config.codes,
        content=(Field(name="kind", type="category", values=tuple(f"kind{i}" for i in range(8))),),
        event=(Field(name="price", type="number", edges=(1.0, 2.0, 5.0, 10.0)),),
        context=(Field(name="place", type="category", values=tuple(f"place{i}" for i in range(5))),),
        user=(Field(name="age", type="category", values=("young", "old")),),
        actions={"bought": "item", "read": "content"},
    )


def random_codes(config: OneRankerConfig, items: int, generator: np.random.Generator) -> NDArray[np.int32]:
    """Distinct semantic IDs.

    Shapes: -> int32 [N, L]
    """
    L, V = config.code_levels, config.codes
    if items > V**L:
        raise ValueError(f"synthetic catalogue: {items} items, expected at most V**L = {V**L}; ask for fewer")
    if 4 * items > V**L or V**L < 10_000:
        flat = generator.permutation(V**L)[:items]
    else:
        flat = np.unique(generator.integers(0, V**L, size=2 * items))
        flat = generator.permutation(flat)[:items]
    return np.stack(np.unravel_index(flat, (V,) * L), axis=1).astype(np.int32)


def synthetic_catalogue(config: OneRankerConfig, items: int, seed: int = 0, space_seed: int = 0) -> Catalogue:
    """N items with random codes; codebooks and anchors hang on `space_seed` alone: two catalogues can share a space."""
    space, generator = np.random.default_rng(space_seed), np.random.default_rng([seed, items])
    shape = (config.code_levels, config.codes, config.width)
    codes = random_codes(config, items, generator)
    kinds = generator.integers(0, 8, size=items)
    return Catalogue.sorted(
        ids=[f"item{i}" for i in range(items)],
        names=[f"synthetic item {i} · kind{kind}" for i, kind in enumerate(kinds)],
        codes=codes,
        codebooks=space.standard_normal(shape).astype(np.float32),
        anchors=space.standard_normal((config.anchors, config.width)).astype(np.float32),
        item_fields=synthetic_tokenizer(config).item_fields(codes, {"kind": np.array([f"kind{k}" for k in kinds])}),
    )


def synthetic_model(config: OneRankerConfig, catalogue: Catalogue, seed: int = 0) -> OneRanker:
    """An untrained model over the synthetic tokenizer, its weights lively enough that every mechanism shows."""
    tokenizer = synthetic_tokenizer(config)
    model = initialise(config.with_tokens(tokenizer.vocabulary, tokenizer.fields), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh zeros and ones hide what a term does
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        model.generator.token_embedding.weight[0] = 0
        model.enhancer.anchors.copy_(torch.from_numpy(catalogue.anchors))
    return model.eval()


def synthetic_request(catalogue: Catalogue, generator: np.random.Generator, tokens: int) -> dict[str, Any]:
    """A raw request that makes exactly `tokens` tokens (at least 2): U, groups of X and items, the request's X."""
    now, events, left, group = START, [], tokens - 2, 0
    while left > 0:
        now += int(generator.integers(60, 500_000))
        place = f"place{generator.integers(0, 6)}"  # place5 is unknown to the tokenizer
        if left == 1 or generator.random() < 0.1:
            events.append({"kind": "content", "action": "read", "time": now, "group": f"g{group}"})
            left -= 1
        else:
            size = min(int(generator.integers(1, 6)), left - 1)
            for item in generator.integers(0, len(catalogue.ids), size=size):
                event = {"item": catalogue.ids[item], "action": "bought", "price": float(generator.integers(0, 12))}
                events.append(event | {"time": now, "group": f"g{group}", "place": place})
            left -= size + 1
        group += 1
    user = {"id": str(generator.integers(0, 1000)), "age": str(generator.choice(["young", "old", "unheard of"]))}
    return {"user": user, "now": now + 3600, "context": {"place": "place1"}, "events": events}


def encode(config: OneRankerConfig, catalogue: Catalogue, request: dict[str, Any]) -> Tokens:
    """A raw request as the synthetic tokenizer sees it."""
    lookup = SimpleItemLookup(catalogue.ids, catalogue.item_fields)
    return synthetic_tokenizer(config).encode(request, lookup, config.max_history)


def padded_batch(requests: list[Tokens], padded: int | None = None) -> dict[str, Tensor]:
    """Requests as one batch.

    Shapes: see `oneranker.padding.pad_windows`
    """
    return pad_windows([(r.token_fields, r.token_kind, r.token_time) for r in requests], padded)
