"""From tables to what training needs: semantic IDs, tokenizer, catalogue, token streams."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from oneranker.catalogue import Catalogue, check_catalogue
from oneranker.config import OneRankerConfig
from oneranker.data.dataset import CatalogueItems, Dataset, catalogue_items, fit_tokenizer, train_baskets
from oneranker.data.streams import Streams, build_streams
from oneranker.errors import DataError
from oneranker.semantic_ids.anchors import fit_anchors
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.from_dataset import fit_from_dataset
from oneranker.semantic_ids.model_codebooks import model_codebooks
from oneranker.semantic_ids.quality import prefix_counts
from oneranker.semantic_ids.semantic_ids import SemanticIds
from oneranker.semantic_ids.settings import IdSettings, Method
from oneranker.tokens import Field, SimpleItemLookup, Tokenizer
from oneranker.weights import CATALOGUE_FILE, TOKENIZER_FILE

log = logging.getLogger(__name__)
POPULARITY = Field(  # one more field of every item: its events in the training part, in half octaves
    name="events in training", type="number", edges=tuple(2.0 ** (half / 2) for half in range(32))
)


IdSource = Method | Path  # how items get their codes: a method, or a folder that `SemanticIds.save` wrote


@dataclass(frozen=True)
class Prepared:
    """One data set as one model sees it."""

    config: OneRankerConfig  # with the tokenizer's vocabulary and F
    tokenizer: Tokenizer
    catalogue: Catalogue
    streams: Streams


def prepare_training(
    dataset: Dataset, config: OneRankerConfig, folder: Path, seed: int, how: IdSource = Method.RQ_KMEANS
) -> Prepared:
    """Fit tokenizer and semantic IDs, or read them back from `folder` if an earlier run left both there.

    Raises: CheckpointError or DataError when what lies there does not fit.
    """
    if config.candidate_features:
        raise DataError(
            f"training: candidate_features={config.candidate_features}, expected 0: no data set brings numbers per "
            "candidate in this release; train without them"
        )
    tokenizer_path, catalogue_path = folder / TOKENIZER_FILE, folder / CATALOGUE_FILE
    if not (tokenizer_path.exists() and catalogue_path.exists()):
        tokenizer, catalogue = fit_catalogue(dataset, config, seed, how)
        folder.mkdir(parents=True, exist_ok=True)
        catalogue.save(catalogue_path)
        tokenizer.write(tokenizer_path)
    return read_prepared(dataset, config, folder)


def read_prepared(dataset: Dataset, config: OneRankerConfig, folder: Path) -> Prepared:
    """What a run left in its folder, with the data set's streams made anew by the same tokenizer."""
    tokenizer = Tokenizer.read(folder / TOKENIZER_FILE)
    catalogue = Catalogue.load(folder / CATALOGUE_FILE)
    check_catalogue(config, catalogue)
    streams = build_streams(dataset, tokenizer, SimpleItemLookup(catalogue.ids, catalogue.item_fields))
    return Prepared(config.with_tokens(tokenizer.vocabulary, tokenizer.fields), tokenizer, catalogue, streams)


def fit_catalogue(dataset: Dataset, config: OneRankerConfig, seed: int, how: IdSource) -> tuple[Tokenizer, Catalogue]:
    """Semantic IDs, anchors in the space that they reconstruct (E5), and the tokenizer over them."""
    found = catalogue_items(dataset)
    _, _, row = train_baskets(dataset, found)
    tokenizer = fit_tokenizer(dataset, config.code_levels, config.codes, found)
    tokenizer = replace(tokenizer, content=(*tokenizer.content, POPULARITY))
    columns = {**found.columns, POPULARITY.name: np.bincount(row, minlength=len(found.ids))}
    paths = semantic_ids(dataset, found, config, seed, how)
    none = np.zeros((0, config.width), dtype=np.float32)
    anchors = fit_anchors(paths.reconstruct(), config.anchors, seed) if config.anchors else none
    return tokenizer, Catalogue.sorted(
        ids=found.ids,
        names=found.names,
        codes=paths.codes,
        codebooks=paths.codebooks,
        anchors=anchors,
        item_fields=tokenizer.item_fields(paths.codes, columns),
    )


def semantic_ids(
    dataset: Dataset, items: CatalogueItems, config: OneRankerConfig, seed: int, how: IdSource
) -> CodePaths:
    """Fit codes for the items by a method, or take them from a folder; codebooks are of the model's width."""
    if isinstance(how, Path):
        ids = SemanticIds.load(how)
        place = {item: row for row, item in enumerate(ids.item_ids)}
        missing = [item for item in items.ids if item not in place]
        if missing:
            raise DataError(
                f"{how}: lacks {len(missing)} of {len(items.ids)} items, such as {missing[0]!r}, expected codes for "
                "all items of the data set. Build them from the same data, or give them codes by `assign`."
            )
        rows = np.array([place[item] for item in items.ids])
    else:
        wanted = IdSettings(method=how, levels=config.code_levels, codes=config.codes, seed=seed)
        ids = fit_from_dataset(dataset, items, wanted, width=config.width)
        rows = np.arange(len(items.ids))
    codebooks = model_codebooks(ids, config.code_levels, config.codes, config.width)
    log.info(
        "semantic IDs: %s, levels of %s codes, prefixes %s, embeddings %.1f s, codes %.1f s",
        *(ids.settings.method.value, list(ids.widths), prefix_counts(ids.codes)),
        *(ids.seconds["embedding"], ids.seconds["quantisation"]),
    )
    return CodePaths(codes=ids.codes[rows], codebooks=codebooks)
