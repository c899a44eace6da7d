"""The tokenizer: layout of one request, rows of values, saving, and what it refuses."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from oneranker.tokens import (
    CONTENT,
    CONTEXT,
    ITEM,
    USER,
    Field,
    SimpleItemLookup,
    TokenError,
    Tokenizer,
    group_events,
    newest,
)

L, V, N = 3, 4, 6  # levels, codes, items
CODES = np.stack(np.unravel_index(np.arange(N) * 7 % V**L, (V,) * L), axis=1)
COLOURS = np.array(["red", "blue", "red", None, "green", "blue"], dtype=object)
WEIGHTS = np.array([1.0, 5.0, np.nan, 2.0, 9.0, 3.0])
TAGS = np.array(["a|b", "c", "", "b|a|c", None, "x"], dtype=object)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(
        levels=L,
        codes=V,
        content=(
            Field(name="colour", type="category", values=("blue", "red")),
            Field(name="weight", type="number", edges=(2.0, 4.0)),
            Field(name="tags", type="list", values=("a", "b", "c"), slots=2),
        ),
        event=(Field(name="action", type="category", values=("buy", "mail", "see")),),
        context=(Field(name="shop", type="integer", values=("1", "2")),),
        user=(Field(name="age", type="number", edges=(30.0,)), Field(name="town", type="category", values=("x",))),
        actions={"buy": "item", "see": "item", "mail": "content"},
    )


@pytest.fixture
def items(tokenizer: Tokenizer) -> SimpleItemLookup:
    fields = tokenizer.item_fields(CODES, {"colour": COLOURS, "weight": WEIGHTS, "tags": TAGS})
    return SimpleItemLookup([f"i{row}" for row in range(N)], fields)


def request(**changes: object) -> dict[str, object]:
    events = [
        {"item": "i1", "time": 100, "group": "g1", "shop": 2, "action": "buy"},
        {"item": "i0", "time": 100, "group": "g1", "shop": 1, "action": "see"},
        {"action": "mail", "time": 160},
        {"item": "nobody", "time": 400, "group": "g2", "action": "buy"},
    ]
    plain = {"user": {"id": "u", "age": 31}, "now": 90_000, "context": {"shop": "1"}, "events": events}
    return plain | changes


def test_one_request_is_laid_out_as_user_groups_content_and_the_request_last(
    tokenizer: Tokenizer, items: SimpleItemLookup
) -> None:
    tokens = tokenizer.encode(request(), items, 16)
    assert tokens.token_kind.tolist() == [USER, CONTEXT, ITEM, ITEM, CONTENT, CONTEXT, ITEM, CONTEXT]
    assert tokens.token_time.tolist() == [100, 100, 100, 100, 160, 400, 400, 90_000]
    assert (tokens.unknown_items, tokens.dropped) == (1, 0)
    at = tokenizer.offsets

    def time_rows(hour: int, weekday: int, gap: int) -> list[int]:
        return [at["time.hour"] + 1 + hour, at["time.day_of_week"] + 1 + weekday, at["time.gap"] + 1 + gap]

    rows = tokens.token_fields.tolist()
    width = tokenizer.fields
    assert rows[0] == [at["user.age"] + 3, at["user.town"] + 1] + [0] * (width - 2)
    assert rows[1] == [at["context.shop"] + 3, *time_rows(0, 3, 0)] + [0] * (width - 4)  # 1970-01-01 is a Thursday
    code_rows = [1 + level * V + int(code) for level, code in enumerate(CODES[1])]
    blue, heavy, c = at["content.colour"] + 2, at["content.weight"] + 4, at["content.tags"] + 4
    assert rows[2] == [*code_rows, blue, heavy, c, 0, at["event.action"] + 2]
    assert rows[3][-3:] == [at["content.tags"] + 2, at["content.tags"] + 3, at["event.action"] + 4]
    assert rows[4] == [0] * (width - 1) + [at["event.action"] + 3]
    assert rows[5] == [at["context.shop"] + 1, *time_rows(0, 3, 1 + 9)] + [0] * (width - 4)  # 300 s: 2^8 <= gap < 2^9
    assert rows[6] == [L * V + 1] + [0] * (width - 2) + [at["event.action"] + 2]
    assert rows[7] == [at["context.shop"] + 2, *time_rows(1, 4, 1 + 17)] + [0] * (width - 4)


def test_every_value_of_every_field_has_its_own_row_below_the_vocabulary(tokenizer: Tokenizer) -> None:
    rows = [0, *range(1, L * V + 2)]
    for section in ("content", "event", "context", "user"):
        for entry in getattr(tokenizer, section):
            start = tokenizer.offsets[f"{section}.{entry.name}"]
            rows += range(start + 1, start + 1 + entry.rows)
    for name, count in (("hour", 24), ("day_of_week", 7), ("gap", 33)):
        rows += range(tokenizer.offsets[f"time.{name}"] + 1, tokenizer.offsets[f"time.{name}"] + 1 + count)
    assert rows == list(range(tokenizer.vocabulary))


def test_truncation_keeps_the_user_and_the_newest_tokens(tokenizer: Tokenizer, items: SimpleItemLookup) -> None:
    whole, cut = tokenizer.encode(request(), items, 16), tokenizer.encode(request(), items, 4)
    assert cut.dropped == 4
    assert np.array_equal(cut.token_fields, whole.token_fields[[0, 5, 6, 7]])
    assert cut.token_time.tolist() == [400, 400, 400, 90_000]  # U takes the time of the first token that is kept
    with pytest.raises(ValueError, match="max_history is 1, expected at least 2"):
        newest(3, 1)


def test_no_history_is_the_user_and_the_request(tokenizer: Tokenizer, items: SimpleItemLookup) -> None:
    tokens = tokenizer.encode({"now": 7}, items, 16)
    assert tokens.token_kind.tolist() == [USER, CONTEXT]
    assert tokens.token_time.tolist() == [7, 7]
    assert tokens.token_fields[1, 3] == tokenizer.offsets["time.gap"] + 1  # "first": there is no group before


def test_events_of_one_group_come_together_where_the_group_began(tokenizer: Tokenizer, items: SimpleItemLookup) -> None:
    names = [("i0", "a"), ("i1", "b"), ("i2", "a"), ("i3", None), ("i4", "b")]
    events = [{"item": item, "group": group, "time": 4} for item, group in names]
    tokens = tokenizer.encode({"now": 9, "events": events}, items, 32)
    assert tokens.token_time.tolist() == [4, 4, 4, 4, 4, 4, 4, 4, 4, 9]
    shown = tokens.token_fields[tokens.token_kind == ITEM, :L] - 1 - np.arange(L) * V
    assert np.array_equal(shown, CODES[[0, 2, 1, 4, 3]])


def test_group_events_agrees_with_a_loop() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        size = rng.integers(0, 12)
        label, moment = rng.integers(-2, 4, size=size), np.sort(rng.integers(0, 5, size=size))
        order, group, first = group_events(label, moment)
        expected = []
        for now in dict.fromkeys(moment.tolist()):
            at = [i for i in range(size) if moment[i] == now]
            expected += [i for wanted in dict.fromkeys(label[at].tolist()) for i in at if label[i] == wanted]
        runs = [i for i in range(size) if i == 0 or label[expected[i]] != label[expected[i - 1]]]
        assert order.tolist() == expected
        assert first.tolist() == runs
        assert group.tolist() == [sum(start <= i for start in runs) - 1 for i in range(size)]


def test_no_history_holds_an_event_of_its_future(tokenizer: Tokenizer, items: SimpleItemLookup) -> None:
    """Two groups interleaved in time: the second's tokens stand before what the first did later."""
    times, labels = [1, 5, 10], ["a", "b", "a"]
    events = [{"item": f"i{n}", "group": g, "time": t} for n, (g, t) in enumerate(zip(labels, times, strict=True))]
    tokens = tokenizer.encode({"now": 20, "events": events}, items, 32)
    assert tokens.token_time.tolist() == sorted(tokens.token_time.tolist())
    shown = tokens.token_fields[tokens.token_kind == ITEM, :L] - 1 - np.arange(L) * V
    assert np.array_equal(shown, CODES[[0, 1, 2]])


