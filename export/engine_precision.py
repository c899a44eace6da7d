"""The proof that an engine runs in the precision it was asked for: the graph's types, the network's, the kernels'."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx.inliner import inline_local_functions

from export.engine_kernels import FLOATS, Kernel
from export.settings import Precision
from runtime.errors import BuildError

WANTED = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16"}
_MATRIX_OPS = frozenset({"MatMul", "Gemm", "Attention", "Conv", "ConvTranspose", "Einsum"})
_MATRIX_LAYERS = frozenset({"MATRIX_MULTIPLY", "ATTENTION_INPUT", "CONVOLUTION", "DECONVOLUTION", "EINSUM"})
_SAME_VALUES = frozenset({"Cast", "CastLike", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Identity"})
_NETWORK_TYPES = {"HALF": "float16", "FLOAT": "float32", "BF16": "bfloat16"}
_BUG = "The exporter and the engine disagree; this is a bug, please report it with build.log."


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node of an ONNX graph, or of a local function at one call, as an engine's messages name it."""

    types: frozenset[str]  # of its float inputs
    matrix: bool
    weights: tuple[str, ...]  # initializers that it multiplies with


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionProof:
    """What was seen; it exists only where nothing was seen that contradicts the precision."""

    asked: str
    graph: dict[str, int]  # matrix products, attentions and convolutions of the graph, by type
    network: dict[str, int]  # the same of the network that the parser made
    kernels: dict[str, int]  # kernels that multiply matrices, by the types of their operands
    islands: list[str]  # nodes of another type than asked, by name
    kernels_from: str  # the builder's log, or the engine inspector


