"""The fused attention compiled for GPUs that are not here; what the compiler made of it is read, nothing is run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from export import gpu_kernels
from export.gpu_kernels import GpuKernel, GpuKernelSettings, compile_kernel, main, write_kernel
from export.settings import Precision
from export.silu_attention import inputs_of
from oneranker.config import RelativeBias
from oneranker.fused_attention import require_triton
from runtime.errors import BuildError

triton = pytest.importorskip("triton", reason="triton is not installed; `make setup` installs it")
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
LEAST_SHARED = 99 * 1024  # bytes a block may have on every processor from 8.0 on
TENSOR_CORES = {"8.0": "mma.sync.aligned.m16n8k16", "9.0": "wgmma.mma_async", "10.0": "tcgen05.mma"}
CASES = [  # of every kind of processor, width, type and form at least one
    ("8.0", 32, Precision.FP16, False),
    ("9.0", 32, Precision.FP16, False),
    ("9.0", 32, Precision.FP16, True),
    ("10.0", 32, Precision.FP16, False),
    ("9.0", 24, Precision.FP16, True),
    ("9.0", 128, Precision.FP16, True),
    ("8.0", 256, Precision.FP16, False),
    ("9.0", 32, Precision.BF16, False),
    ("8.0", 32, Precision.FP32, False),
    ("9.0", 64, Precision.FP32, True),
]
every = pytest.mark.parametrize(("capability", "head_dim", "precision", "masked"), CASES)


@cache
def compiled(capability: str, head_dim: int, precision: Precision, masked: bool) -> GpuKernel:
    return compile_kernel(
        GpuKernelSettings(compute_capability=capability, head_dim=head_dim, precision=precision, masked=masked)
    )


@cache
def said_by_ptxas(kernel: GpuKernel) -> str:
    """The assembler's own count of registers and spills."""
    (target,) = re.findall(r"\.target (\w+)", kernel.ptx)
    name = "ptxas-blackwell" if int(re.sub(r"\D", "", target)) >= 100 else "ptxas"
    words = [PTXAS / name, "-v", f"--gpu-name={target}", "-o", "/dev/null", "-"]
    return subprocess.run(words, input=kernel.ptx, capture_output=True, text=True, check=True).stderr


@every
def test_no_register_is_spilled_and_shared_memory_fits_every_processor(
    capability: str, head_dim: int, precision: Precision, masked: bool
) -> None:
    kernel = compiled(capability, head_dim, precision, masked)
    assert "0 bytes spill stores, 0 bytes spill loads" in said_by_ptxas(kernel)
    assert kernel.shared_bytes <= LEAST_SHARED
    assert kernel.cubin.startswith(b"\x7fELF")


@every
def test_half_precision_is_multiplied_on_tensor_cores_and_fp32_is_not(
    capability: str, head_dim: int, precision: Precision, masked: bool
) -> None:
    ptx = compiled(capability, head_dim, precision, masked).ptx
    if precision is Precision.FP32:
        assert not re.search(r"mma|tf32", ptx)
    else:  # a tile of the widest heads has too few rows for the newer forms
        name = TENSOR_CORES["8.0" if head_dim == 256 else capability]
        assert len(re.findall(re.escape(name), ptx)) >= 4  # two products, two halves of a tile
        assert ("bf16.bf16" in ptx) == (precision is Precision.BF16)
    assert "st.local" not in ptx
    assert "ld.local" not in ptx


@every
def test_keys_and_values_are_fetched_ahead_where_the_mask_is_known_beforehand(
    capability: str, head_dim: int, precision: Precision, masked: bool
) -> None:
    ptx = compiled(capability, head_dim, precision, masked).ptx
    assert ("cp.async.cg.shared.global" in ptx) == (not masked)


