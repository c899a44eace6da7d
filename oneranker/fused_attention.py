"""HSTU's SiLU attention on a GPU: checks, tile sizes and the launch of oneranker.silu_attention_kernel.

Nothing of size Q x S is made, unless a mask of that size is given. triton is imported where the kernel is asked for,
never before. Not run on a GPU: docs/decisions/0007-fused-attention-on-the-gpu.md says what was.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneranker.errors import DeviceError
from oneranker.hstu import TIME_BUCKETS, TimeGaps

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD = 256  # E; the config allows no more
TIME_TYPES = (torch.int64, torch.int64, torch.int32)  # query_time, key_time, starts
OLDEST = (8, 0)  # compute capability: tensor cores and copies to shared memory as the kernel wants them


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a call is cut: a program answers `rows` query rows of one head and walks over the keys `keys` at a time."""

    rows: int
    keys: int
    warps: int
    stages: int  # tiles of keys and values on their way from memory


def tiling_of(head_dim: int, dtype: torch.dtype) -> Tiling:
    """Sizes that the compiler fits into registers and 99 KiB of shared memory; which are quickest was not measured.

    fp32 is multiplied without tensor cores, which would round it: a row of a tile costs many more registers.
    """
    if dtype is torch.float32:
        return Tiling(16, 32, 8, 2) if head_dim <= 64 else Tiling(16, 16, 8, 1)
    return Tiling(64, 32, 4, 3) if head_dim <= 64 else Tiling(64, 32, 4, 2) if head_dim <= 128 else Tiling(32, 32, 8, 2)


def constants_of(head_dim: int, dtype: torch.dtype) -> dict[str, int | str]:
    """What the kernel is compiled for. Tiles have powers of two, tensor cores want 16 at least: E is padded with zeros.

    fp32 operands are multiplied as they are, like eager PyTorch does by default, not rounded to TF32.
    """
    tiling = tiling_of(head_dim, dtype)
    return {
        "E": head_dim,
        "E_PADDED": max(16, 1 << (head_dim - 1).bit_length()),
        "ROWS": tiling.rows,
        "KEYS": tiling.keys,
        "PRECISION": "ieee" if dtype is torch.float32 else "tf32",
    }


def require_triton() -> Any:
    """The kernel, with the library that compiles it.

    Raises:
        DeviceError: triton cannot be imported.
    """
    try:
        from oneranker.silu_attention_kernel import silu_attention_kernel
    except ImportError as error:
        raise DeviceError(
            f"fused attention: triton cannot be imported ({error}), expected the version that this torch names. "
            "PyTorch's CUDA wheel brings it; or choose the eager form."
        ) from error
    return silu_attention_kernel


def require_fused() -> None:
    """Say at once what the fused form lacks, not in the middle of a request: triton's driver is started here.

    Raises:
        DeviceError: torch sees no CUDA device, or one older than 8.0; triton cannot be imported, or not be started.
    """
    if _interpreted():
        return
    if not torch.cuda.is_available():
        why = "sees no CUDA device" if torch.version.cuda else "was built without CUDA"
        raise DeviceError(
            f"fused attention: it was asked for and torch {torch.__version__} {why}, expected a GPU. Choose the eager "
            "form."
        )
    if (found := torch.cuda.get_device_capability()) < OLDEST:
        raise DeviceError(
            f"fused attention: the GPU has compute capability {found[0]}.{found[1]}, expected 8.0 or newer. Choose the "
            "eager form."
        )
    require_triton()
    _start_driver()


def _start_driver() -> None:
    """Triton's launcher, which a C compiler translates on a machine's first use of it."""
    from triton.runtime import driver

    try:
        driver.active.utils  # noqa: B018  reading it makes it
    except Exception as error:  # of a compiler, a linker or a driver, each with errors of its own
        raise DeviceError(
            f"fused attention: triton's driver does not start ({type(error).__name__}: {error}), expected a C compiler "
            "(`cc`, or the one that CC names) and libcuda.so.1. Install what is missing, or choose the eager form."
        ) from error


