"""The page holds everything that was measured, needs no network, and shows any text as text."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_rows import row_set

from benchmarks.page import main, write_page
from benchmarks.plots import plots_of
from benchmarks.row import CHAIN, ENGINE, KERNELS, NAIVE, OPEN, Row
from benchmarks.row_set import HANDED_ON, RowSet
from benchmarks.row_text import WHAT

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Tables as rows of texts, every attribute, and what was left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.attributes: list[tuple[str, str]] = []
        self.tags: Counter[str] = Counter()
        self._open: list[str] = []
        self._text = ""
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        self._text = ""
        if tag == "tr":
            self._row: list[str] = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "caption":
            self._caption = self._text
            self.tables[self._caption] = []
        elif tag in {"td", "th"}:
            self._row.append(self._text)
        elif tag == "tr":
            self.tables[self._caption].append(self._row)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "new"
    row_set().write(out / "rows.jsonl")
    assert main([str(out / "rows.jsonl"), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Reader:
    return Reader(text)


def test_every_row_and_ratio_and_fact_of_the_run_is_on_the_page(page: Reader) -> None:
    found = row_set()
    latency = page.tables["demo-b1-s64-c32-n1000"][1:]
    closed = [row for row in found.rows if row.stage != OPEN]
    assert [(cells[0], cells[1]) for cells in latency] == [(row.stage, row.engine) for row in closed]
    for cells, row in zip(latency, closed, strict=True):
        assert len(cells) == 18
        if row.p50_ms is None:
            assert cells[-1] == row.note
            continue
        for cell, value in zip(cells[2:7], (row.p50_ms, row.p90_ms, row.p95_ms, row.p99_ms, row.max_ms), strict=True):
            assert value is not None
            assert float(cell) == pytest.approx(value, rel=0.005)
    assert len(page.tables["Open loop"]) == 2
    shown = page.tables["A against B"][1:]
    assert [cells[6] for cells in shown] == [f"{one.value:.2f}x" for one in found.ratios]
    assert [cells[0] for cells in shown[:3]] == ["best of ours, against the best peer"] * 2 + [WHAT[HANDED_ON]]
    assert shown[1][2:6:2] == [KERNELS, NAIVE]  # the chain's
    facts = dict(page.tables["The run"])
    assert facts["machine"] == "Some CPU, 2 cores"
    assert facts["ceiling copy_gb_s"] == "10.0"


def test_retrieval_shows_time_against_fewer_items_and_why_there_is_none(page: Reader) -> None:
    head, *rows = page.tables["Retrieval at scale"]
    shown = [dict(zip(head, row, strict=True)) for row in rows]
    assert [(row["items N"], row["retriever"], row["p50 against"]) for row in shown] == [
        ("1,000", "trie", "–"), ("100,000", "trie", "–"), ("10,000,000", "trie", f"{4 / 3.2:.2f}x that of 100,000"),
        ("100,000", "dense", "–"),
    ]  # fmt: skip
    assert [row["p50 (p90) ms"] for row in shown[2:]] == ["4.00 (4.40)", "not run: big"]
    assert list(shown[0].values())[4:] == ["99.5", "0.910", "0.950", "0.50", "0.12", "0.25"]


def test_text_of_a_row_set_is_shown_not_run(page: Reader, text: str) -> None:
    assert dict(page.tables["The run"])["command"] == "python -m benchmarks.bench --quick <all>"
    assert "not run: no <compiler> & no hope" in page.tables["demo-b1-s64-c32-n1000"][-1]
    assert "<all>" not in text
    assert page.tags["script"] == 0
    hostile = RowSet(
        row_set().run, [Row(case="x-chain-b1\"'><script>", stage=CHAIN, engine="<b>", batch=1, p50_ms=1.0)]
    )
    assert plots_of(hostile)[0].name == "time-x-b1_script_"


def test_the_page_needs_nothing_from_outside_and_its_links_lead_somewhere(page: Reader, folder: Path) -> None:
    for name, value in page.attributes:
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith("#") or (folder / value).is_file(), value
        assert "http" not in value or name.startswith("xmlns"), (name, value)
    style = (folder / "index.html").read_text().split("<style>")[1]
    assert "@import" not in style
    assert not re.search(r"url\((?!#)", style)


def test_ids_of_several_plots_on_one_page_do_not_collide(page: Reader, text: str) -> None:
    ids = Counter(value for name, value in page.attributes if name == "id")
    assert [name for name, count in ids.items() if count > 1] == []
    used = {value[1:] for name, value in page.attributes if name.endswith("href") and value.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)
    assert used


def test_every_plot_is_a_png_and_an_svg_and_says_in_words_what_it_shows(page: Reader, folder: Path) -> None:
    plots = plots_of(row_set())
    assert [plot.name.partition("-")[0] for plot in plots] == ["time", "memory", "retrieval"]
    assert page.tags["svg"] == page.tags["figure"] == len(plots)
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert labels == [plot.title for plot in plots]
    for plot in plots:
        assert (folder / f"{plot.name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{plot.name}.svg").read_text(encoding="utf-8")


def test_the_bars_are_the_medians_and_the_whiskers_end_at_p99() -> None:
    found = row_set()
    figure = plots_of(found)[0].figure
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == ["generator", CHAIN]  # no open loop
    panel = next(axes for axes in figure.axes if axes.get_title() == CHAIN)
    rows = [row for row in found.rows if row.stage == CHAIN and row.p50_ms is not None]
    assert [bar.get_width() for bar in panel.patches] == [row.p50_ms for row in rows]
    ends = [line.get_segments()[0][1][0] for line in panel.collections]
    assert ends == pytest.approx([row.p99_ms for row in rows])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == list(dict.fromkeys(row.engine for row in found.rows if row.p50_ms is not None))
    assert len({bar.get_hatch() for bar in panel.patches}) == 2  # told apart without colour


def test_a_line_of_retrieval_is_one_retriever_over_the_number_of_items() -> None:
    figure = next(plot.figure for plot in plots_of(row_set()) if plot.name == "retrieval")
    [line] = figure.axes[0].get_lines()
    trie = [row for row in row_set().retrieval if row["p50_ms"]]
    assert list(line.get_xdata()) == [row["items"] for row in trie]
    assert list(line.get_ydata()) == [row["p50_ms"] for row in trie]
    assert line.get_label() == "trie"


def test_the_same_row_set_gives_the_same_page_and_plots(folder: Path, tmp_path: Path) -> None:
    write_page(row_set(), tmp_path)
    written = [path.name for path in tmp_path.iterdir() if path.suffix != ".png"]
    assert len(written) == 4
    for name in written:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_row_set_without_what_could_be_drawn_still_has_a_page(tmp_path: Path) -> None:
    rows = [replace(row, p50_ms=None, note="not run: x") for row in row_set().rows if row.engine == ENGINE]
    assert write_page(RowSet({**row_set().run, "ceilings": None}, rows), tmp_path) == []
    assert "demo-b1-s64-c32-n1000" in Reader((tmp_path / "index.html").read_text()).tables


def test_the_line_names_the_page_and_errors_have_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    row_set().write(tmp_path / "rows.jsonl")
    assert main([str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "page")]) == 0
    line = json.loads(capsys.readouterr().out)
    assert Path(line["page"]).is_file()
    assert all((tmp_path / "page" / name).is_file() for name in line["plots"])
    assert main([str(tmp_path / "absent.jsonl"), "--out", str(tmp_path / "page")]) == 1
    assert main([str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "rows.jsonl")]) == 1
    assert "expected a folder for a page" in caplog.text
