"""Command: write token_vectors.json, requests and the integers that `oneranker.tokens` makes of them.

`python tests/golden/make_token_vectors.py`, in the repository's root. Every number in the file is the Python
tokenizer's answer: requests come from a seeded generator (HAND_WRITTEN and REFUSED were written by hand), tokenizers
and items from the tables below. Requests are JSON texts, so that another reader sees the same digits; `text` and
`number` hold what `text_of` and a number field make of single values.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from oneranker.token_fields import floats_of  # noqa: E402 - a script finds the package by the line above
from oneranker.tokens import Field, SimpleItemLookup, TokenError, Tokenizer, column_of, text_of  # noqa: E402

FILE = Path(__file__).with_name("token_vectors.json")
SEED = 20_260
WORDS = ("red", "blue", "grün", "日本", "a", "b", "c", "12", "0.5", "1e-07", "1", "0", "inf", "🛒 cart", "x|y", " a ")
IDS = ("i0", "i1", "12", "0.5", "ä", "日本", "i6", "1e+22")


def category(name: str, *values: str, type: str = "category") -> Field:
    return Field(name=name, type=type, values=values)


def number(name: str, *edges: float) -> Field:
    return Field(name=name, type="number", edges=edges)


def words(name: str, slots: int) -> Field:
    return Field(name=name, type="list", values=WORDS[:8], slots=slots)


ACTIONS = {"buy": "item", "see": "item", "mail": "content", "7": "content"}
TOKENIZERS = {
    "every field": Tokenizer(
        levels=3,
        codes=4,
        content=(category("colour", "blue", "red"), number("weight", 2.0, 4.0), words("tags", 2)),
        event=(category("action", "7", "buy", "mail"), number("price", -1.5, 0.0, 0.5, 1e300), words("labels", 3)),
        context=(category("shop", "1", "2", "0", type="integer"), number("heat", 0.1, 30.0), words("events", 1)),
        user=(number("age", 1.0, 30.0), category("town", *WORDS), words("likes", 4), category("sex", type="category")),
        actions=ACTIONS,
    ),
    "actions without a field": Tokenizer(levels=1, codes=9, context=(category("shop", *WORDS),), actions=ACTIONS),
    "an action that is a number": Tokenizer(levels=2, codes=2, event=(number("action", 1.0, 7.0),)),
    "no group": Tokenizer(
        levels=2, codes=5, event=(number("price", 1.0),), user=(words("likes", 2),), uses_group=False
    ),
    "no time": Tokenizer(levels=2, codes=5, event=(category("place", "a", "b"),), actions=ACTIONS, uses_time=False),
    "nothing but items": Tokenizer(levels=2, codes=3, uses_time=False, uses_group=False),
    "one column in two places": Tokenizer(levels=1, codes=2, event=(words("x", 2),), context=(words("x", 1),)),
}
# a value that stands for itself in the JSON text, for what json.dumps spells otherwise
RAW = re.compile(r'"@(.*?)@"')
NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 12, 30, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 0.5, 0.1, 1e-07, 1.5e-10, 5e-324, 1e22),
    *(12.0, -0.0, 1e300, 123456.789, 0.0001, 0.00001, 1 / 3, "@1e400@", "@-1e400@", "@1e-400@", "@1E2@", "@12.50@"),
    *("@-0@", "@" + "9" * 400 + "@", "@0." + "0" * 330 + "1e330@", 4611686018427387904.0, 9007199254740993.0),
)
# fmt: off
NUMBER_TEXTS = (
    *("1", " 12 ", "+.5", "1.", "1e3", "1E-3", "1_000.5", "1e1_0", "inf", "-Infinity", "NaN", "+nan", "1e400"),
    *("-1e400", "1e-400", "0x10", "1__0", "_1", "1_", "1_.5", ".", "", " ", "e5", "1e", "1e+", "--1", "+-1", "1 2"),
    *("1,5", "infin", "\u00a07\u3000", "\u2028-7.25\x1f", "\u0661", "１", "1\u200b", "1\x00", "0" * 400 + "1"),
    *("1" + "0" * 400 + "e-400", "0." + "0" * 400 + "1e401", "2.2250738585072011e-308", "1.7976931348623159e308"),
    *("9007199254740993", "nan(1)", "1e99999999999999999999", "1e-99999999999999999999", "0e99999999999999999999"),
    *("-0", "179769313486231580793e289"),
)
# fmt: on


def items_of(tokenizer: Tokenizer) -> SimpleItemLookup:
    n = len(IDS)
    codes = np.stack([np.arange(n) * (level + 2) % tokenizer.codes for level in range(tokenizer.levels)], axis=1)
    columns = {
        "colour": column_of([("red", "blue", None)[i % 3] for i in range(n)]),
        "weight": column_of([i * 0.7 for i in range(n)]),
        "tags": column_of(["|".join(WORDS[i : i + 3]) for i in range(n)]),
    }
    return SimpleItemLookup(IDS, tokenizer.item_fields(codes, columns))


def value_of(entry: Field, rng: random.Random) -> Any:
    """A raw value that the field takes."""
    if entry.type == "number":
        return rng.choice([*NUMBERS, "12", " 3.5\u2003", "1_0", "", None, True, "-inf", rng.uniform(-2, 40), "nan"])
    if rng.random() < 0.6 and entry.type != "list":
        return rng.choice([*entry.values, *WORDS[:3]])
    scalars = [*WORDS, *NUMBERS, "", None, True, False, rng.random() * 10 ** rng.randint(-12, 12), " | ", "a|b||c"]
    if entry.type == "list" and rng.random() < 0.5:
        return [rng.choice([*WORDS[:9], *scalars]) for _ in range(rng.randint(0, 5))]
    return rng.choice(scalars)


def some_of(fields: tuple[Field, ...], rng: random.Random) -> dict[str, Any]:
    return {entry.name: value_of(entry, rng) for entry in fields if rng.random() < 0.7}


def event_of(tokenizer: Tokenizer, time: int, rng: random.Random) -> dict[str, Any]:
    event = some_of(tuple(entry for entry in tokenizer.event if entry.name != "action"), rng)
    event |= some_of(tokenizer.context, rng)
    if tokenizer.uses_time:
        event["time"] = float(time) if rng.random() < 0.1 else time
    if tokenizer.uses_group and rng.random() < 0.8:
        event["group"] = rng.choice(["g", "h", "ü", "1", 1, 1.0, 0.5, None, ""])
    if tokenizer.actions and rng.random() < 0.7:
        event["action"] = rng.choice([*ACTIONS, 7, 7.0, "hum", None, ""])
    elif not tokenizer.actions and any(entry.name == "action" for entry in tokenizer.event):
        event["action"] = rng.choice([1, 7.5, "3", None, ""])
    if rng.random() < 0.2:
        event["kind"] = rng.choice(["item", "content", None, ""])
    if rng.random() < 0.9 or event.get("kind") != "content":
        event["item"] = rng.choice([*IDS, 12, 0.5, 12.0, 1e22, "nobody", "@12.0@", 10**30])
    return event


def request_of(tokenizer: Tokenizer, longest: int, rng: random.Random) -> dict[str, Any]:
    """A request that the tokenizer takes, its keys in any order."""
    time, events = rng.choice([0, 1_000, 1_700_000_000, 2**40]), []
    for _ in range(rng.randint(0, longest)):
        time += rng.choice([0, 0, 0, 1, 60, 3_600, 86_400, 10**7, 2**29, 2**30, 2**36])
        events.append(event_of(tokenizer, time, rng))
    request: dict[str, Any] = {"events": events} if events or rng.random() < 0.5 else {}
    if rng.random() < 0.9:
        request["user"] = some_of(tokenizer.user, rng) | ({"id": rng.choice(["u", 3])} if rng.random() < 0.5 else {})
    if rng.random() < 0.8:
        request["context"] = some_of(tokenizer.context, rng)
    if tokenizer.uses_time:
        request["now"] = time + rng.choice([0, 1, 7_000, 10**6])
    keys = list(request)
    rng.shuffle(keys)
    return {key: request[key] for key in keys}


def text_of_request(request: Any, rng: random.Random) -> str:
    return RAW.sub(r"\1", json.dumps(request, ensure_ascii=rng.random() < 0.5, separators=(",", ":")))


HAND_WRITTEN = (
    ("every field", 16, '{"now": 7}'),
    ("every field", 2, '{"now": 7, "user": null, "context": null, "events": null}'),
    ("every field", 9, '{"now": 9, "now": 7.0, "user": {"age": "old", "age": 3}, "events": [{}], "events": []}'),
    ("every field", 9, '{"now":5,"events":[{"item":"i0","item":"i1","time":9,"time":5,"kind":"item","kind":null}]}'),
    ("every field", 9, '{"now":4611686018427387903,"user":{"town":"\\ud83d\\uded2 cart"},"context":{"shop":true}}'),
    ("every field", 9, '{"now":1,"events":[{"time":1,"item":"zz","action":"mail"},{"time":1,"action":7}]}'),
    ("nothing but items", 9, '{"events":[{"item":"i2"},{"kind":"content"},{"item":"i3"}]}'),
)
REFUSED = {
    "every field": (
        ("{}", "request.now"),
        ('{"now": -1}', "request.now"),
        ('{"now": 1.5}', "request.now"),
        ('{"now": true}', "request.now"),
        ('{"now": "7"}', "request.now"),
        ('{"now": 4611686018427387904}', "request.now"),
        ('{"now": 10000000000000000000000000000000}', "request.now"),
        ('{"now": 1e400}', "request.now"),
        ('{"now": 7, "nwo": 3}', "request: unknown key 'nwo'"),
        ('{"now": 7, "user": 3}', "request.user: got int"),
        ('{"now": 7, "user": {"name": 3}}', "request.user: unknown key 'name'"),
        ('{"now": 7, "user": {"id": ["u"]}}', "request.user.id: got list"),
        ('{"now": 7, "user": {"id": true}}', "request.user.id: got bool"),
        ('{"now": 7, "user": {"town": ["x"]}}', "field 'town': got a value that is a list"),
        ('{"now": 7, "user": {"age": [3]}}', "field 'age': got a value that is a list"),
        ('{"now": 7, "user": {"age": "old"}}', "field 'age': could not convert string to float: 'old'"),
        ('{"now": 7, "user": {"age": " "}}', "field 'age': could not convert string to float: ' '"),
        ('{"now": 7, "context": {"store": 3}}', "request.context: unknown key 'store'"),
        ('{"now": 7, "context": [1]}', "request.context: got list"),
        ('{"now": 7, "events": {}}', "request.events: got dict"),
        ('{"now": 7, "events": ["i0"]}', "request.events[0]: got str"),
        ('{"now": 7, "events": [null]}', "request.events[0]: an item event without 'item'"),
        ('{"now": 7, "events": [{"item": "i0"}]}', "request.events[0].time"),
        ('{"now": 7, "events": [{"item": "i0", "time": -1}]}', "request.events[0].time: got -1"),
        ('{"now": 7, "events": [{"item": "i0", "time": 0.5}]}', "request.events[0].time: got 0.5"),
        ('{"now": 7, "events": [{"item": "i0", "time": false}]}', "request.events[0].time"),
        ('{"now": 7, "events": [{"time": 1, "action": "buy"}]}', "request.events[0]: an item event without"),
        ('{"now": 7, "events": [{"item": ["i0"], "time": 1}]}', "request.events[0].item: got list"),
        ('{"now": 7, "events": [{"item":"i0","time":1,"group": {}}]}', "request.events[0].group: got dict"),
        ('{"now": 7, "events": [{"item":"i0","time":1,"action": true}]}', "request.events[0].action"),
        ('{"now": 7, "events": [{"item":"i0","time":1,"kind": "ad"}]}', "request.events[0].kind: got 'ad'"),
        ('{"now": 7, "events": [{"item":"i0","time":1,"kind": 0}]}', "request.events[0].kind: got '0'"),
        ('{"now": 7, "events": [{"item":"i0","time":1,"cost": 2}]}', "request.events[0]: unknown key 'cost'"),
        (
            '{"now": 9, "events": [{"item": "i0", "time": 5}, {"item": "i1", "time": 4}]}',
            "request.events[1].time: 4 comes after 5",
        ),
        ('{"now": 3, "events": [{"item": "i0", "time": 5}]}', "request.now: 3 is before the last event (5)"),
        (
            '{"now": 9, "events": [{"item":"i0","time":1,"price": "dear"}, {"item": "i0", "time": 2}]}',
            "field 'price': could not convert string to float: 'dear'",
        ),
    ),
    "no group": (
        ('{"now": 7, "events": [{"item":"i0","time":1,"group": "g"}]}', "request.events[0]: unknown key 'group'"),
    ),
    "no time": (
        ('{"now": 7}', "request.now: got 7, expected none"),
        ('{"events": [{"item": "i0", "time": 1}]}', "request.events[0]: unknown key 'time'"),
    ),
    "nothing but items": (('{"events": [{"item": "i0", "action": "a"}]}', "request.events[0]: unknown key 'action'"),),
}


def answer(tokenizer: Tokenizer, items: SimpleItemLookup, max_history: int, text: str) -> dict[str, Any]:
    tokens = tokenizer.encode(json.loads(text), items, max_history)
    return {
        "max_history": max_history,
        "request": text,
        "token_fields": tokens.token_fields.reshape(-1).tolist(),
        "token_kind": tokens.token_kind.tolist(),
        "token_time": tokens.token_time.tolist(),
        "unknown_items": tokens.unknown_items,
        "dropped": tokens.dropped,
    }


def number_of(text: str) -> float | str | None:
    """What a number field reads: JSON's numbers, or "inf", "-inf", "nan", or None for an error."""
    try:
        value = float(floats_of(column_of([text]), "x")[0])
    except TokenError:
        return None
    return value if math.isfinite(value) else text_of(value) or "nan"


