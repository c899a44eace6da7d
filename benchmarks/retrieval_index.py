"""Models and catalogues for `benchmarks.retrieval_scale`: a bundle of each retriever, an item index of any size."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import peak_memory_mib
from benchmarks.retrieval_row import DENSE, TRIE
from export.build import build_bundle
from export.item_index import write_item_index
from export.settings import BuildSettings, Engine, Precision
from export.verify_requests import random_request
from oneranker import weights
from oneranker.catalogue import ITEM_CHUNK, Catalogue
from oneranker.config import OneRankerConfig, RetrieverMode, preset
from oneranker.model import OneRanker
from oneranker.ranker import item_vectors
from oneranker.synthetic import synthetic_catalogue, synthetic_model, synthetic_tokenizer
from oneranker.tokens import Tokenizer

_MARKED = 1 << 26  # semantic IDs of which each can have a mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is made before any catalogue: `<work>/checkpoint-<retriever>`, `bundle-<retriever>` and requests.jsonl."""

    work: str
    retrievers: Sequence[str]
    preset: str  # of random weights, where there is no checkpoint
    own_items: int  # of these: what their histories are made of
    checkpoint: str | None
    bundle: str | None
    requests: str | None
    users: int
    seed: int


def prepare(wanted: Preparation) -> dict[str, Any]:
    """Make checkpoints, bundles and requests; the dense ones have the weights of the others."""
    work = Path(wanted.work)
    trie, bundle, requests = work / f"checkpoint-{TRIE}", work / f"bundle-{TRIE}", work / "requests.jsonl"
    if wanted.checkpoint is None:
        random_checkpoint(trie, wanted.preset, wanted.own_items, wanted.seed)
    else:
        shutil.copytree(wanted.checkpoint, trie)
    if wanted.bundle is None:
        build(trie, bundle)
    else:
        shutil.copytree(wanted.bundle, bundle)
    if DENSE in wanted.retrievers:
        dense_checkpoint(trie, work / f"checkpoint-{DENSE}")
        shutil.copytree(bundle, work / f"bundle-{DENSE}")
        build(work / f"checkpoint-{DENSE}", work / f"bundle-{DENSE}")
    if wanted.requests is None:
        write_requests(trie, requests, wanted.users, wanted.seed)
    else:
        lines = Path(wanted.requests).read_text(encoding="utf-8").splitlines()
        requests.write_text("".join(f"{line}\n" for line in lines[: wanted.users]), encoding="utf-8")
    return {}


def random_checkpoint(folder: Path, name: str, items: int, seed: int) -> None:
    """A checkpoint of a preset with random weights; its answers mean nothing."""
    config = preset(name)
    catalogue = synthetic_catalogue(config, items, seed)
    weights.save(synthetic_model(config, catalogue, seed), folder)
    catalogue.save(folder / weights.CATALOGUE_FILE)
    synthetic_tokenizer(config).write(folder / weights.TOKENIZER_FILE)


def dense_checkpoint(trie: Path, folder: Path) -> None:
    """The same weights with the dense retriever."""
    model = weights.load(trie)
    dense = OneRanker(replace(model.config, retriever=RetrieverMode.DENSE))
    dense.load_state_dict(model.state_dict())
    weights.save(dense, folder)
    for name in (weights.CATALOGUE_FILE, weights.TOKENIZER_FILE):
        (folder / name).write_bytes((trie / name).read_bytes())


def build(checkpoint: Path, bundle: Path) -> None:
    """A bundle for the CPU; stages that `bundle` has already are kept where nothing they hang on differs."""
    build_bundle(BuildSettings(checkpoint=checkpoint, out=bundle, precision=Precision.FP32, engine=Engine.NONE))