def test_hour_weekday_and_gap_agree_with_the_calendar(tokenizer: Tokenizer, items: SimpleItemLookup) -> None:
    rng = np.random.default_rng(5)
    times = np.sort(rng.integers(0, 2**31, size=200)).tolist()
    events = [{"item": "i0", "time": time} for time in times]
    tokens = tokenizer.encode({"now": times[-1], "events": events}, items, 1000)
    rows = tokens.token_fields[tokens.token_kind == CONTEXT]
    at = tokenizer.offsets
    for i, time in enumerate([*times, times[-1]]):
        moment = datetime.fromtimestamp(time, UTC)
        assert rows[i, 1] - at["time.hour"] - 1 == moment.hour
        assert rows[i, 2] - at["time.day_of_week"] - 1 == moment.weekday()
        gap = time - times[i - 1] if i else -1
        bucket = 0 if i == 0 else 1 + (0 if gap == 0 else len(f"{gap:b}"))
        assert rows[i, 3] - at["time.gap"] - 1 == bucket


def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizer: Tokenizer, items: SimpleItemLookup, tmp_path: Path) -> None:
    tokenizer.write(tmp_path / "tokenizer.json")
    again = Tokenizer.read(tmp_path / "tokenizer.json")
    assert again == tokenizer
    assert (again.vocabulary, again.fields) == (tokenizer.vocabulary, tokenizer.fields)
    expected, got = tokenizer.encode(request(), items, 16), again.encode(request(), items, 16)
    assert np.array_equal(got.token_fields, expected.token_fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"events": [{"item": "i1", "time": 9}, {"item": "i1", "time": 8}]},
            r"events\[1\].time: 8 comes after 9.*Sort",
        ),
        ({"events": [{"item": "i1", "time": -1}]}, r"events\[0\].time: got -1, expected seconds"),
        ({"events": [{"item": "i1", "time": 1.5}]}, r"events\[0\].time: got 1.5, expected seconds"),
        ({"events": [{"item": "i1", "time": True}]}, r"events\[0\].time: got True, expected seconds"),
        ({"events": [{"item": "i1", "time": 2**63}]}, r"events\[0\].time: got 9223372036854775808, expected seconds"),
        ({"events": [{"item": "i1"}]}, r"events\[0\].time: got None, expected seconds"),
        ({"now": 399}, r"now: 399 is before the last event \(400\)"),
        ({"now": None}, "now: got None, expected seconds"),
        ({"nwo": 3}, "request: unknown key 'nwo', expected only"),
        ({"events": [{"item": "i1", "time": 1, "price": 3}]}, r"request.events\[0\]: unknown key 'price'"),
        ({"context": {"store": 3}}, r"request.context: unknown key 'store', expected only \['shop'\]"),
        ({"user": {"name": 3}}, "request.user: unknown key 'name'"),
        ({"user": 3}, "request.user: got int, expected an object"),
        ({"events": {"item": "i1"}}, "request.events: got dict, expected a list"),
        ({"events": ["i1"]}, r"request.events\[0\]: got str, expected an object"),
        ({"events": [{"time": 1, "action": "buy"}]}, r"events\[0\]: an item event without 'item'.*Name the item"),
        ({"events": [{"time": 1, "item": "i1", "kind": "ad"}]}, r"events\[0\].kind: got 'ad', expected one of"),
        ({"events": [{"time": 1, "item": ["i1"]}]}, r"events\[0\].item: got list, expected text or a number. Send"),
        ({"events": [{"time": 1, "item": True}]}, r"events\[0\].item: got bool, expected text or a number"),
        ({"events": [{"time": 1, "item": "i1", "group": {"a": 1}}]}, r"events\[0\].group: got dict, expected text"),
        ({"events": [{"time": 1, "item": "i1", "action": ["buy"]}]}, r"events\[0\].action: got list, expected text"),
        ({"events": [{"time": 1, "item": "i1", "kind": 0}]}, r"events\[0\].kind: got '0', expected one of"),
        ({"events": [{"time": 1, "item": "i1", "kind": False}]}, r"events\[0\].kind: got bool, expected text"),
        ({"user": {"id": ["u"]}}, "request.user.id: got list, expected text or a number"),
        ({"user": {"town": ["x"]}}, "field 'town': got a value that is a list"),
        ({"user": {"town": {"x": 1}}}, "field 'town': got a value that is a list or an object"),
        ({"user": {"age": "\u0663\u0664"}}, "field 'age': could not convert string to float"),
        ({"user": {"age": "old"}}, "field 'age': could not convert string to float: 'old', expected a number"),
    ],
)
def test_a_bad_request_is_refused_with_place_and_remedy(
    tokenizer: Tokenizer, items: SimpleItemLookup, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TokenError, match=message):
        tokenizer.encode(request(**changes), items, 16)


