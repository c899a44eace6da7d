"""Where a build's weights, catalogue and tokenizer come from: a checkpoint, or a seed that is said loudly."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.settings import DEFAULT_ITEMS, BuildSettings
from oneranker import weights
from oneranker.catalogue import Catalogue, check_catalogue
from oneranker.config import OneRankerConfig, preset
from oneranker.model import OneRanker
from oneranker.synthetic import synthetic_catalogue, synthetic_model, synthetic_tokenizer
from oneranker.tokens import Tokenizer
from runtime.errors import BuildError
from runtime.manifest import WeightsEntry, file_sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model in eval mode with the catalogue and the tokenizer that belong to it."""

    model: OneRanker
    catalogue: Catalogue
    tokenizer: Tokenizer
    weights: WeightsEntry


def read_source(settings: BuildSettings) -> ModelSource:
    """Read the checkpoint, or draw the preset's weights from the seed.

    Raises:
        BuildError: A checkpoint that is damaged, of another preset, or has values that are not finite.
    """
    try:
        source = _random(settings) if settings.checkpoint is None else _checkpoint(settings, settings.checkpoint)
        weights.check_finite(source.model, source.weights.detail)
        check_catalogue(source.model.config, source.catalogue)
    except ValueError as error:  # CheckpointError, DataError and TokenError are ValueErrors of four facts
        raise BuildError(str(error)) from error
    if not source.model.config.anchors:
        raise BuildError(
            f"{source.weights.detail}: anchors=0 (w/o Target), expected at least 1: no item index is without anchors "
            "in this release. Export a model with fake items; this one can be trained and evaluated."
        )
    _check_tokenizer(source)
    return source


def _random(settings: BuildSettings) -> ModelSource:
    assert settings.preset is not None, "resolve() names the preset of a build without a checkpoint"
    config = preset(settings.preset)
    items = settings.items or min(DEFAULT_ITEMS, config.codes**config.code_levels // 2)
    logger.warning(
        "NO CHECKPOINT: preset %s with RANDOM weights (seed %d) over %d synthetic items; its answers mean nothing",
        settings.preset,
        settings.seed,
        items,
    )
    catalogue = synthetic_catalogue(config, items, settings.seed)
    model = synthetic_model(config, catalogue, settings.seed)
    detail = f"preset {settings.preset}, random weights over {items} synthetic items; answers mean nothing"
    entry = WeightsEntry(source="random", detail=detail, seed=settings.seed)
    return ModelSource(model, catalogue, synthetic_tokenizer(config), entry)


def _checkpoint(settings: BuildSettings, folder: Path) -> ModelSource:
    expected: OneRankerConfig | None = None if settings.preset is None else preset(settings.preset)
    model = weights.load(folder, expected)
    catalogue = Catalogue.load(folder / weights.CATALOGUE_FILE)
    tokenizer = Tokenizer.read(folder / weights.TOKENIZER_FILE)
    if model.config.anchors and not np.allclose(model.enhancer.anchors.numpy(), catalogue.anchors, atol=1e-5):
        raise BuildError(
            f"{folder}: the model's fake items are not the catalogue's anchors, expected the same "
            f"{model.config.anchors} centres. Copy {weights.WEIGHTS_FILE} and {weights.CATALOGUE_FILE} of one training."
        )
    digest = file_sha256(folder / weights.WEIGHTS_FILE)
    detail = f"{folder.resolve().name}/{weights.WEIGHTS_FILE}, sha256 {digest[:16]}"
    return ModelSource(model, catalogue, tokenizer, WeightsEntry(source="checkpoint", detail=detail, seed=None))


def _check_tokenizer(source: ModelSource) -> None:
    """A tokenizer of another training would index past the embedding table, or silently into wrong rows."""
    config, tokenizer, fields = source.model.config, source.tokenizer, source.catalogue.item_fields
    facts = [
        ("F", tokenizer.fields, config.fields),
        ("rows of the embedding table", tokenizer.vocabulary, config.vocabulary),
        ("L", tokenizer.levels, config.code_levels),
        ("V", tokenizer.codes, config.codes),
        ("fields per item", tokenizer.item_field_count, fields.shape[1]),
    ]
    for fact, found, expected in facts:
        if found != expected:
            raise BuildError(
                f"{source.weights.detail}: the tokenizer has {found} {fact}, the model and its catalogue {expected}. "
                "Take config.json, model.safetensors, tokenizer.json and catalogue.safetensors of one training."
            )
    if fields.size and not 0 <= fields.min() <= fields.max() < config.vocabulary:
        raise BuildError(
            f"{source.weights.detail}: the catalogue's item fields reach {fields.max()}, expected rows below "
            f"{config.vocabulary}. Take the catalogue of the same training."
        )