def graph_nodes(model: onnx.ModelProto) -> dict[str, GraphNode]:
    """Every node by the name that an engine's parser gives it; those of a local function once for every call."""
    graph = onnx.shape_inference.infer_shapes(inline_local_functions(model), strict_mode=True).graph
    types = {row.name: row.type.tensor_type.elem_type for row in (*graph.input, *graph.value_info, *graph.output)}
    types |= {row.name: row.data_type for row in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    weights = {row.name for row in graph.initializer if math.prod(row.dims) > 1}
    nodes = {}
    for name, node in zip(_parser_names(model), graph.node, strict=True):
        matrix = node.op_type in _MATRIX_OPS
        read = frozenset(_float(types.get(tensor, 0)) for tensor in node.input) & FLOATS
        reads = tuple(sorted(_weights(node, producers, weights))) if matrix else ()
        nodes[name] = GraphNode(read, matrix, reads)
    return nodes


def _parser_names(model: onnx.ModelProto) -> Iterator[str]:
    """The names of the nodes in the order in which inlining lays them out: each call's body in its place."""
    functions = {(row.domain, row.name): row for row in model.functions}
    for node in model.graph.node:
        if body := functions.get((node.domain, node.op_type)):
            for inner in body.node:
                yield f"{inner.name or f'node_of_{inner.output[0]}'} | {node.name} ({node.op_type})"
        else:
            yield node.name


def network_types(network: Any) -> dict[str, Any]:
    """Types of the tensors at the network's boundary by name, and of its layers' outputs by count."""
    inside = Counter(
        _network_type(layer.get_output(place))
        for layer in _layers(network)
        for place in range(layer.num_outputs)
        if layer.get_output(place) is not None
    )
    return {
        "inputs": {t.name: _network_type(t) for t in map(network.get_input, range(network.num_inputs))},
        "outputs": {t.name: _network_type(t) for t in map(network.get_output, range(network.num_outputs))},
        "inside": dict(inside),
    }


def matrix_layers(network: Any) -> dict[str, frozenset[str]]:
    """The float input types of every layer that multiplies matrices, by the node it was made of.

    Taken before the build: an engine's builder may change the network that it is given.
    """
    found: dict[str, frozenset[str]] = {}
    for layer in _layers(network):
        if layer.type.name not in _MATRIX_LAYERS:
            continue
        node = layer.metadata.removeprefix("[ONNX Layer: ").removesuffix("]")
        inputs = [layer.get_input(place) for place in range(layer.num_inputs)]
        types = frozenset(_network_type(tensor) for tensor in inputs if tensor is not None) & FLOATS
        key = node or layer.name.removesuffix("_AttentionInput")
        found[key] = found.get(key, frozenset()) | types
    return found


def prove_network(
    stage: str,
    precision: Precision,
    nodes: Mapping[str, GraphNode],
    network: Mapping[str, frozenset[str]],
    kept: Sequence[str] = (),
) -> list[str]:
    """Follow every matrix product from the graph into the network; `kept` names modules of another precision.

    Returns:
        The islands: nodes of another type than asked, by name.

    Raises:
        BuildError: At the first product that is not what was asked for, or not what the graph says.
    """
    products = {name: node for name, node in nodes.items() if node.matrix}
    islands = _prove_graph(stage, WANTED[precision], products, kept)
    for name, types in network.items():
        if name not in products:
            raise BuildError(f"{stage}: the network multiplies in {name!r}, expected a node of the graph. {_BUG}")
        if types != products[name].types:
            raise BuildError(
                f"{stage}: the network's {name!r} reads {_listed(types)}, expected {_listed(products[name].types)} "
                f"as in the graph. {_BUG}"
            )
    if missing := sorted(products.keys() - network.keys()):
        raise BuildError(f"{stage}: the network has no product for {missing[0]!r}, expected one. {_BUG}")
    return islands


def prove_kernels(
    stage: str, precision: Precision, nodes: Mapping[str, GraphNode], kernels: Sequence[Kernel], kernels_from: str
) -> None:
    """Follow the graph's products into the kernels of the built engine.

    A kernel that multiplies reads the types of the nodes it stands for, and no others; at least one reads what was
    asked for. Islands are held to the same: TensorRT-RTX 1.7.1 turns a product between two casts into one of halves.

    Raises:
        BuildError: At the first kernel of another type, or where no kernel is named.
    """
    if not kernels:
        raise BuildError(
            f"{stage}: no kernel is named in {kernels_from}, expected all of them: the precision of this engine cannot "
            f"be proved. {_BUG}"
        )
    asked = WANTED[precision]
    multiplying = [kernel for kernel in kernels if kernel.multiplies]
    products = [node.types for node in nodes.values() if node.matrix]
    nameless = 0  # kernels of another type that name no product of the graph: no more of them than it has islands
    for kernel in multiplying:
        known = [nodes[name] for name in kernel.nodes if name in nodes]
        required = frozenset().union(*(node.types for node in known if node.matrix))
        allowed = frozenset({asked}).union(*(node.types for node in known))
        found = frozenset(kernel.operands) & FLOATS
        nameless += not required and not found <= {asked}
        if required and not required <= found <= allowed:
            narrowed = "The builder dropped the casts around it: keep a module that holds more than this one product. "
            raise BuildError(
                f"{stage}: kernel {kernel.name!r} of the engine reads {_listed(found)}, expected "
                f"{_listed(required)} as the graph says of {', '.join(kernel.nodes)}. "
                f"{narrowed if found == {asked} else ''}The engine is not in the precision that was asked for; see "
                "build.log, or build with --engine none."
            )
    islands = sum(types != {asked} for types in products) * len({kernel.profile for kernel in kernels})
    if nameless > islands:
        raise BuildError(
            f"{stage}: {nameless} kernels of the engine that name no node of the graph multiply in another type than "
            f"{asked}, expected at most {islands}, the graph's islands in every profile. The engine is not in the "
            "precision that was asked for; see build.log."
        )
    if products and not any(asked in kernel.operands for kernel in multiplying):
        raise BuildError(
            f"{stage}: no kernel of the engine multiplies in {asked}, which was asked for; expected nearly all of "
            f"{len(multiplying)}. The engine is not in that precision; see build.log."
        )


def precision_proof(
    precision: Precision,
    nodes: Mapping[str, GraphNode],
    network: Mapping[str, frozenset[str]],
    islands: list[str],
    kernels: Sequence[Kernel],
    kernels_from: str,
) -> PrecisionProof:
    """What was seen, after both proofs have passed."""
    return PrecisionProof(
        asked=WANTED[precision],
        graph=_counted(node.types for node in nodes.values() if node.matrix),
        network=_counted(network.values()),
        kernels=_counted(frozenset(k.operands) & FLOATS for k in kernels if k.multiplies),
        islands=islands,
        kernels_from=kernels_from,
    )


def _prove_graph(stage: str, asked: str, products: Mapping[str, GraphNode], kept: Sequence[str]) -> list[str]:
    """An island is arithmetic on activations; a product with weights has the precision, unless a setting keeps it."""
    islands = [name for name, node in products.items() if node.types != {asked}]
    for name in islands:
        node = products[name]
        if node.weights and not kept:
            raise BuildError(
                f"{stage}: {name!r} multiplies with weight {node.weights[0]!r} in {_listed(node.types)}, expected "
                f"{asked}, which was asked for. Name its module in --keep-fp32 if that is meant, else report a bug."
            )
    if products and len(islands) == len(products):
        raise BuildError(
            f"{stage}: none of the graph's {len(products)} matrix products is in {asked}, expected nearly all of them. "
            "An engine of this graph must not bear that name: build it with the precision that the graph has."
        )
    return islands


def _weights(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], weights: set[str]) -> set[str]:
    """The initializers behind a node's inputs, seen through casts and changes of the shape."""
    found: set[str] = set()
    waiting = list(node.input)
    while waiting:
        name = waiting.pop()
        if name in weights:
            found.add(name)
        elif (source := producers.get(name)) is not None and source.op_type in _SAME_VALUES:
            waiting.append(source.input[0])
    return found


def _layers(network: Any) -> list[Any]:
    return [network.get_layer(place) for place in range(network.num_layers)]


def _network_type(tensor: Any) -> str:
    word = str(tensor.dtype.name)
    return _NETWORK_TYPES.get(word, word.lower())


def _float(element_type: int) -> str:
    return onnx.helper.tensor_dtype_to_np_dtype(element_type).name if element_type else ""


def _counted(sets: Iterable[frozenset[str]]) -> dict[str, int]:
    return dict(sorted(Counter(_listed(types) for types in sets).items()))


def _listed(types: frozenset[str]) -> str:
    return "+".join(sorted(types)) or "no float type"
