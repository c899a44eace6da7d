"""Values of one field to rows: spelling, categories, number buckets, lists."""

import numpy as np
import pytest

from oneranker.tokens import Field, TokenError, column_of, display_name, text_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((12, "12"), (12.0, "12"), ("12", "12"), (np.int64(12), "12"), (np.float32(12), "12"), (0.5, "0.5")),
        *((None, ""), (float("nan"), ""), ("", ""), (["a", 1.0], "a|1"), (True, "1"), (np.False_, "0")),
    ],
)
def test_a_raw_value_has_one_spelling(value: object, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    "column",
    [
        *(np.array([2, 1, 3, 1]), np.array([2.0, 1, 3, 1]), np.array(["2", "1", "3", "1"])),
        np.array(["2", 1.0, 3, "1"], dtype=object),
    ],
    ids=["int", "float", "text", "mixed"],
)
def test_a_category_is_the_same_row_whatever_its_type(column: np.ndarray) -> None:
    entry = Field.fit("x", "category", np.array([1, 2, 1]))
    assert entry.values == ("1", "2")
    assert entry.encode(column)[:, 0].tolist() == [3, 2, 1, 2]  # 1 = unknown


@pytest.mark.parametrize("column", [[True, 1, "1", 1.0], [1, True, 1.0, "1"], ["1", 1.0, 1, True]], ids=str)
def test_true_and_one_are_the_same_row_whichever_comes_first(column: list[object]) -> None:
    assert Field(name="x", type="category", values=("1",)).encode(column_of(column))[:, 0].tolist() == [2] * 4


def test_number_buckets_hold_equal_shares_and_missing_numbers_are_unknown() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1600.0))
    entry = Field.fit("x", "number", values, buckets=16)
    local = entry.encode(values)[:, 0]
    assert set(np.bincount(local)[2:].tolist()) <= {99, 100, 101}
    assert (np.diff(local[np.argsort(values)]) >= 0).all()
    assert entry.encode(np.array([np.nan, -1e9, 1e9]))[:, 0].tolist() == [1, 2, 17]
    assert entry.encode(np.array([None, "", "3.5"], dtype=object))[:, 0].tolist() == [1, 1, 2]
    assert Field.fit("x", "number", np.array([np.nan])).rows == 2


def test_a_list_fills_its_slots_and_drops_the_rest() -> None:
    entry = Field.fit("x", "list", np.array(["b|a", "c", None, ""], dtype=object), slots=2)
    assert entry.values == ("a", "b", "c")
    values = np.empty(5, dtype=object)
    values[:] = ["c|a|b", "b", None, "zz|a", ["a", "b"]]
    assert entry.encode(values).tolist() == [[4, 2], [3, 0], [1, 0], [1, 2], [2, 3]]


@pytest.mark.parametrize("value", [["a", ["b"]], ["a", {"b": 1}], {"a": 1}], ids=str)
def test_a_list_holds_no_lists_and_no_objects(value: object) -> None:
    with pytest.raises(TokenError, match="field 'x': got a list or an object inside a list, expected text, numbers"):
        Field(name="x", type="list", values=("a", "b"), slots=2).encode(column_of([value]))


def test_a_display_name_leaves_out_what_is_missing() -> None:
    assert display_name(["SOFT DRINKS", "National", None, 12.0, "", "$2.99"]) == "SOFT DRINKS · National · 12 · $2.99"
