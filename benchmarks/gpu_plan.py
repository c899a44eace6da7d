"""Which checks a GPU run consists of, in the order of their importance, and what each may cost (standard library)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STAGES = ("generator", "enhancer", "retriever", "ranker")
ONNX, TENSORRT, RTX = "onnxruntime", "tensorrt", "tensorrt_rtx"
FUSED = ("pytorch-fused", "pytorch-fused-cuda-graph")
AUTOTUNED = "pytorch-compile-max-autotune"
FORMS = ("pytorch-eager", "pytorch-compile", AUTOTUNED, "pytorch-cuda-graph", *FUSED)
LATENCY = (*FORMS, ONNX, f"{ONNX}-no-graphs", TENSORRT)
ATTENTION = tuple(f"fused attention: b{batch}-s{length}" for length in (512, 2048) for batch in (1, 8))


@dataclass(frozen=True, slots=True)
class Group:
    """Checks that share a process: `python -m benchmarks.gpu_checks NAME ...`."""

    name: str
    checks: tuple[str, ...]
    seconds: float  # at most
    bundle: str = ""  # the label of the bundle that they are about
    needs_gpu: bool = True
    without_gpu_only: bool = False
    optional: bool = False  # `--require gpu` does not ask for it
    optional_checks: tuple[str, ...] = ()  # nor for these of its checks
    answers: bool = False  # an end by a signal or by the time limit is an answer too

    def applies(self, *, gpu: bool) -> bool:
        """Whether its checks belong into a run on such a machine at all."""
        return not (gpu and self.without_gpu_only)

    def required(self, check: str) -> bool:
        """Whether `--require gpu` asks for it."""
        return self.needs_gpu and not self.optional and check not in self.optional_checks


MACHINE = Group("machine", ("device",), 120.0)


def groups(labels: Sequence[str], *, latency: bool) -> list[Group]:
    """All groups behind `MACHINE`: the bundles in the given order, what proves least at the end."""
    first = [group for label in labels for group in (_bundle(label), _on_the_cpu(label), *_engine(label, ONNX))]
    tensorrt = [group for label in labels for group in _engine(label, TENSORRT)]
    attention = Group("attention", ATTENTION, 200.0)
    rtx = [_plans(label) for label in labels] + [_probe(label) for label in labels[:1]]
    timed = [_latency(label) for label in reversed(labels)] if latency else []  # the last label is the largest model
    return [*first, attention, *tensorrt, *rtx[-1:], *timed, *rtx[:-1]]


def _bundle(label: str) -> Group:
    return Group("bundle", ("bundle",), 400.0, label, needs_gpu=False)


def _on_the_cpu(label: str) -> Group:
    checks = tuple(f"{ONNX} on the CPU: {what}" for what in (*(f"parity {stage}" for stage in STAGES), "parity chain"))
    return Group("cpu", checks, 300.0, label, needs_gpu=False, without_gpu_only=True)


def _engine(label: str, engine: str) -> list[Group]:
    optional = engine != ONNX
    stages = tuple(f"{engine}: parity {stage}" for stage in STAGES)
    placed = tuple(f"{engine}: placement {stage}" for stage in STAGES) if engine == ONNX else ()
    built = (f"{engine}: plans",) if engine != ONNX else ()
    chain = tuple(f"{engine}: {what}" for what in ("parity chain", "copies", "graphs"))
    return [
        Group(f"{engine} stages", (*built, *stages, *placed), 400.0 if built else 120.0, label, optional=optional),
        Group(f"{engine} chain", chain, 120.0, label, optional=optional),
    ]


def _plans(label: str) -> Group:
    return Group("rtx plans", (f"{RTX}: plans",), 400.0, label, needs_gpu=False, optional=True)


def _probe(label: str) -> Group:
    return Group("rtx probe", (f"{RTX}: probe",), 400.0, label, needs_gpu=False, optional=True, answers=True)


def _latency(label: str) -> Group:
    checks = tuple(f"latency {backend}" for backend in LATENCY)
    return Group("latency", checks, 300.0, label, optional_checks=(f"latency {TENSORRT}",))
