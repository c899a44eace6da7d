"""A row set on disk: what one run of the benchmark measured, one JSON object a line, read whole or refused."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.retrieval_row import RetrievalRow
from benchmarks.row import CHAIN, ENGINE, KERNELS, NAIVE, PASS_THROUGH, PEERS, RUNTIME, Row
from benchmarks.row_lines import AGAIN, checked_run, dataclass_of, objects_of
from runtime.errors import OneRankerError

RUN, LATENCY, RETRIEVAL, RATIO = KINDS = ("run", "latency", "retrieval", "ratio")
GENERATOR = "generator"  # the stage with the most work
BEST, HANDED_ON, FUSED, BOUND, GROWTH = "best-peer", "pass-through", "kernels", "host-copies", "growth"
# name of the comparison -> engine: the engine that it is compared with, and the stages in which they differ: without
# keys and values handed on the ranker's time has the generator's in it again, which the chain alone shows fairly
PAIRS: dict[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    HANDED_ON: (PASS_THROUGH, (CHAIN,)),
    FUSED: ({KERNELS: ENGINE}, (GENERATOR, CHAIN)),
    BOUND: ({ENGINE: NAIVE}, (CHAIN,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Two measurements of the same work done in two ways, as one number.

    best-peer: the quickest of PEERS over the quickest of RUNTIME, both by p50, above 1 = ours is faster.
    pass-through, kernels, host-copies: against_p50_ms / p50_ms, above 1 = `engine` is faster than `against`.
    growth: p50_ms / against_p50_ms over more items than in `against_case`; both measured in turn, in one process.
    """

    name: str
    case: str
    engine: str
    against: str  # the other row's engine
    against_case: str  # the other row's case, the same but for growth
    value: float
    p50_ms: float
    against_p50_ms: float
    spread: float | None  # the larger one of both rows: a value this close to 1 says nothing


@dataclass(frozen=True, slots=True)
class RowSet:
    """One run: where it ran, its rows, those of retrieval at scale (fields of RetrievalRow), and what follows."""

    run: Mapping[str, Any]
    rows: Sequence[Row] = ()
    retrieval: Sequence[Mapping[str, Any]] = ()
    ratios: Sequence[Ratio] = field(default_factory=tuple)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            OneRankerError: It is not there, cut short, of another form, or names a row twice.
        """
        found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for where, line in objects_of(path):
            kind = line.pop("kind", None)
            if kind not in KINDS:
                raise OneRankerError(f"{where}: kind is {kind!r}, expected one of {', '.join(KINDS)}. {AGAIN}.")
            if (kind == RUN) == any(found.values()):
                raise OneRankerError(f"{where}: kind is {kind!r}, expected one line of kind run, the first. {AGAIN}.")
            found[kind].append(_checked(where, kind, line))
        if not found[RUN]:
            raise OneRankerError(f"{path}: got an empty file, expected a line of kind run and rows. {AGAIN}.")
        _check_once(path, [(row.case, row.engine) for row in found[LATENCY]])
        _check_once(path, [(row["case"], row["engine"]) for row in found[RETRIEVAL]])
        return cls(found[RUN][0], found[LATENCY], found[RETRIEVAL], found[RATIO])

    def write(self, path: Path) -> None:
        """Write all of it, or leave what was there.

        Raises:
            OneRankerError: The file cannot be written, or a number is not finite.
        """
        lines: list[dict[str, Any]] = [{"kind": RUN, **self.run}]
        lines += [{"kind": LATENCY, **asdict(row)} for row in self.rows]
        lines += [{"kind": RETRIEVAL, **row} for row in self.retrieval]
        lines += [{"kind": RATIO, **asdict(ratio)} for ratio in self.ratios]
        try:
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        except ValueError as error:
            raise OneRankerError(
                f"{path}: got a row with {error}, expected finite numbers. Measure it again."
            ) from error
        write_whole(path, text)


def derived(rows: Sequence[Row], retrieval: Sequence[Mapping[str, Any]] = ()) -> list[Ratio]:
    """What a pair of rows says that no row says alone; pairs of which one was not measured are left out."""
    found = _best_peers(rows)
    by_key = {(row.case, row.engine): row for row in rows}
    for name, (pairs, stages) in PAIRS.items():
        for row in rows:
            other = by_key.get((row.case, pairs.get(row.engine, ""))) if row.stage in stages else None
            if other is not None and row.p50_ms is not None and other.p50_ms is not None:
                found.append(_against(name, row, row.p50_ms, other, other.p50_ms))
    return found + _growth(retrieval)


def _best_peers(rows: Sequence[Row]) -> list[Ratio]:
    """For the generator and the chain of every case: the quickest of what a user has without us, over ours."""
    found = []
    for case in dict.fromkeys(row.case for row in rows if row.stage in (GENERATOR, CHAIN)):
        timed = [(row.p50_ms, row) for row in rows if row.case == case and row.p50_ms is not None]
        ours = [one for one in timed if one[1].engine in RUNTIME]
        theirs = [one for one in timed if one[1].engine in PEERS]
        if ours and theirs:
            (p50, row), (other_p50, other) = (min(some, key=lambda one: one[0]) for some in (ours, theirs))
            found.append(_against(BEST, row, p50, other, other_p50))
    return found


def _against(name: str, row: Row, p50_ms: float, other: Row, other_p50_ms: float) -> Ratio:
    return Ratio(
        name=name, case=row.case, engine=row.engine, against=other.engine, against_case=other.case,
        value=other_p50_ms / p50_ms, p50_ms=p50_ms, against_p50_ms=other_p50_ms,
        spread=max((s for s in (row.spread, other.spread) if s is not None), default=None),
    )  # fmt: skip


def _growth(retrieval: Sequence[Mapping[str, Any]]) -> list[Ratio]:
    """How much longer a search takes over more items, where the row was measured in turn with one of fewer."""
    return [
        Ratio(
            name=GROWTH, case=row["case"], engine=row["engine"], against=row["engine"],
            against_case=f"{row['retriever']}-n{row['reference_items']}", value=row["p50_vs_reference"],
            p50_ms=row["p50_ms"], against_p50_ms=row["reference_p50_ms"], spread=None,
        )
        for row in retrieval
        if row.get("p50_vs_reference") is not None
    ]  # fmt: skip


def sizes_of(row: Row) -> str:
    """The case without its stage: rows of one of these stand in one table."""
    return row.case.replace(f"{row.stage}-", "", 1)


def write_whole(path: Path, text: str) -> None:
    """Write a file or leave what was there: a temporary file beside it, then a rename.

    The file keeps the mode that it had; a new one gets what the umask leaves of 0o666.

    Raises:
        OneRankerError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, UnicodeEncodeError) as error:  # half of a surrogate pair is JSON, and no text
        raise OneRankerError(f"{path}: got {error}, expected a file that can be written. Name another one.") from error


def _checked(where: str, kind: str, line: dict[str, Any]) -> Any:
    """A line as what it stands for."""
    if kind == RUN:
        return checked_run(where, line)
    if kind == RETRIEVAL:
        return asdict(dataclass_of(where, RetrievalRow, line))
    return dataclass_of(where, Row if kind == LATENCY else Ratio, line)


def _check_once(path: Path, keys: Iterable[tuple[str, str]]) -> None:
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    if twice is not None:
        raise OneRankerError(f"{path}: got {twice[0]} on {twice[1]} twice, expected each row once. {AGAIN}.")
