"""Reads the project's Markdown pages for the tests: fenced blocks, tables, sections."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def text(page: str | Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str | Path, language: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language: the word behind it, and the body."""
    return re.findall(rf"^```{language}(?: (\S+))?\n(.*?)^```", text(page), re.M | re.S)


def rows(part: str) -> list[list[str]]:
    """The cells of every table row that is not a header."""
    lines = part.splitlines()
    headers = {i - 1 for i, line in enumerate(lines) if re.fullmatch(r"\|[-|:]+\|", line)}
    kept = [line for i, line in enumerate(lines) if line.startswith("|") and i not in headers and i - 1 not in headers]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def section(page: str, title: str) -> str:
    return re.split(r"^## ", text(page).split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]
