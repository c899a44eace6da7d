"""Attention masks at the graphs' boundary: read from the bundle, turned additive once, never decided here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from runtime.errors import BundleError
from runtime.stage import Array, TensorSpec

BLOCKED = -1e4  # added to a score that may not be read; finite in fp16, and silu(s - 1e4) is 0
NAMES = ("causal_mask", "task_mask", "candidate_mask")
_REBUILD = "Rebuild with `python -m export.build --stage all`."


class Masks:
    """The static masks of one bundle; for a smaller size the leading block is the mask.

    Shapes: causal_mask uint8 [1, 1, S, S], task_mask uint8 [1, 1, T+A, T+A], candidate_mask uint8 [1, 1, 1+C, 1+C],
        1 = may read
    """

    def __init__(self, readable: dict[str, Array]) -> None:
        self._readable = readable
        self._additive: dict[tuple[str, int, np.dtype[Any]], Array] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read masks.safetensors.

        Raises:
            BundleError: If it is not readable or holds anything but the three masks of 0 and 1.
        """
        try:
            readable: dict[str, Array] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{path}: got {error}, expected a safetensors file. {_REBUILD}") from error
        if sorted(readable) != sorted(NAMES):
            raise BundleError(f"{path}: got the masks {sorted(readable)}, expected {sorted(NAMES)}. {_REBUILD}")
        for name, mask in readable.items():
            square = mask.ndim == 4 and mask.shape[:2] == (1, 1) and mask.shape[2] == mask.shape[3]
            if mask.dtype != np.uint8 or not square or mask.max(initial=0) > 1:
                raise BundleError(
                    f"{path}: {name!r} is {mask.dtype} {list(mask.shape)}, expected uint8 [1, 1, n, n] of 0 and 1. "
                    + _REBUILD
                )
            if (empty := np.flatnonzero(mask[0, 0].max(axis=1) == 0)).size:
                raise BundleError(f"{path}: row {empty[0]} of {name!r} may read nothing, expected a cell. {_REBUILD}")
        return cls(readable)

    def check(self, spec: TensorSpec, limits: dict[str, int]) -> None:
        """Compare a mask with the largest size at which a stage will ask for it.

        Raises:
            BundleError: If the mask is smaller.
        """
        wanted, found = spec.sized(limits)[-1], self._readable[spec.name].shape[-1]
        if found < wanted:
            raise BundleError(f"masks: {spec.name!r} has {found} rows, expected {wanted} for the profile. {_REBUILD}")

    def additive(self, name: str, size: int, dtype: np.dtype[Any]) -> Array:
        """The leading block of a mask as 0 (may read) or -1e4, made at the first call and kept.

        Shapes: -> dtype [1, 1, size, size]
        """
        key = (name, size, dtype)
        if key not in self._additive:
            block = self._readable[name][:, :, :size, :size]
            self._additive[key] = np.where(block == 1, 0.0, BLOCKED).astype(dtype)
        return self._additive[key]


def fill_history_mask(lengths: Sequence[int], mask: Array) -> None:
    """Write 0 over the first `lengths[b]` keys of each request and -1e4 over its padding.

    Shapes: lengths [B], mask x [B, 1, 1, S]
    """
    keys = np.arange(mask.shape[-1])
    np.copyto(mask[:, 0, 0], np.where(keys < np.asarray(lengths)[:, None], 0.0, BLOCKED), casting="same_kind")
