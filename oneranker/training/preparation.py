"""From tables to what training needs: semantic IDs, tokenizer, catalogue, token streams."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from oneranker.catalogue import Catalogue, check_catalogue
from oneranker.config import OneRankerConfig
from oneranker.data.dataset import Dataset, catalogue_items, fit_tokenizer, train_baskets
from oneranker.data.streams import Streams, build_streams
from oneranker.errors import DataError
from oneranker.semantic_ids.anchors import fit_anchors
from oneranker.semantic_ids.item_embeddings import item_embeddings
from oneranker.semantic_ids.rq_kmeans import fit_rq_kmeans
from oneranker.tokens import Field, SimpleItemLookup, Tokenizer, column_of, text_of
from oneranker.weights import CATALOGUE_FILE, TOKENIZER_FILE

log = logging.getLogger(__name__)
POPULARITY = Field(  # one more field of every item: its events in the training part, in half octaves
    name="events in training", type="number", edges=tuple(2.0 ** (half / 2) for half in range(32))
)


@dataclass(frozen=True)
class Prepared:
    """One data set as one model sees it."""

    config: OneRankerConfig  # with the tokenizer's vocabulary and F
    tokenizer: Tokenizer
    catalogue: Catalogue
    streams: Streams


def prepare_training(dataset: Dataset, config: OneRankerConfig, folder: Path, seed: int) -> Prepared:
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
        tokenizer, catalogue = fit_catalogue(dataset, config, seed)
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


def fit_catalogue(dataset: Dataset, config: OneRankerConfig, seed: int) -> tuple[Tokenizer, Catalogue]:
    """Item embeddings from attributes and co-occurrence, RQ-KMeans codes, anchors (E5), and the tokenizer over them."""
    found = catalogue_items(dataset)
    _, group, row = train_baskets(dataset, found)
    tokenizer = fit_tokenizer(dataset, config.code_levels, config.codes, found)
    tokenizer = replace(tokenizer, content=(*tokenizer.content, POPULARITY))
    columns = {**found.columns, POPULARITY.name: np.bincount(row, minlength=len(found.ids))}
    content = {
        field.name: field.encode(found.columns[field.name])[:, 0]
        if field.type == "number"
        else column_of([text_of(value) for value in found.columns[field.name].tolist()])
        for field in tokenizer.content[:-1]  # what is popular is no trait of an item
    }
    embeddings = item_embeddings(len(found.ids), config.width, content=content, group_id=group, item_row=row, seed=seed)
    ids = fit_rq_kmeans(embeddings, config.code_levels, config.codes, seed)
    log.info("semantic IDs: %s", ids.report(embeddings))
    none = np.zeros((0, config.width), dtype=np.float32)
    anchors = fit_anchors(ids.reconstruct(), config.anchors, seed) if config.anchors else none
    return tokenizer, Catalogue.sorted(
        ids=found.ids,
        names=found.names,
        codes=ids.codes,
        codebooks=ids.codebooks,
        anchors=anchors,
        item_fields=tokenizer.item_fields(ids.codes, columns),
    )
