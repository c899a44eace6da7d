"""Finds the very weights that a bundle was built from: its checkpoint, or the seed of a random build."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from export.model_source import ModelSource, read_source
from export.settings import BuildSettings
from oneranker.config import PRESETS
from runtime.errors import BuildError
from runtime.manifest import Manifest


def source_of(bundle: Path, manifest: Manifest, checkpoint: Path | None) -> ModelSource:
    """The model, catalogue and tokenizer of a bundle, in fp32 and eval mode.

    Raises:
        BuildError: The weights cannot be found, or are not those of the bundle.
    """
    source = read_source(_settings(bundle, manifest, checkpoint))
    found, expected = (entry.detail.rpartition("sha256 ")[2] for entry in (source.weights, manifest.weights))
    if found != expected:
        raise BuildError(
            f"{bundle}: built from '{manifest.weights.detail}', the weights to compare with are "
            f"'{source.weights.detail}', expected the same. Name the bundle's own folder with --checkpoint."
        )
    return source


def checkpoint_of(bundle: Path, manifest: Manifest) -> Path:
    """The folder that the manifest names, beside the bundle or in the current folder.

    Raises:
        BuildError: It is in neither place.
    """
    name = Path(manifest.weights.detail).parts[0]
    places = [bundle.resolve().parent / name, Path(name).resolve()]
    for place in places:
        if place.is_dir():
            return place
    raise BuildError(
        f"{bundle}: built from '{manifest.weights.detail}', and {places[0]} is no folder; eager PyTorch needs the same "
        "weights. Name the folder with --checkpoint."
    )


def _settings(bundle: Path, manifest: Manifest, checkpoint: Path | None) -> BuildSettings:
    if manifest.weights.source != "random":
        return BuildSettings(checkpoint=checkpoint or checkpoint_of(bundle, manifest))
    if checkpoint is not None:
        raise BuildError(
            f"{bundle}: built from random weights (seed {manifest.weights.seed}), got --checkpoint {checkpoint}, "
            "expected none. Leave it out: the seed gives the weights."
        )
    seed = manifest.weights.seed or 0
    return BuildSettings(preset=_preset(bundle, manifest), items=manifest.items.items, seed=seed)


def _preset(bundle: Path, manifest: Manifest) -> str:
    """The preset whose architecture the manifest describes."""
    from_tokenizer = ("vocabulary", "fields")
    for name, config in PRESETS.items():
        facts = {key: value for key, value in asdict(config).items() if key not in from_tokenizer}
        if all(manifest.model.get(key) == value for key, value in facts.items()):
            return name
    raise BuildError(
        f"{bundle}: random weights of an architecture that is none of the presets {', '.join(sorted(PRESETS))} of this "
        "release, so they cannot be drawn again. Rebuild with `python -m export.build --stage all --preset NAME`."
    )
