"""Writes the folder that the C++ tests read: a tiny bundle, a second item index, requests and the Python answers.

    python tests/runtime/cpp/make_bundle.py OUT     (from the repository root; then ONERANKER_TEST_BUNDLE=OUT)

OUT/bundle and OUT/items2 are of one code space. Each line of OUT/requests.jsonl is a batch with its `top_k`; the same
line of OUT/expected.jsonl holds the Python runtime's tokens and answers over the bundle's items and over items2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import torch

from export.build import build_bundle
from export.item_index import write_item_index
from export.settings import BuildSettings, Engine, Precision
from oneranker import weights
from oneranker.catalogue import Catalogue
from oneranker.config import PRESETS, OneRankerConfig
from oneranker.model import OneRanker
from oneranker.synthetic import START, random_codes
from oneranker.token_fields import Field
from oneranker.tokens import Tokenizer
from runtime import Pipeline

ITEMS, OTHER_ITEMS, UNLISTED = 300, 170, 7
BATCHES = (1, 3, 1, 8, 2, 1, 5, 8, 4, 1, 7, 3, 8, 6, 2)  # 60 requests
TOP_K = (10, 3, 1, 100)
COLOURS, WORDS = ("red", "green", "blue", "café"), ("new", "sale", "große", "kids", "zero")


def make_tokenizer(config: OneRankerConfig) -> Tokenizer:
    """Every type of field in every section that takes it."""
    return Tokenizer(
        levels=config.code_levels,
        codes=config.codes,
        content=(
            Field(name="colour", type="category", values=COLOURS),
            Field(name="weight", type="number", edges=(0.5, 2.0, 8.0)),
            Field(name="words", type="list", values=tuple(sorted(WORDS)), slots=3),
        ),
        event=(
            Field(name="price", type="number", edges=(1.0, 2.5, 5.0, 10.0)),
            Field(name="tags", type="list", values=tuple(sorted(WORDS)), slots=2),
        ),
        context=(
            Field(name="place", type="category", values=tuple(f"place{i}" for i in range(5))),
            Field(name="temperature", type="number", edges=(-5.0, 10.0, 25.0)),
        ),
        user=(
            Field(name="age", type="number", edges=(18.0, 30.0, 50.0)),
            Field(name="member", type="category", values=("1", "0", "gold")),
            Field(name="likes", type="list", values=tuple(sorted(WORDS)), slots=3),
        ),
        actions={"bought": "item", "seen": "item", "read": "content"},
    )


def make_catalogue(config: OneRankerConfig, tokenizer: Tokenizer, items: int, seed: int) -> Catalogue:
    """Random items; all catalogues share the codebooks and anchors."""
    space, random = np.random.default_rng(0), np.random.default_rng([seed, items])
    codes = random_codes(config, items, random)
    columns = {
        "colour": random.choice([*COLOURS, "unheard of", ""], size=items),
        "weight": random.uniform(0, 12, size=items),
        "words": np.array(["|".join(random.choice(WORDS, size=random.integers(0, 5))) for _ in range(items)]),
    }
    return Catalogue.sorted(
        ids=[f"item {i}" if i % 9 else f"предмет {i}" for i in range(items)],  # both catalogues share most ids
        names=[f"name {seed}·{i}" for i in range(items)],
        codes=codes,
        codebooks=space.standard_normal((config.code_levels, config.codes, config.width)).astype(np.float32),
        anchors=space.standard_normal((config.anchors, config.width)).astype(np.float32),
        item_fields=tokenizer.item_fields(codes, columns),
    )


def make_model(config: OneRankerConfig, catalogue: Catalogue) -> OneRanker:
    """Untrained, its weights lively enough that every mechanism shows."""
    model, generator = weights.initialise(config, 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        model.generator.token_embedding.weight[0] = 0
        model.enhancer.anchors.copy_(torch.from_numpy(catalogue.anchors))
    return model.eval()


def make_requests(ids: Sequence[str]) -> list[dict[str, Any]]:
    """Known and unknown items, empty and overlong histories, filters of both kinds, values of every JSON type."""
    random = np.random.default_rng(5)
    return [make_request(ids, random, number) for number in range(sum(BATCHES))]


def make_request(ids: Sequence[str], random: np.random.Generator, number: int) -> dict[str, Any]:
    now, events = START + number, []
    for group in range(int(random.choice([0, 1, 3, 8, 40], p=[0.1, 0.2, 0.3, 0.3, 0.1]))):
        now += int(random.integers(60, 500_000))
        for _ in range(random.integers(1, 5)):
            event: dict[str, Any] = {"time": now, "group": f"g{group}", "place": f"place{random.integers(0, 6)}"}
            if random.random() < 0.15:
                event |= {"action": "read", "kind": "content"}
            else:
                known = random.random() < 0.85
                event["item"] = str(random.choice(ids)) if known else f"no such item {number}"
                event["action"] = str(random.choice(["bought", "seen"]))
                event["price"] = [None, 3, 7.25, "0.5", float(random.uniform(0, 12))][random.integers(0, 5)]
                event["tags"] = [list(random.choice(WORDS, size=2)), "sale|new", None, []][random.integers(0, 4)]
            events.append({key: value for key, value in event.items() if value is not None or key == "price"})
    request: dict[str, Any] = {"events": events, "now": now + 3600, "user": {}, "context": {"temperature": 21.5}}
    if random.random() < 0.8:
        request["user"] = {"age": int(random.integers(10, 80)), "member": bool(random.random() < 0.5), "likes": ["new"]}
    if random.random() < 0.25:
        request["excluded"] = [*(str(one) for one in random.choice(ids, size=40)), "nobody knows this one"]
    if random.random() < 0.2:
        request["eligible"] = [str(one) for one in random.choice(ids, size=random.integers(1, 60))]
    if number == 11:
        request["eligible"] = []
    return request


def answers_of(pipeline: Pipeline, requests: Sequence[Mapping[str, Any]], top_k: int) -> list[dict[str, Any]]:
    answers = pipeline.recommend(requests, top_k)
    return [
        {
            "token_fields": encoded.tokens.token_fields.ravel().tolist(),
            "token_kind": encoded.tokens.token_kind.tolist(),
            "token_time": encoded.tokens.token_time.tolist(),
            "unknown_items": answer.unknown_items,
            "dropped": answer.dropped,
            "unknown_filter_ids": answer.unknown_filter_ids,
            "index_version": answer.index_version,
            "items": [[item.id, item.name, item.score, item.logp, item.head, item.row] for item in answer.items],
        }
        for encoded, answer in zip(pipeline.encode(requests), answers, strict=True)
    ]


def write_items(folder: Path, model: OneRanker, catalogue: Catalogue, listed: np.ndarray) -> None:
    with torch.inference_mode():
        table = model.item_table(torch.from_numpy(catalogue.item_fields).long()).numpy()
    write_item_index(
        folder,
        ids=catalogue.ids,
        names=catalogue.names,
        codes=catalogue.codes,
        codebooks=catalogue.codebooks,
        anchors=catalogue.anchors,
        item_table=table,
        item_fields=catalogue.item_fields,
        listed=listed,
    )


def main(out: Path) -> None:
    config = replace(PRESETS["tiny"], max_history=96)
    tokenizer = make_tokenizer(config)
    config = config.with_tokens(tokenizer.vocabulary, tokenizer.fields)
    catalogue = make_catalogue(config, tokenizer, ITEMS, 1)
    model = make_model(config, catalogue)
    checkpoint = out / "checkpoint"
    checkpoint.mkdir(parents=True, exist_ok=True)
    weights.save(model, checkpoint)
    catalogue.save(checkpoint / weights.CATALOGUE_FILE)
    tokenizer.write(checkpoint / weights.TOKENIZER_FILE)
    build_bundle(
        BuildSettings(checkpoint=checkpoint, out=out / "bundle", precision=Precision("fp32"), engine=Engine("none"))
    )
    other = make_catalogue(config, tokenizer, OTHER_ITEMS, 2)
    write_items(out / "items2", model, other, np.arange(OTHER_ITEMS) % UNLISTED != 0)
    requests, begin = make_requests(catalogue.ids), 0
    with (
        Pipeline.load(out / "bundle", threads=1) as first,
        Pipeline.load(out / "bundle", threads=1, items=out / "items2") as second,
        (out / "requests.jsonl").open("w", encoding="utf-8") as asked,
        (out / "expected.jsonl").open("w", encoding="utf-8") as expected,
    ):
        for number, size in enumerate(BATCHES):
            batch, top_k = requests[begin : begin + size], TOP_K[number % len(TOP_K)]
            begin += size
            asked.write(json.dumps({"top_k": top_k, "requests": batch}, ensure_ascii=False) + "\n")
            rows = {"items": answers_of(first, batch, top_k), "items2": answers_of(second, batch, top_k)}
            expected.write(json.dumps(rows, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
