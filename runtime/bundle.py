"""Opens a bundle: every file compared with the manifest before anything is loaded from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oneranker.tokens import Tokenizer
from runtime.errors import BundleError, DeviceError
from runtime.items import ItemIndex
from runtime.manifest import REBUILD, Manifest, StageEntry, TensorEntry, check_file
from runtime.masks import Masks
from runtime.onnx_stage import OnnxStage, provider_of
from runtime.stage import TensorSpec

ENGINES = ("auto", "onnxruntime")
DEVICES = {"auto": "cpu"}


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """Everything that a pipeline is made of."""

    manifest: Manifest
    stages: Mapping[str, OnnxStage]
    tokenizer: Tokenizer
    masks: Masks
    index: ItemIndex


def open_bundle(
    bundle: str | Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    items: str | Path | None = None,
) -> OpenBundle:
    """Check and load a bundle; `items` replaces the bundle's own item index.

    Raises:
        BundleError: If any file is missing, cut short, edited, or does not fit the others.
        DeviceError: If the engine or the device is not here.
    """
    bundle = Path(bundle)
    device = DEVICES.get(device, device)
    if engine not in ENGINES:
        raise DeviceError(f"engine {engine!r} was asked for, this release serves {', '.join(ENGINES)}. Ask for 'auto'.")
    provider_of(device)
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}, expected at least 1, or None for all cores")
    manifest = Manifest.read(bundle)
    graphs = {name: check_file(bundle, row.file, row.sha256, row.bytes) for name, row in manifest.stages.items()}
    tokenizer_path = check_file(bundle, manifest.tokenizer.file, manifest.tokenizer.sha256)
    masks = Masks.read(check_file(bundle, manifest.masks.file, manifest.masks.sha256))
    index = _read_index(bundle, manifest, items)
    tokenizer = _read_tokenizer(tokenizer_path)
    _check_alphabet(bundle, manifest, tokenizer, index)
    stages = {
        name: OnnxStage.load(name, graphs[name], *_specs(row), threads=threads) for name, row in manifest.stages.items()
    }
    return OpenBundle(manifest, stages, tokenizer, masks, index)


def _specs(row: StageEntry) -> tuple[list[TensorSpec], list[TensorSpec]]:
    def spec(entry: TensorEntry) -> TensorSpec:
        return TensorSpec(entry.name, entry.dtype, entry.shape)

    return [spec(entry) for entry in row.inputs], [spec(entry) for entry in row.outputs]


def _read_index(bundle: Path, manifest: Manifest, items: str | Path | None) -> ItemIndex:
    if items is not None:
        return ItemIndex.read(items)
    index = ItemIndex.read(bundle / manifest.items.folder)
    if (index.version, len(index)) != (manifest.items.version, manifest.items.items):
        raise BundleError(
            f"{index.folder}: version {index.version[:12]}… of {len(index)} items, the manifest says "
            f"{manifest.items.version[:12]}… of {manifest.items.items}. Load it with items=…, or: {REBUILD}."
        )
    return index


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.read(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: got {error}, expected this release's tokenizer. {REBUILD}.") from error


def _check_alphabet(bundle: Path, manifest: Manifest, tokenizer: Tokenizer, index: ItemIndex) -> None:
    """Compare the letters of the manifest's model with those of the tokenizer and of the item index."""
    letters, header = manifest.letters, index.header
    facts = [
        ("F", "tokenizer", tokenizer.fields),
        ("L", "tokenizer", tokenizer.levels),
        ("V", "tokenizer", tokenizer.codes),
        ("L", "item index", header.levels),
        ("V", "item index", header.codes),
        ("D", "item index", header.width),
        ("A", "item index", header.anchors),
    ]
    for letter, where, found in facts:
        if letters.get(letter, found) != found:
            raise BundleError(
                f"{bundle}: the {where} has {letter}={found}, the model {letter}={letters[letter]}. {REBUILD}."
            )
    if (found := manifest.model.get("vocabulary", tokenizer.vocabulary)) != tokenizer.vocabulary:
        raise BundleError(f"{bundle}: the tokenizer has {tokenizer.vocabulary} rows, the model {found}. {REBUILD}.")
    check_item_fields(index, tokenizer)


def check_item_fields(index: ItemIndex, tokenizer: Tokenizer) -> None:
    """Compare what the index says of items in tokens with what the tokenizer can say.

    Raises:
        BundleError: If the number of fields differs, or one names a row outside of the embedding table.
    """
    fields, columns, rows = index.item_fields, tokenizer.item_field_count, tokenizer.vocabulary
    if fields.shape[1] != columns or fields.min() < 0 or fields.max() >= rows:
        raise BundleError(
            f"{index.folder}: item_fields has {fields.shape[1]} columns with rows up to {fields.max()}, the tokenizer "
            f"has {columns} and rows 0 .. {rows - 1}. Write the item index again with this bundle's tokenizer."
        )
