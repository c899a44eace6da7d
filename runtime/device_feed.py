"""Host arrays into a stage on a device and back, over buffers that live for one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from runtime.device import Device, DeviceTensor
from runtime.stage import Array, Binding, Feed, TensorSpec, check_feed

Bind = Callable[[Mapping[str, DeviceTensor], Mapping[str, DeviceTensor]], Binding]


def run_on_device(
    stage: str, device: Device, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], bind: Bind, feed: Feed
) -> dict[str, Array]:
    """Copy `feed` to the device, run once and answer with fresh host arrays: for checks, not for serving.

    Raises:
        FeedError: If a tensor is missing, unknown, or of another dtype or shape.
        DeviceError: If the device has no memory left, or the run stops.
    """
    host = {name: np.ascontiguousarray(array) for name, array in feed.items()}
    letters = check_feed(stage, inputs, host)
    answers: dict[str, Array] = {spec.name: np.empty(spec.sized(letters), spec.numpy_dtype) for spec in outputs}
    with ExitStack() as last:  # runs from the end

        def place(array: Array) -> DeviceTensor:
            address = device.allocate(max(array.nbytes, 1))
            last.callback(device.free, address)
            return DeviceTensor(address, array.dtype, array.shape)

        reads = {name: place(array) for name, array in host.items()}
        writes = {name: place(array) for name, array in answers.items()}
        binding = bind(reads, writes)
        last.callback(binding.close)
        last.callback(device.synchronize)
        for name, array in host.items():
            device.to_device(reads[name].address, array)
        binding.run()
        for name, array in answers.items():
            device.to_host(array, writes[name].address)
    return answers