@every
def test_every_argument_of_the_code_is_named_in_order(
    capability: str, head_dim: int, precision: Precision, masked: bool
) -> None:
    kernel = compiled(capability, head_dim, precision, masked)
    entry = kernel.ptx[kernel.ptx.index(f".entry {kernel.entry}(") : kernel.ptx.index(".reqntid")]
    widths = re.findall(r"\.param \.([uf]\d\d)", entry)
    named = {"i32": "u32", "fp32": "f32"}
    assert widths == [named.get(kind, "u64") for _, kind in kernel.arguments] + ["u64"] * kernel.scratch_pointers
    assert ("mask" in dict(kernel.arguments)) == masked
    assert f".reqntid {kernel.threads}" in kernel.ptx


@pytest.mark.parametrize("bias", list(RelativeBias))
def test_the_command_writes_code_facts_and_a_header_that_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bias: RelativeBias
) -> None:
    assert main(["--out", str(tmp_path / "new"), "--relative-bias", bias, "--compute-capability", "8.9"]) == 0
    facts = json.loads((tmp_path / "new" / "silu_attention.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"out": str(tmp_path / "new"), **facts}
    ptx = (tmp_path / "new" / facts["ptx"]).read_text(encoding="utf-8")
    assert facts["ptx_sha256"] == hashlib.sha256(ptx.encode()).hexdigest()
    assert ".target sm_89" in ptx
    assert str(Path.cwd()) not in ptx
    names = [row["name"] for row in facts["arguments"]]
    assert names[:4] == ["query", "key", "value", "mixed"]
    assert names[4 : 1 + len(inputs_of(bias))] == list(inputs_of(bias)[3:]), "the node's inputs, in the node's order"
    header = tmp_path / "new" / "silu_attention_ptx.h"
    text = header.read_text(encoding="utf-8")
    assert "".join(re.findall(r'R"PTX\((.*?)\)PTX"', text, re.DOTALL)) == ptx
    assert f"kInputs = {len(inputs_of(bias))};" in text
    if (compiler := shutil.which("g++") or shutil.which("clang++")) is None:
        pytest.skip("no C++ compiler reads the header: neither g++ nor clang++")
    words = [
        compiler,
        "-std=c++20",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-include",
        header,
        "-x",
        "c++",
        "-",
    ]
    done = subprocess.run(words, input="int main() {}\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [["--head-dim", "20"], ["--head-dim", "264"], ["--compute-capability", "7.5"], ["--compute-capability", "hopper"]],
    ids=" ".join,
)
def test_what_no_kernel_can_have_exits_2(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "never"), *words])
    assert stopped.value.code == 2
    assert not (tmp_path / "never").exists()


def test_a_folder_that_cannot_be_written_exits_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["--out", str(tmp_path / "file")]) == 1
    assert "expected a folder to write to" in caplog.text


def test_a_command_that_fails_halfway_leaves_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("silu_attention.ptx", "silu_attention.json", "silu_attention_ptx.h"):
        (tmp_path / name).write_text("of before", encoding="utf-8")
    write = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        if path.suffix == ".h":
            raise OSError("No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(gpu_kernels, "compile_kernel", lambda settings: compiled("9.0", 32, Precision.FP16, True))
    monkeypatch.setattr(Path, "write_text", full)
    assert main(["--out", str(tmp_path)]) == 1
    assert "No space left on device" in caplog.text
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == dict.fromkeys(
        ("silu_attention.ptx", "silu_attention.json", "silu_attention_ptx.h"), "of before"
    )


def test_bf16_which_no_bundle_has_is_compiled_but_not_written(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="got bf16, expected fp16 or fp32"):
        write_kernel(GpuKernelSettings(out=tmp_path / "never", precision=Precision.BF16))
    assert not (tmp_path / "never").exists()


def test_sizes_that_change_with_every_request_make_no_kernel_of_their_own() -> None:
    """Else Triton would compile again for a size of 1 and for every multiple of 16, in the middle of a request."""
    free = {each.name for each in require_triton().params if each.do_not_specialize}
    assert free == {"queries", "keys", "middle", "mask_request"}
