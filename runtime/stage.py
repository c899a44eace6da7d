"""What a loaded stage is: its tensors, the check of a feed against them, and the protocol that every engine follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runtime.device import Array as Array  # numpy's, the other tensor beside DeviceTensor
from runtime.device import DeviceTensor, GraphCounts
from runtime.errors import BundleError, FeedError

Tensor = Array | DeviceTensor  # where a value lies: on the host, or at an address of a device
Tensors = Mapping[str, Tensor]
Feed = Mapping[str, Array]
Dim = int | str  # a number, a letter of the alphabet, or a sum of both such as "N+1"

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name) for name in ("float16", "float32", "int32", "int64", "int8", "uint8")
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Declares one tensor of a stage; `dtype` is numpy's name, `shape` holds numbers and letters."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BundleError(
                f"tensor {self.name!r}: dtype {self.dtype!r} is unknown, expected one of {', '.join(DTYPES)}. "
                "Rebuild the bundle with `python -m export.build --stage all`."
            )
        for dim in self.shape:
            parse_dim(dim, self.name)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    @property
    def letters(self) -> list[str]:
        """The letters in the shape."""
        return [letter for dim in self.shape for letter in parse_dim(dim, self.name)[0]]

    def sized(self, letters: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers, every letter taken from `letters`."""
        return tuple(_dim_value(dim, letters, self.name) for dim in self.shape)


def parse_dim(dim: Dim, tensor: str = "?") -> tuple[tuple[str, ...], int]:
    """Split `dim` into its sorted letters and its constant: "N+1" -> (("N",), 1)."""
    if isinstance(dim, int):
        return (), dim
    letters, constant = [], 0
    for part in dim.replace(" ", "").split("+"):
        if part.isdecimal():
            constant += int(part)
        elif part.isidentifier():
            letters.append(part)
        else:
            raise BundleError(
                f"tensor {tensor!r}: dim {dim!r} is neither a number, a letter nor a sum such as 'N+1'. "
                "Rebuild the bundle with `python -m export.build --stage all`."
            )
    return tuple(sorted(letters)), constant


def _dim_value(dim: Dim, letters: Mapping[str, int], tensor: str) -> int:
    names, value = parse_dim(dim, tensor)
    for name in names:
        if name not in letters:
            raise FeedError(
                f"tensor {tensor!r}: dim {dim!r} needs the letter {name}, bound so far: {_listed(letters)}. "
                "The stage that makes this tensor must be run first."
            )
        value += letters[name]
    return value


def _listed(letters: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in letters.items()) or "nothing"


def check_feed(stage: str, specs: Sequence[TensorSpec], feed: Tensors, kind: str = "input") -> dict[str, int]:
    """Compare the names, dtypes, ranks and dims of `feed` with `specs`; letters bind at their first use.

    Returns:
        The letters with the sizes that they were bound to.

    Raises:
        FeedError: At the first tensor that does not fit.
    """
    names = [spec.name for spec in specs]
    if wrong := [name for name in feed if name not in names]:
        raise FeedError(f"{stage}: {kind} {wrong[0]!r} is unknown, expected {', '.join(names)}. Leave it out.")
    if missing := [name for name in names if name not in feed]:
        raise FeedError(f"{stage}: {kind} {missing[0]!r} is missing, got {', '.join(feed) or 'nothing'}. Add it.")
    bound: dict[str, int] = {}
    for spec in specs:
        array = feed[spec.name]
        before = dict(bound)
        if (
            array.dtype != spec.numpy_dtype
            or array.ndim != len(spec.shape)
            or not all(_bind_dim(dim, size, bound) for dim, size in zip(spec.shape, array.shape, strict=True))
        ):
            raise FeedError(
                f"{stage}: {kind} {spec.name!r} is {array.dtype} {list(array.shape)}, "
                f"expected {spec.dtype} {list(spec.shape)} (bound so far: {_listed(before)})"
            )
        if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
            raise FeedError(f"{stage}: {kind} {spec.name!r} is strided, expected one block; use np.ascontiguousarray")
    return bound


def check_binding(
    stage: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], reads: Tensors, writes: Tensors
) -> dict[str, int]:
    """Check both sides of a binding, and that they agree on every letter.

    Returns:
        The letters with the sizes that they were bound to.

    Raises:
        FeedError: At the first tensor that does not fit.
    """
    bound = check_feed(stage, inputs, reads)
    for name, size in check_feed(stage, outputs, writes, "output").items():
        if bound.setdefault(name, size) != size:
            raise FeedError(f"{stage}: outputs have {name}={size}, inputs {name}={bound[name]}. Bind one size.")
    return bound


def _bind_dim(dim: Dim, size: int, bound: dict[str, int]) -> bool:
    """Whether `size` fits `dim`; the one letter that is still free, if there is one, is bound to what is left over."""
    names, constant = parse_dim(dim)
    free = [name for name in names if name not in bound]
    known = constant + sum(bound[name] for name in names if name in bound)
    if not free:
        return size == known
    if len(free) > 1 or size < known:
        return False
    bound[free[0]] = size - known
    return True


class Binding(Protocol):
    """One stage tied to fixed memory and shapes, ready to run again and again."""

    inputs: Tensors  # the memory that the engine reads, by tensor name
    outputs: Tensors  # the memory that the engine writes; not the caller's where an engine brings its own

    def run(self) -> None:
        """Read every input, write every output; on a device, enqueue that on its stream."""

    def close(self) -> None:
        """Give back what was made for these shapes; the memory is the caller's."""


class Stage(Protocol):
    """One exported graph, loaded. Not thread-safe: one Stage, one thread."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph_counts: GraphCounts  # of a stage on a device; nothing is counted on the host

    def bind(self, inputs: Tensors, outputs: Tensors) -> Binding:
        """Tie the stage to the caller's memory, with nothing copied.

        Raises:
            FeedError: If a tensor is missing, unknown, or of another dtype or shape.
        """

    def run(self, feed: Feed) -> dict[str, Array]:
        """Answer with fresh arrays that no later call will overwrite."""

    def close(self) -> None: ...
