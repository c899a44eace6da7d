"""A device that is host memory: enqueued work happens when it is waited for, and misuse is an AssertionError."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable

import numpy as np

from runtime.device import DeviceTensor
from runtime.errors import DeviceError
from runtime.memory import address

GUARD = 256  # bytes before and behind every block, which nobody may touch
UNTOUCHED, FREED = 0xA5, 0xDD
STREAMS: weakref.WeakValueDictionary[int, FakeDevice] = weakref.WeakValueDictionary()
_numbers = itertools.count(1000)


class Block:
    """Zeroed bytes between two guards."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.whole = np.full(size + 3 * GUARD, UNTOUCHED, np.uint8)
        self.start = GUARD + -address(self.whole) % GUARD
        self.data[:] = 0
        self.freed = False

    @property
    def data(self) -> np.ndarray:
        return self.whole[self.start : self.start + self.size]

    @property
    def address(self) -> int:
        return address(self.whole) + self.start

    def check(self) -> None:
        assert (self.whole[: self.start] == UNTOUCHED).all(), "written before the block"
        assert (self.whole[self.start + self.size :] == UNTOUCHED).all(), "written behind the block"
        assert not self.freed or (self.data == FREED).all(), "written after it was freed"

    def free(self) -> None:
        self.check()
        self.freed = True
        self.data[:] = FREED


class FakeGraph:
    """Recorded work, done again at every launch."""

    def __init__(self, device: FakeDevice, work: list[Callable[[], None]]) -> None:
        self.device, self.work = device, work
        self.launches = 0
        device.graphs.append(self)

    def launch(self) -> None:
        assert self in self.device.graphs, "a closed graph was launched"
        self.launches += 1
        for one in self.work:
            self.device.enqueue(one)

    def close(self) -> None:
        self.device.check_use()
        self.device.graphs.remove(self)


class FakeDevice:
    """`runtime.device.Device`. `limit` is its memory; `fail_captures` is how many of the next captures fail.

    An `eager` device does what is enqueued at once, for engines that know nothing of this queue.
    """

    def __init__(
        self, ordinal: int = 0, compute_capability: str = "8.9", limit: int = 1 << 40, eager: bool = False
    ) -> None:
        self.eager = eager
        self.ordinal = ordinal
        self.name = f"cuda:{ordinal} (fake)"
        self.compute_capability = compute_capability
        self.limit = limit
        self.fail_captures = 0
        self.stream = next(_numbers)
        STREAMS[self.stream] = self
        self.blocks: dict[int, Block] = {}  # by address, the freed ones too: nothing is ever handed out twice
        self.page_locked: dict[int, Block] = {}
        self.graphs: list[FakeGraph] = []
        self.waits = 0
        self.closed = False
        self.left: list[str] = []  # what had not been freed when the device was closed
        self._queue: list[Callable[[], None]] = []
        self._recorded: list[Callable[[], None]] | None = None
        self._thread = threading.get_ident()

    def activate(self) -> None:
        assert not self.closed, "activated after it was closed"
        self._thread = threading.get_ident()

    def check_use(self, *, capturing_allowed: bool = False) -> None:
        assert not self.closed, "used after it was closed"
        assert threading.get_ident() == self._thread, "used from a thread that has not made it its own"
        assert capturing_allowed or self._recorded is None, "a capture cannot hold this"

    @property
    def capturing(self) -> bool:
        return self._recorded is not None

    @property
    def live(self) -> list[Block]:
        return [block for block in self.blocks.values() if not block.freed]

    def allocate(self, size: int) -> int:
        self.check_use()
        used = sum(block.size for block in self.live)
        if used + size > self.limit:
            raise DeviceError(f"{self.name}: no {size} bytes, {self.limit - used} of {self.limit} are free.")
        block = Block(size)
        self.blocks[block.address] = block
        return block.address

    def free(self, address: int) -> None:
        self.check_use()
        assert not self._queue, "freed while work is enqueued"
        assert address in self.blocks, "freed what was never allocated"
        assert not self.blocks[address].freed, "freed twice"
        self.blocks[address].free()

    def pinned(self, size: int) -> np.ndarray:
        self.check_use()
        block = Block(size)
        self.page_locked[block.address] = block
        return block.data

    def unpin(self, memory: np.ndarray) -> None:
        self.check_use()
        assert not self._queue, "unpinned while work is enqueued"
        self.page_locked.pop(address(memory)).free()

    def view(self, tensor: DeviceTensor) -> np.ndarray:
        """The tensor's memory, which must lie within one live block."""
        for begin, block in self.blocks.items():
            if begin <= tensor.address and tensor.address + tensor.nbytes <= begin + block.size:
                assert not block.freed, f"{tensor} was used after it was freed"
                start = tensor.address - begin
                return block.data[start : start + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
        raise AssertionError(f"{tensor} is in no block of {self.name}")

    def bytes(self, address: int, size: int) -> np.ndarray:
        return self.view(DeviceTensor(address, np.dtype(np.uint8), (size,)))

    def enqueue(self, work: Callable[[], None]) -> None:
        self.check_use(capturing_allowed=True)
        if self.eager and not self.capturing:
            work()
        else:
            (self._queue if self._recorded is None else self._recorded).append(work)

    def to_device(self, address: int, host: np.ndarray) -> None:
        flat = host.reshape(-1).view(np.uint8)
        assert np.shares_memory(flat, host), "a copy travels, expected the array itself"
        source = flat if self._is_pinned(flat) else flat.copy()
        self.bytes(address, host.nbytes)
        self.enqueue(lambda: np.copyto(self.bytes(address, source.nbytes), source))

    def to_host(self, host: np.ndarray, address: int) -> None:
        flat = host.reshape(-1).view(np.uint8)
        self.bytes(address, host.nbytes)
        self.enqueue(lambda: np.copyto(flat, self.bytes(address, flat.nbytes)))

    def copy(self, to: int, source: int, size: int) -> None:
        self.enqueue(lambda: np.copyto(self.bytes(to, size), self.bytes(source, size)))

    def capture(self, launch: Callable[[], None]) -> FakeGraph:
        self.check_use()
        self._recorded = []
        try:
            launch()
            if self.fail_captures:
                self.fail_captures -= 1
                raise DeviceError(f"{self.name}: no memory for the graph, as the test wanted.")
            return FakeGraph(self, self._recorded)
        finally:
            self._recorded = None

    def synchronize(self) -> None:
        self.check_use()
        self.waits += 1
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def close(self) -> None:
        self.synchronize()
        self.left += [f"{block.size} bytes" for block in self.live]
        self.left += [f"{block.size} page-locked bytes" for block in self.page_locked.values()]
        self.left += ["a graph" for _ in self.graphs]
        for block in self.blocks.values():
            block.check()
        self.closed = True

    def _is_pinned(self, flat: np.ndarray) -> bool:
        return any(
            begin <= address(flat) and address(flat) + flat.nbytes <= begin + block.size
            for begin, block in self.page_locked.items()
        )
