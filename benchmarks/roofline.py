"""How near a stage is to what the machine allows: the work it must do at least over the ceilings of the same run.

Operations: those of the products that eager PyTorch does, as torch.utils.flop_counter counts them, less the half of
HSTU's attention that the causal mask makes zero; what is done element by element (SiLU, norms, softmax) is not counted.
Bytes: weights, inputs and outputs of the stage, each moved once; of embedding and item tables nothing, since a request
reads few of their rows. The longer of the two times is the floor (Williams et al., 2009). It is a yardstick, not a
bound: the rates are those of one large product and of one copy through memory, and what stays in a cache moves faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.ceilings import Ceilings
from benchmarks.row import CHAIN, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What one stage must at least do for one batch."""

    operations: float  # multiplications and additions of its products
    bytes: float  # moved once, in fp32

    def floor_ms(self, ceilings: Ceilings, precision: str) -> float:
        """The longer of its times at the two rates, in milliseconds."""
        width = 1.0 if precision == "fp32" else 0.5
        computing = self.operations / (ceilings.gemm_gflops(precision) * 1e9)
        moving = self.bytes * width / (ceilings.copy_gb_s * 1e9)
        return max(computing, moving) * 1e3


def masked_operations(layers: int, batch: int, history: int, width: int) -> float:
    """Operations of HSTU's attention above the diagonal: of 4·B·S²·D a layer, 2·B·S·(S-1)·D are for zeros."""
    return 2.0 * layers * batch * history * (history - 1) * width


def with_roofline(row: Row, needed: Mapping[str, Needed], ceilings: Ceilings) -> Row:
    """The row with its two shares, where its stage's work is known and it was timed."""
    if row.p50_ms is None or row.stage not in (*needed, CHAIN) or not needed:
        return row
    stages = list(needed.values()) if row.stage == CHAIN else [needed[row.stage]]
    floor = sum(stage.floor_ms(ceilings, row.precision) for stage in stages)
    operations = sum(stage.operations for stage in stages)
    share = operations / (row.p50_ms / 1e3) / (ceilings.gemm_bf16_gflops * 1e9)
    return replace(row, roofline=floor / row.p50_ms, bf16_gemm_share=share)
