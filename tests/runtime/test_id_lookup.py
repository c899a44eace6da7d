"""Looking items up by id, against a dict and against Python's own SipHash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from runtime import id_lookup
from runtime.id_lookup import IdLookup, siphash

TEXTS = ("a", "item1234567", "x" * 7, "x" * 8, "x" * 9, "Käse 🧀", "y" * 100, "z" * 63, "z" * 64)


def packed(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [text.encode() for text in texts]
    cuts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), cuts


def drawn(seed: int, count: int) -> list[str]:
    """Different texts of 1 to 40 characters, of one to four bytes each, many with the same beginning."""
    rng = np.random.default_rng(seed)
    letters = [*"abc", "é", "ß", "漢", "🧀", "\0"]
    texts = {
        "".join(["item", ""][row % 2] + "".join(letters[i] for i in rng.integers(0, 8, rng.integers(1, 37))))
        for row in range(count)
    }
    return rng.permutation(sorted(texts)).tolist()


def test_the_hash_of_bytes_is_pythons_own_under_a_key_of_zeros() -> None:
    script = "import json, sys; print(json.dumps([hash(text.encode()) for text in json.loads(sys.argv[1])]))"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(TEXTS)],
        env={**os.environ, "PYTHONHASHSEED": "0"},  # the key is zeros then
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sys.hash_info.algorithm == "siphash13"
    assert siphash(*packed(TEXTS), (0, 0)).view(np.int64).tolist() == json.loads(done.stdout)


def test_the_hash_of_a_text_hangs_on_the_key_and_not_on_its_neighbours() -> None:
    alone = [int(siphash(*packed([text]), (3, 5))[0]) for text in TEXTS]
    assert siphash(*packed(TEXTS), (3, 5)).tolist() == alone
    assert not set(alone) & set(siphash(*packed(TEXTS), (3, 6)).tolist())
    assert not set(alone) & set(siphash(*packed(TEXTS), (2, 5)).tolist())


@pytest.mark.parametrize("rows_at_once", [7, 1 << 14])
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_those_of_a_dict(monkeypatch: pytest.MonkeyPatch, seed: int, rows_at_once: int) -> None:
    monkeypatch.setattr(id_lookup, "_ROWS_AT_ONCE", rows_at_once)
    texts = drawn(seed, 400)
    known, strangers = texts[:300], texts[300:]
    asked = [*strangers, *known, "", known[0], "\ud800", "q" * 10_000, known[7] + "\0", known[7][:-1]]
    row_of = {text: row for row, text in enumerate(known)}
    rows = IdLookup(*packed(known)).rows(asked)
    assert rows.dtype == np.int64
    assert rows.tolist() == [row_of.get(text, -1) for text in asked]


@pytest.mark.parametrize("hashes", [1, 2, 5])
def test_ids_of_one_hash_are_told_apart_by_their_bytes(monkeypatch: pytest.MonkeyPatch, hashes: int) -> None:
    def few(_data: np.ndarray, cuts: np.ndarray, _key: tuple[int, int]) -> np.ndarray:
        return (np.diff(cuts) % hashes).astype(np.uint64) << np.uint64(61)

    monkeypatch.setattr(id_lookup, "siphash", few)
    texts = drawn(0, 90)
    lookup = IdLookup(*packed(texts[:60]))
    assert lookup.rows(texts).tolist() == [*range(60), *[-1] * (len(texts) - 60)]
    assert lookup.distinct() == 60
    assert IdLookup(*packed([*texts, texts[4], texts[4], texts[9]])).distinct() == len(texts)


def test_rows_come_back_as_texts() -> None:
    texts = drawn(1, 50)
    lookup = IdLookup(*packed(texts))
    assert [lookup.text(row).decode() for row in range(len(texts))] == texts


@pytest.mark.parametrize("texts", [["a"], ["a", "a"], ["", "a", ""], ["b", "a", "b", "a", "b"], TEXTS])
def test_distinct_counts_as_a_set_does(texts: Sequence[str]) -> None:
    assert IdLookup(*packed(texts)).distinct() == len(set(texts))


def test_nothing_is_found_of_nothing_or_in_nothing() -> None:
    empty = IdLookup(np.empty(0, np.uint8), np.zeros(1, np.int64))
    assert empty.rows(["", "a"]).tolist() == [-1, -1]
    assert empty.distinct() == 0
    none = IdLookup(*packed(["a"])).rows([])
    assert (none.shape, none.dtype) == ((0,), np.int64)


def test_eight_bytes_an_item_are_kept_beside_the_ids() -> None:
    lookup = IdLookup(*packed(drawn(2, 200)))
    own = [value for name, value in vars(lookup).items() if name not in ("_bytes", "_offsets")]
    count = len(vars(lookup)["_offsets"]) - 1
    assert sum(value.nbytes for value in own if isinstance(value, np.ndarray)) == 8 * count