def test_without_times_a_request_carries_none(items: SimpleItemLookup) -> None:
    plain = Tokenizer(levels=L, codes=V, uses_time=False, uses_group=False)
    lookup = SimpleItemLookup(items.ids, plain.item_fields(CODES, {}))
    tokens = plain.encode({"events": [{"item": "i2"}, {"kind": "content"}, {"item": "i3"}]}, lookup, 9)
    assert tokens.token_kind.tolist() == [USER, CONTEXT, ITEM, CONTENT, CONTEXT, ITEM, CONTEXT]
    assert tokens.token_time.tolist() == [0, 0, 0, 1, 2, 2, 3]
    with pytest.raises(TokenError, match="now: got 5, expected none"):
        plain.encode({"now": 5}, lookup, 9)
    with pytest.raises(TokenError, match="unknown key 'group', 'time'"):
        plain.encode({"events": [{"item": "i2", "time": 1, "group": "a"}]}, lookup, 9)


def test_an_unknown_action_is_an_item_event_when_it_names_an_item(
    tokenizer: Tokenizer, items: SimpleItemLookup
) -> None:
    tokens = tokenizer.encode({"now": 1, "events": [{"item": "i0", "time": 1, "action": "hum"}]}, items, 9)
    assert tokens.token_kind.tolist() == [USER, CONTEXT, ITEM, CONTEXT]
    assert tokens.token_fields[2, -1] == tokenizer.offsets["event.action"] + 1


