"""The kernels of a built engine, read from the builder's log or, where the engine can be opened, from its inspector."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What the libraries call a type -> numpy's name; others are kept as they are, in lower case.
TYPES = {
    "half": "float16", "fp16": "float16", "float": "float32", "fp32": "float32", "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}  # fmt: skip
FLOATS = frozenset(TYPES.values())
_LAYERS = "Layers:"
_ROW = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), (?P<rest>.*)$")
_PART = re.compile(r"(?:^|, )(Inputs|Constants|Outputs): \[")
_OPERAND = re.compile(r"Dimensions: \[(?P<dims>[^\]]*)\].*?(?:Format/)?Datatype: (?P<type>[^,}]+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_GRAPH = re.compile(r"_myl(\d+)_\d+$")
_PROFILE = re.compile(r"\[profile (\d+)\]")
_MATRIX_TYPES = re.compile(r"gemm|matrix|conv|mha|attention", re.IGNORECASE)
_MATRIX_NAMES = re.compile(r"mha|gemm|_Fc[A-Z_]")
_BETWEEN_STREAMS = ("signal", "wait")
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch of an engine."""

    name: str
    type: str  # the library's word: gemm, kgen, runtime_fusion, ...
    profile: int | None  # None where the library does not tell
    operands: tuple[str, ...]  # types of the inputs and weights of more than one element
    results: tuple[str, ...]  # types of the outputs
    nodes: tuple[str, ...]  # of the ONNX graph, "node" or "node | call (Function)"

    @property
    def multiplies(self) -> bool:
        """Whether it is a matrix product or an attention, by the library's own names."""
        fused = self.type == "runtime_fusion" or bool(_MATRIX_NAMES.search(self.name))
        return fused or bool(_MATRIX_TYPES.search(self.type))

    @property
    def fused_attention(self) -> bool:
        return "mha" in self.name.lower()

    @property
    def short_name(self) -> str:
        """The name without the number of the engine's own graph: `_gemm_mha_v2`."""
        return _PROFILE.sub("", _GRAPH.sub("", self.name)).replace(" ", "")


def kernels_in_log(lines: Sequence[str], profiles: int) -> tuple[Kernel, ...]:
    """The kernels that a builder listed at VERBOSE with detailed profiling, in the order of its profiles."""
    rows: list[dict[str, Any]] = []
    for message in lines:
        text = message.partition("] ")[2]
        if not text.startswith(_LAYERS):
            continue
        for line in text.splitlines()[1:]:
            if not (found := _ROW.match(line)):
                break  # the tensors at the boundary follow
            rows.append({"Name": found["name"], "LayerType": found["type"], "text": line} | _parts(found["rest"]))
    return _numbered(rows, profiles)


def kernels_in_inspector(text: str, profiles: int) -> tuple[Kernel, ...]:
    """The kernels of an engine inspector's JSON."""
    rows = []
    for layer in json.loads(text)["Layers"]:
        if isinstance(layer, str):
            rows.append({"Name": layer, "LayerType": "", "text": layer})
            continue
        row = {"Name": layer.get("Name", ""), "LayerType": layer.get("LayerType", ""), "text": json.dumps(layer)}
        for part in ("Inputs", "Constants", "Outputs"):
            row[part] = [(_elements(entry.get("Dimensions", [])), _told(entry)) for entry in layer.get(part, [])]
        rows.append(row)
    return _numbered(rows, profiles)


def memory_in_log(lines: Iterable[str]) -> tuple[list[int], int | None]:
    """Scratch bytes of every profile in their order, and the bytes of all weights."""
    scratch: list[int] = []
    weights = None
    for line in lines:
        if found := _MEMORY.search(line):
            if found[1] == "Activation":
                scratch.append(int(found[2]))
            else:
                weights = int(found[2])
    return scratch, weights


def _parts(rest: str) -> dict[str, list[tuple[int, str]]]:
    """Inputs, constants and outputs of one row of the log; the lists end where the next one starts."""
    marks = list(_PART.finditer(rest))
    ends = [mark.start() for mark in marks[1:]] + [len(rest)]
    out = {}
    for mark, end in zip(marks, ends, strict=True):
        text = rest[mark.end() : end]
        out[mark[1]] = [(_elements(found["dims"].split(",")), found["type"]) for found in _OPERAND.finditer(text)]
    return out


def _elements(dims: Sequence[Any]) -> int:
    """1 for a scalar in any rank, more otherwise; a size that is open counts as more."""
    return 1 if all(str(dim).strip() in ("", "1") for dim in dims) else 2


def _told(entry: Mapping[str, Any]) -> str:
    """An inspector's type: its own field, or a word in the text of the format."""
    if "Datatype" in entry:
        return str(entry["Datatype"])
    words = str(entry.get("Format/Datatype", entry.get("Format", "")))
    return next((word for word in words.split() if word.lower() in TYPES), words)


def _numbered(rows: Sequence[Mapping[str, Any]], profiles: int) -> tuple[Kernel, ...]:
    """Kernels with the profile they belong to: every profile has as many graphs of its own, in rising numbers.

    Signals and waits between streams are no kernels.
    """
    graphs = sorted({int(found[1]) for row in rows if (found := _GRAPH.search(row["Name"]))})
    each, rest = divmod(len(graphs), profiles)
    told = {} if rest else {graph: place // each for place, graph in enumerate(graphs)}
    for row in rows:  # where the library names the profile itself, that counts
        graph, marked = _GRAPH.search(row["Name"]), _PROFILE.search(row["text"])
        if graph and marked:
            told[int(graph[1])] = int(marked[1])
    return tuple(_kernel(row, told, profiles) for row in rows if row["LayerType"] not in _BETWEEN_STREAMS)


def _kernel(row: Mapping[str, Any], told: Mapping[int, int], profiles: int) -> Kernel:
    name, text = row["Name"], row["text"]
    if found := _GRAPH.search(name):
        profile = told.get(int(found[1]))
    elif found := _PROFILE.search(text):
        profile = int(found[1])
    else:
        profile = 0 if profiles == 1 or "[profile" not in text else None
    operands = [*row.get("Inputs", []), *row.get("Constants", [])]
    return Kernel(
        name=name,
        type=row["LayerType"],
        profile=profile,
        operands=tuple(_type(type_) for elements, type_ in operands if elements > 1),
        results=tuple(_type(type_) for _, type_ in row.get("Outputs", [])),
        nodes=tuple(_NODE.findall(text)),
    )


def _type(word: str) -> str:
    return TYPES.get(word.strip().lower(), word.strip().lower())
