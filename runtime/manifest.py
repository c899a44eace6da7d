"""The contract of a bundle: manifest.json, read strictly; the exporter writes it with the same class (stdlib only)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from runtime.errors import BundleError

SCHEMA_VERSION = 2
STAGES = ("generator", "enhancer", "retriever", "ranker")
REBUILD = "Rebuild with `python -m export.build --stage all`"

_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEntry:
    """Where the weights come from: `source` is "checkpoint" or "random"."""

    source: str
    detail: str
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor at a graph's boundary; `dtype` is numpy's name, `shape` numbers and letters ("B", "N+1")."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileEntry:
    """One optimisation profile of a plan, in the plan's own order; letter -> (min, opt, max)."""

    name: str
    letters: dict[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """An engine that was built from a stage's graph."""

    file: str
    sha256: str
    bytes: int
    engine: str  # the module: "tensorrt" or "tensorrt_rtx"
    version: str  # of that module, in full; a plan serves on no other
    compute_capabilities: tuple[str, ...]  # such as "8.9"; none named: whatever the engine's own check takes
    profiles: tuple[ProfileEntry, ...]
    verified: str  # on which device its answers were compared with PyTorch, or "not run on a GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEntry:
    """One exported graph and its tensors, in the graph's own order, and the engine built from it."""

    file: str
    sha256: str
    bytes: int
    fingerprint: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    plan: PlanEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsEntry:
    """The item index that the bundle was built with."""

    folder: str
    version: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One more file of the bundle."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a runtime must know before it opens a bundle's other files."""

    created: str
    weights: WeightsEntry
    model: dict[str, Any]
    precision: str
    engine: str
    opset: int
    profile: dict[str, tuple[int, int, int]]  # letter -> (min, opt, max)
    versions: dict[str, str]
    stages: dict[str, StageEntry]
    items: ItemsEntry
    tokenizer: FileEntry
    masks: FileEntry
    parity: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def read(cls, bundle: str | Path) -> Self:
        """Read `bundle`/manifest.json.

        Raises:
            BundleError: If it is absent, not JSON, of another schema, or has unknown, missing or ill-typed keys.
        """
        path = Path(bundle) / "manifest.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{path}: not a readable manifest ({error}). Was the build interrupted? {REBUILD}."
            ) from error
        if not isinstance(raw, dict):
            raise BundleError(f"{path}: holds a {type(raw).__name__}, expected a JSON object. {REBUILD}.")
        if (found := raw.get("schema_version")) != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: schema {found}, this runtime reads schema {SCHEMA_VERSION}. "
                f"{REBUILD}, or install the runtime of that release."
            )
        return cls.from_json(raw, str(path))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], where: str = "manifest") -> Self:
        """Build from the parsed JSON object; `where` stands in the messages."""
        values = _strict(cls, raw, where)
        values["weights"] = _entry(WeightsEntry, values["weights"], f"{where}: weights")
        values["items"] = _entry(ItemsEntry, values["items"], f"{where}: items")
        values["tokenizer"] = _entry(FileEntry, values["tokenizer"], f"{where}: tokenizer")
        values["masks"] = _entry(FileEntry, values["masks"], f"{where}: masks")
        values["profile"] = {
            letter: _range(row, f"{where}: profile.{letter}") for letter, row in values["profile"].items()
        }
        values["stages"] = {name: _stage(row, f"{where}: stages.{name}") for name, row in values["stages"].items()}
        if tuple(values["stages"]) != STAGES:
            raise BundleError(f"{where}: stages are {list(values['stages'])}, expected {list(STAGES)}. {REBUILD}.")
        for letter in ("B", "S", "C"):
            if letter not in values["profile"]:
                raise BundleError(f"{where}: profile has no {letter}, expected [min, opt, max]. {REBUILD}.")
        return cls(**values)

    def write(self, bundle: str | Path) -> None:
        """Write `bundle`/manifest.json; call it last, so that a bundle without it is known to be unfinished."""
        rows = {"schema_version": self.schema_version, **asdict(self)}
        text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
        (Path(bundle) / "manifest.json").write_text(text, encoding="utf-8")

    @property
    def letters(self) -> dict[str, int]:
        """The alphabet's letters that the model fixes (D, H, L, ...)."""
        return {key: value for key, value in self.model.items() if len(key) == 1 and isinstance(value, int)}


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(bundle: str | Path, file: str, sha256: str, size: int | None = None) -> Path:
    """Compare one file of a bundle with its manifest row.

    Returns:
        The file's path.

    Raises:
        BundleError: If the file is absent, cut short, or differs in any byte.
    """
    path = Path(bundle) / file
    if not path.resolve().is_relative_to(Path(bundle).resolve()):
        raise BundleError(f"{path}: lies outside of the bundle, expected a file inside of it. {REBUILD}.")
    if not path.is_file():
        raise BundleError(f"{path}: no such file, though the manifest names it. Copy the bundle again. {REBUILD}.")
    if size is not None and (found := path.stat().st_size) != size:
        raise BundleError(f"{path}: {found} bytes, the manifest says {size}. Copy the bundle again, or: {REBUILD}.")
    if (digest := file_sha256(path)) != sha256:
        raise BundleError(
            f"{path}: sha256 {digest[:12]}…, the manifest says {sha256[:12]}…; the file was edited. "
            f"Copy the bundle again, or: {REBUILD}."
        )
    return path


