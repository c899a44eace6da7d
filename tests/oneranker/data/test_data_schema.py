"""schema.toml: what it may say, and a clear answer to what it may not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from oneranker.data.schema import ColumnSpec, Schema
from oneranker.errors import DataError

Shop = Callable[..., Path]


def test_a_full_schema_is_read_role_by_role(shop_folder: Shop) -> None:
    schema = Schema.read(shop_folder())
    assert schema.name == "corner shop"
    assert (schema.events.user, schema.events.item, schema.events.time) == ("who", "sku", "at")
    assert schema.content[2] == ColumnSpec(name="tags", type="list", slots=2)
    assert schema.chain.stages == ("taken", "kept")
    assert (schema.split.by, schema.split.train_until, schema.split.valid_until) == ("time", 5000, 7000)
    assert (schema.min_users, schema.uses_time) == (2, True)


def test_the_shortest_schema_has_order_instead_of_time_and_leaves_one_out(plays_folder: Path) -> None:
    schema = Schema.read(plays_folder)
    assert schema.name == plays_folder.name
    assert (schema.events.time_unit, schema.split.by, schema.uses_time) == ("order", "leave_one_out", False)
    assert (schema.items, schema.users, schema.chain.value, schema.min_users) == (None, None, None, 1)


def test_dates_of_the_split_are_utc(shop_folder: Shop) -> None:
    dates = "train_until = 1970-01-02, valid_until = 1970-01-02T01:00:00+01:00"
    schema = Schema.read(shop_folder(schema=lambda s: s.replace("train_until = 5000, valid_until = 7000", dates)))
    assert (schema.split.train_until, schema.split.valid_until) == (86_400, 86_400)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version = 1", "", r"schema_version is None, expected 1. Put `schema_version = 1`"),
        ("schema_version = 1", "schema_version = 3", "schema_version is 3, expected 1"),
        ('name = "corner', 'nmae = "corner', r"schema.toml: unknown key 'nmae', expected only \['name'.*Remove it"),
        ("user =", "usr =", r"events: unknown key 'usr', expected only \['file', 'user'"),
        ('user = "who", ', "", "events: missing 'user', expected .* at least. Add it"),
        ('item = "sku"', "item = 3", "events.item: got 3, expected str. Correct the value"),
        ('time_unit = "seconds"', 'time_unit = "hours"', "time_unit is 'hours'.*expected one of"),
        ('time = "at", ', "", "time_unit is 'seconds' and time is None"),
        ('aisle = "category"', 'aisle = "prose"', "content.aisle: got .*prose.*expected a type of"),
        ("slots = 2", "slots = 0", "content.tags: got .*slots >= 1"),
        ("slots = 2", "size = 2", "content.tags: unknown key 'size'"),
        ('till = "integer"', 'item = "integer"', "context.item: the name is taken by the request format.*Rename"),
        ('born = "integer"', 'id = "integer"', "features.id: the name is taken by the request format"),
        ('amount = "number"', 'till = "number"', r"column \['till'\] is in 'context' and in 'event'"),
        ('users = { file = "people.parquet", key = "who" }', "", "'features' is given without 'users'"),
        ('tried = "item"', 'tried = "maybe"', "actions.tried: got 'maybe', expected 'item' or 'content'"),
        (', action = "verb"', "", "3 actions but events names no action column"),
        ('stages = ["taken", "kept"]', 'stages = ["taken", "taken"]', "chain.stages: got .*different column names"),
        ("nested = true", 'nested = "yes"', "chain.nested: got 'yes', expected bool"),
        ('by = "time"', 'by = "chance"', "split: got by='chance' with .*expected by='time'"),
        (", valid_until = 7000", "", r"split: got by='time' with \['train_until'\]"),
        ("train_until = 5000", "train_until = 8000", "train_until 8000 is after valid_until"),
        ("min_users = 2", "min_users = -2", "catalogue.min_users is -2, expected 0 or more"),
        ("min_users = 2", "min_users = true", "catalogue.min_users: got True, expected int"),
        ("schema_version = 1", "schema_version = ", "schema.toml: not TOML .*expected key = value lines"),
        ('display = ["label", "aisle"]', 'display = "label"', "display: got 'label', expected a list"),
        ("catalogue = { min_users = 2 }", "catalogue = 2", "catalogue: got 2, expected a table"),
    ],
)
def test_a_wrong_entry_is_named_with_its_key_and_remedy(shop_folder: Shop, old: str, new: str, message: str) -> None:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    with pytest.raises(DataError, match=message) as caught:
        Schema.read(shop_folder(schema=edit))
    assert "schema.toml" in str(caught.value)


def test_a_split_by_time_needs_times(plays_folder: Path) -> None:
    path = plays_folder / "schema.toml"
    path.write_text(path.read_text() + 'split = { by = "time", train_until = 1, valid_until = 2 }\n')
    with pytest.raises(DataError, match="by='time' but the events have no time, expected 'leave_one_out'"):
        Schema.read(plays_folder)


def test_a_folder_without_schema_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"schema.toml: cannot be read .*python -m oneranker.data prepare NAME"):
        Schema.read(tmp_path)
