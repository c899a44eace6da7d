"""The vectors that every runtime's tokenizer is held against are what the Python tokenizer says now."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneranker.tokens import SimpleItemLookup, TokenError, Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads((GOLDEN / "token_vectors.json").read_text(encoding="utf-8"))


def test_the_committed_vectors_are_what_the_tokenizer_gives(committed: dict[str, Any]) -> None:
    made = json.loads(json.dumps(runpy.run_path(str(GOLDEN / "make_token_vectors.py"))["vectors"]()))
    again = "python tests/golden/make_token_vectors.py writes them again; a change of integers breaks served bundles"
    assert [part["name"] for part in made["tokenizers"]] == [part["name"] for part in committed["tokenizers"]]
    for now, before in zip(made["tokenizers"], committed["tokenizers"], strict=True):
        for case, old in zip(now["cases"], before["cases"], strict=True):
            assert case == old, f"{now['name']}: {again}"
    assert made == committed, again


def test_there_are_vectors_of_every_sort(committed: dict[str, Any]) -> None:
    cases = [case for part in committed["tokenizers"] for case in part["cases"]]
    assert len(cases) >= 150
    assert sum(case["dropped"] > 0 for case in cases) >= 20
    assert sum(case["unknown_items"] > 0 for case in cases) >= 20
    assert (GOLDEN / "token_vectors.json").stat().st_size < 400_000


def test_what_the_vectors_call_refused_is_refused_at_that_place(committed: dict[str, Any]) -> None:
    for part in committed["tokenizers"]:
        tokenizer = Tokenizer.from_dict(part["tokenizer"])
        items = SimpleItemLookup(part["item_ids"], np.array(part["item_fields"], np.int32))
        for case in part["refused"]:
            with pytest.raises(TokenError) as caught:
                tokenizer.encode(json.loads(case["request"]), items, 16)
            assert case["place"] in str(caught.value), case["request"]