def write_requests(checkpoint: Path, path: Path, count: int, seed: int) -> None:
    """Made-up requests over the checkpoint's own items, one JSON object a line, histories of up to S tokens."""
    tokenizer = Tokenizer.read(checkpoint / weights.TOKENIZER_FILE)
    catalogue = Catalogue.load(checkpoint / weights.CATALOGUE_FILE)
    longest = weights.read_config(checkpoint).max_history
    generator = np.random.default_rng(seed)
    lengths = generator.integers(max(1, longest // 8), longest, size=count)
    rows = [random_request(tokenizer, catalogue, generator, int(length)) for length in lengths]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_index(checkpoint: Path, folder: Path, items: int, retriever: str, seed: int) -> dict[str, Any]:
    """An item index of the checkpoint's own items and random others in its code space, up to `items` in all.

    Returns:
        The fields of a row that are known from the writing.
    """
    model, own = weights.load(checkpoint), Catalogue.load(checkpoint / weights.CATALOGUE_FILE)
    tokenizer = Tokenizer.read(checkpoint / weights.TOKENIZER_FILE)
    codes, rows_of_own = scaled_codes(model.config, own.codes, items, seed)
    fields = tokenizer.item_fields(codes, {})  # whatever else is known of items, it is unknown here
    fields[rows_of_own] = own.item_fields
    ids, names = (
        [f"synthetic{row}" for row in range(len(codes))],
        [f"synthetic item {row}" for row in range(len(codes))],
    )
    for row, item_id, name in zip(rows_of_own.tolist(), own.ids, own.names, strict=True):
        ids[row], names[row] = item_id, name
    table, vectors = _item_tables(model, own, codes, fields, with_vectors=retriever == DENSE)
    begin = time.perf_counter()
    write_item_index(
        folder,
        ids=ids,
        names=names,
        codes=codes,
        codebooks=own.codebooks,
        anchors=own.anchors,
        item_table=table,
        item_fields=fields,
        item_vectors=vectors,
    )
    seconds = time.perf_counter() - begin
    config = model.config
    return {
        "items": len(codes), "levels": config.code_levels, "codes": config.codes, "candidates": config.candidates,
        "beams": config.beams, "heads": config.retrieval_heads, "index_build_s": seconds,
        "index_bytes": sum(path.stat().st_size for path in folder.iterdir()), "build_peak_mib": peak_memory_mib(),
    }  # fmt: skip


def scaled_codes(
    config: OneRankerConfig, own: NDArray[np.int32], items: int, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The own semantic IDs and random others, distinct and sorted, and where the own ones stand among them.

    Shapes: own int32 [n, L] -> int32 [max(n, items), L], int64 [n]

    Raises:
        ValueError: There are not so many semantic IDs.
    """
    shape = (config.codes,) * config.code_levels
    space, wanted = config.codes**config.code_levels, max(items, len(own))
    if wanted > space:
        raise ValueError(f"--items: got {items}, expected at most V**L = {space}. Ask for fewer.")
    flat_own = np.ravel_multi_index(tuple(own.T), shape).astype(np.int64)
    generator = np.random.default_rng([seed, items])
    if space <= _MARKED:
        free = np.ones(space, np.bool_)
        free[flat_own] = False
        others = generator.choice(np.flatnonzero(free), wanted - len(own), replace=False)
    else:  # so sparse that twice as many draws are enough
        drawn = np.unique(generator.integers(0, space, size=2 * wanted))
        others = generator.choice(drawn[~np.isin(drawn, flat_own)], wanted - len(own), replace=False)
    flat = np.sort(np.concatenate([flat_own, others]))
    codes = np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int32)
    return codes, np.searchsorted(flat, flat_own)


def _item_tables(
    model: OneRanker, own: Catalogue, codes: NDArray[np.int32], fields: NDArray[np.int32], *, with_vectors: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The model's own tables of every item, some rows at a time.

    Shapes: -> item_table fp32 [N, D], item_vectors fp32 [N, D+A] or None
    """
    config, anchors = model.config, torch.from_numpy(own.anchors)
    table = np.empty((len(codes), config.width), np.float32)
    vectors = np.empty((len(codes), config.width + config.anchors), np.float32) if with_vectors else None
    with torch.inference_mode():
        for begin in range(0, len(codes), ITEM_CHUNK):
            here = slice(begin, begin + ITEM_CHUNK)
            rows = model.item_table(torch.from_numpy(fields[here]).long())
            table[here] = rows.numpy()
            if vectors is not None:
                levels = zip(own.codebooks, codes[here].T, strict=True)
                recon = torch.from_numpy(np.sum([book[code] for book, code in levels], axis=0))
                vectors[here] = item_vectors(rows, recon, anchors).numpy()
    return table, vectors
