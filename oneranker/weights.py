"""Initialise, save and load weights; a checkpoint fits its model exactly or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from oneranker.config import OneRankerConfig
from oneranker.errors import CheckpointError
from oneranker.model import OneRanker

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
TOKENIZER_FILE, CATALOGUE_FILE = "tokenizer.json", "catalogue.safetensors"


def initialise(config: OneRankerConfig, seed: int = 0) -> OneRanker:
    """A model with weights drawn from `seed`, the same on every machine and whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OneRanker(config)


def save(model: OneRanker, folder: Path) -> None:
    """Write config and weights; each file is whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG_FILE, model.config.to_json())
    temporary = folder / (WEIGHTS_FILE + ".partial")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)
    temporary.replace(folder / WEIGHTS_FILE)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_config(folder: Path) -> OneRankerConfig:
    """Raises: CheckpointError when there is no readable config."""
    path = folder / CONFIG_FILE
    try:
        return OneRankerConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: no readable model config ({error}); expected a folder written by `python -m oneranker.train`; "
            "train first, or name the right folder"
        ) from error


def load(folder: Path, expected: OneRankerConfig | None = None) -> OneRanker:
    """A model with a checkpoint's weights, in eval mode.

    Raises: CheckpointError for a missing or damaged file, another architecture than `expected`, or weights not finite.
    """
    config = read_config(folder)
    if expected is not None:
        check_architecture(config, expected, folder)
    model = OneRanker(config)
    path = folder / WEIGHTS_FILE
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: weights do not fit ({error}); expected the file that training wrote beside {CONFIG_FILE}; "
            "train again or copy the checkpoint whole"
        ) from error
    check_finite(model, path)
    return model.eval()


def check_architecture(found: OneRankerConfig, expected: OneRankerConfig, folder: Path) -> None:
    """Raises: CheckpointError when a checkpoint was trained with another preset."""
    wanted = expected.with_tokens(found.vocabulary, found.fields)
    if found != wanted:
        names = [name for name in found.__slots__ if getattr(found, name) != getattr(wanted, name)]
        detail = ", ".join(f"{name}={getattr(found, name)} not {getattr(wanted, name)}" for name in names)
        raise CheckpointError(f"{folder}: checkpoint of another preset ({detail}); drop --preset or name its own one")


def check_finite(model: OneRanker, where: Path | str) -> None:
    """Raises: CheckpointError naming the first tensor that holds NaN or infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{where}: tensor '{name}' has {bad} values that are NaN or infinite, expected finite weights; "
                "resume training from an earlier checkpoint with a lower learning rate"
            )
