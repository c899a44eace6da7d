"""A baseline: each stage as a package of AOTInductor, PyTorch's own ahead-of-time compiler."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

Shapes = tuple[tuple[int, ...], ...]


class AotiStage:
    """One stage, compiled for each set of input shapes at its first call and run from the package alone after that.

    Packages stay in `folder`, where a later round of the same case finds them.
    """

    def __init__(self, module: nn.Module, folder: Path, stage: str) -> None:
        self._module = module
        self._folder, self._stage = folder, stage
        self._packages: dict[Shapes, Callable[..., Any]] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        key = tuple(tuple(tensor.shape) for tensor in inputs)
        package = self._packages.get(key)
        if package is None:
            name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
            path = self._folder / f"{self._stage}-{name}.pt2"
            package = self._packages[key] = _package(self._module, inputs, path)
        answer: tuple[Tensor, ...] = package(*inputs)
        return answer


def _package(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Callable[..., Any]:
    """Export with static shapes, compile, write, unless that is done; then load."""
    import torch._inductor as inductor

    if not path.exists():
        with _plain_attention(), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.export(module, inputs)
            inductor.aoti_compile_and_package(program, package_path=str(path))
    package: Callable[..., Any] = inductor.aoti_load_package(str(path))
    return package


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let HSTU's block write PyTorch's own operators, not the node that it is in our graphs."""
    with mock.patch("torch.compiler.is_exporting", return_value=False):
        yield