# The JSON types of the entries' fields; a field that is not named here holds an object, checked by its own reader.
_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "int | None": (int, type(None)),
    "tuple[TensorEntry, ...]": list,
    "tuple[int | str, ...]": list,
    "tuple[str, ...]": list,
    "tuple[ProfileEntry, ...]": list,
    "PlanEntry | None": (dict, type(None)),
}


def _strict(kind: type, raw: Any, where: str) -> dict[str, Any]:
    """The object's values, after a check that its keys are exactly the fields of `kind` and of the right JSON type."""
    if not isinstance(raw, Mapping):
        raise BundleError(f"{where}: holds {type(raw).__name__}, expected an object. {REBUILD}.")
    expected = {row.name: str(row.type) for row in fields(kind)}
    if unknown := sorted(set(raw) - set(expected)):
        raise BundleError(f"{where}: unknown key {unknown[0]!r}, expected {', '.join(expected)}. {REBUILD}.")
    if missing := sorted(set(expected) - set(raw)):
        raise BundleError(f"{where}: key {missing[0]!r} is missing, got {', '.join(raw)}. {REBUILD}.")
    for key, type_name in expected.items():
        wanted = _JSON_TYPES.get(type_name, dict)
        if not isinstance(raw[key], wanted) or isinstance(raw[key], bool):
            raise BundleError(f"{where}: {key!r} is {raw[key]!r:.60}, expected {type_name}. {REBUILD}.")
    return dict(raw)


def _entry(kind: type[_Entry], raw: Any, where: str) -> _Entry:
    return kind(**_strict(kind, raw, where))


def _range(raw: Any, where: str) -> tuple[int, int, int]:
    whole = isinstance(raw, list) and len(raw) == 3 and all(type(value) is int for value in raw)
    if not whole or not 1 <= raw[0] <= raw[1] <= raw[2]:
        raise BundleError(f"{where} is {raw}, expected [min, opt, max] with 1 <= min <= opt <= max. {REBUILD}.")
    return raw[0], raw[1], raw[2]


def _stage(raw: Any, where: str) -> StageEntry:
    values = _strict(StageEntry, raw, where)
    for side in ("inputs", "outputs"):
        values[side] = tuple(_tensor(row, f"{where}.{side}[{i}]") for i, row in enumerate(values[side]))
    if values["plan"] is not None:
        values["plan"] = _plan(values["plan"], f"{where}.plan")
    return StageEntry(**values)


def _plan(raw: Any, where: str) -> PlanEntry:
    values = _strict(PlanEntry, raw, where)
    values["compute_capabilities"] = tuple(map(str, values["compute_capabilities"]))
    values["profiles"] = tuple(_profile(row, f"{where}.profiles[{i}]") for i, row in enumerate(values["profiles"]))
    if not values["profiles"]:
        raise BundleError(f"{where}: has no profiles, expected at least one. {REBUILD}.")
    return PlanEntry(**values)


def _profile(raw: Any, where: str) -> ProfileEntry:
    values = _strict(ProfileEntry, raw, where)
    letters = {letter: _range(row, f"{where}.letters.{letter}") for letter, row in values["letters"].items()}
    return ProfileEntry(name=values["name"], letters=letters)


def _tensor(raw: Any, where: str) -> TensorEntry:
    values = _strict(TensorEntry, raw, where)
    values["shape"] = tuple(values["shape"])
    if not all(type(dim) in (int, str) for dim in values["shape"]):
        raise BundleError(f"{where}: shape is {list(values['shape'])}, expected numbers and letters. {REBUILD}.")
    return TensorEntry(**values)
