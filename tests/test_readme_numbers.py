"""No number in the result blocks of README and docs without its JSON line under benchmarks/results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import markdown_pages
import pytest
from markdown_pages import rows, text

FIGURE = r"(?:\d[\d,]*\.?\d*|\.\d+)"


def numbers(value: Any) -> Iterator[float]:
    """Every number anywhere in a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def is_in(figure: str, line: list[float], scale: float = 1) -> bool:
    """Whether a number of the line rounds to the figure as it is written."""
    plain = figure.replace(",", "")
    tolerance = 0.501 * 10 ** -len(plain.partition(".")[2])
    return any(abs(float(plain) - number * scale) <= tolerance for number in line)


def figures(cell: str) -> list[tuple[str, float]]:
    """The numbers of a cell that starts with one, and 100 for a percentage; a name such as "rule 7" has none."""
    if not re.match(r"[*$\-]*\.?\d", cell):
        return []
    return [(figure, 100 if "%" in cell else 1) for figure in re.findall(FIGURE, cell)]


def unfounded(block: str) -> list[str]:
    """What a result block says that the JSON lines it names do not: a row's numbers stand together in one line."""
    named = re.findall(r"benchmarks/results/[\w.-]+\.jsonl", block)
    assert named, "the block names no benchmarks/results/*.jsonl"
    assert re.search(r"`(make|python -m) [^`]+`", block), "the block names no command that repeats it"
    raw = [line for path in named for line in text(path).splitlines() if line.strip()]
    lines = [list(numbers(json.loads(line))) for line in raw]
    wrong = []
    for row in rows(block):
        shown = [figure for cell in row for figure in figures(cell)]
        if not any(all(is_in(figure, line, scale) for figure, scale in shown) for line in lines):
            wrong.append(" | ".join(row))
    prose = re.sub(r"^\|.*$|`[^`]*`|\]\([^)]*\)|benchmarks/results/\S+", "", block, flags=re.M)
    for figure in re.findall(rf"(?<![\w@.,-]){FIGURE}(?![\w-])", prose):
        if not any(is_in(figure, line) for line in lines):
            wrong.append(figure)
    return wrong


BLOCKS = [("README.md", name) for name in ("quality", "bench", "engines", "cpp")]
BLOCKS += [("docs/semantic-ids.md", "balanced")]


@pytest.mark.parametrize(("page", "name"), BLOCKS)
def test_every_number_of_a_result_block_stands_in_a_json_line(page: str, name: str) -> None:
    part = text(page).split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    assert rows(part), "a measured block shows a table"
    assert unfounded(part) == []


def test_the_check_of_numbers_finds_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown_pages, "ROOT", tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    line = {"model": "x", "hr": 0.5764, "rows": [{"p50_ms": 12.34, "p99_ms": 15.0}], "requests": 2078}
    (tmp_path / "benchmarks" / "results" / "a.jsonl").write_text(json.dumps(line) + '\n{"hr": 0.1}\n')
    head = "`make demo --k 7`: 2,078 requests, fp32, p50 of HR@10, benchmarks/results/a.jsonl\n\n| a | b | c | d |\n"
    head += "|---|---|---|---|\n"
    assert unfounded(head + "| rule 7 | .576 | 12.3 (15.0) ms | 2,078 |\n| rule | 57.6 % | – | |\n") == []
    assert unfounded(head + "| rule | .577 | 12.3 ms | |\n") == ["rule | .577 | 12.3 ms | "]
    assert unfounded(head + "| rule | .576 | 12.3 (15.1) ms | |\n") == ["rule | .576 | 12.3 (15.1) ms | "]
    assert unfounded(head + "| two lines in one row | .576 | .1 | |\n") == ["two lines in one row | .576 | .1 | "]
    assert unfounded(head + "| rule | .576 | | |\n\nOn 3 machines.\n") == ["3"]