def vectors(seed: int = SEED, most: int = 36) -> dict[str, Any]:
    """Everything that stands in the file."""
    rng = random.Random(seed)
    parts = []
    for name, tokenizer in TOKENIZERS.items():
        items = items_of(tokenizer)
        given = [(limit, text) for owner, limit, text in HAND_WRITTEN if owner == name]
        for i in range(most if name == "every field" else most // 2 + 6):
            longest, limit = (40, rng.randint(2, 30)) if i % 12 == 0 else (7, rng.choice([5, 12, 64]))
            given.append((limit, text_of_request(request_of(tokenizer, longest, rng), rng)))
        parts.append(
            {
                "name": name,
                "tokenizer": tokenizer.to_dict(),
                "fields": tokenizer.fields,
                "item_field_count": tokenizer.item_field_count,
                "vocabulary": tokenizer.vocabulary,
                "item_ids": items.ids,
                "item_fields": items.item_fields.tolist(),
                "cases": [answer(tokenizer, items, limit, text) for limit, text in given],
                "refused": [{"request": text, "place": place} for text, place in REFUSED.get(name, ())],
            }
        )
    literals = [RAW.sub(r"\1", json.dumps(value)) for value in (*NUMBERS, True, False, None, "ä", "")]
    return {
        "text": [[literal, text_of(json.loads(literal))] for literal in literals],
        "number": [[text, number_of(text)] for text in NUMBER_TEXTS],
        "tokenizers": parts,
    }


def main() -> None:
    text = json.dumps(vectors(), ensure_ascii=False, separators=(",", ":"))
    FILE.write_text(text.replace('{"max_history"', '\n{"max_history"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
