"""Checks everything that needs a GPU on the machine it runs on, and says of every check what became of it.

    make gpu-check                                              (on a machine with a GPU: add GPU_FLAGS="--require gpu")
    WHEELS=wheels make gpu-check                                (no network: a folder of wheels, or of their pieces)
    python -m benchmarks.gpu_check --preset demo --preset paper --budget-seconds 540 --require gpu

In order: the device; for each bundle the parity of every stage and of the chain on ONNX Runtime CUDA (2x rule of
export/parity.py against eager PyTorch in fp32 on that GPU), where ONNX Runtime put the nodes, copies of keys and values
(none), CUDA graphs captured and replayed; the fused attention's parity and time; what was said of ONNX Runtime for
TensorRT if it can be imported; a probe of TensorRT-RTX, whose answer is written down whatever it is; latency beside
eager, compiled, CUDA-graphed and fused PyTorch. Bundles are built in
fp16 with random weights, or given with --bundle. Without a GPU it goes as far as it can: graphs on the CPU,
TensorRT-RTX plans; every check that was not run is named with the reason.

Every group of checks is a process of its own with a time limit: one that fails, hangs or dies stops no other.
--out is written anew, one JSON line a check as it ends: check, bundle, status (passed | failed | not run), reason,
figures, seconds, device, driver, versions, command, commit, date. stdout: the same as a table, then a summary as JSON.
Exit codes: 0 nothing failed, 1 something failed, 2 usage. --require gpu: what needs a GPU and was not run has failed,
TensorRT's checks excepted. Not run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_install import InstallError, install
from benchmarks.gpu_plan import groups
from benchmarks.gpu_run import FAILED, NOT_RUN, PASSED, Run, Settings

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts of a whole run."""

    passed: int
    failed: list[str]
    not_run: list[str]

    @property
    def exit_code(self) -> int:
        return 1 if self.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    named = parser.parse_args(words)
    if named.bundle is not None and named.preset:
        parser.error("--preset: got one beside --bundle, which is checked as it is; leave it out")
    if named.budget_seconds is not None and named.budget_seconds <= 0:
        parser.error(f"--budget-seconds: got {named.budget_seconds:g}, expected more than 0")
    settings = Settings(
        root=ROOT,
        work=named.work.resolve(),
        out=named.out.resolve(),
        command=" ".join(["python -m benchmarks.gpu_check", *words]),
        python=named.python,
        bundle=None if named.bundle is None else named.bundle.resolve(),
        checkpoint=None if named.checkpoint is None else named.checkpoint.resolve(),
        device=named.device,
        iterations=named.iterations,
        budget_seconds=named.budget_seconds,
        require_gpu="gpu" in named.require,
    )
    presets = list(dict.fromkeys(named.preset or ["demo", "paper"]))
    labels = ["given"] if settings.bundle is not None else presets
    run = Run(settings)
    if named.wheels is not None:
        run.install(lambda: install(named.wheels, settings.work, settings.python), InstallError)
    run.machine()
    for group in groups(labels, latency=not named.no_latency):
        run.group(group)
    return _tell(run)


def _tell(run: Run) -> int:
    """The table, the summary and the exit code."""
    outcome = Outcome(
        passed=sum(row["status"] == PASSED for row in run.rows),
        failed=[_name(row) for row in run.rows if row["status"] == FAILED],
        not_run=[_name(row) for row in run.rows if row["status"] == NOT_RUN],
    )
    width = max(len(_name(row)) for row in run.rows)
    for row in run.rows:
        sys.stdout.write(f"{row['status']:<8}  {_name(row):<{width}}  {str(row['reason'])[:200]}".rstrip() + "\n")
    summary = {"passed": outcome.passed, "failed": outcome.failed, "not_run": outcome.not_run}
    sys.stdout.write(json.dumps({"out": str(run.settings.out), "device": run.device, **summary}) + "\n")
    return outcome.exit_code


def _name(row: dict[str, object]) -> str:
    return f"{row['bundle']}: {row['check']}" if row["bundle"] else str(row["check"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--wheels", type=Path, metavar="DIR", help="install these first, without a network, for this run alone")
    add("--python", default=sys.executable, metavar="FILE", help="runs the checks (default: the one that runs this)")
    add("--preset", action="append", metavar="NAME", help="bundle to build; may be given again (demo, then paper)")
    add("--bundle", type=Path, metavar="DIR", help="check this bundle instead of building any")
    add("--checkpoint", type=Path, metavar="DIR", help="weights of --bundle (default: what its manifest names)")
    add("--device", default="cuda", metavar="cuda|cuda:N", help="the GPU (default: %(default)s)")
    add("--require", action="append", default=[], choices=["gpu"], help="what needs it and was not run has failed")
    add("--budget-seconds", type=float, metavar="S", help="for everything; what no longer fits is not run")
    add("--iterations", type=int, default=50, help="timed batches of each latency row (default: %(default)s)")
    add("--no-latency", action="store_true", help="leave latency out")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu-check.jsonl", help="(default: %(default)s)")
    add("--work", type=Path, default=ROOT / "build" / "gpu-check", help="bundles and packages (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
