"""Files of item sequences: the split, the history, the catalogue and the floors against loops over the lines."""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneranker.catalogue import Catalogue
from oneranker.data.__main__ import main
from oneranker.data.dataset import Dataset, catalogue_items
from oneranker.data.event_roles import TEST, TRAIN, VALID
from oneranker.data.floors import FLOORS
from oneranker.data.metrics import evaluate, first_requests
from oneranker.data.prepare import load_dataset, prepare
from oneranker.data.requests import request_json
from oneranker.data.streams import build_streams
from oneranker.errors import DataError
from oneranker.evaluate import main as evaluate_command
from oneranker.train import main as train_command

Build = Callable[[Dataset], tuple[Any, ...]]
Sequences = dict[str, list[str]]
LAST_SEEN_ONLY = "777"  # stands in one line, at its end


@pytest.fixture
def sequences() -> Sequences:
    """Forty users in no order, of 1 to 9 events; neighbours follow each other often, so that bigrams say something."""
    rng, found = np.random.default_rng(5), {}
    for user in rng.permutation(np.arange(80, 120)).tolist():
        start, length = int(rng.integers(1, 30)), int(rng.integers(1, 10))
        found[str(user)] = [str(start + step) for step in range(20) if rng.random() < 0.6][:length] or ["1"]
    found["9"] = ["3", "4", "31", LAST_SEEN_ONLY]
    return found


@pytest.fixture
def attributes(sequences: Sequences) -> dict[str, list[int]]:
    items = sorted({item for items in sequences.values() for item in items}, key=int)
    listed = {item: [int(item) % 5, 5 + int(item) % 7, 12][: int(item) % 4] for item in items if item != "2"}
    return listed | {"31": list(range(20, 31)), "5000": [1, 2]}  # more than fit a token; and of no sequence


