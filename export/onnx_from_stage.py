"""One stage of the model to one checked ONNX graph: typed, named by the table, stamped with where it comes from."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.export import Dim

from export.islands import kept_modules
from export.precision import prove_precision
from export.settings import MIN_HISTORY, OPSET, GraphSettings
from export.silu_attention import add_body, blocks
from export.stages import TORCH_DTYPES, StageModule, StageSpec
from oneranker import __version__
from oneranker.model import OneRanker
from runtime.errors import BuildError
from runtime.stage import TensorSpec, parse_dim

LARGEST = 2_000_000_000  # bytes; a protobuf file ends at 2 GiB
# sizes to trace with: at least 2, where 0 and 1 would be taken for constants, and different for every letter
_EXAMPLE = {"B": 2, "S": 5, "C": 4, "N": 6, "P": 7, "R": 3}


def export_stage(
    model: OneRanker, spec: StageSpec, settings: GraphSettings, fingerprint: str, path: Path
) -> onnx.ModelProto:
    """Export one stage of a model that already has the settings' precision, check the graph and write it.

    Raises:
        BuildError: The graph is not what the table says, or too large for one file.
    """
    graph = _traced(model, spec)
    _name_weights(graph, model, spec.name)
    _name_dims(graph, spec)
    stamp = {"stage": spec.name, "precision": settings.precision.value, "fingerprint": fingerprint}
    if add_body(graph, settings.attention_block, model.config.max_history):
        one_block = blocks(settings.attention_block, model.config.max_history) == 1
        stamp["attention_block"] = str(0 if one_block else settings.attention_block)
    _stamp(graph, stamp)
    prove_precision(graph, spec, settings.precision, kept_modules(model, settings.of_stage(spec.name)))
    if (size := graph.ByteSize()) > LARGEST:
        raise BuildError(
            f"{spec.name}: the graph takes {size} bytes, expected at most {LARGEST} (protobuf's limit). "
            "Use a smaller vocabulary or width, or --precision fp16."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    return graph


def _traced(model: OneRanker, spec: StageSpec) -> onnx.ModelProto:
    module = StageModule(model, spec).eval()
    sizes = _EXAMPLE | {"S": min(_EXAMPLE["S"], model.config.max_history)}
    dims = {letter: Dim(f"dim_{letter}", min=1) for letter in _EXAMPLE}  # bare N and S mean something to sympy
    dims["S"] = Dim("dim_S", min=MIN_HISTORY, max=model.config.max_history)
    example = tuple(torch.zeros(row.sized(sizes), dtype=TORCH_DTYPES[row.dtype]) for row in spec.inputs)
    shapes = (tuple(_dynamic(row, dims) for row in spec.inputs),)
    with _quiet(), torch.inference_mode():
        program = torch.export.export(module, example, dynamic_shapes=shapes)
        exported = torch.onnx.export(
            program,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[row.name for row in spec.inputs],
            output_names=[row.name for row in spec.outputs],
            verbose=False,
        )
    assert exported is not None  # None is for the old exporter only
    graph = exported.model_proto
    found = {row.domain: row.version for row in graph.opset_import}.get("")
    if found != OPSET:
        raise BuildError(
            f"{spec.name}: torch {torch.__version__} wrote opset {found}, expected {OPSET}. Install torch 2.13."
        )
    return graph


def _dynamic(row: TensorSpec, dims: dict[str, Any]) -> dict[int, Any]:
    out = {}
    for axis, dim in enumerate(row.shape):
        letters, constant = parse_dim(dim)
        if letters:
            out[axis] = dims[letters[0]] + constant if constant else dims[letters[0]]
    return out


def _name_weights(graph: onnx.ModelProto, model: OneRanker, stage: str) -> None:
    """Give the transposed weights, which the exporter numbers, the names of the parameters they come from."""
    names: dict[bytes, list[str]] = {}
    for name, tensor in getattr(model, stage).named_parameters(prefix=stage):
        if tensor.dim() == 2:
            names.setdefault(_digest(tensor.T), []).append(name)
    taken = {row.name for row in graph.graph.initializer}
    renamed = {}
    for row in graph.graph.initializer:
        if len(row.dims) == 2 and not row.name.startswith(f"{stage}."):
            found = names.get(_digest(torch.from_numpy(onnx.numpy_helper.to_array(row).copy())), [])
            if len(found) == 1 and found[0] not in taken:
                renamed[row.name] = row.name = found[0]
                taken.add(row.name)
    for node in graph.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _digest(tensor: Tensor) -> bytes:
    shape = f"{tensor.dtype} {list(tensor.shape)}".encode()
    return hashlib.sha256(shape + tensor.detach().contiguous().numpy().tobytes()).digest()


def _name_dims(graph: onnx.ModelProto, spec: StageSpec) -> None:
    """Give the boundary the table's letters; drop what the exporter noted of the inside, file paths among it."""
    for rows, values in ((spec.inputs, graph.graph.input), (spec.outputs, graph.graph.output)):
        for row, value in zip(rows, values, strict=True):
            for told, dim in zip(row.shape, value.type.tensor_type.shape.dim, strict=True):
                if isinstance(told, int):
                    dim.dim_value = told
                else:
                    dim.dim_param = told
    del graph.graph.value_info[:]
    del graph.graph.metadata_props[:]
    for holder in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer, *graph.graph.node):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _stamp(graph: onnx.ModelProto, stamp: Mapping[str, str]) -> None:
    graph.producer_name, graph.producer_version = "oneranker", __version__
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {f"oneranker.{key}": value for key, value in stamp.items()})


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what is no fault here (torchvision is absent, axes share names); its errors still come."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "torch.__trace", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
