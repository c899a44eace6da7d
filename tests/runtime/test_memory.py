"""Memory of the host and of a device answer alike; a mirror is filled again only after its copy is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice

from runtime.errors import DeviceError
from runtime.memory import ALIGNMENT, LARGEST_MIRROR, DeviceMemory, HostMemory, Memory, Scratch, address, view

INT = np.dtype(np.int32)


@pytest.fixture(params=["host", "device"])
def memory(request: pytest.FixtureRequest) -> Any:
    if request.param == "host":
        yield HostMemory()
        return
    device = FakeDevice()
    made = DeviceMemory(device)
    yield made
    made.close()
    assert device.left == []


def tensor(memory: Memory, count: int, what: str = "a tensor") -> Any:
    return view(memory.allocate(4 * count, what), 0, INT, (count,))


def write(memory: Memory, place: Any, *values: int) -> None:
    memory.staging(place)[:] = values
    memory.send(place)


def test_what_is_staged_and_sent_is_fetched(memory: Memory) -> None:
    place = tensor(memory, 3)
    assert address(place) % ALIGNMENT == 0
    assert [array.tolist() for array in memory.fetch([place])] == [[0, 0, 0]]
    write(memory, place, 1, 2, 3)
    (first,) = memory.fetch([place])
    write(memory, place, 4, 5, 6)
    (second,) = memory.fetch([place])
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [4, 5, 6])


def test_a_resident_array_and_a_put_hold_the_values(memory: Memory) -> None:
    place = memory.resident(np.arange(4, dtype=np.int32), "a table")
    source = np.array([9, 8, 7, 6], np.int32)
    memory.put(other := tensor(memory, 4), source)
    source[:] = 0
    assert [array.tolist() for array in memory.fetch([place, other])] == [[0, 1, 2, 3], [9, 8, 7, 6]]
    memory.copy(other, place)
    assert memory.fetch([other])[0].tolist() == [0, 1, 2, 3]


def test_a_view_of_a_part_is_the_part(memory: Memory) -> None:
    block = memory.allocate(1024, "rows")
    row = view(block, 512, INT, (2, 2))
    memory.staging(row)[:] = [[1, 2], [3, 4]]
    memory.send(row)
    whole = memory.fetch([view(block, 0, INT, (256,))])[0]
    assert whole[128:132].tolist() == [1, 2, 3, 4]
    assert np.count_nonzero(whole) == 4
    with pytest.raises(AssertionError):
        view(block, 1000, INT, (7,))


def test_host_memory_copies_nothing_on_the_way_in() -> None:
    memory, place = HostMemory(), tensor(HostMemory(), 3)
    assert memory.staging(place) is place
    table = np.arange(3)
    assert memory.resident(table, "a table") is table


def test_values_on_their_way_are_not_overwritten_by_the_next() -> None:
    memory = DeviceMemory(FakeDevice())
    place, kept = tensor(memory, 2), tensor(memory, 2)
    write(memory, place, 1, 2)
    memory.copy(kept, place)  # what a stage would do
    write(memory, place, 3, 4)
    assert [array.tolist() for array in memory.fetch([kept, place])] == [[1, 2], [3, 4]]


def test_a_larger_mirror_replaces_one_whose_values_are_on_their_way() -> None:
    device = FakeDevice()
    memory = DeviceMemory(device)
    block = memory.allocate(64, "a block")
    small, large = view(block, 0, INT, (2,)), view(block, 0, INT, (4,))
    write(memory, small, 1, 2)
    assert memory.staging(large).shape == (4,)
    assert [row.size for row in device.page_locked.values()] == [16]
    assert memory.fetch([small])[0].tolist() == [1, 2]


def test_freed_memory_is_waited_for_and_takes_its_mirrors_along() -> None:
    device = FakeDevice()
    memory = DeviceMemory(device)
    block, other = memory.allocate(64, "a block"), tensor(memory, 1)
    for start in (0, 32):
        write(memory, view(block, start, INT, (2,)), 1, 2)
    write(memory, other, 1)
    memory.free(block)
    assert [row.size for row in device.live] == [4]
    assert len(device.page_locked) == 1


def test_only_small_tensors_have_mirrors_for_reading() -> None:
    device = FakeDevice()
    memory = DeviceMemory(device)
    count = LARGEST_MIRROR // 4
    fits, large = tensor(memory, count), tensor(memory, count + 1)
    waits = device.waits
    assert [array.shape for array in memory.fetch([fits, large])] == [(count,), (count + 1,)]
    assert device.waits == waits + 1
    assert [row.size for row in device.page_locked.values()] == [LARGEST_MIRROR]


def test_a_full_device_says_what_the_memory_was_for() -> None:
    memory = DeviceMemory(FakeDevice(limit=10))
    with pytest.raises(DeviceError, match=r"the arena: cuda:0 \(fake\): no 11 bytes, 10 of 10 are free"):
        memory.allocate(11, "the arena")


def test_scratch_is_one_block_of_the_largest_size() -> None:
    device = FakeDevice()
    scratch = Scratch(device)
    assert scratch.address == 0
    for size in (5, 70, 30):
        scratch.reserve(size)
    assert device.live == []
    assert scratch.address == scratch.address
    assert [row.size for row in device.live] == [70]
    with pytest.raises(AssertionError):
        scratch.reserve(71)
    scratch.close()
    scratch.close()
    assert device.live == []
