"""What the runtime asks of a device: memory, one stream, copies on it, captured graphs; no library is named here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class DeviceTensor:
    """A dense tensor at an address of a device; it owns nothing."""

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Graph(Protocol):
    """A captured sequence of launches."""

    def launch(self) -> None:
        """Enqueue all of it on the device's stream."""

    def close(self) -> None: ...


class Device(Protocol):
    """One device and the one stream that everything is enqueued on; every failure is a DeviceError that names it."""

    name: str  # such as "cuda:0 (NVIDIA H200)"
    ordinal: int
    compute_capability: str  # such as "9.0"
    stream: int  # the stream's raw handle

    def activate(self) -> None:
        """Make this device the calling thread's: before anything else, in every thread that uses it."""

    def allocate(self, size: int) -> int:
        """Zeroed memory of `size` bytes, its address a multiple of 256."""

    def free(self, address: int) -> None: ...

    def pinned(self, size: int) -> Array:
        """Page-locked host memory, uint8 [size], freed by `unpin` or `close`."""

    def unpin(self, memory: Array) -> None: ...

    def to_device(self, address: int, host: Array) -> None:
        """Enqueue a copy of a contiguous array; asynchronous if the array is pinned."""

    def to_host(self, host: Array, address: int) -> None:
        """Enqueue a copy into a contiguous array; complete after `synchronize`."""

    def copy(self, to: int, source: int, size: int) -> None:
        """Enqueue a copy within the device."""

    def capture(self, launch: Callable[[], None]) -> Graph:
        """Record what `launch` enqueues on the stream instead of running it; a failure leaves the stream usable."""

    def synchronize(self) -> None:
        """Wait for everything that was enqueued."""

    def close(self) -> None: ...


@dataclass(slots=True)
class GraphCounts:
    """What became of every run of a stage on a device, by "stage profile letters" key."""

    plain: Counter[str] = field(default_factory=Counter)  # launched kernel by kernel: warm-up, or graphs are off
    captured: Counter[str] = field(default_factory=Counter)
    replayed: Counter[str] = field(default_factory=Counter)
    evicted: Counter[str] = field(default_factory=Counter)  # by stage: sizes dropped to make room for others

    def add(self, other: GraphCounts) -> None:
        """Count what `other` has counted."""
        for row in fields(self):
            getattr(self, row.name).update(getattr(other, row.name))
