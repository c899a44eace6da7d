"""tokenizer.json: what is refused, and what the message says."""

import json
from pathlib import Path

import pytest

from oneranker.tokens import TokenError, Tokenizer

PLAIN = Tokenizer(levels=3, codes=4, actions={"buy": "item"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema 2, this release reads schema 1"),
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"user": [{"name": "a", "type": "category"}]}, r"a category field has keys \['name', 'type'\]"),
        ({"user": [{"name": "a", "type": "prose", "values": []}]}, "type is 'prose', expected one of category"),
        ({"user": [{"name": "a", "type": "number", "edges": [2, 1]}]}, "expected finite rising numbers"),
        ({"user": [{"name": "a", "type": "category", "values": ["x", "x"]}]}, "expected distinct non-empty values"),
        ({"user": [{"name": "a", "type": "category", "values": []}] * 2}, "with different names"),
        ({"levels": 0}, "levels=0, codes=4, expected both at least 1"),
        ({"levels": True}, "levels is True, expected int"),
        ({"codes": 4.0}, "codes is 4.0, expected int"),
        ({"uses_time": 1}, "uses_time is 1, expected bool"),
        ({"actions": []}, r"actions is \[\], expected dict"),
        ({"actions": {"buy": "ad"}}, r"actions .*'buy': 'ad'.*expected one of \('item', 'content'\)"),
        ({"user": {}}, r"user is \{\}, expected list"),
        ({"user": ["town"]}, "user: got str, expected an object"),
        ({"user": [{"name": 3, "type": "category", "values": []}]}, "name is 3, expected str"),
        ({"user": [{"name": "a", "type": "category", "values": "xy"}]}, "values is 'xy', expected list"),
        ({"user": [{"name": "a", "type": "category", "values": [1]}]}, "values is 1, expected str"),
        ({"user": [{"name": "a", "type": "number", "edges": ["1"]}]}, "edges is '1', expected int or float"),
        ({"user": [{"name": "a", "type": "number", "edges": [10**400]}]}, "expected finite numbers"),
        ({"user": [{"name": "a", "type": "list", "values": [], "slots": 2.0}]}, "slots is 2.0, expected int"),
        ({"user": [{"name": "a", "type": "list", "values": [], "slots": 2**16 + 1}]}, "65537 fields, expected at most"),
        ({"codes": 2**30}, "rows and 3 fields, expected at most 2147483647"),
        ({"user": [{"name": "id", "type": "category", "values": []}]}, r"user declares \['id'\]"),
        ({"event": [{"name": "group", "type": "category", "values": []}]}, r"event declares \['group'\]"),
    ],
)
def test_a_damaged_tokenizer_file_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        Tokenizer.from_json(json.dumps(PLAIN.to_dict() | change))


def test_a_missing_key_and_a_missing_file_say_what_to_do(tmp_path: Path) -> None:
    raw = PLAIN.to_dict()
    del raw["actions"]
    with pytest.raises(TokenError, match=r"t.json: missing keys \['actions'\].*Fit the tokenizer again"):
        Tokenizer.from_dict(raw, "t.json")
    with pytest.raises(TokenError, match=r"cannot be read .*expected a tokenizer"):
        Tokenizer.read(tmp_path / "absent.json")
    with pytest.raises(TokenError, match=r"not JSON .*expected a tokenizer"):
        Tokenizer.from_json("{")
