"""The GPU's check of the fused attention, as far as a machine without one can tell: its counts, its rule, its rows."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_attention
from benchmarks.gpu_attention import HEAD, HEADS, PASSES, Attention, AttentionCase, Ceilings, compare, shares
from benchmarks.gpu_checks import GpuJob, Rows
from benchmarks.gpu_plan import ATTENTION
from oneranker.hstu import silu_attention

CASE = AttentionCase(2, 30)
HOST = torch.device("cpu")


def test_every_planned_check_names_its_case() -> None:
    cases = {AttentionCase.of_check(check) for check in ATTENTION}
    assert cases == {AttentionCase(batch, length) for batch in (1, 8) for length in (512, 2048)}


def test_operations_are_those_of_the_cells_below_the_diagonal() -> None:
    cells = sum(1 for _ in range(CASE.batch * HEADS) for row in range(CASE.length) for key in range(row + 1))
    assert CASE.operations == cells * 2 * (HEAD + HEAD)


def test_the_fused_form_moves_every_tensor_once() -> None:
    tensors = Attention(CASE, HOST)
    read = [*tensors.products, tensors.key_mask, *tensors.bias.parameters()]
    read += [tensors.gaps.query_time, tensors.gaps.key_time, tensors.gaps.starts]
    assert CASE.fused_bytes == sum(each.nbytes for each in [*read, tensors.unfused()])


def test_the_unfused_form_passes_over_all_cells() -> None:
    tensors = Attention(CASE, HOST)
    scores = tensors.products[0] @ tensors.products[1].transpose(2, 3)
    assert CASE.unfused_bytes == PASSES * scores.nbytes + 4 * tensors.products[0].nbytes


def test_the_unfused_form_is_the_models_own_over_rounded_numbers() -> None:
    tensors = Attention(CASE, HOST)
    bias = copy.deepcopy(tensors.bias).double()(30, 30, tensors.gaps.buckets)
    mask = tensors.mask.double() + tensors.key_mask.double() + bias
    real = silu_attention(*(each.double() for each in tensors.products), mask, 1 / 30)
    assert (tensors.unfused(torch.float32) - real).abs().max() < 1e-6
    assert 1e-6 < (tensors.unfused() - real).abs().max() < 1e-2
    assert (tensors.key_mask[-1] < 0).sum() == 3, "the last request has pads"


def test_an_answer_further_off_than_twice_the_rounding_fails() -> None:
    tensors, figures = Attention(CASE, HOST), dict[str, float]()
    answer = tensors.unfused()
    compare(answer, tensors, figures)
    assert 0 < figures["max_abs_error"] <= figures["allowed"]
    answer[1, 0, 3, 2] += 0.1
    with pytest.raises(RuntimeError, match=r"off by 0\.[01]\d*, expected at most"):
        compare(answer, tensors, {})


def test_shares_are_rates_over_what_the_gpu_reaches_at_most() -> None:
    ceilings = Ceilings(copy_gb_per_s=4.0, product_tflop_per_s=0.5, cache_bytes=CASE.fused_bytes // 2)
    figures = shares(CASE, {"fused": 2.0, "unfused": 8.0}, ceilings)
    assert figures["speed_up"] == 4.0
    assert figures["fused_gb_per_s"] == pytest.approx(CASE.fused_bytes / 2e-3 / 1e9)
    assert figures["fused_share_of_copy"] == pytest.approx(CASE.fused_bytes / 2e-3 / 1e9 / 4)
    assert figures["unfused_share_of_product"] == pytest.approx(CASE.operations / 8e-3 / 1e12 / 0.5)


def test_what_stays_in_the_cache_has_no_share_of_the_copy() -> None:
    ceilings = Ceilings(copy_gb_per_s=4.0, product_tflop_per_s=0.5, cache_bytes=CASE.fused_bytes // 2 + 1)
    figures = shares(CASE, {"fused": 2.0, "unfused": 8.0}, ceilings)
    assert figures["fused_share_of_copy"] is None
    assert figures["fused_gb_per_s"] > 0
    assert figures["unfused_share_of_copy"] == pytest.approx(CASE.unfused_bytes / 8e-3 / 1e9 / 4)


def test_two_runs_have_the_same_numbers() -> None:
    one, other = (Attention(CASE, HOST) for _ in range(2))
    assert torch.equal(one.unfused(), other.unfused())
    tables = [[each.data for each in made.bias.parameters()] for made in (one, other)]
    assert all(torch.equal(*pair) and pair[0].std() > 0.01 for pair in zip(*tables, strict=True))


@pytest.mark.parametrize(("word", "index"), [("cuda", 0), ("cuda:1", 1)])
def test_the_device_that_is_set_has_a_number(monkeypatch: pytest.MonkeyPatch, word: str, index: int) -> None:
    """Its double refuses `cuda` alone, as torch.cuda.set_device does."""
    seen = []

    def set_device(device: torch.device) -> None:
        if device.index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got: {device}")
        seen.append(device)

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    gpu_attention.attention(GpuJob("", None, None, Path(), word, 3, Path(), ()), Rows(io.StringIO()))
    assert seen == [torch.device("cuda", index)]
    assert gpu_attention.device_of("cpu") == HOST


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose fused form is the eager one, whose calls take 1 ms and whose ceilings are known."""
    monkeypatch.setattr(gpu_attention, "require_fused", lambda: None)
    monkeypatch.setattr(gpu_attention, "cuda_clock", lambda iterations: lambda work: float(work() is not None))
    monkeypatch.setattr(gpu_attention, "ceilings_of", lambda device, clock: Ceilings(1000.0, 500.0, 10))
    monkeypatch.setattr(gpu_attention, "peak_mib", lambda work: 1.5)
    monkeypatch.setattr(Attention, "fused", Attention.unfused)


def rows_of(checks: tuple[str, ...]) -> list[dict[str, object]]:
    stream = io.StringIO()
    job = GpuJob("", None, None, Path(), "cpu", 3, Path(), checks)
    gpu_attention.attention(job, Rows(stream))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.usefixtures("pretended")
def test_a_row_has_parity_times_bytes_shares_and_memory() -> None:
    (row,) = rows_of(("fused attention: b2-s30",))
    assert (row["check"], row["status"]) == ("fused attention: b2-s30", "passed")
    figures = row["figures"]
    assert isinstance(figures, dict)
    assert figures["fused_ms"] == figures["unfused_ms"] == 1.0
    wanted = {f"{form}_{what}" for form in ("fused", "unfused") for what in ("bytes", "share_of_copy", "peak_mib")}
    assert wanted | {"max_abs_error", "allowed", "speed_up", "operations", "copy_gb_per_s"} <= set(figures)


@pytest.mark.usefixtures("pretended")
def test_one_case_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Attention) -> Tensor:
        return self.unfused() + (self.mask.shape[-1] == 30)

    monkeypatch.setattr(Attention, "fused", wrong)
    rows = rows_of(("fused attention: b2-s30", "fused attention: b1-s20"))
    assert [row["status"] for row in rows] == ["failed", "passed"]
    assert "the fused form is off by" in str(rows[0]["reason"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_check_is_not_run_and_says_why() -> None:
    (row,) = rows_of(("fused attention: b1-s20",))
    assert row["status"] == "not run"
    assert "expected a GPU" in str(row["reason"])