def test_a_content_event_may_name_an_item(tokenizer: Tokenizer, items: SimpleItemLookup) -> None:
    events = [{"item": "i0", "time": 1, "action": "mail"}, {"item": "zz", "time": 1, "action": "mail"}]
    tokens = tokenizer.encode({"now": 1, "events": events}, items, 9)
    assert tokens.token_kind.tolist() == [USER, CONTENT, CONTENT, CONTEXT]
    assert np.array_equal(tokens.token_fields[1, : tokenizer.item_field_count], items.item_fields[0])
    assert tokens.token_fields[2, 0] == L * V + 1
    assert tokens.unknown_items == 1


def test_items_of_another_tokenizer_are_refused(tokenizer: Tokenizer, items: SimpleItemLookup) -> None:
    with pytest.raises(TokenError, match=r"item codes: got shape \[6, 2\]"):
        tokenizer.item_fields(CODES[:, :2], {})
    with pytest.raises(TokenError, match="largest is 4, expected below V=4"):
        tokenizer.item_fields(CODES + 4 - CODES.max(), {})
    with pytest.raises(TokenError, match=r"item_fields: got shape \[6, 6\], expected \[N, 7\]"):
        tokenizer.encode(request(), SimpleItemLookup(items.ids, items.item_fields[:, 1:]), 16)
    with pytest.raises(ValueError, match=r"2 ids \(1 different\) for 2 rows"):
        SimpleItemLookup(["a", "a"], items.item_fields[:2])


def test_the_tokenizer_imports_neither_pandas_nor_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('pandas', 'pyarrow', 'torch', 'sklearn', 'scipy', 'onnx'): sys.modules[name] = None\n"
        "import oneranker.tokens"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
