"""Where the tensors of a pipeline live: in host memory, or on a device with page-locked mirrors of what travels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from runtime.device import Array, Device, DeviceTensor
from runtime.errors import DeviceError
from runtime.stage import Tensor

ALIGNMENT = 256  # bytes: what TensorRT asks of an address, and a multiple of every cache line and vector register
LARGEST_MIRROR = 1 << 20  # bytes; larger reads are for looking into a pipeline, not for serving


class Memory(Protocol):
    """All memory of one pipeline. A tensor is filled in `staging` and then sent; it is read with `fetch`.

    In host memory both are the tensor itself and nothing is copied on the way in.
    """

    device: Device | None

    def activate(self) -> None:
        """Make the device the calling thread's."""

    def settle(self) -> None:
        """Make what the engines have reserved, once all of them are loaded."""

    def allocate(self, size: int, what: str) -> Tensor:
        """Zeroed bytes whose address is a multiple of ALIGNMENT; `what` they are for stands in an error.

        Shapes: -> uint8 [size]
        """

    def resident(self, array: Array, what: str) -> Tensor:
        """A tensor with the array's values: the array itself in host memory."""

    def put(self, tensor: Tensor, array: Array) -> None:
        """Copy an array's values into a tensor; the array may be changed afterwards."""

    def staging(self, tensor: Tensor) -> Array:
        """The host array in which the next values of `tensor` are written; `send` follows."""

    def send(self, tensor: Tensor) -> None:
        """Move what lies in the tensor's staging array to where the engine reads it."""

    def fetch(self, tensors: Sequence[Tensor]) -> list[Array]:
        """Fresh host copies, after everything that was enqueued: where a call waits for the device."""

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy between two tensors of the same size."""

    def wait(self) -> None:
        """Wait for everything that was enqueued."""

    def free(self, tensor: Tensor) -> None:
        """Give back what `allocate` or `resident` gave, once nothing reads it any more."""

    def close(self) -> None:
        """Give back everything, the device too."""


class HostMemory:
    """Arrays of this process. An engine on the CPU reads and writes them in place."""

    device: Device | None = None

    def activate(self) -> None: ...

    def settle(self) -> None: ...

    def allocate(self, size: int, what: str) -> Tensor:
        return aligned_bytes(size)

    def resident(self, array: Array, what: str) -> Tensor:
        return np.require(array, requirements=["C", "A"])

    def put(self, tensor: Tensor, array: Array) -> None:
        np.copyto(_array(tensor), array)

    def staging(self, tensor: Tensor) -> Array:
        return _array(tensor)

    def send(self, tensor: Tensor) -> None: ...

    def fetch(self, tensors: Sequence[Tensor]) -> list[Array]:
        return [_array(tensor).copy() for tensor in tensors]

    def copy(self, to: Tensor, source: Tensor) -> None:
        np.copyto(_array(to), _array(source))

    def wait(self) -> None: ...

    def free(self, tensor: Tensor) -> None: ...

    def close(self) -> None: ...


class DeviceMemory:
    """Memory of one device, all of it used on the device's one stream.

    A tensor that travels has a page-locked mirror on the host. A mirror may be filled again only after the copy out of
    it is done: whoever comes too early waits for the device, which a call that ends with `fetch` never does.
    """

    def __init__(self, device: Device) -> None:
        self.device: Device | None = device
        self.scratch = Scratch(device)
        self._device = device
        self._size: dict[int, int] = {}  # what was allocated, by address
        self._mirror: dict[int, Array] = {}  # page-locked, by the address that it mirrors
        self._travelling: set[int] = set()  # addresses that were sent since the device was last waited for

    def activate(self) -> None:
        self._device.activate()

    def settle(self) -> None:
        self.scratch.make()

    def allocate(self, size: int, what: str) -> Tensor:
        try:
            begin = self._device.allocate(max(size, 1))
        except DeviceError as error:
            raise DeviceError(f"{what}: {error}") from error
        self._size[begin] = size
        return DeviceTensor(begin, np.dtype(np.uint8), (size,))

    def resident(self, array: Array, what: str) -> Tensor:
        tensor = view(self.allocate(array.nbytes, what), 0, array.dtype, array.shape)
        self.put(tensor, array)
        return tensor

    def put(self, tensor: Tensor, array: Array) -> None:
        assert (tensor.dtype, tensor.shape) == (array.dtype, array.shape), f"{tensor} is no {array.dtype} {array.shape}"
        self._device.to_device(_there(tensor).address, np.ascontiguousarray(array))
        self.wait()  # some machines copy from pageable memory while the host goes on

    def staging(self, tensor: Tensor) -> Array:
        if _there(tensor).address in self._travelling:
            self.wait()
        return self._mirror_of(_there(tensor))

    def send(self, tensor: Tensor) -> None:
        there = _there(tensor)
        self._travelling.add(there.address)
        self._device.to_device(there.address, self._mirror_of(there))

    def fetch(self, tensors: Sequence[Tensor]) -> list[Array]:
        landed = []
        for tensor in map(_there, tensors):
            large = tensor.nbytes > LARGEST_MIRROR
            landed.append(np.empty(tensor.shape, tensor.dtype) if large else self._mirror_of(tensor))
            self._device.to_host(landed[-1], tensor.address)
        self.wait()
        return [array if array.nbytes > LARGEST_MIRROR else array.copy() for array in landed]

    def copy(self, to: Tensor, source: Tensor) -> None:
        self._device.copy(_there(to).address, _there(source).address, to.nbytes)

    def free(self, tensor: Tensor) -> None:
        begin = _there(tensor).address
        end = begin + self._size.pop(begin)
        self.wait()
        for place in [place for place in self._mirror if begin <= place < end]:
            self._device.unpin(self._mirror.pop(place))
        self._device.free(begin)

    def release(self) -> None:
        """Give back everything but the device, whatever fails on the way."""
        with ExitStack() as last:  # runs from the end
            for begin in self._size:
                last.callback(self._device.free, begin)
            for mirror in self._mirror.values():
                last.callback(self._device.unpin, mirror)
            last.callback(self.scratch.close)
            last.callback(self.wait)
            self._size, self._mirror = {}, {}

    def close(self) -> None:
        try:
            self.release()
        finally:
            self._device.close()

    def wait(self) -> None:
        self._device.synchronize()
        self._travelling.clear()

    def _mirror_of(self, tensor: DeviceTensor) -> Array:
        known = self._mirror.get(tensor.address)
        if known is None or known.nbytes < tensor.nbytes:
            if known is not None:
                self.wait()
                self._device.unpin(self._mirror.pop(tensor.address))
            known = self._mirror[tensor.address] = self._device.pinned(tensor.nbytes)
        return known[: tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)


class Scratch:
    """One block of a device that all engines of a pipeline compute in, since they run one after another.

    Every engine reserves what it may need when it is loaded; the block is made after the last of them.
    """

    def __init__(self, device: Device) -> None:
        self.size = 0
        self._device = device
        self._address: int | None = None

    def reserve(self, size: int) -> None:
        assert self._address is None or size <= self.size, "an engine was loaded after the block had been made"
        self.size = max(self.size, size)

    def make(self) -> None:
        """Allocate what was reserved, if anything was and it is not there yet.

        Raises:
            DeviceError: If the device has no room.
        """
        if self.size and self._address is None:
            try:
                self._address = self._device.allocate(self.size)
            except DeviceError as error:
                raise DeviceError(f"scratch memory of the engines: {error}") from error

    @property
    def address(self) -> int:
        """Where the block lies; 0 if nobody reserved any."""
        self.make()
        return self._address or 0

    def close(self) -> None:
        if self._address is not None:
            begin, self._address = self._address, None
            self._device.free(begin)


def view(block: Tensor, start: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tensor:
    """The part of a block of bytes that begins at `start`, as a tensor; in place.

    Shapes: block uint8 [size] -> dtype [*shape]
    """
    size = math.prod(shape) * dtype.itemsize
    assert start + size <= block.nbytes, f"{list(shape)} from byte {start} on is over the block of {block.nbytes} bytes"
    if isinstance(block, DeviceTensor):
        return DeviceTensor(block.address + start, dtype, shape)
    return block[start : start + size].view(dtype).reshape(shape)


def address(tensor: Tensor) -> int:
    """Where the first element of a tensor lies."""
    if isinstance(tensor, DeviceTensor):
        return tensor.address
    pointer: int = tensor.__array_interface__["data"][0]
    return pointer


def aligned_bytes(size: int) -> Array:
    """Zeroed memory whose address is a multiple of ALIGNMENT; untouched pages of it take no physical memory.

    Shapes: -> uint8 [size]
    """
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -address(memory) % ALIGNMENT
    return memory[start : start + size]


def _array(tensor: Tensor) -> Array:
    assert isinstance(tensor, np.ndarray), f"{tensor} is not in host memory"
    return tensor


def _there(tensor: Tensor) -> DeviceTensor:
    assert isinstance(tensor, DeviceTensor), "the tensor is not on the device"
    return tensor
