"""The lines of a row set's file: JSON objects whose fields have the names and types that they should, or an error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from runtime.errors import OneRankerError

AGAIN = "Write it again with `python -m benchmarks.bench`"
RUN_TYPES = {  # of the first line; the names of types are those of a dataclass's annotations
    "date": "str",
    "command": "str",
    "commit": "str | None",
    "machine": "str",
    "load_average": "float | None",
    "threads": "int",
    "system": "str",
    "versions": "Mapping[str, str]",
    "ceilings": "Mapping[str, float] | None",
    "seconds": "float",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "str | None": (str, type(None)),
    "Mapping[str, str]": (dict,),
    "Mapping[str, float] | None": (dict, type(None)),
}
_INSIDE: dict[str, tuple[type, ...]] = {"Mapping[str, str]": (str,), "Mapping[str, float] | None": (int, float)}


def objects_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a line stands, for messages, and its object.

    Raises:
        OneRankerError: The file cannot be read, or a line is no JSON object of finite numbers.
    """
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


def checked_run(where: str, line: dict[str, Any]) -> dict[str, Any]:
    """The first line: every field of RUN_TYPES and whatever else the program told.

    Raises:
        OneRankerError: A field is missing or of another type.
    """
    if missing := [name for name in RUN_TYPES if name not in line]:
        raise OneRankerError(f"{where}: got no {', '.join(missing)}, expected {', '.join(RUN_TYPES)} in run. {AGAIN}.")
    _check_types(where, RUN_TYPES, line)
    return line


def dataclass_of(where: str, cls: type[Any], line: dict[str, Any]) -> Any:
    """A line as an object of the class; what the class has a default for may be missing.

    Raises:
        OneRankerError: A field is missing, unknown or of another type.
    """
    known = {one.name: one for one in fields(cls)}
    needed = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    missing, unknown = needed - line.keys(), line.keys() - known.keys()
    if missing or unknown:
        raise OneRankerError(
            f"{where}: got {', '.join(sorted(unknown)) or 'nothing'} beside the fields of a {cls.__name__}, without "
            f"{', '.join(sorted(missing)) or 'none'}, expected exactly them. {AGAIN}."
        )
    _check_types(where, {name: str(one.type) for name, one in known.items()}, line)
    return cls(**line)


def _check_types(where: str, types: Mapping[str, str], line: Mapping[str, Any]) -> None:
    for name, value in line.items():
        if name not in types:
            continue
        told = types[name]
        inside = value.values() if isinstance(value, dict) and told in _INSIDE else ()
        if not _is(value, _TYPES[told]) or not all(_is(one, _INSIDE[told]) for one in inside):
            raise OneRankerError(f"{where}: {name} is {value!r}, expected {told}. {AGAIN}.")


def _is(value: object, allowed: tuple[type, ...]) -> bool:
    finite = not isinstance(value, float) or math.isfinite(value)  # 1e999 is JSON
    return isinstance(value, allowed) and not isinstance(value, bool) and finite


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no number of JSON")