@pytest.fixture
def folder(tmp_path: Path, sequences: Sequences, attributes: dict[str, list[int]]) -> Path:
    lines = [" ".join([user, *items]) for user, items in sequences.items()]
    (tmp_path / "Small.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "Small.json").write_text(json.dumps(attributes))
    prepare("s3rec", tmp_path / "set", sequences=tmp_path / "Small.txt", attributes=tmp_path / "Small.json")
    return tmp_path / "set"


def test_the_last_event_is_test_the_one_before_validation_the_rest_training(folder: Path, sequences: Sequences) -> None:
    tables = Dataset.read(folder).tables
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for item, group in zip(tables.events.item.tolist(), tables.events.group.tolist(), strict=True):
        user = tables.user_ids[tables.events.group_user[group]]
        found[user].append((tables.item_ids[item], int(tables.events.group_split[group])))
    expected = {}
    for user, items in sequences.items():
        splits = [TRAIN] * len(items) if len(items) < 3 else [TRAIN] * (len(items) - 2) + [VALID, TEST]
        expected[user] = list(zip(items, splits, strict=True))
    assert found == expected


def test_users_of_fewer_than_three_events_are_counted(folder: Path, sequences: Sequences) -> None:
    short = sum(len(items) < 3 for items in sequences.values())
    assert short > 1
    counted = load_dataset(folder, folder).report.counted
    assert counted["s3rec: users with fewer than 3 events, training only"] == short


def test_the_history_of_a_test_request_ends_with_the_validation_item(
    folder: Path, sequences: Sequences, build: Build
) -> None:
    dataset = Dataset.read(folder)
    tokenizer, lookup, catalogue = build(dataset)
    streams = build_streams(dataset, tokenizer, lookup)
    requests = first_requests(streams, TEST)
    asked = [streams.user_ids[streams.request_user[request]] for request in requests.request.tolist()]
    assert sorted(asked) == sorted(user for user, items in sequences.items() if len(items) >= 3)
    for user, past, target in zip(asked, requests.history_row, requests.target_row, strict=True):
        assert {catalogue.ids[row] for row in past.tolist()} == set(sequences[user][:-1])
        assert [catalogue.ids[row] for row in target.tolist()] == sequences[user][-1:]
        sent = request_json(dataset, user, len(sequences[user]) - 1)
        assert sent == {"user": {"id": user}, "context": {}, "events": [{"item": i} for i in sequences[user][:-1]]}


def test_what_is_seen_of_a_request_does_not_tell_how_the_sequence_goes_on(tmp_path: Path, build: Build) -> None:
    windows = []
    for name, more in (("short", ""), ("long", " 2 1 4 3")):
        (tmp_path / f"{name}.txt").write_text(f"1 1 2 3 4{more}\n2 4 3 2 1\n")
        prepare("s3rec", tmp_path / name, sequences=tmp_path / f"{name}.txt")
        dataset = Dataset.read(tmp_path / name)
        tokenizer, lookup, _ = build(dataset)
        streams = build_streams(dataset, tokenizer, lookup)
        windows.append([streams.window(request, 20) for request in range(4)])
    for short, long in zip(*windows, strict=True):
        assert [part.tolist() for part in short] == [part.tolist() for part in long]


def test_every_item_of_the_sequences_is_in_the_catalogue_with_its_attributes(
    folder: Path, sequences: Sequences, attributes: dict[str, list[int]]
) -> None:
    dataset = load_dataset(folder, folder)
    catalogue = catalogue_items(dataset)
    events = Counter(item for items in sequences.values() for item in (items[:-1] if len(items) > 2 else items))
    assert sorted(catalogue.ids) == sorted({item for items in sequences.values() for item in items})
    assert dict(zip(catalogue.ids, catalogue.popularity.tolist(), strict=True))[LAST_SEEN_ONLY] == 0
    for item, popularity, listed in zip(
        catalogue.ids, catalogue.popularity.tolist(), catalogue.columns["attributes"].tolist(), strict=True
    ):
        assert popularity == events[item]
        assert listed == ("|".join(map(str, attributes.get(item, []))) or None)
    assert dataset.schema.content[0].slots == 8
    without = sum(not attributes.get(item) for item in catalogue.ids)
    assert dataset.report.dropped == {"s3rec: attributes of items that no sequence names": 1}
    assert dataset.report.counted["s3rec: items without attributes"] == without
    assert dataset.report.counted["s3rec: items with more than 8 attributes, tokens hold the first 8"] == 1


def _published(sequences: Sequences, rows: list[str], rule: str) -> tuple[float, float]:
    """HR@10 and NDCG@10 of a rule that counts training prefixes alone, over all items without the user's history."""
    users = [items for items in sequences.values() if len(items) >= 3]
    prefixes = [items[:-2] if len(items) >= 3 else items for items in sequences.values()]
    popular = Counter(item for prefix in prefixes for item in prefix)
    followed: dict[str, Counter[str]] = defaultdict(Counter)
    for prefix in prefixes:
        for item, following in pairwise(prefix):
            followed[item][following] += 1
    ranks = []
    for items in users:
        votes = followed[items[-2]] if rule == "bigram" else Counter()
        new = [item for item in rows if item not in items[:-1]]
        ranked = sorted(new, key=lambda item: (-votes[item], -popular[item], rows.index(item)))
        ranks.append(ranked.index(items[-1]) + 1)
    gains = [1 / math.log2(rank + 1) for rank in ranks if rank <= 10]
    return len(gains) / len(users), sum(gains) / len(users)


@pytest.mark.parametrize("rule", ["popularity", "bigram"])
def test_a_floor_is_the_published_protocols_when_it_counts_training_alone(
    folder: Path, sequences: Sequences, build: Build, rule: str
) -> None:
    dataset = Dataset.read(folder)
    tokenizer, lookup, catalogue = build(dataset)
    streams = build_streams(dataset, tokenizer, lookup)
    requests = first_requests(streams, TEST)
    rankings = FLOORS[rule](streams, requests, len(catalogue.ids), new_only=True, until=TRAIN)
    found = evaluate(rankings, requests, new_only=True)
    assert np.allclose((found.hit_rate, found.ndcg), _published(sequences, catalogue.ids, rule))
    assert found.requests == sum(len(items) >= 3 for items in sequences.values())


def test_the_commands_take_the_folder_and_compare_a_model_with_rules_that_know_no_more(
    folder: Path, tmp_path: Path, sequences: Sequences, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "checkpoint"
    words = ["--data", str(folder), "--preset", "tiny", "--steps", "4", "--until", "train", "--out", str(out)]
    assert train_command(words) == 0
    capsys.readouterr()
    assert evaluate_command(["--checkpoint", str(out), "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)["new_items"]}
    ids = Catalogue.load(out / "catalogue.safetensors").ids
    for rule, name in (("popularity", "popularity"), ("bigram", "bigram (last basket)")):
        found = (rows[name]["hr@10"], rows[name]["ndcg@10"])
        assert np.allclose(found, _published(sequences, ids, rule), atol=1e-4)


def test_the_command_names_the_files_by_their_content_and_writes_the_same_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = ["--sequences", str(tmp_path / "Small.txt"), "--attributes", str(tmp_path / "Small.json")]
    assert main(["prepare", "s3rec", *words, "--out", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed)["data"] == "s3rec"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    account = json.loads(before["prepared.json"])
    for key, name in (("sequences", "Small.txt"), ("attributes", "Small.json")):
        assert account[key] == name
        assert account[f"{key}_sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert main(["prepare", "s3rec", "--out", str(folder)]) == 1
    assert main(["prepare", "completejourney", "--out", str(tmp_path / "no"), *words]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Small.json", "Small.txt", "set"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no\.txt: cannot be read \(No such file or directory\), expected lines.*Correct the path"),
        ("", r"0 lines, expected lines `user item item \.\.\.`\. Check how"),
        ("1 2 3\n4\n", r"line 2 is '4', expected a user and at least one item\. Remove"),
        ("1 2 3\n\n4 5\n", r"line 2 is '', expected a user and at least one item\. Remove"),
        ("1 2 3\n4 5\n1 6\n", r"line 3 is of user 1, as line 1 is, expected one line per user\. Join"),
        ("1 2 x3 4.5\n", r"line 1 holds 'x3' \(2 such tokens\), expected ids, whole numbers from 1 on\. Correct"),
        ("1 2 0\n", r"line 1 holds '0' \(1 such tokens\)"),
        ("1 2 03\n", r"line 1 holds '03' "),
        ("1 2 9999999999999999999\n", r"line 1 holds '9999999999999999999' "),
        ("1 2 ٣\n", r"line 1 holds '٣' "),
    ],
)
def test_sequences_that_cannot_be_used_are_said_with_their_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "no.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        prepare("s3rec", tmp_path / "set", sequences=path)
    assert str(error.value).startswith(str(path))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot be read \(No such file or directory\), expected JSON.*Correct the path"),
        ("{'1': [2]}", r'not JSON \(.*\), expected \{"item": \[attribute ids\]\}\. Correct'),
        ("[[1, [2]]]", r"got a list, expected an object"),
        ('{"1": [2], "1": [3]}', r"the key '1' stands twice"),
        ('{"1": 2}', r'got \{"1": 2\}, expected an item\'s id, a whole number from 1 on, and a list of whole numbers'),
        ('{"1": ["2"]}', r'got \{"1": \["2"\]\}, expected'),
        ('{"1": [true]}', r'got \{"1": \[true\]\}, expected'),
        ('{"one": [2]}', r'got \{"one": \[2\]\}, expected'),
    ],
)
def test_attributes_that_cannot_be_used_are_said_with_their_entry(
    tmp_path: Path, text: str | None, message: str
) -> None:
    (tmp_path / "yes.txt").write_text("1 1 2 3\n")
    path = tmp_path / "no.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        prepare("s3rec", tmp_path / "set", sequences=tmp_path / "yes.txt", attributes=path)
    assert str(error.value).startswith(str(path))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("s3rec", {}, "sequences=None, households=None, expected a file of sequences.*Give --sequences"),
        ("s3rec", {"sequences": Path("a"), "households": 3}, "households=3, expected .* no households"),
        ("ml-100k", {"sequences": Path("a")}, "ml-100k: sequences=a, attributes=None, expected none.*Leave them out"),
    ],
)
def test_words_of_another_set_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("oneranker.data.ml_100k._folder", lambda: (tmp_path, "any"))  # its package may be missing
    with pytest.raises(DataError, match=message):
        prepare(name, tmp_path / "set", **words)
    assert list(tmp_path.iterdir()) == []
