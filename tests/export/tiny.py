"""The tiny preset's random model as a checkpoint folder, for builds that start from one."""

from __future__ import annotations

from pathlib import Path

from export.model_source import ModelSource, read_source
from export.settings import BuildSettings
from oneranker import weights


def tiny_source(**settings: int) -> ModelSource:
    """The very model, catalogue and tokenizer behind the `tiny_bundle` fixture."""
    return read_source(BuildSettings(preset="tiny", **settings))


def write_checkpoint(source: ModelSource, folder: Path) -> Path:
    """What training would have left behind."""
    weights.save(source.model, folder)
    source.tokenizer.write(folder / weights.TOKENIZER_FILE)
    source.catalogue.save(folder / weights.CATALOGUE_FILE)
    return folder
