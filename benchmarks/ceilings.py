"""What this machine can do at most: a large matrix product and a large copy, measured in a process of its own.

    python -m benchmarks.ceilings --threads 2

stdout: one JSON object with the fields of `Ceilings`. The best of the repetitions counts: a ceiling is not an average.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from runtime.errors import OneRankerError

WIDTH = 2048  # of the square matrices
COPIED = 256 * 2**20  # bytes, far more than any cache holds
SECONDS = 2.0  # of each measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Rates of PyTorch's own GEMM and copy with the benchmark's number of threads."""

    gemm_fp32_gflops: float  # 2·n³ operations of an n x n product, 10⁹ per second
    gemm_bf16_gflops: float  # the same in bf16, however the processor does it
    copy_gb_s: float  # 10⁹ bytes per second, read plus written

    def gemm_gflops(self, precision: str) -> float:
        """The product's rate in a precision; fp16 counts as bf16, which takes as many bits."""
        return self.gemm_fp32_gflops if precision == "fp32" else self.gemm_bf16_gflops


def ceilings_apart(threads: int) -> Ceilings:
    """Measure them in a process of its own, whose memory is nobody's.

    Raises:
        OneRankerError: The process failed; its message has gone to stderr.
    """
    command = [sys.executable, "-m", "benchmarks.ceilings", "--threads", str(threads)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise OneRankerError(
            f"benchmarks.ceilings: its process ended with exit code {done.returncode}, expected rates of GEMM and "
            "copy. Its message stands above."
        )
    return Ceilings(**json.loads(done.stdout))


def measure_ceilings(threads: int) -> Ceilings:
    """Both rates, here and now."""
    import torch

    torch.set_num_threads(threads)

    def gemm(dtype: torch.dtype) -> float:
        left, right = (torch.randn(WIDTH, WIDTH).to(dtype) for _ in range(2))
        out = torch.empty(WIDTH, WIDTH, dtype=dtype)
        return 2 * WIDTH**3 / _shortest(lambda: torch.mm(left, right, out=out)) / 1e9

    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return Ceilings(
        gemm_fp32_gflops=gemm(torch.float32),
        gemm_bf16_gflops=gemm(torch.bfloat16),
        copy_gb_s=2 * COPIED / _shortest(lambda: target.copy_(source)) / 1e9,
    )


def _shortest(do: Callable[[], object]) -> float:
    """Seconds of the quickest run within SECONDS, after one that is not counted."""
    do()
    best, begin = float("inf"), time.perf_counter()
    while True:
        start = time.perf_counter()
        do()
        now = time.perf_counter()
        best = min(best, now - start)
        if now - begin > SECONDS:
            return best


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser("python -m benchmarks.ceilings", description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, required=True, help="of every measurement")
    sys.stdout.write(json.dumps(asdict(measure_ceilings(parser.parse_args(argv).threads))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
