"""Streams of training are what serving would see, and targets are what the next request held."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ticket_runs import ticket_runs

from oneranker.data.__main__ import main
from oneranker.data.dataset import Dataset
from oneranker.data.requests import request_json, requests_of_test
from oneranker.data.streams import build_streams
from oneranker.errors import DataError
from oneranker.tokens import CONTENT, CONTEXT, ITEM, USER

Shop = Callable[..., Path]
Build = Callable[[Dataset], tuple[Any, ...]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("max_history", [5, 64])
def test_the_training_stream_is_the_encoded_request_of_every_moment(
    shop_folder: Shop, build: Build, suffix: str, max_history: int
) -> None:
    dataset = Dataset.read(shop_folder(suffix))
    tokenizer, items, _ = build(dataset)
    streams = build_streams(dataset, tokenizer, items)
    seen = set()
    for request in range(len(streams.request_token)):
        user, time = int(streams.request_user[request]), int(streams.request_time[request])
        if (user, time) in seen:
            continue  # request_json gives the first request of a moment
        seen.add((user, time))
        tokens = tokenizer.encode(request_json(dataset, streams.user_ids[user], time), items, max_history)
        fields, kind, token_time = streams.window(request, max_history)
        assert np.array_equal(tokens.token_fields, fields)
        assert np.array_equal(tokens.token_kind, kind)
        assert np.array_equal(tokens.token_time, token_time)
        assert kind[-1] == CONTEXT
    assert len(seen) > 80


def test_without_times_users_groups_or_attributes_the_stream_is_the_encoded_request(
    plays_folder: Path, build: Build
) -> None:
    dataset = Dataset.read(plays_folder)
    tokenizer, items, _ = build(dataset)
    streams = build_streams(dataset, tokenizer, items)
    assert streams.token_kind.tolist() == [USER, *[CONTEXT, ITEM] * 4, USER, *[CONTEXT, ITEM] * 2, USER, CONTEXT, ITEM]
    assert tokenizer.fields == tokenizer.levels
    for request in range(len(streams.request_token)):
        user, place = streams.user_ids[streams.request_user[request]], int(streams.request_time[request])
        tokens = tokenizer.encode(request_json(dataset, user, place), items, 99)
        for found, expected in zip(streams.window(request, 99), (tokens.token_fields, tokens.token_kind), strict=False):
            assert np.array_equal(found, expected)
    assert request_json(dataset, "ann", 1) == {"user": {"id": "ann"}, "context": {}, "events": [{"item": "x-1"}]}


def test_targets_are_the_items_of_the_group_as_a_set(shop_folder: Shop, build: Build) -> None:
    dataset = Dataset.read(shop_folder())
    tokenizer, items, catalogue = build(dataset)
    streams = build_streams(dataset, tokenizer, items)
    lines = pd.read_parquet(dataset.schema.folder / "lines.parquet")
    lines = lines.reset_index(drop=True)
    expected = {}
    for who, person in lines.groupby("who"):
        for block in ticket_runs(person):
            mine = lines.loc[block]
            if mine["verb"].iloc[0] == "leaflet":
                continue
            sets = mine.groupby("sku").agg({"crowns": "sum", "taken": "max", "kept": "max"})
            row = [(sku, round(v, 2), t, k) for sku, v, t, k in sets.itertuples()]
            expected.setdefault((who, int(mine["at"].iloc[0])), []).append(sorted(row))
    found = {}
    for request in range(len(streams.request_token)):
        now = streams.targets(request)
        row = [
            (dataset.tables.item_ids[key], round(float(value), 2), *stage)
            for key, value, stage in zip(
                streams.target_key[now], streams.target_value[now], streams.target_stage[now].tolist(), strict=True
            )
        ]
        user = streams.user_ids[streams.request_user[request]]
        found.setdefault((user, int(streams.request_time[request])), []).append(sorted(row))
        known = [catalogue.ids.index(i) if (i := row[0]) in catalogue.ids else -1 for row in row]
        assert streams.target_item[now].tolist() == known
    assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in expected.items()}
    assert any(len(set(k)) < len(k) for k in lines.groupby("ticket")["sku"].apply(list))  # the test had duplicates


def test_events_of_items_outside_the_index_are_counted_and_kept(shop_folder: Shop, build: Build) -> None:
    dataset = Dataset.read(shop_folder())
    tokenizer, items, catalogue = build(dataset)
    for _ in range(2):  # building again must not count twice
        streams = build_streams(dataset, tokenizer, items)
        known = np.array([item in catalogue.ids for item in dataset.tables.item_ids])
        outside = sum(not known[item] for item in dataset.tables.events.item if item >= 0)
        assert dataset.report.counted["events of items that are not in the index"] == outside > 0
    assert (streams.token_kind == ITEM).sum() == (dataset.tables.events.item >= 0).sum()
    unknown = streams.token_fields[:, 0] == tokenizer.levels * tokenizer.codes + 1
    assert (unknown & (streams.token_kind == ITEM)).sum() == outside
    assert (streams.token_kind == CONTENT).sum() == dataset.tables.events.group_content.sum()


def test_values_first_seen_in_the_test_part_are_unknown_values(shop_folder: Shop, build: Build) -> None:
    def lines(frame: pd.DataFrame) -> pd.DataFrame:
        late = frame["ticket"].notna() & (frame["at"] > 7100)
        return frame.assign(mood=frame["mood"].mask(late, "new mood"))

    tokenizer, _, _ = build(Dataset.read(shop_folder(lines=lines)))
    assert tokenizer.context[1].values == ("bad", "good")


def test_a_request_after_everything_holds_everything(shop_folder: Shop) -> None:
    dataset = Dataset.read(shop_folder())
    last = request_json(dataset, "p03")
    mine = pd.read_parquet(dataset.schema.folder / "lines.parquet").query("who == 'p03'")
    assert len(last["events"]) == len(mine)
    assert last["now"] == last["events"][-1]["time"]
    assert last["context"] == {}
    assert last["user"] == {"id": "p03", "town": "north", "born": 1953}
    early = request_json(dataset, "p03", 0)
    assert early["events"] == [e for e in early["events"] if e["action"] == "leaflet"]
    beyond = request_json(dataset, "p03", 10**6)
    assert (beyond["now"], beyond["events"]) == (10**6, last["events"])


def test_every_user_of_the_test_weeks_asks_once_with_all_that_came_before(shop_folder: Shop) -> None:
    dataset = Dataset.read(shop_folder())
    lines = pd.read_parquet(dataset.schema.folder / "lines.parquet")
    first = lines[lines["ticket"].notna() & (lines["at"] >= 7000)].groupby("who")["at"].min()
    requests = list(requests_of_test(dataset))
    assert {request["user"]["id"]: request["now"] for request in requests} == first.to_dict()
    for request in requests:
        mine = lines[(lines["who"] == request["user"]["id"]) & (lines["at"] < request["now"])]
        assert len(request["events"]) >= len(mine)
        assert all(event["time"] <= request["now"] for event in request["events"])


def test_without_times_a_user_asks_at_the_last_event(plays_folder: Path) -> None:
    dataset = Dataset.read(plays_folder)
    requests = requests_of_test(dataset)
    asked = {request["user"]["id"]: [event["item"] for event in request["events"]] for request in requests}
    assert asked == {"ann": ["x-1", "x-2", "x-1"], "bob": ["x-2"], "cat": []}


def test_the_command_writes_requests_as_json_lines(shop_folder: Shop, tmp_path: Path) -> None:
    folder = shop_folder()
    assert main(["requests", str(folder), "--count", "2", "--out", str(tmp_path / "requests.jsonl")]) == 0
    written = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert written == list(requests_of_test(Dataset.read(folder)))[:2]


def test_an_unknown_user_is_refused(shop_folder: Shop) -> None:
    with pytest.raises(DataError, match="no events of user 'p99', expected one of 9 users such as 'p01'"):
        request_json(Dataset.read(shop_folder()), "p99")
