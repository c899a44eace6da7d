"""Opens a bundle: every file compared with the manifest before anything is loaded from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from oneranker.tokens import Tokenizer
from runtime.errors import BundleError, DeviceError, UnfitPlanError
from runtime.items import ItemIndex
from runtime.manifest import REBUILD, Manifest, StageEntry, TensorEntry, check_file
from runtime.masks import Masks
from runtime.memory import DeviceMemory
from runtime.onnx_stage import OnnxStage
from runtime.serving import ONNX, Serving, choose_serving, without_plans
from runtime.stage import Stage, TensorSpec
from runtime.trt_stage import TrtStage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """Everything that a pipeline is made of."""

    manifest: Manifest
    stages: Mapping[str, Stage]
    tokenizer: Tokenizer
    masks: Masks
    index: ItemIndex
    serving: Serving


def open_bundle(
    bundle: str | Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    items: str | Path | None = None,
    cuda_graphs: bool = True,
    kernels: str | Path | None = None,
) -> OpenBundle:
    """Check and load a bundle; `items` replaces the bundle's own item index, the rest is as in `Pipeline.load`.

    Raises:
        BundleError: If any file is missing, cut short, edited, or does not fit the others.
        DeviceError: If the engine or the device is not here.
    """
    bundle = Path(bundle)
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}, expected at least 1, or None for all cores")
    manifest = Manifest.read(bundle)
    for row in manifest.stages.values():
        for entry in (row, row.plan):
            if entry is not None:
                check_file(bundle, entry.file, entry.sha256, entry.bytes)
    tokenizer_path = check_file(bundle, manifest.tokenizer.file, manifest.tokenizer.sha256)
    masks = Masks.read(check_file(bundle, manifest.masks.file, manifest.masks.sha256))
    index = _read_index(bundle, manifest, items)
    tokenizer = _read_tokenizer(tokenizer_path)
    _check_alphabet(bundle, manifest, tokenizer, index)
    if kernels is not None:
        kernels = Path(kernels)
        engine, device = _with_kernels(manifest, engine, device, kernels)
    serving = choose_serving(bundle, manifest, engine, device)
    try:
        stages = _load_stages(bundle, manifest, serving, threads, cuda_graphs, kernels)
    except UnfitPlanError as error:  # TensorRT-RTX alone knows, and only when it is shown the plan
        if engine != "auto":
            raise
        serving = without_plans(bundle, manifest, device, str(error))
        stages = _load_stages(bundle, manifest, serving, threads, cuda_graphs, kernels)
    logger.info("engine %s on %s: %s", serving.engine, serving.device, serving.reason)
    return OpenBundle(manifest, stages, tokenizer, masks, index, serving)


def _with_kernels(manifest: Manifest, engine: str, device: str, kernels: Path) -> tuple[str, str]:
    """Engine and device: kernels are ONNX Runtime's on the CPU, and asking for them asks for it."""
    if engine not in ("auto", ONNX) or device not in ("auto", "cpu") or manifest.precision != "fp32":
        raise DeviceError(
            f"kernels {kernels} were asked for with engine '{engine}' and device '{device}', for a bundle in "
            f"{manifest.precision}, expected onnxruntime, cpu and fp32. Leave them out, or export with fp32."
        )
    return ONNX, "cpu"


def _load_stages(
    bundle: Path, manifest: Manifest, serving: Serving, threads: int | None, cuda_graphs: bool, kernels: Path | None
) -> dict[str, Stage]:
    """All stages or none; what has been opened is closed again on an error, the device's memory too."""
    stages: dict[str, Stage] = {}
    with ExitStack() as undo:
        undo.callback(serving.memory.close)
        for name, row in manifest.stages.items():
            stages[name] = _load_stage(bundle, name, row, serving, threads, cuda_graphs, kernels)
            undo.callback(stages[name].close)
        serving.memory.settle()
        undo.pop_all()
    return stages


def _load_stage(
    bundle: Path,
    name: str,
    row: StageEntry,
    serving: Serving,
    threads: int | None,
    cuda_graphs: bool,
    kernels: Path | None,
) -> Stage:
    inputs, outputs = _specs(row)
    memory = serving.memory
    if not isinstance(memory, DeviceMemory):
        return OnnxStage.load(name, bundle / row.file, inputs, outputs, threads=threads, kernels=kernels)
    assert memory.device is not None
    if serving.engine == ONNX:
        return OnnxStage.load(
            name, bundle / row.file, inputs, outputs, device=memory.device, threads=threads, graphs=cuda_graphs
        )
    assert row.plan is not None
    return TrtStage.load(
        name,
        bundle / row.plan.file,
        row.plan,
        inputs,
        outputs,
        device=memory.device,
        scratch=memory.scratch,
        cuda_graphs=cuda_graphs,
    )


def _specs(row: StageEntry) -> tuple[list[TensorSpec], list[TensorSpec]]:
    def spec(entry: TensorEntry) -> TensorSpec:
        return TensorSpec(entry.name, entry.dtype, entry.shape)

    return [spec(entry) for entry in row.inputs], [spec(entry) for entry in row.outputs]


def _read_index(bundle: Path, manifest: Manifest, items: str | Path | None) -> ItemIndex:
    if items is not None:
        return ItemIndex.read(items)
    folder = bundle / manifest.items.folder
    if not folder.resolve().is_relative_to(bundle.resolve()):
        raise BundleError(f"{folder}: lies outside of the bundle, expected a folder inside of it. {REBUILD}.")
    index = ItemIndex.read(folder)
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
