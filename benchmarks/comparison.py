"""Two row sets held against each other: what moved by more than the noise of both, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.row import CHAIN, EAGER, OPEN, RUNTIME, Row
from benchmarks.row_set import RETRIEVAL, RowSet, sizes_of
from runtime.errors import OneRankerError

TOLERANCE = 0.10  # a change within it is noise, however small the spread
SAME_LOAD, SAME_MACHINE = 0.05, 0.05  # shares by which arrivals and ceilings of two runs may differ
ONE_ROUND = 0.15  # the same for a row of one round, which does not know its spread
MEMORY_TOLERANCE = 0.10
NOISY_ABOVE = 0.30  # where the spreads are larger than this, a change within them shows nothing
NOISE, NOISY, SLOWER, FASTER, LARGER, SMALLER = "noise", "noisy", "slower", "faster", "larger", "smaller"
LOST = "lost"  # measured before and not now, though its case was run
YARDSTICK = "yardstick"  # eager PyTorch, where ratios to it are compared
WORSE = (SLOWER, LARGER)
CHANCE = "not compared: requests arrive by chance, at another rate in every run"
TIME, RATIO, MEMORY = "p50_ms", "p50_vs_eager", "peak_memory_mib"

Key = tuple[str, str]  # case, engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One quantity of one row, before and after."""

    case: str
    stage: str  # of the row; "retrieval" for retrieval at scale
    engine: str
    quantity: str  # p50_ms | p50_vs_eager | peak_memory_mib
    old: float | None
    new: float | None
    factor: float | None  # above 1 = worse: new / old, and old / new of a ratio to eager; null where one is missing
    tolerance: float | None  # noise is a factor of at most 1 + this, in either direction
    verdict: str  # noise | noisy | slower | faster | larger | smaller | lost | yardstick | "not compared: <reason>"

    @property
    def worse(self) -> bool:
        """Whether it counts: the chain of our own engines decides; its stages say why, peers may do as they like."""
        return self.stage == CHAIN and self.engine in RUNTIME and self.verdict in (*WORSE, LOST)

    @property
    def noisy(self) -> bool:
        """Whether it would count and nothing can be said of it."""
        return self.stage == CHAIN and self.engine in RUNTIME and self.verdict == NOISY


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that two row sets share, and the names of what only one has."""

    changes: Sequence[Change]
    only_old: Sequence[Key]  # of cases that were not run again: a part of them is not a loss
    only_new: Sequence[Key]

    @property
    def worse(self) -> list[Change]:
        """What decides: the chain became slower, takes more memory or is lost."""
        return [change for change in self.changes if change.worse]

    @property
    def noisy(self) -> list[Change]:
        """The chains of which nothing can be said."""
        return [change for change in self.changes if change.noisy]


def compare_row_sets(old: RowSet, new: RowSet, *, ratios: bool = False, tolerance: float = TOLERANCE) -> Comparison:
    """Join the rows by case and engine: times and memory on one machine, or ratios to eager PyTorch on any.

    A change is noise inside of the largest of `tolerance` and the spreads of both rows; for ratios, also of both rows
    of eager PyTorch. What was measured before and is missing now is lost, if the new row set has anything of its case.

    Raises:
        OneRankerError: Times of different machines or thread counts, or nothing in common.
    """
    if not ratios:
        _check_same_place(old.run, new.run)
    before, after = _by_key(old), _by_key(new)
    run_again = {row["group"] for row in after.values()}
    if not any(key in after for key in before):
        raise OneRankerError(
            f"compare: got no row of the same case and engine in {len(before)} and {len(after)} rows, expected some. "
            "Measure the same cases."
        )
    changes: list[Change] = []
    only_old: list[Key] = []
    for key, one in before.items():
        other = after.get(key)
        if other is None and (one["group"] not in run_again or not one.get(TIME)):
            only_old.append(key)
        elif one.get(TIME) and not (other and other.get(TIME)):
            changes.append(_unmoved(RATIO if ratios else TIME, one, other or {}, LOST))
        elif other and ratios:
            changes.append(_ratio(one, other, _eager_rows(key[0], before, after), tolerance))
        elif other:
            changes.append(_time(one, other, tolerance))
            if one["stage"] in (CHAIN, RETRIEVAL):  # of the process, which all stages share
                changes.append(_change(MEMORY, one, other, MEMORY_TOLERANCE, (LARGER, SMALLER)))
    return Comparison(changes=changes, only_old=only_old, only_new=[key for key in after if key not in before])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What else differs between the two runs, in words."""
    facts = [(name, old.get(name), new.get(name)) for name in ("machine", "threads", "system", "commit")]
    versions = (old.get("versions", {}), new.get("versions", {}))
    facts += [(name, *(found.get(name) for found in versions)) for name in dict.fromkeys([*versions[0], *versions[1]])]
    ceilings = [run.get("ceilings") or {} for run in (old, new)]
    for name in ceilings[0].keys() & ceilings[1].keys():
        before, after = (found[name] for found in ceilings)
        if abs(after / before - 1) > SAME_MACHINE:  # then it is not the code that has changed
            facts.append((f"ceiling {name}", f"{before:.4g}", f"{after:.4g}"))
    return [f"{name}: {before} -> {after}" for name, before, after in facts if before != after]


