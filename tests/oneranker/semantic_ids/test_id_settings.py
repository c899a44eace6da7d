"""Options of a quantiser: what each method reads, and what it does with them."""

from __future__ import annotations

import json
import re
from math import ceil
from typing import Any

import numpy as np
import pytest
from fitted_ids import SETTINGS, drawn

from oneranker.errors import DataError
from oneranker.semantic_ids import IdSettings, Method, fit
from oneranker.semantic_ids.gaoq import Indexing, rule_of_thumb

TREES = {Method.GAOQ, Method.RESID}
READERS: dict[str, tuple[Any, set[Method]]] = {
    "levels": (2, set(Method)),
    "codes": (7, set(Method)),
    "seed": (3, set(Method)),
    "branching": ((3, 4), TREES),
    "anchors": (Indexing.FITTED, TREES),
    "spare_leaves": (2, TREES),
    "refine_steps": (5, {Method.RQ_KMEANS_PLUS}),
}


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("name", list(READERS))
def test_an_option_is_refused_beside_a_method_that_does_not_read_it(name: str, method: Method) -> None:
    value, readers = READERS[name]
    if method in readers:
        settings = IdSettings(method=method, **{name: value})
        assert getattr(settings, name) == value
        assert IdSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    else:
        words = " or ".join(reader.value for reader in Method if reader in readers)
        said = re.escape(
            f"{name}={getattr(value, 'value', value)} beside method {method.value}, expected it with {words}"
        )
        with pytest.raises(ValueError, match=said):
            IdSettings(method=method, **{name: value})


def test_every_option_is_known_here() -> None:
    assert {*READERS, "method"} == IdSettings().to_dict().keys()


@pytest.mark.parametrize("settings", SETTINGS.values())
def test_settings_read_back_as_they_were(settings: IdSettings) -> None:
    assert IdSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    "change", [{"method": "pq"}, {"anchors": 3}, {"levels": "3"}, {"colour": 1}, {"branching": 7}, {"codes": [1]}]
)
def test_settings_that_are_none_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        IdSettings.from_dict(IdSettings().to_dict() | change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels=0, expected at least 1"),
        ({"codes": 0}, "codes=0, expected 1 to 65536"),
        ({"codes": 65_537}, "codes=65537, expected 1 to 65536"),
        ({"seed": -1}, "seed=-1, expected 0"),
        ({"seed": 2**32}, "seed=4294967296, expected 0"),
        ({"method": Method.GAOQ, "levels": 1}, "levels=1, expected at least 2"),
        ({"method": Method.GAOQ, "branching": (4,)}, "expected 2 factors"),
        ({"method": Method.RESID, "branching": (4, 0)}, "factors >= 1"),
        ({"method": Method.RESID, "spare_leaves": -1}, "spare_leaves=-1"),
        ({"method": Method.RQ_KMEANS_PLUS, "refine_steps": -1}, "steps=-1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IdSettings(**options)


def test_codes_are_the_most_that_a_level_of_a_tree_has() -> None:
    for items in (1, 5, 60, 150):
        points = np.random.default_rng(items).normal(size=(items, 16))
        ids = fit(points, IdSettings(method=Method.GAOQ, codes=7))
        assert max(ids.widths) <= 7
        assert len({tuple(path) for path in ids.codes.tolist()}) == items
    room = fit(drawn(), IdSettings(method=Method.GAOQ, codes=7, spare_leaves=3))
    assert max(room.widths) <= 7
    with pytest.raises(DataError, match=r"40 items need levels of \[3, 4, 4\] codes, expected at most 3"):
        fit(drawn(), IdSettings(method=Method.GAOQ, codes=3, branching=(3, 4)))
    with pytest.raises(DataError, match=r"levels of \[2, 2, 10\] codes, expected at most 2"):
        fit(drawn(), IdSettings(method=Method.GAOQ, codes=2))


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_a_tree_of_that_many_codes_is_chosen_wherever_there_is_one(levels: int) -> None:
    most = 11
    for items in range(1, most**levels + 1, 1 if levels < 4 else 7):
        factors = rule_of_thumb(items, levels, most)
        assert max(factors) <= most
        assert ceil(items / int(np.prod(factors))) <= most


def test_methods_and_anchors_may_be_named_by_their_words() -> None:
    assert IdSettings(method="gaoq", anchors="fitted") == IdSettings(method=Method.GAOQ, anchors=Indexing.FITTED)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 'goaq', expected one of rq-kmeans, rq-kmeans-plus, gaoq, resid"):
        IdSettings(method="goaq")  # type: ignore[arg-type]
