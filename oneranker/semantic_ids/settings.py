"""What is asked of a quantiser: the method, the shape of its codes, and the method's own options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Self, TypeVar

from oneranker.semantic_ids.balanced_kmeans import BalancedKMeansSettings
from oneranker.semantic_ids.gaoq import WIDEST_LEVEL, GaoqSettings, Indexing
from oneranker.semantic_ids.rq_kmeans_plus import RqKmeansPlusSettings

DEFAULT_CODES = 256


_Choice = TypeVar("_Choice", bound=Enum)


class Method(Enum):
    """How items get their codes; resid is gaoq on embeddings that FAMAE learns."""

    RQ_KMEANS = "rq-kmeans"
    RQ_KMEANS_PLUS = "rq-kmeans-plus"
    GAOQ = "gaoq"
    RESID = "resid"


_TREES = (Method.GAOQ, Method.RESID)
_OWN = {  # options that not every method reads
    "branching": _TREES,
    "anchors": _TREES,
    "spare_leaves": _TREES,
    "refine_steps": (Method.RQ_KMEANS_PLUS,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdSettings:
    """Levels and codes of every method; the rest belongs to one, and is refused beside another.

    `codes` is V, the codes of each level, of RQ-KMeans and RQ-KMeans+ (None: 256). GAOQ's widths follow its branching
    factors (None: `rule_of_thumb`) and the largest leaf; there, `codes` is the most that a level may have.

    Raises:
        ValueError: a number out of its range, or an option that the method does not read.
    """

    method: Method = Method.RQ_KMEANS
    levels: int = 3
    codes: int | None = None
    branching: tuple[int, ...] | None = None
    anchors: Indexing = Indexing.ORTHOGONAL
    spare_leaves: int = 0
    refine_steps: int = RqKmeansPlusSettings().steps
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", one_of(Method, self.method))  # their values do, too
        object.__setattr__(self, "anchors", one_of(Indexing, self.anchors))
        if self.levels < 1:
            raise ValueError(f"semantic IDs: levels={self.levels}, expected at least 1; raise it")
        if self.codes is not None and not 1 <= self.codes <= WIDEST_LEVEL:
            raise ValueError(
                f"semantic IDs: codes={self.codes}, expected 1 to {WIDEST_LEVEL}; choose one, or more levels"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"semantic IDs: seed={self.seed}, expected 0 to 2**32 - 1; choose another")
        for each in fields(self):
            readers = _OWN.get(each.name, tuple(Method))
            value = getattr(self, each.name)
            if value != each.default and self.method not in readers:
                raise ValueError(
                    f"semantic IDs: {each.name}={_plain(value)} beside method {self.method.value}, expected "
                    f"it with {' or '.join(method.value for method in readers)} only; leave it out"
                )
        if self.method in _TREES:
            self.gaoq()
        if self.method is Method.RQ_KMEANS_PLUS:
            self.rq_kmeans_plus()

    def gaoq(self) -> GaoqSettings:
        return GaoqSettings(
            levels=self.levels,
            branching=self.branching,
            indexing=self.anchors,
            codes=self.codes,
            spare_leaves=self.spare_leaves,
            kmeans=BalancedKMeansSettings(seed=self.seed),
            seed=self.seed,
        )

    def rq_kmeans_plus(self) -> RqKmeansPlusSettings:
        return RqKmeansPlusSettings(steps=self.refine_steps, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        values = {name: _plain(value) for name, value in asdict(self).items()}
        return values | {"branching": None if self.branching is None else list(self.branching)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises:
            TypeError, ValueError, KeyError: it is not that.
        """
        branching = None if raw["branching"] is None else tuple(raw["branching"])
        return cls(**{**raw, "branching": branching})


def one_of(kind: type[_Choice], value: object) -> _Choice:
    """The member of an enum, or of its values, as words on a command line are.

    Raises:
        ValueError: it is neither.
    """
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(str(each.value) for each in kind)
        raise ValueError(f"semantic IDs: got {value!r}, expected one of {known}; choose one") from error


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