def _check_same_place(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name in ("machine", "threads"):
        if old[name] != new[name]:
            raise OneRankerError(
                f"compare: {name} is {new[name]!r} in the new row set, expected {old[name]!r} as in the old one: times "
                "of different places say nothing of the code. Compare ratios with --ratios, or measure both in one."
            )


def _by_key(found: RowSet) -> dict[Key, dict[str, Any]]:
    """All rows, each with its stage and the group that is measured as a whole: a case with all stages, retrieval."""
    rows = [_fields(row) for row in found.rows]
    rows += [{**row, "stage": RETRIEVAL, "group": RETRIEVAL} for row in found.retrieval]
    return {(row["case"], row["engine"]): row for row in rows}


def _fields(row: Row) -> dict[str, Any]:
    names = ("case", "engine", "stage", "rounds", "spread", "offered_per_s", TIME, RATIO, MEMORY)
    return {"group": sizes_of(row), **{name: getattr(row, name) for name in names}}


def _time(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Change:
    offered = [row.get("offered_per_s") or 0.0 for row in (old, new)]
    if old["stage"] == OPEN and max(offered) > (1 + SAME_LOAD) * min(offered):
        reason = f"{offered[0]:.3g} and {offered[1]:.3g} requests arrived per second"
        return _unmoved(TIME, old, new, f"not compared: {reason}")
    return _change(TIME, old, new, _tolerance((old, new), tolerance), (SLOWER, FASTER), accepted=tolerance)


def _ratio(
    old: Mapping[str, Any], new: Mapping[str, Any], eager: Sequence[Mapping[str, Any]], tolerance: float
) -> Change:
    if old["stage"] == OPEN:
        return _unmoved(RATIO, old, new, CHANCE)
    if old["engine"] == EAGER:
        return _unmoved(RATIO, old, new, YARDSTICK)
    noise = _tolerance((old, new, *eager), tolerance)
    return _change(RATIO, old, new, noise, (SLOWER, FASTER), accepted=tolerance, larger_is_better=True)


def _eager_rows(case: str, before: Mapping[Key, Any], after: Mapping[Key, Any]) -> list[Mapping[str, Any]]:
    """The rows of eager PyTorch that both ratios are made with."""
    return [rows[case, EAGER] for rows in (before, after) if (case, EAGER) in rows]


def _tolerance(rows: Sequence[Mapping[str, Any]], least: float) -> float:
    return max(least, *(max(ONE_ROUND, least) if row.get("spread") is None else row["spread"] for row in rows))


def _change(
    quantity: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    tolerance: float,
    words: tuple[str, str],
    *,
    accepted: float | None = None,
    larger_is_better: bool = False,
) -> Change:
    """`accepted` is the tolerance that was asked for: not even a larger one of the rows' own spreads is noisy in it."""
    before, after = old.get(quantity), new.get(quantity)
    if before and not after and quantity == RATIO:  # eager PyTorch is missing, and with it the yardstick
        return _unmoved(quantity, old, new, LOST)
    if not before or not after:
        missing = [name for name, value in (("old", before), ("new", after)) if not value]
        return _unmoved(quantity, old, new, f"not compared: no {quantity} in {' and '.join(missing)}")
    factor = before / after if larger_is_better else after / before
    worse, better = words
    verdict = worse if factor > 1 else better
    if max(factor, 1 / factor) <= 1 + tolerance:
        noisy = accepted is not None and tolerance > max(NOISY_ABOVE, accepted)
        verdict = NOISY if noisy else NOISE
    return Change(
        case=old["case"], stage=old["stage"], engine=old["engine"], quantity=quantity, old=before, new=after,
        factor=factor, tolerance=tolerance, verdict=verdict,
    )  # fmt: skip


def _unmoved(quantity: str, old: Mapping[str, Any], new: Mapping[str, Any], verdict: str) -> Change:
    """A change that has no size."""
    return Change(
        case=old["case"], stage=old["stage"], engine=old["engine"], quantity=quantity, old=old.get(quantity),
        new=new.get(quantity), factor=None, tolerance=None, verdict=verdict,
    )  # fmt: skip
