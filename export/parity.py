"""How far an answer may be from the reference: twice the rounding of the precision itself, in numbers and in ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SLACK = 2.0  # an export may be this many times as far from fp32 as eager PyTorch is in the same precision
FLOOR = 1e-5  # of the largest reference value: two engines may add in another order
RANK_TIES = 0.01  # where eager PyTorch differs nowhere, as in fp32: room for exact ties alone
RANK_FLOOR = 0.1  # of a list: neighbours closer than the rounding may change places
TOP = 10


@dataclass(slots=True)
class ValueParity:
    """Errors of one tensor, collected over all requests."""

    max_abs_error: float = 0.0
    eager_error: float = 0.0  # eager PyTorch in the graph's precision, against the same reference
    largest: float = 0.0  # of the reference
    finite: bool = True

    def add(self, found: Array, eager: Array, reference: Array) -> None:
        """Compare whole tensors.

        Shapes: all three the same
        """
        if found.shape != reference.shape:
            raise ValueError(f"parity: shapes {found.shape} and {reference.shape} differ, expected the same")
        real = reference.astype(np.float64)
        if not real.size:
            return
        self.finite &= bool(np.isfinite(found).all())
        self.max_abs_error = max(self.max_abs_error, _largest(found.astype(np.float64) - real))
        self.eager_error = max(self.eager_error, _largest(eager.astype(np.float64) - real))
        self.largest = max(self.largest, _largest(real))

    @property
    def allowed(self) -> float:
        return SLACK * self.eager_error + FLOOR * self.largest

    @property
    def passed(self) -> bool:
        return self.finite and self.max_abs_error <= self.allowed  # a NaN is not finite and fails

    def to_json(self) -> dict[str, float]:
        relative = self.max_abs_error / self.largest if self.largest else 0.0
        return {"max_abs_error": self.max_abs_error, "max_rel_error": relative, "allowed": self.allowed}


@dataclass(slots=True)
class RankParity:
    """Agreement of two rankings, 1 = the same; means over all requests."""

    found: list[float] = field(default_factory=list)
    eager: list[float] = field(default_factory=list)

    def add(self, found: float, eager: float) -> None:
        self.found.append(found)
        self.eager.append(eager)

    @property
    def mean(self) -> float:
        return float(np.mean(self.found)) if self.found else 1.0

    @property
    def allowed(self) -> float:
        """The least mean agreement that passes."""
        rounding = 1 - float(np.mean(self.eager)) if self.eager else 1.0
        return 1 - SLACK * rounding - (RANK_FLOOR if rounding else RANK_TIES)

    @property
    def passed(self) -> bool:
        return self.mean >= self.allowed


@dataclass(slots=True)
class StageParity:
    """Every check of one stage, or of the chain."""

    values: dict[str, ValueParity] = field(default_factory=dict)
    ranks: dict[str, RankParity] = field(default_factory=dict)

    def value(self, name: str) -> ValueParity:
        return self.values.setdefault(name, ValueParity())

    def rank(self, name: str) -> RankParity:
        return self.ranks.setdefault(name, RankParity())

    def failures(self) -> list[str]:
        """One line per failed check: what, got, expected."""
        lines = []
        for name, value in self.values.items():
            if not value.finite:
                lines.append(f"'{name}' has values that are NaN or infinite")
            elif not value.passed:
                lines.append(f"'{name}' is off by {value.max_abs_error:.3g}, allowed {value.allowed:.3g}")
        for name, rank in self.ranks.items():
            if not rank.passed:
                lines.append(f"{name} is {rank.mean:.3f}, expected at least {rank.allowed:.3f}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The worst tensor in short, then every tensor and rank."""
        worst = max(self.values.values(), key=lambda value: value.max_abs_error / (value.allowed or 1.0))
        return {
            **worst.to_json(),
            **{name: rank.mean for name, rank in self.ranks.items()},
            "tensors": {name: value.to_json() for name, value in self.values.items()},
        }


@dataclass(slots=True)
class CandidateLists:
    """Retrieved or ranked items of a batch with a value each.

    Shapes: items int [B, C] (-1 pads), values float [B, C], heads int [B, C] or None
    """

    items: Array
    values: Array
    heads: Array | None = None

    def of(self, request: int) -> dict[int, tuple[float, int]]:
        """Item -> value and head, pads left out."""
        heads = np.zeros_like(self.items) if self.heads is None else self.heads
        rows = zip(self.items[request].tolist(), self.values[request].tolist(), heads[request].tolist(), strict=True)
        return {item: (value, head) for item, value, head in rows if item >= 0}


def compare_lists(
    report: StageParity, value_name: str, found: CandidateLists, eager: CandidateLists, reference: CandidateLists
) -> None:
    """Items in two lists may differ where values are closer than the rounding; what both hold must have its value."""
    for request in range(len(reference.items)):
        told, real, plain = found.of(request), reference.of(request), eager.of(request)
        both = [item for item in real if item in told and item in plain]
        columns = [np.array([rows[item][0] for item in both]) for rows in (told, plain, real)]
        report.value(value_name).add(*columns)
        for name, measure in (("top10_overlap", _top_overlap), ("kendall_tau", _tau), ("common_items", _common)):
            report.rank(name).add(measure(told, real), measure(plain, real))
        if reference.heads is not None:
            report.rank("same_head").add(_same_head(told, real), _same_head(plain, real))


def kendall_tau(left: Array, right: Array) -> float:
    """Pairs in the same order less pairs in the opposite, of all pairs that are tied in neither.

    Shapes: left, right [n] -> -1 .. 1
    """
    upper = np.triu_indices(len(left), 1)
    signs = (np.sign(left[:, None] - left) * np.sign(right[:, None] - right))[upper]
    pairs = np.abs(signs).sum()
    return float(signs.sum() / pairs) if pairs else 1.0


_List = dict[int, tuple[float, int]]


def _top_overlap(found: _List, reference: _List) -> float:
    def best(rows: _List) -> set[int]:
        return set(sorted(rows, key=lambda item: (-rows[item][0], item))[:TOP])

    wanted = best(reference)
    return len(best(found) & wanted) / len(wanted) if wanted else float(not found)


def _tau(found: _List, reference: _List) -> float:
    both = [item for item in reference if item in found]
    return kendall_tau(*(np.array([rows[item][0] for item in both]) for rows in (found, reference)))


def _common(found: _List, reference: _List) -> float:
    return len(found.keys() & reference.keys()) / max(len(found), len(reference), 1)


def _same_head(found: _List, reference: _List) -> float:
    both = [item for item in reference if item in found]
    return sum(found[item][1] == reference[item][1] for item in both) / max(len(both), 1)


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0.0))


def rule() -> dict[str, float]:
    """The rule itself, for the manifest."""
    return {"slack": SLACK, "floor": FLOOR, "rank_floor": RANK_FLOOR}
