"""What the GPU's SiLU attention refuses before a kernel runs: what it got, what it expected, what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from assertions import tiny_world
from interpreted_attention import Interpreter
from torch import Tensor

from oneranker import fused_attention
from oneranker.errors import DeviceError
from oneranker.fused_attention import fused_silu_attention, require_fused, require_triton
from oneranker.hstu import TIME_BUCKETS, AttentionForm, TimeGaps, bucket_starts

pytest.importorskip("triton", reason="triton is not installed; `make setup` installs it")


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with Interpreter(tmp_path_factory.mktemp("interpreter")) as running:
        yield running


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_fused_form_is_refused_by_name() -> None:
    generator = tiny_world().model.generator
    with pytest.raises(DeviceError, match=r"expected a GPU\. Choose the eager form"):
        generator.choose_attention(AttentionForm.FUSED)
    assert {block.attention for block in generator.blocks} == {AttentionForm.EAGER}
    three = [torch.zeros(1, 1, 4, 16)] * 3
    with pytest.raises(DeviceError, match="tensors are on cpu, expected a CUDA device"):
        fused_silu_attention(*three, scale=1.0)


WRONG = {
    "key [1, 1, 5, 8]": {"key": torch.zeros(1, 1, 5, 8)},
    "value of another type": {"value": torch.zeros(1, 1, 4, 16).half()},
    "integers": {name: torch.zeros(1, 1, 4, 16, dtype=torch.int64) for name in ("query", "key", "value")},
    "fewer keys than rows": {name: torch.zeros(1, 1, 3, 16) for name in ("key", "value")},
    "a short table": {"position_bias": torch.zeros(5)},
    "a mask of keys for two": {"key_mask": torch.zeros(2, 1, 1, 4)},
    "a mask without heads": {"mask": torch.zeros(1, 4, 4)},
    "times of other rows": {
        "time_bias": torch.zeros(TIME_BUCKETS),
        "query_time": torch.zeros(1, 3, dtype=torch.int64),
        "key_time": torch.zeros(1, 4, dtype=torch.int64),
        "starts": bucket_starts(),
    },
    "a wider head than any": {name: torch.zeros(1, 1, 4, 264) for name in ("query", "key", "value")},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_before_the_kernel_runs(
    interpreter: Interpreter, wrong: dict[str, Tensor]
) -> None:
    fitting: dict[str, Tensor | None] = {name: torch.zeros(1, 1, 4, 16) for name in ("query", "key", "value")}
    interpreter.attention(fitting, 1.0)
    with pytest.raises(AssertionError, match=r"ValueError: fused attention: .*expected"):
        interpreter.attention(fitting | wrong, 1.0)


TIMES = {"query_time": torch.zeros(1, 4, dtype=torch.int64), "key_time": torch.zeros(1, 4, dtype=torch.int64)}
TIMES |= {"starts": bucket_starts()}
TABLE = torch.zeros(TIME_BUCKETS)
MEMORY = {
    "gradients": ({"query": torch.zeros(1, 1, 4, 16, requires_grad=True)}, "wants gradients, expected none"),
    "a key elsewhere": ({"key": torch.zeros(1, 1, 4, 16, device="meta")}, "on meta, expected one of .* on one device"),
    "heads apart": ({"value": torch.zeros(1, 1, 16, 4).transpose(2, 3)}, "numbers of a head lie apart in memory"),
    "an even table": ({"position_bias": torch.zeros(8)}, r"got position_bias \[8\], expected \[2n-1\], an odd number"),
    "a table of tables": ({"position_bias": torch.zeros(7, 1)}, r"got position_bias \[7, 1\], expected \[2n-1\]"),
    "a table by position apart": ({"position_bias": torch.zeros(14)[::2]}, "numbers of a table lie apart in memory"),
    "a table by time apart": (
        {"time_bias": torch.zeros(2 * TIME_BUCKETS)[::2], **TIMES},
        "numbers of a table lie apart",
    ),
    "a table by time alone": ({"time_bias": TABLE}, "got time_bias without gaps, expected both"),
    "times elsewhere": (
        {"time_bias": TABLE, **TIMES, "key_time": torch.zeros(1, 4, dtype=torch.int64, device="meta")},
        "times or bucket starts are not on cpu, expected all there",
    ),
    "times in int32": (
        {"time_bias": TABLE, **TIMES, "query_time": TIMES["query_time"].int()},
        "int32, expected .*int64",
    ),
    "starts in int64": ({"time_bias": TABLE, **TIMES, "starts": bucket_starts().long()}, "int64, expected .*int32"),
}


@pytest.mark.parametrize(("given", "said"), MEMORY.values(), ids=MEMORY)
def test_what_the_kernel_would_misread_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Tensor], said: str
) -> None:
    monkeypatch.setattr(fused_attention, "_interpreted", lambda: True)  # so that the host's tensors come that far
    monkeypatch.setattr(fused_attention, "require_triton", lambda: pytest.fail("the kernel was asked for"))
    tensors: dict[str, Tensor] = {name: torch.zeros(1, 1, 4, 16) for name in ("query", "key", "value")} | given
    times = [tensors.pop(name) for name in TIMES if name in tensors]
    with pytest.raises(ValueError, match=f"fused attention: .*{said}"):
        fused_silu_attention(**tensors, scale=1.0, gaps=TimeGaps(*times) if times else None)


def test_without_triton_the_kernel_is_refused_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "oneranker.silu_attention_kernel", raising=False)
    with pytest.raises(DeviceError, match=r"triton cannot be imported \(.*triton.*\), expected .*PyTorch's CUDA wheel"):
        require_triton()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU of compute capability 9.0, as torch tells of it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return monkeypatch


def test_an_older_gpu_is_refused_with_its_number(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(DeviceError, match=r"compute capability 7\.5, expected 8\.0 or newer\. Choose the eager form"):
        require_fused()


def test_a_driver_of_triton_that_does_not_start_is_told_before_a_request_comes(gpu: pytest.MonkeyPatch) -> None:
    from triton.runtime import driver

    class Driver:
        starts = True

        @property
        def utils(self) -> None:
            if not self.starts:
                raise RuntimeError("Failed to find C compiler")

    gpu.setattr(type(driver), "active", Driver())
    require_fused()
    gpu.setattr(Driver, "starts", False)
    with pytest.raises(
        DeviceError,
        match=r"does not start \(RuntimeError: Failed to find C compiler\), expected a C compiler .*Install",
    ):
        require_fused()


def test_nothing_but_the_kernel_needs_triton() -> None:
    modules = ("oneranker.hstu", "oneranker.model", "oneranker.fused_attention", "benchmarks.gpu_attention")
    lines = ["import sys", "sys.modules['triton'] = None", *(f"import {name}" for name in modules)]
    lines += ["assert 'oneranker.silu_attention_kernel' not in sys.modules"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
