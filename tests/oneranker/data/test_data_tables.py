"""Tables to sorted, grouped arrays: order, splits, what is counted and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ticket_runs import ticket_runs

from oneranker.data.dataset import Dataset, catalogue_items, train_baskets
from oneranker.errors import DataError

Shop = Callable[..., Path]


def test_csv_and_parquet_tables_read_the_same(shop_folder: Shop) -> None:
    csv, parquet = Dataset.read(shop_folder("csv")), Dataset.read(shop_folder("parquet"))
    assert csv.report == parquet.report
    a, b = csv.tables, parquet.tables
    assert (a.user_ids, a.item_ids) == (b.user_ids, b.item_ids)
    for name in ("item", "group", "stages", "value", "group_user", "group_time", "group_content", "group_split"):
        assert np.array_equal(getattr(a.events, name), getattr(b.events, name)), name


def test_events_stand_by_user_time_and_row_in_runs_of_one_group(shop_folder: Shop) -> None:
    folder = shop_folder()
    dataset = Dataset.read(folder)
    lines = pd.read_parquet(folder / "lines.parquet").reset_index(drop=True)
    expected = []
    for who, mine in lines.groupby("who"):
        for block in ticket_runs(mine):
            head = lines.loc[block[0]]
            items = lines.loc[block, "sku"].fillna("").tolist()
            expected.append((who, int(head["at"]), head["verb"] == "leaflet", items))
    tables = dataset.tables
    ids = np.array([*tables.item_ids, ""])
    found = [
        (tables.user_ids[user], int(time), bool(content), ids[tables.events.item[tables.events.group == g]].tolist())
        for g, (user, time, content) in enumerate(
            zip(tables.events.group_user, tables.events.group_time, tables.events.group_content, strict=True)
        )
    ]
    assert found == expected
    split = np.digitize(tables.events.group_time, [5000, 7000])
    assert np.array_equal(tables.events.group_split, split)


def test_row_order_is_the_order_without_times(plays_folder: Path) -> None:
    dataset = Dataset.read(plays_folder)
    tables, events = dataset.tables, dataset.tables.events
    assert tables.user_ids == ["ann", "bob", "cat"]
    assert [tables.item_ids[i] for i in events.item] == ["x-1", "x-2", "x-1", "x-9", "x-2", "x-3", "x-1"]
    assert events.group.tolist() == list(range(7))  # every event stands alone
    assert events.group_time.tolist() == [0, 1, 2, 3, 0, 1, 0]
    assert events.group_split.tolist() == [0, 0, 1, 2, 0, 0, 0]  # fewer than three: all train
    assert events.value.tolist() == [1.0] * 7
    assert events.stages[:, 0].tolist() == [1, 1, 1, 1, 0, 0, 1]


def test_rows_left_out_and_items_without_a_row_are_counted_by_reason(shop_folder: Shop) -> None:
    def lines(frame: pd.DataFrame) -> pd.DataFrame:
        taken = frame.index[frame["verb"] == "took"]
        frame.loc[taken[:3], "who"] = None
        frame.loc[taken[3:5], "sku"] = None
        frame.loc[taken[5], "verb"] = None
        frame["at"] = frame["at"].astype("Int64")
        frame.loc[taken[6:10], "at"] = None
        return frame

    folder = shop_folder(lines=lines, stock=lambda frame: pd.concat([frame, frame.head(1).assign(sku=None)]))
    dataset = Dataset.read(folder)
    assert dataset.report.dropped == {
        "events: no user id": 3,
        "events: no time": 4,
        "events: no action": 1,
        "events: item event without an item id": 2,
        "stock.parquet: no id": 1,
    }
    assert dataset.report.events_read == 400
    assert dataset.report.events_kept == 390 == len(dataset.tables.events.item)
    kept = pd.read_parquet(folder / "lines.parquet").dropna(subset=["who", "at", "verb", "sku"])
    no_row = int((~kept["sku"].isin([f"0{n}" for n in range(22)])).sum())
    assert dataset.report.counted == {
        "events of items that have no row in the items table": no_row,
        "users that have no row in the users table": 3,
    }


def test_ids_keep_their_zeros_and_whole_numbers_have_one_spelling(shop_folder: Shop) -> None:
    assert {"00", "07", "011"} <= set(Dataset.read(shop_folder("csv")).tables.item_ids)

    def numbers(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(sku=frame["sku"].astype("float64"))

    ids = Dataset.read(
        shop_folder(lines=numbers, stock=lambda f: f.assign(sku=f["sku"].astype("int64")))
    ).tables.item_ids
    assert ids[:3] == ["0", "1", "2"]
    assert sorted(ids) == sorted(map(str, range(25)))


def test_large_integer_ids_with_gaps_stay_exact(shop_folder: Shop) -> None:
    big = 2**60 + 1

    def numbers(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(sku=pd.to_numeric(frame["sku"]).astype("Int64") + big)

    dataset = Dataset.read(shop_folder(lines=numbers, stock=numbers))
    assert dataset.tables.item_ids[0] == str(big)


def test_times_as_dates_are_seconds_in_utc(shop_folder: Shop) -> None:
    def schema(text: str) -> str:
        return text.replace('"seconds"', '"datetime"')

    plain = Dataset.read(shop_folder()).tables.events.group_time
    for zone in (None, "Europe/Stockholm"):
        dates = shop_folder(
            schema=schema,
            lines=lambda f, zone=zone: f.assign(at=pd.to_datetime(f["at"], unit="s", utc=True).dt.tz_convert(zone)),
        )
        assert np.array_equal(Dataset.read(dates).tables.events.group_time, plain)
    text = shop_folder("csv", schema=schema, lines=lambda f: f.assign(at=pd.to_datetime(f["at"], unit="s")))
    assert np.array_equal(Dataset.read(text).tables.events.group_time, plain)


def test_only_items_of_enough_users_before_the_test_part_are_in_the_catalogue(shop_folder: Shop) -> None:
    folder = shop_folder()
    catalogue = catalogue_items(Dataset.read(folder))
    lines = pd.read_parquet(folder / "lines.parquet")
    start = lines.sort_values("at").groupby(["who", "ticket"])["at"].transform("min")
    before = lines[(start < 7000) & lines["sku"].notna()]
    users, events = before.groupby("sku")["who"].nunique(), before["sku"].value_counts()
    stock = [f"0{n}" for n in range(22)]
    expected = [sku for sku in stock if users.get(sku, 0) >= 2]
    assert catalogue.ids == expected
    assert catalogue.users.tolist() == [users[sku] for sku in expected]
    assert catalogue.popularity.tolist() == [events[sku] for sku in expected]
    assert catalogue.names[:2] == ["dry", "thing 1 · wet"]
    assert catalogue.names[5:6] == ["05"] or catalogue.ids[5] != "05"  # neither label nor aisle: the id
    backwards = catalogue.take(np.arange(len(expected))[::-1])
    assert backwards.ids == expected[::-1]
    assert backwards.columns["aisle"].tolist() == catalogue.columns["aisle"].tolist()[::-1]


def test_train_baskets_are_item_events_of_the_training_part(shop_folder: Shop) -> None:
    dataset = Dataset.read(shop_folder())
    catalogue = catalogue_items(dataset)
    user, group, row = train_baskets(dataset, catalogue)
    events, expected = dataset.tables.events, []
    for item, g in zip(events.item.tolist(), events.group.tolist(), strict=True):
        if item >= 0 and events.group_split[g] == 0 and not events.group_content[g]:
            item_id = dataset.tables.item_ids[item]
            if item_id in catalogue.ids:
                expected.append((int(events.group_user[g]), g, catalogue.ids.index(item_id)))
    assert list(zip(user.tolist(), group.tolist(), row.tolist(), strict=True)) == expected


def _at(frame: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    row = frame.index[frame["verb"] == "took"][0]
    changed = frame.copy()
    changed[column] = changed[column].mask(changed.index == row, value)
    return changed


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"lines": lambda f: f.drop(columns="ticket")}, r"lines.parquet: no column 'ticket', the table has \['who'"),
        ({"stock": lambda f: f.drop(columns="grams")}, "stock.parquet: no column 'grams'.*Correct the name"),
        ({"lines": lambda f: f.head(0)}, "lines.parquet: the table has 0 rows, expected at least one"),
        ({"people": lambda f: f.head(0)}, "people.parquet: the table has 0 rows"),
        ({"stock": lambda f: pd.concat([f, f.head(2)])}, r"id '00' in column 'sku' stands 2 times \(2 ids repeat\)"),
        ({"people": lambda f: pd.concat([f, f.head(1)])}, "id 'p01' in column 'who' stands 2 times .*one row per id"),
        ({"lines": lambda f: f.assign(at=f["at"] - 8000)}, r"column 'at': row \d+ has time -.*expected none below 0"),
        (
            {"lines": lambda f: f.assign(at=f["at"].astype(str) + "h")},
            r"column 'at': row 0 holds '\d+h', expected a num",
        ),
        ({"lines": lambda f: f.assign(amount="lots")}, "column 'amount': row 0 holds 'lots', expected a number"),
        ({"stock": lambda f: f.assign(grams="heavy")}, "column 'grams': row 0 holds 'heavy', expected a number"),
        ({"lines": lambda f: _at(f, "verb", "stole")}, r"column 'verb' holds \['stole'\], expected only"),
        ({"lines": lambda f: _at(f, "taken", 2)}, "column 'taken': got 2.0, expected a stage that is 0 or 1"),
        (
            {"lines": lambda f: f.assign(taken=0)},
            "column 'kept': .* rows reach it without 'taken', expected each stage",
        ),
        ({"lines": lambda f: _at(f, "crowns", -1.0)}, "column 'crowns': got -1.0 .*expected a value >= 0"),
        ({"lines": lambda f: _at(f, "crowns", None)}, "column 'crowns': got nan .*expected a value >= 0"),
        ({"lines": lambda f: f.assign(who=None)}, "0 of 400 rows can be used .*expected events of users with items"),
        (
            {"schema": lambda s: s.replace("lines.parquet", "gone.parquet")},
            "gone.parquet: no such file, expected a tab",
        ),
        (
            {"schema": lambda s: s.replace("min_users = 2", "min_users = 99")},
            "0 of 22 items have 99 users.*Lower catal",
        ),
        (
            {"schema": lambda s: s.replace('"seconds"', '"datetime"'), "lines": lambda f: f.assign(at="soon")},
            "'at': .*soon",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_column(
    shop_folder: Shop, tables: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        catalogue_items(Dataset.read(shop_folder(**tables)))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("lines.parquet", b"nonsense", "lines.parquet: cannot be read .*expected a .parquet table"),
        ("lines.xlsx", b"", "format is '.xlsx', expected .parquet or .csv"),
        ("lines.csv", b"", "lines.csv: cannot be read .*expected a .csv table"),
        ("lines.csv", b"who,sku\n", "lines.csv: no column 'at'"),
    ],
)
def test_a_file_that_is_no_table_is_refused(shop_folder: Shop, file: str, content: bytes, message: str) -> None:
    folder = shop_folder(schema=lambda s: s.replace("lines.parquet", file))
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Dataset.read(folder)
