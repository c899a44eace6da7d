"""The optimisation profiles of an engine: single requests and batches, short and long histories, any catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from export.settings import BuildSettings, Profile
from runtime.errors import BuildError
from runtime.stage import TensorSpec, parse_dim

Range = tuple[int, int, int]  # min, opt, max

_MOST_ELEMENTS = 2**31 - 1  # of one tensor
USUAL_ITEMS = 100_000  # what the tables' kernels are tuned for, within --max-items


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One profile; letter -> (min, opt, max), for the letters of the stage's own inputs."""

    name: str
    letters: dict[str, Range]

    def sizes(self, which: int) -> dict[str, int]:
        """Letter -> size at 0 = min, 1 = opt, 2 = max."""
        return {letter: row[which] for letter, row in self.letters.items()}

    def holds(self, letters: dict[str, int]) -> bool:
        """Whether every size lies within."""
        return all(low <= letters[letter] <= high for letter, (low, _, high) in self.letters.items())


def engine_profiles(
    inputs: Sequence[TensorSpec], envelope: Profile, settings: BuildSettings, code_levels: int
) -> tuple[EngineProfile, ...]:
    """The profiles of one stage; together they hold every size of the envelope, and no size lies in two.

    A long history gets profiles of its own, because an engine reserves scratch for the largest size of a profile, and
    because the blocks of a history's attention that a short profile cannot reach are left out of it.

    Raises:
        BuildError: The catalogue's tables would have more elements than an engine can count.
    """
    used = {letter for row in inputs for dim in row.shape for letter in parse_dim(dim)[0]}
    profiles = []
    for batch, B in _batches(envelope.B).items():
        for history, S in (_histories(envelope.S, settings.attention_block) if "S" in used else {"": None}).items():
            ranges = {"B": B, "S": S, "C": envelope.C, **_catalogue(settings.max_items, B[2], code_levels)}
            letters = {letter: row for letter, row in ranges.items() if row is not None and letter in used}
            profiles.append(EngineProfile("-".join(filter(None, (batch, history))), letters))
    return tuple(profiles)


def _batches(B: Range) -> dict[str, Range]:
    low, usual, high = B
    parts = {"single": (1, 1, 1)} if low == 1 else {}
    if high > 1:
        parts["batch"] = _within(max(low, 2), usual, high)
    return parts


def _histories(S: Range, attention_block: int) -> dict[str, Range]:
    low, usual, high = S
    half = high // 2
    if high <= attention_block or half < low:
        return {"": S}
    return {"short": _within(low, usual, half), "long": _within(half + 1, usual, high)}


def _catalogue(items: int, batch: int, code_levels: int) -> dict[str, Range]:
    """N items, at most one trie node for each item at each level and the root, one row of eligibility a request."""
    usual = min(USUAL_ITEMS, items)
    if max(1 + code_levels * items, (1 + batch) * (items + 1)) > _MOST_ELEMENTS:
        raise BuildError(
            f"profile: {items} items make {code_levels * items} trie nodes and {(1 + batch) * (items + 1)} entries of "
            f"eligibility for {batch} requests, expected at most {_MOST_ELEMENTS} of each. Lower --max-items or B in "
            "--max-shapes."
        )
    nodes = tuple(1 + code_levels * size for size in (1, usual, items))
    return {"N": (1, usual, items), "P": (nodes[0], nodes[1], nodes[2]), "R": (1, 1, 1 + batch)}


def _within(low: int, usual: int, high: int) -> Range:
    """The usual size where the range has it, else the largest: what is slow there is what should be tuned."""
    return low, usual if low <= usual <= high else high, high
