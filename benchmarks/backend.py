"""What a benchmark asks of a backend: one batch from tokens to scores in four laps, and the tensors it made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Laps
from benchmarks.workload import Workload

Array = npt.NDArray[Any]
Work = Callable[[int, Laps], None]  # position of a batch, laps


class NotRunError(Exception):
    """This backend cannot run on this machine; the text is the reason."""


class Backend(Protocol):
    """One engine with the weights and the item index in it. Not thread-safe."""

    staged: bool  # whether it runs stage by stage; if not, its rows are those of the chain alone
    precision: str  # of its weights

    def prepare(self, workload: Workload) -> Mapping[str, float]:
        """Make every shape of the workload ready; returns the seconds of what a user would call compiling, by stage.

        Raises:
            NotRunError: This machine lacks something that the backend needs.
        """

    def chain(self, position: int, laps: Laps) -> None:
        """Tokens of batch `position` -> candidates and scores on the host.

        One lap for each stage, padding and history mask in the first; on a GPU the caller decides whether a lap waits.
        """

    def extras(self) -> Mapping[str, Work]:
        """What only this backend does: row name -> work with one lap of that name."""

    def outputs(self) -> Mapping[str, Array]:
        """Every tensor that the stages made of the last batch, by name."""


def as_float(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Floats as float32, integers as they are: what is compared and written to disk."""
    return {
        name: np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else array.dtype)
        for name, array in arrays.items()
    }
