"""A row set on disk: what one run of the benchmark measured, one JSON object a line, read whole or refused."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from benchmarks.row import CHAIN, ENGINE, KERNELS, NAIVE, PASS_THROUGH, Row
from runtime.errors import OneRankerError

RUN, LATENCY, RETRIEVAL, RATIO = KINDS = ("run", "latency", "retrieval", "ratio")
AGAIN = "Write it again with `python -m benchmarks.bench`"
RUN_FIELDS = (
    *("date", "command", "commit", "machine", "load_average", "threads", "system", "versions"),
    *("ceilings", "seconds"),
)
HANDED_ON, FUSED, BOUND, GROWTH = "pass-through", "kernels", "host-copies", "growth"
GROWTH_FACTOR = 100  # times as many items
# name of the comparison -> engine: the engine that it is compared with, and the stages in which they differ: without
# keys and values handed on the ranker's time has the generator's in it again, which the chain alone shows fairly
PAIRS: dict[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    HANDED_ON: (PASS_THROUGH, (CHAIN,)),
    FUSED: ({KERNELS: ENGINE}, ("generator", CHAIN)),
    BOUND: ({ENGINE: NAIVE}, (CHAIN,)),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str | None": (str, type(None)),
    "Mapping[str, str]": (dict,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Two rows of one row set that do the same work in two ways, as one number.

    pass-through, kernels, host-copies: against_p50_ms / p50_ms, above 1 = `engine` is faster than `against`.
    growth: p50_ms / against_p50_ms, with GROWTH_FACTOR times as many items as in `against_case`.
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
    """One run: where it ran, its rows, those of retrieval at scale as they are, and what was derived from them."""

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
        for where, line in _lines(path):
            kind = line.pop("kind", None)
            if kind not in found:
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
    found = []
    by_key = {(row.case, row.engine): row for row in rows}
    for name, (pairs, stages) in PAIRS.items():
        for row in rows:
            other = by_key.get((row.case, pairs.get(row.engine, ""))) if row.stage in stages else None
            if other is None or row.p50_ms is None or other.p50_ms is None:
                continue
            found.append(
                Ratio(
                    name=name, case=row.case, engine=row.engine, against=other.engine, against_case=other.case,
                    value=other.p50_ms / row.p50_ms, p50_ms=row.p50_ms, against_p50_ms=other.p50_ms,
                    spread=max((s for s in (row.spread, other.spread) if s is not None), default=None),
                )
            )  # fmt: skip
    return found + _growth(retrieval)


def _growth(retrieval: Sequence[Mapping[str, Any]]) -> list[Ratio]:
    """How much longer a search takes in GROWTH_FACTOR times as many items, everything else alike."""
    timed = [row for row in retrieval if row.get("p50_ms")]
    by_key = {(row["engine"], without_items(row["case"]), items_of(row)): row for row in timed}
    found = []
    for (engine, rest, items), row in by_key.items():
        fewer = by_key.get((engine, rest, items // GROWTH_FACTOR)) if items and items % GROWTH_FACTOR == 0 else None
        if fewer is None:
            continue
        found.append(
            Ratio(
                name=GROWTH, case=row["case"], engine=engine, against=engine, against_case=fewer["case"],
                value=row["p50_ms"] / fewer["p50_ms"], p50_ms=row["p50_ms"], against_p50_ms=fewer["p50_ms"],
                spread=None,
            )
        )  # fmt: skip
    return found


def sizes_of(row: Row) -> str:
    """The case without its stage: rows of one of these stand in one table."""
    return row.case.replace(f"{row.stage}-", "", 1)


def items_of(row: Mapping[str, Any]) -> int | None:
    """N of a row of retrieval."""
    named = re.search(r"(?:^|-)n(\d+)(?:-|$)", row["case"])
    return int(named[1]) if named else None


def without_items(case: str) -> str:
    """The case with N left open."""
    return re.sub(r"(^|-)n\d+(?=-|$)", r"\1n", case)


def write_whole(path: Path, text: str) -> None:
    """Write a file or leave what was there: a temporary file beside it, then a rename.

    Raises:
        OneRankerError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise OneRankerError(f"{path}: got {error}, expected a file that can be written. Name another one.") from error


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a line stands, for messages, and its object."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OneRankerError(f"{path}: got {error}, expected a row set. {AGAIN}.") from error
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise OneRankerError(f"{path}:{number}: got {error}, expected a JSON object. {AGAIN}.") from error
        if not isinstance(value, dict):
            raise OneRankerError(
                f"{path}:{number}: got a {type(value).__name__}, expected an object with a kind. {AGAIN}."
            )
        yield f"{path}:{number}", value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no number of JSON")


def _checked(where: str, kind: str, line: dict[str, Any]) -> Any:
    """A line as what it stands for."""
    if kind == LATENCY:
        return _dataclass(where, Row, line)
    if kind == RATIO:
        return _dataclass(where, Ratio, line)
    needed = RUN_FIELDS if kind == RUN else ("case", "engine")
    if missing := [name for name in needed if name not in line]:
        raise OneRankerError(f"{where}: got no {', '.join(missing)}, expected {', '.join(needed)} in {kind}. {AGAIN}.")
    return line


def _dataclass(where: str, cls: type[Any], line: dict[str, Any]) -> Any:
    known = {one.name: one for one in fields(cls)}
    needed = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    missing, unknown = needed - line.keys(), line.keys() - known.keys()
    if missing or unknown:
        raise OneRankerError(
            f"{where}: got {', '.join(sorted(unknown)) or 'nothing'} beside the fields of a {cls.__name__}, without "
            f"{', '.join(sorted(missing)) or 'none'}, expected exactly them. {AGAIN}."
        )
    for name, value in line.items():
        allowed = _TYPES[str(known[name].type)]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise OneRankerError(f"{where}: {name} is {value!r}, expected {known[name].type}. {AGAIN}.")
    return cls(**line)


def _check_once(path: Path, keys: Sequence[tuple[str, str]]) -> None:
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    if twice is not None:
        raise OneRankerError(f"{path}: got {twice[0]} on {twice[1]} twice, expected each row once. {AGAIN}.")
