"""Two row sets held against each other: what moved by more than the noise of both, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.row import CHAIN, EAGER, OPEN, Row
from benchmarks.row_set import RowSet
from runtime.errors import OneRankerError

TOLERANCE = 0.05  # a change within it is noise, however small the spread
ONE_ROUND = 0.15  # the same for a row of one round, which does not know its spread
MEMORY_TOLERANCE = 0.10
NOISE, SLOWER, FASTER, LARGER, SMALLER = "noise", "slower", "faster", "larger", "smaller"
YARDSTICK = "yardstick"  # eager PyTorch, where ratios to it are compared
WORSE = (SLOWER, LARGER)
TIME, RATIO, MEMORY = "p50_ms", "p50_vs_eager", "peak_memory_mib"

Key = tuple[str, str]  # case, engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One quantity of one row, before and after."""

    case: str
    engine: str
    quantity: str  # p50_ms | p50_vs_eager | peak_memory_mib
    old: float | None
    new: float | None
    factor: float | None  # above 1 = worse: new / old, and old / new of a ratio to eager; null where one is missing
    tolerance: float | None  # noise is a factor of at most 1 + this, in either direction
    verdict: str  # noise | slower | faster | larger | smaller | yardstick | "not compared: <reason>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that two row sets share, and the names of what only one has."""

    changes: Sequence[Change]
    only_old: Sequence[Key]
    only_new: Sequence[Key]

    @property
    def worse(self) -> list[Change]:
        """What became slower or takes more memory."""
        return [change for change in self.changes if change.verdict in WORSE]


def compare_row_sets(old: RowSet, new: RowSet, *, ratios: bool = False, tolerance: float = TOLERANCE) -> Comparison:
    """Join the rows by case and engine: times and memory on one machine, or ratios to eager PyTorch on any.

    A change is noise inside of the largest of `tolerance` and the spreads of both rows; for ratios, also of both rows
    of eager PyTorch.

    Raises:
        OneRankerError: Times of different machines or thread counts, or nothing in common.
    """
    if not ratios:
        _check_same_place(old.run, new.run)
    before, after = _by_key(old), _by_key(new)
    shared = [key for key in before if key in after]
    if not shared:
        raise OneRankerError(
            f"compare: got no row of the same case and engine in {len(before)} and {len(after)} rows, expected some. "
            "Measure the same cases."
        )
    changes: list[Change] = []
    for key in shared:
        one, other = before[key], after[key]
        if ratios:
            changes.append(_ratio(key, one, other, _eager_rows(key[0], before, after), tolerance))
        else:
            changes.append(_time(key, one, other, tolerance))
        if not ratios and one.get("stage", CHAIN) == CHAIN:  # of the process, which all stages share
            changes.append(_change(key, MEMORY, one, other, MEMORY_TOLERANCE, (LARGER, SMALLER)))
    return Comparison(
        changes=changes,
        only_old=[key for key in before if key not in after],
        only_new=[key for key in after if key not in before],
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What else differs between the two runs, in words."""
    facts = [(name, old.get(name), new.get(name)) for name in ("machine", "threads", "system", "commit")]
    versions = (old.get("versions", {}), new.get("versions", {}))
    facts += [(name, *(found.get(name) for found in versions)) for name in dict.fromkeys([*versions[0], *versions[1]])]
    return [f"{name}: {before} -> {after}" for name, before, after in facts if before != after]


def _check_same_place(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name in ("machine", "threads"):
        if old[name] != new[name]:
            raise OneRankerError(
                f"compare: {name} is {new[name]!r} in the new row set, expected {old[name]!r} as in the old one: times "
                "of different places say nothing of the code. Compare ratios with --ratios, or measure both in one."
            )


def _by_key(found: RowSet) -> dict[Key, dict[str, Any]]:
    rows = [_fields(row) for row in found.rows] + [dict(row) for row in found.retrieval]
    return {(row["case"], row["engine"]): row for row in rows}


def _fields(row: Row) -> dict[str, Any]:
    names = ("case", "engine", "stage", "rounds", "spread", "offered_per_s", TIME, RATIO, MEMORY)
    return {name: getattr(row, name) for name in names}


def _time(key: Key, old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Change:
    offered = [row.get("offered_per_s") or 0.0 for row in (old, new)]
    if old.get("stage") == OPEN and max(offered) > (1 + TOLERANCE) * min(offered):
        reason = f"{offered[0]:.3g} and {offered[1]:.3g} requests arrived per second"
        return _not_compared(key, TIME, old, new, reason)
    return _change(key, TIME, old, new, _tolerance((old, new), tolerance), (SLOWER, FASTER))


def _ratio(
    key: Key, old: Mapping[str, Any], new: Mapping[str, Any], eager: Sequence[Mapping[str, Any]], tolerance: float
) -> Change:
    if key[1] == EAGER:
        return Change(
            case=key[0], engine=key[1], quantity=RATIO, old=old.get(RATIO), new=new.get(RATIO),
            factor=None, tolerance=None, verdict=YARDSTICK,
        )  # fmt: skip
    return _change(
        key, RATIO, old, new, _tolerance((old, new, *eager), tolerance), (SLOWER, FASTER), larger_is_better=True
    )


def _eager_rows(case: str, before: Mapping[Key, Any], after: Mapping[Key, Any]) -> list[Mapping[str, Any]]:
    """The rows of eager PyTorch that both ratios are made with."""
    return [rows[case, EAGER] for rows in (before, after) if (case, EAGER) in rows]


def _tolerance(rows: Sequence[Mapping[str, Any]], least: float) -> float:
    return max(least, *(max(ONE_ROUND, least) if row.get("spread") is None else row["spread"] for row in rows))


def _change(
    key: Key,
    quantity: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    tolerance: float,
    words: tuple[str, str],
    *,
    larger_is_better: bool = False,
) -> Change:
    before, after = old.get(quantity), new.get(quantity)
    if not before or not after:
        missing = [name for name, value in (("old", before), ("new", after)) if not value]
        return _not_compared(key, quantity, old, new, f"no {quantity} in {' and '.join(missing)}")
    factor = before / after if larger_is_better else after / before
    worse, better = words
    verdict = NOISE if max(factor, 1 / factor) <= 1 + tolerance else worse if factor > 1 else better
    return Change(
        case=key[0], engine=key[1], quantity=quantity, old=before, new=after,
        factor=factor, tolerance=tolerance, verdict=verdict,
    )  # fmt: skip


def _not_compared(key: Key, quantity: str, old: Mapping[str, Any], new: Mapping[str, Any], reason: str) -> Change:
    return Change(
        case=key[0], engine=key[1], quantity=quantity, old=old.get(quantity), new=new.get(quantity),
        factor=None, tolerance=None, verdict=f"not compared: {reason}",
    )  # fmt: skip
