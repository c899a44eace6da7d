"""The README's table is what the generator makes of the committed row set, and each of its numbers stands in a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import markdown_pages
import pytest
from synthetic_rows import row_set

from benchmarks import readme
from benchmarks.environment import ROOT
from benchmarks.readme import BEGIN, DEFAULT, END, block, main
from benchmarks.row import ENGINE, KERNELS
from benchmarks.row_set import HANDED_ON

sys.path.insert(0, str(ROOT / "tests"))
from test_readme_numbers import unfounded


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a committed row set and a README with the markers."""
    monkeypatch.setattr(markdown_pages, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    row_set().write(tmp_path / DEFAULT.row_set)
    (tmp_path / "README.md").write_text(f"Above.\n\n{BEGIN}Old.\n{END}\n\nBelow.\n")
    return tmp_path


def test_every_number_of_a_generated_block_stands_in_the_line_it_comes_from(clone: Path) -> None:
    text = block(clone / DEFAULT.row_set)
    assert len(markdown_pages.rows(text)) > 10
    assert unfounded(text) == []
    assert unfounded(text.replace("20.", "21.")) != []


def test_the_block_shows_every_case_ratio_and_retrieval_row(clone: Path) -> None:
    found, text = row_set(), block(clone / DEFAULT.row_set)
    rows = markdown_pages.rows(text)
    chain = next(row for row in found.rows if row.engine == ENGINE and row.stage == "chain")
    assert ["chain", ENGINE, f"{chain.p50_ms:#.3g} ({chain.p90_ms:#.3g})", "250"] in [row[:4] for row in rows]
    assert "p99" not in text  # of few samples it is the largest
    assert rows[0][:3] == ["best of ours, against the best peer", f"`{found.ratios[0].case}`", KERNELS]
    handed = next(one for one in found.ratios if one.name == HANDED_ON and one.case == chain.case)
    assert any(f"`{handed.case}`" in row and f"{handed.value:.2f}x" in row for row in rows)
    for row in found.retrieval:
        assert [f"{row['items']:,}", row["retriever"]] in [line[:2] for line in rows]
    assert any(f"{4 / 3.2:.2f}x that of 100,000" in row for row in rows)
    assert "not run: no <compiler> & no hope" in text
    assert all(len({len(row) for row in rows if row[0] == kind}) == 1 for kind in ("chain", "generator"))


def test_writing_replaces_the_block_alone(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = clone / "README.md"
    for _ in range(2):
        assert main([str(clone / DEFAULT.row_set), "--write", "--page", str(page)]) == 0
        text = capsys.readouterr().out
        assert page.read_text() == f"Above.\n\n{BEGIN}{text}{END}\n\nBelow.\n"


def test_a_page_without_the_markers_or_a_row_set_elsewhere_is_refused(
    clone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = clone / "README.md"
    page.write_text("Nothing.\n")
    assert main([str(clone / DEFAULT.row_set), "--write", "--page", str(page)]) == 1
    assert "got 0 lines <!-- bench -->" in caplog.text
    assert page.read_text() == "Nothing.\n"
    row_set().write(clone / "mine.jsonl")
    assert main([str(clone / "mine.jsonl")]) == 1
    assert "expected one in benchmarks/results" in caplog.text


def test_the_readme_shows_the_committed_row_set() -> None:
    path = ROOT / DEFAULT.row_set
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["kind"] == "run"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == block(path)
    assert unfounded(block(path)) == []
