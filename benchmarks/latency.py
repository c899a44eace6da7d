"""Times a bundle beside eager PyTorch and torch.compile on the same weights, requests and threads, in the same run.

    python -m benchmarks.latency --bundle demo/bundle --requests demo/requests.jsonl
    python -m benchmarks.latency --bundle bundle --batch 1 --batch 8 --history 512 --out results.jsonl
    python -m benchmarks.latency --bundle bundle --device cuda    (not run on a GPU)

What is timed, for every backend alike: tokens -> scores. In: laying the batch out, the history mask, four stages,
reading the candidates and scores. Out: raw events to tokens and scores to named items, which have rows of their own
for the runtime ("tokens", "recommend"); loading; item tables and static masks, made once. All backends get the same
tokens, padded to the same length. A batch's latency is the latency of each of its requests.

How: every (engine, case) in a process of its own, one after another, with the same number of threads; every shape is
run once, then --warmup batches are thrown away, then --iterations batches are timed by perf_counter with the garbage
collector off, more of them until --duration is over. With --rounds the engines take turns again and again, and
with --max-rounds further until the quickest --rounds of an engine agree within 5 %. p50, rate and spread are of
these rounds: whatever else a machine does adds time and never takes any. p90 to max are of all samples. With
--utilisation requests then arrive by chance (Poisson).
torch.compile runs stage by stage with static shapes, in its default mode and, on a GPU, with max-autotune beside it,
whose CUDA graphs copy every input that a stage is given; its compile time is told apart, and is short where torch finds
its own earlier work on disk. OpenMP's threads spin only shortly before they sleep
(GOMP_SPINCOUNT, unless you set it): with libgomp's default one busy core makes eager PyTorch 20 times slower. Peak
memory is that of the backend's whole process.

With --device cuda the backends are eager PyTorch, torch.compile in both modes, PyTorch's whole forward as one CUDA
graph, both eager forms again with the fused attention, and the runtime on ONNX Runtime, with CUDA graphs (one a stage)
and without, and on TensorRT, all in the bundle's precision. The chain is timed in one piece, ending when
candidates and scores are on the host; the stages in a second pass in which every lap waits for the device, so they add
up to more than the chain. Errors are held against eager PyTorch in fp32 on the same GPU, without TF32.

stdout: a table for people, then one JSON object on the last line: {"environment": {...}, "rows": [...]}, documented in
benchmarks/row.py and benchmarks/environment.py. --out appends that line to a file. stderr: progress.
Exit codes: 0 ok, 1 our error, 2 usage, 3 bundle, 4 the runtime's answers are not those of the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.ceilings import Ceilings, ceilings_apart
from benchmarks.environment import usable_cores
from benchmarks.gpu import ordinal_of
from benchmarks.row import BACKENDS, CPU_ENGINES, NEED_KERNELS
from benchmarks.table import table
from runtime.errors import OneRankerError

logger = logging.getLogger("benchmarks.latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySettings:
    """One run.

    Raises:
        ValueError: A number that no run can use.
    """

    bundle: Path
    requests: Path | None = None
    batch: tuple[int, ...] = (1,)
    history: int | None = None  # tokens of synthetic requests; None: S of the bundle's profile
    iterations: int = 100
    warmup: int = 10
    threads: int | None = None  # None: one per core
    checkpoint: Path | None = None  # None: what the manifest names
    out: Path | None = None
    compiled: bool = True
    device: str = "cpu"  # or "cuda", "cuda:N"
    kernels: Path | None = None  # liboneranker_kernels.so: one engine more on the CPU
    engines: tuple[str, ...] = ()  # beside eager PyTorch; none: the usual ones of the device
    rounds: int = 1  # processes an engine, in turn with the others, that must agree
    max_rounds: int | None = None  # until the quickest `rounds` agree within 5 %; None: no more than `rounds`
    max_seconds: float = math.inf  # after which no round beyond `rounds` begins
    duration: float = 0.0  # seconds
    utilisation: float = 0.0  # of an open loop after the closed one; 0: none
    ceilings: Ceilings | None = None  # of this machine with as many threads, for the share of the roofline

    def __post_init__(self) -> None:
        least = {"--iterations": (self.iterations, 1), "--warmup": (self.warmup, 0), "--threads": (self.threads, 1)}
        least |= {"--history": (self.history, 3)} | {"--batch": (min(self.batch, default=0), 1)}
        least |= {"--rounds": (self.rounds, 1)}
        for flag, (value, lowest) in least.items():
            if value is not None and value < lowest:
                raise ValueError(f"{flag}: got {value}, expected at least {lowest}")
        if self.device != "cpu":
            ordinal_of(self.device)
            if self.kernels is not None:
                raise ValueError(f"--kernels: got a file beside --device {self.device}, expected cpu; leave it out")
        if not self.max_seconds >= 0:
            raise ValueError(f"--max-seconds: got {self.max_seconds}, expected seconds from 0 on")
        if self.duration < 0 or not 0 <= self.utilisation < 1:
            raise ValueError(
                f"--duration, --utilisation: got {self.duration:g}, {self.utilisation:g}, expected seconds from 0 on "
                "and a share from 0 to below 1"
            )
        if self.max_rounds is not None and self.max_rounds < self.rounds:
            raise ValueError(f"--max-rounds: got {self.max_rounds}, expected at least --rounds {self.rounds}")
        self._check_engines()
        if self.history is not None and self.requests is not None:
            raise ValueError("--history: got a number beside --requests, whose own histories are used; leave it out")

    @property
    def most_rounds(self) -> int:
        """Of any engine."""
        return self.rounds if self.max_rounds is None else self.max_rounds

    def _check_engines(self) -> None:
        known = CPU_ENGINES if self.device == "cpu" else BACKENDS["cuda"]
        if wrong := [name for name in self.engines if name not in known]:
            raise ValueError(f"--engine: got {wrong[0]!r} with --device {self.device}, expected {', '.join(known)}")
        need = [name for name in self.engines if name in NEED_KERNELS]
        if need and self.kernels is None:
            raise ValueError(f"--engine: got {need[0]}, which needs --kernels; name the library of `make cpp`")


DEFAULT = LatencySettings(bundle=Path("bundle"))


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    named = vars(parser.parse_args(words))
    named["batch"] = tuple(dict.fromkeys(named["batch"] or DEFAULT.batch))
    named["engines"] = tuple(named["engines"] or ())
    roofline = named.pop("roofline")
    try:
        settings = LatencySettings(**named)
        if roofline and settings.device != "cpu":
            raise ValueError(f"--roofline: got it with --device {settings.device}, expected cpu; leave it out")
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    try:
        if roofline:
            settings = replace(settings, ceilings=ceilings_apart(settings.threads or usable_cores()))
        report, wrong = run(settings, words)
        line = json.dumps(report)
        if settings.out is not None:
            _append(settings.out, line)
    except OneRankerError as error:
        logger.error("error: %s", error)
        return error.exit_code
    sys.stdout.write(f"{table(report)}\n{line}\n")
    if wrong is not None:
        logger.error("error: %s", wrong)
        return wrong.exit_code
    return 0


def run(settings: LatencySettings, words: Sequence[str] = ()) -> tuple[dict[str, Any], OneRankerError | None]:
    """Time every case on every backend.

    Returns:
        The report, and what is wrong with the runtime's answers, if anything is: the numbers stand beside it.

    Raises:
        BundleError: The bundle is damaged.
        DeviceError: The GPU that was asked for is not here.
        OneRankerError: The weights are not there, or a request or a size does not fit the bundle.
    """
    return run_in_turn([(settings, words)])[0]


def run_in_turn(
    runs: Sequence[tuple[LatencySettings, Sequence[str]]],
) -> list[tuple[dict[str, Any], OneRankerError | None]]:
    """Several runs at once, settings and words of each: a round of every case of all, then the next round of all.

    What disturbs the machine for minutes then hits a round of every row instead of every round of some rows. The
    longest `max_seconds` holds for all of them together.

    Returns:
        As `run`, for each.

    Raises:
        OneRankerError: As `run`.
    """
    from benchmarks.cases import time_runs  # torch takes seconds that `--help` does not need

    return [
        ({"environment": asdict(environment), "rows": [asdict(row) for row in rows]}, wrong)
        for environment, rows, wrong in time_runs(runs)
    ]


def _append(path: Path, line: str) -> None:
    """One run, one line."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise OneRankerError(f"--out {path}: got {error}, expected a file to append to. Make its folder.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="folder that `python -m export.build` wrote")
    add("--requests", type=Path, metavar="FILE", help="one JSON request a line (default: synthetic requests)")
    add("--batch", type=int, action="append", metavar="B", help="requests in a batch; may be given again (default: 1)")
    add("--history", type=int, metavar="N", help="tokens of synthetic requests (default: S of the bundle's profile)")
    add("--iterations", type=int, default=DEFAULT.iterations, help="timed batches (default: %(default)s)")
    add("--warmup", type=int, default=DEFAULT.warmup, help="batches run and thrown away first (default: %(default)s)")
    add("--threads", type=int, help="of every backend alike (default: one per core)")
    add("--checkpoint", type=Path, metavar="DIR", help="weights for PyTorch (default: what the manifest names)")
    add("--out", type=Path, metavar="FILE", help="append the JSON line to this file")
    add("--device", default=DEFAULT.device, metavar="cpu|cuda|cuda:N", help="of every backend (default: %(default)s)")
    add("--kernels", type=Path, metavar="FILE", help="liboneranker_kernels.so of `make cpp`: the runtime with it, too")
    add("--engine", action="append", dest="engines", metavar="NAME",
        help=f"beside eager PyTorch, may be given again: on the CPU {', '.join(CPU_ENGINES)}")  # fmt: skip
    add("--rounds", type=int, default=DEFAULT.rounds, help="processes an engine, in turn (default: %(default)s)")
    add("--max-rounds", type=int, help="until the quickest --rounds of them agree within 5 %% (default: --rounds)")
    add("--max-seconds", type=float, default=DEFAULT.max_seconds, metavar="S",
        help="after so many no engine gets a round beyond --rounds (default: no limit)")  # fmt: skip
    add("--duration", type=float, default=DEFAULT.duration, metavar="S", help="seconds to time at least")
    add("--utilisation", type=float, default=DEFAULT.utilisation, metavar="SHARE",
        help="then an open loop: Poisson arrivals at this share of the closed loop's rate")  # fmt: skip
    add("--roofline", action="store_true", help="measure GEMM and copy first; rows get their share of these ceilings")
    add("--no-compile", dest="compiled", action="store_false", help="leave torch.compile out: it takes a minute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
