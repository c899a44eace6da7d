"""The running counts of a filter, against a loop over the items."""

from __future__ import annotations

from itertools import product

import fake_bundle
import numpy as np
import pytest

from runtime import item_tables
from runtime.item_tables import ItemFilter, fill_counts
from runtime.items import ItemIndex

N = 15
KINDS = ("no", "none", "some", "edges", "all")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ItemIndex:
    folder = tmp_path_factory.mktemp("items") / "items"
    fake_bundle.write_items(folder, items=N, seed=3, delisted=(3, 4, 9))
    return ItemIndex.read(folder)


def drawn(rng: np.random.Generator, kind: str) -> np.ndarray | None:
    """Rows as a request names them: in any order, some twice, none, all, or not at all."""
    return {
        "no": None,
        "none": np.array([], np.int64),
        "some": rng.integers(0, N, 6),
        "edges": np.array([N - 1, 0, 0]),
        "all": rng.permutation(N),
    }[kind]


@pytest.mark.parametrize("most_runs", [1 << 14, 0], ids=["by runs", "by items"])
@pytest.mark.parametrize(("only", "without"), list(product(KINDS, KINDS))[1:])  # "no", "no" is the default, row 0
def test_counts_of_a_filter_equal_a_loop(
    index: ItemIndex, monkeypatch: pytest.MonkeyPatch, only: str, without: str, most_runs: int
) -> None:
    monkeypatch.setattr(item_tables, "MOST_RUNS", most_runs)
    rng = np.random.default_rng(5)
    item_filter = ItemFilter(drawn(rng, only), drawn(rng, without))
    allowed = np.flatnonzero(index.listed) if item_filter.only is None else item_filter.only
    taken = [] if item_filter.without is None else item_filter.without.tolist()
    counts = np.full(N + 1, -7, np.int32)
    fill_counts(counts, index, item_filter, index.default_eligible())
    assert counts.tolist() == [len({row for row in allowed.tolist() if row < i} - {*taken}) for i in range(N + 1)]


@pytest.mark.parametrize("rows", [[N], [0, N + 3]])
@pytest.mark.parametrize("kind", ["only", "without"])
def test_rows_outside_of_the_index_are_an_error(index: ItemIndex, kind: str, rows: list[int]) -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        fill_counts(np.zeros(N + 1, np.int32), index, ItemFilter(**{kind: np.array(rows)}), index.default_eligible())
