"""Counts what each stage must at least do for one batch, from eager PyTorch's own run of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.backend import Backend
from benchmarks.measure import Laps
from benchmarks.roofline import Needed, masked_operations
from benchmarks.torch_backend import Named, TorchBackend
from runtime.item_header import TABLE_SPECS

FLOAT_BYTES = 4


def needed_work(backend: Backend, position: int) -> dict[str, Needed]:
    """Stage -> its operations and bytes for batch `position`, as benchmarks/roofline.py defines them."""
    assert isinstance(backend, TorchBackend), "only PyTorch says what it multiplies"
    backend.chain(position, Laps())
    made = dict(backend.tensors)
    config = backend.config
    B, S = made["token_kind"].shape
    needed = {}
    for name, (inputs, outputs) in backend.boundary().items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            backend.run_stage(name, made)
        operations = float(counter.get_total_flops())
        if name == "generator":
            operations -= masked_operations(config.generator_layers, B, S, config.width)
        moved = sum(_bytes(made, row) for row in (*inputs, *outputs))
        needed[name] = Needed(operations=operations, bytes=moved + FLOAT_BYTES * backend.weights(name))
    return needed


def _bytes(made: Named, name: str) -> float:
    """Of one tensor, moved once; an item table is read in a few rows only, a static mask need not be read at all."""
    tensor: Tensor = made[name]
    if name in TABLE_SPECS or name.startswith(("item_eligible", "causal_mask")):
        return 0.0
    return float(tensor.numel() * tensor.element_size())
