"""HSTU's attention on a GPU, fused and unfused: parity, time, bytes, operations, beside what this GPU reaches at most.

The ceilings are measured in the same process: a copy in memory and a product of two large fp16 matrices. The cases have
the sizes of the paper's model: 4 heads of 32, positions and times. Not run on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.backend import NotRunError
from benchmarks.gpu import ordinal_of
from benchmarks.gpu_checks import Figures, GpuJob, Rows
from export.parity import ValueParity
from oneranker import masks
from oneranker.config import RelativeBias
from oneranker.errors import DeviceError
from oneranker.fused_attention import fused_silu_attention, require_fused
from oneranker.hstu import TIME_BUCKETS, RelativeAttentionBias, TimeGaps, bucket_starts, silu_attention

HEADS, HEAD = 4, 32
WARM_UP = 3  # calls on a side stream before a capture, as torch.cuda.graph asks for
CALLS = 5  # in one CUDA graph
COPIED = 1 << 30  # bytes of the copy's source
PRODUCT = 8192  # rows and columns of the matrices
PASSES = 8  # over [B, H, S, S] of the unfused form: q·k written; bias, SiLU and scale each read and write; @ v reads
CASE = re.compile(r"b(\d+)-s(\d+)$")

Work = Callable[[], object]
Clock = Callable[[Work], float]  # milliseconds of one call


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """B requests of S tokens in fp16, each row reading what came before it."""

    batch: int
    length: int

    @classmethod
    def of_check(cls, check: str) -> AttentionCase:
        found = CASE.search(check)
        assert found is not None
        return cls(int(found[1]), int(found[2]))

    @property
    def operations(self) -> int:
        """Products and sums of q·k and of weights @ v, for the cells that a causal mask leaves open."""
        return 4 * HEAD * self.batch * HEADS * self.length * (self.length + 1) // 2

    @property
    def fused_bytes(self) -> int:
        """Each tensor once: query, key, value and answer, mask of keys, two times a token, tables."""
        tensors = 4 * self.batch * HEADS * self.length * HEAD + self.batch * self.length
        tables = 2 * self.length - 1 + TIME_BUCKETS
        return 2 * (tensors + tables) + 16 * self.batch * self.length + 4 * (TIME_BUCKETS + 1)

    @property
    def unfused_bytes(self) -> int:
        """The passes over all cells, blocked ones too, and the four tensors; the bias's own making is not counted."""
        return 2 * (PASSES * self.batch * HEADS * self.length**2 + 4 * self.batch * HEADS * self.length * HEAD)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this GPU reaches when it does nothing else."""

    copy_gb_per_s: float  # read and written
    product_tflop_per_s: float  # fp16, on tensor cores
    cache_bytes: int  # of the L2, in which what a call has read stays for the next one


class Attention:
    """Seeded tensors of one case, the last request with pads, and both forms over them; time buckets are made once."""

    def __init__(self, case: AttentionCase, device: torch.device) -> None:
        B, S = case.batch, case.length
        generator = torch.Generator().manual_seed(S)
        packed = torch.randn(B, S, 3, HEADS, HEAD, generator=generator).half().to(device)
        self.products = [packed[:, :, i].transpose(1, 2) for i in range(3)]  # strides as the model's
        time = (10**9 + torch.randint(0, 10**7, (B, S), generator=generator).sort(dim=1).values).to(device)
        self.gaps = TimeGaps(time.roll(-1, dims=1), time, bucket_starts().to(device))
        lengths = torch.full((B,), S, device=device)
        lengths[-1] -= S // 10
        self.key_mask = masks.additive(masks.history(lengths, S), torch.float16)
        self.mask = masks.additive(masks.causal(S).to(device), torch.float16)
        table = RelativeAttentionBias(S, RelativeBias.POSITION_TIME)
        for parameter in table.parameters():
            parameter.data.normal_(std=0.02, generator=generator)  # as a model begins, but seeded
        self.bias = table.half().to(device)
        self.wide = RelativeAttentionBias(S, RelativeBias.POSITION_TIME).to(device)  # the same numbers in fp32
        self.wide.load_state_dict(self.bias.state_dict())
        for table in (self.bias, self.wide):
            table.requires_grad_(False)
        self.scale = 1 / S

    def unfused(self, dtype: torch.dtype = torch.float16) -> Tensor:
        S = self.mask.shape[-1]
        bias = (self.bias if dtype is torch.float16 else self.wide)(S, S, self.gaps.buckets)
        mask = self.mask.to(dtype) + bias + self.key_mask.to(dtype)
        query, key, value = (each.to(dtype) for each in self.products)
        return silu_attention(query, key, value, mask, self.scale)

    def fused(self) -> Tensor:
        return fused_silu_attention(
            *self.products,
            scale=self.scale,
            key_mask=self.key_mask,
            position_bias=self.bias.position,
            time_bias=self.bias.time,
            gaps=self.gaps,
        )


def attention(job: GpuJob, rows: Rows) -> None:
    """One check a case: parity by the rule of export/parity.py, then times against the ceilings."""
    device = device_of(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    clock = cuda_clock(job.iterations)
    ceilings = cache(lambda: ceilings_of(device, clock))
    for check in job.checks:
        with rows.check(check) as figures, torch.inference_mode():
            _require()
            case = AttentionCase.of_check(check)
            tensors = Attention(case, device)
            compare(tensors.fused(), tensors, figures)
            times = {form: clock(work) for form, work in (("fused", tensors.fused), ("unfused", tensors.unfused))}
            figures |= shares(case, times, ceilings())
            figures |= {f"{form}_peak_mib": peak_mib(getattr(tensors, form)) for form in times}


def device_of(word: str) -> torch.device:
    """The device that a job names, with its number: torch.cuda.set_device takes no `cuda` alone."""
    return torch.device("cpu") if word == "cpu" else torch.device("cuda", ordinal_of(word))


def _require() -> None:
    try:
        require_fused()
    except DeviceError as error:
        raise NotRunError(str(error)) from error


def compare(found: Tensor, tensors: Attention, figures: Figures) -> None:
    """Twice the rounding of the eager form in fp16, both against the eager form in fp32.

    Raises:
        RuntimeError: It is further off.
    """
    report = ValueParity()
    three = (found, tensors.unfused(), tensors.unfused(torch.float32))
    report.add(*(each.float().cpu().numpy() for each in three))
    figures |= report.to_json()
    if not report.passed:
        raise RuntimeError(
            f"the fused form is off by {report.max_abs_error:.3g}, expected at most {report.allowed:.3g}; see "
            "oneranker/silu_attention_kernel.py"
        )


def shares(case: AttentionCase, times_ms: dict[str, float], ceilings: Ceilings) -> Figures:
    """Rates of both forms, and which part of each ceiling they reach.

    What fits into half of the L2 has no share of the copy: the calls follow each other on the same tensors, so that
    memory is not what they read from.
    """
    found: Figures = {"speed_up": times_ms["unfused"] / times_ms["fused"], **asdict(ceilings)}
    for form, moved in (("fused", case.fused_bytes), ("unfused", case.unfused_bytes)):
        seconds = times_ms[form] / 1e3
        bandwidth, rate = moved / seconds / 1e9, case.operations / seconds / 1e12
        found |= {
            f"{form}_ms": times_ms[form],
            f"{form}_bytes": moved,
            f"{form}_gb_per_s": bandwidth,
            f"{form}_share_of_copy": bandwidth / ceilings.copy_gb_per_s if moved >= 2 * ceilings.cache_bytes else None,
            f"{form}_tflop_per_s": rate,
            f"{form}_share_of_product": rate / ceilings.product_tflop_per_s,
        }
    return found | {"operations": case.operations}


def ceilings_of(device: torch.device, clock: Clock) -> Ceilings:
    """A copy of 1 GiB and a product of two 8192 x 8192 matrices."""
    halves = torch.empty(2, COPIED, dtype=torch.uint8, device=device)
    copied = 2 * COPIED / clock(lambda: halves[0].copy_(halves[1])) / 1e6
    left, right = torch.randn(2, PRODUCT, PRODUCT, device=device).half()
    product = 2 * PRODUCT**3 / clock(lambda: left @ right) / 1e9
    return Ceilings(copied, product, torch.cuda.get_device_properties(device).L2_cache_size)


def cuda_clock(iterations: int) -> Clock:
    """The median over replays of a CUDA graph of some calls, by the device's own events: launches cost it nothing."""

    def milliseconds(work: Work) -> float:
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                work()
        graph.replay()
        pairs: list[tuple[Any, Any]] = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            for _ in range(iterations)
        ]
        for begin, end in pairs:
            begin.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return float(np.median([begin.elapsed_time(end) for begin, end in pairs])) / CALLS

    return milliseconds


def peak_mib(work: Work) -> float:
    """What one call holds at most beyond what there is already."""
    torch.cuda.synchronize()
    before: Any = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before) / 2**20