def fused_silu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    time_bias: Tensor | None = None,
    gaps: TimeGaps | None = None,
) -> Tensor:
    """SiLU(q·k + mask + key_mask + bias by position + bias by time)·scale @ v; causal where no mask is given.

    A mask below -5000, half of "may not read", blocks a key whatever its score is; what lies above is added. Tiles of
    keys behind the last row, or behind the last key that key_mask leaves open, are not visited; those that a given mask
    blocks are not multiplied.

    Shapes: query [B, H, Q, E], key, value [B, H, S, E], mask additive [1 or B, 1, Q, S], key_mask additive
        [B, 1, 1, S], position_bias [2n-1], n >= S >= Q, row r standing at S-Q+r, time_bias [129], which gaps belong
        to; without it they are not read -> [B, H, Q, E], whose memory is [B, Q, H, E]

    Raises:
        DeviceError: The tensors are not on a GPU, or triton cannot be imported.
        ValueError: Tensors that do not fit each other, or that want gradients.
    """
    B, H, Q, E = query.shape
    S = key.shape[2]
    if time_bias is None:
        gaps = None
    elif gaps is None:
        raise ValueError("fused attention: got time_bias without gaps, expected both; pass TimeGaps, or neither")
    times = () if gaps is None else (gaps.query_time, gaps.key_time, gaps.starts)
    _check([query, key, value], [mask, key_mask, position_bias, time_bias], times)
    _check_shapes([query, key, value], mask, key_mask, position_bias, time_bias, times)
    mixed = query.new_empty(B, Q, H, E).transpose(1, 2)  # as heads are merged: without a copy
    tiling, kernel = tiling_of(E, query.dtype), require_triton()
    with torch.cuda.device_of(query):
        kernel[(-(-Q // tiling.rows), H, B)](
            query, key, value, mixed, *(None if each is None else each.contiguous() for each in (mask, key_mask)),
            position_bias, *(each.contiguous() for each in times), *((None,) * (3 - len(times))), time_bias,
            Q, S, 0 if position_bias is None else position_bias.shape[0] // 2,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *mixed.stride()[:3],
            0 if mask is None or mask.shape[0] == 1 else Q * S, scale,
            **constants_of(E, query.dtype), num_warps=tiling.warps, num_stages=tiling.stages,
        )  # fmt: skip
    return mixed


def _check(products: list[Tensor], added: list[Tensor | None], times: tuple[Tensor, ...]) -> None:
    """Device, type and memory of what the kernel reads."""
    given = [*products, *(tensor for tensor in added if tensor is not None)]
    device, dtype = products[0].device, products[0].dtype
    if device.type != "cuda" and not _interpreted():
        raise DeviceError(
            f"fused attention: tensors are on {device}, expected a CUDA device. Move the model and its inputs, or "
            "choose the eager form."
        )
    if dtype not in DTYPES or any((each.dtype, each.device) != (dtype, device) for each in given):
        found = ", ".join(dict.fromkeys(f"{each.dtype} on {each.device}" for each in given))
        raise ValueError(f"fused attention: got {found}, expected one of {DTYPES} on one device; convert the others")
    if any(each.device != device for each in times):
        raise ValueError(f"fused attention: times or bucket starts are not on {device}, expected all there; move them")
    for each, kind in zip(times, TIME_TYPES, strict=False):
        if each.dtype != kind:
            raise ValueError(
                f"fused attention: got times or bucket starts in {each.dtype}, expected {kind}; convert them"
            )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        raise ValueError(
            "fused attention: a tensor wants gradients, expected none, for there is no backward. Call the model under "
            "torch.inference_mode(), or choose the eager form."
        )
    if any(each.stride(-1) != 1 for each in products):
        raise ValueError("fused attention: numbers of a head lie apart in memory, expected side by side; copy them")
    if any(each is not None and not each.is_contiguous() for each in added[2:]):
        raise ValueError("fused attention: numbers of a table lie apart in memory, expected side by side; copy them")


def _check_shapes(
    products: list[Tensor],
    mask: Tensor | None,
    key_mask: Tensor | None,
    position_bias: Tensor | None,
    time_bias: Tensor | None,
    times: tuple[Tensor, ...],
) -> None:
    """Every shape against the query's and the key's: the kernel believes them."""
    (B, H, Q, E), S = products[0].shape, products[1].shape[2]
    expected: list[tuple[Tensor | None, tuple[int, ...]]]
    expected = [(products[1], (B, H, S, E)), (products[2], (B, H, S, E)), (key_mask, (B, 1, 1, S))]
    expected += [(mask, (B if mask is None or mask.shape[0] != 1 else 1, 1, Q, S)), (time_bias, (TIME_BUCKETS,))]
    expected += zip(times, [(B, Q), (B, S), (TIME_BUCKETS + 1,)], strict=False)
    for tensor, shape in expected:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"fused attention: got {list(tensor.shape)}, expected {list(shape)}; look at its Shapes line"
            )
    if position_bias is not None and (position_bias.dim() != 1 or position_bias.shape[0] % 2 == 0):
        raise ValueError(
            f"fused attention: got position_bias {list(position_bias.shape)}, expected [2n-1], an odd number; pass the "
            "table of RelativeAttentionBias"
        )
    longest = S if position_bias is None else (position_bias.shape[0] + 1) // 2
    if not Q <= S <= longest or E > LARGEST_HEAD:
        raise ValueError(
            f"fused attention: Q={Q}, S={S}, n={longest}, E={E}, expected Q <= S <= n and E <= {LARGEST_HEAD}; pass a "
            "shorter history"
        )


def _interpreted() -> bool:
    """Whether Triton runs kernels in Python on the CPU: TRITON_INTERPRET=1, as the tests set it."""
    if importlib.util.find_spec("triton") is None:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)
