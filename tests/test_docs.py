"""README, docs and examples are executed: commands exist, links lead somewhere, code runs, the data example reads."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from markdown_pages import PAGES, ROOT, blocks, rows, section, text

from oneranker.data import schema
from oneranker.data.dataset import Dataset, catalogue_items, fit_tokenizer
from oneranker.data.requests import request_json
from oneranker.tokens import SimpleItemLookup, column_of

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


# Commands and links


def commands() -> Iterator[str]:
    for page in PAGES:
        for _, body in blocks(page, "bash"):
            yield from (line.split("#")[0].strip() for line in body.splitlines() if line.split("#")[0].strip())
    for page in PAGES:
        yield from re.findall(r"`((?:make|python -m) [^`\n]+)`", text(page))


@cache
def help_of(module: str) -> str:
    words = [sys.executable, "-m", *module.split(), "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_of_the_docs_exists_with_the_flags_it_is_given(command: str) -> None:
    words = command.split()
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", text("Makefile"), re.M)
        assert words[1] in targets
        return
    if words == [".", ".venv/bin/activate"]:
        assert "VENV := .venv\n" in text("Makefile")
        return
    if words[0].startswith("docker/"):
        assert os.access(ROOT / words[0], os.X_OK)
        assert not words[1:] or f" AS {words[1]}\n" in text("docker/Dockerfile")
        return
    if words[0] == "runtime/cpp/configure":
        told = subprocess.run([ROOT / words[0], "--help"], capture_output=True, text=True, check=True).stdout
        assert [word for word in words[1:] if word.startswith("--") and word not in told] == []
        return
    if words[0].startswith("build/cpp/release/examples/"):
        told = text("examples/cpp/server/flags.cpp")
        assert [word for word in words[1:] if word.startswith("--") and f'{{"{word}", ' not in told] == []
        return
    assert words[:2] == ["python", "-m"], f"`{command}` is not checked by any test"
    module = " ".join(words[2:4] if words[3:] and words[3].isalpha() else words[2:3])
    told = help_of(module)
    assert [word for word in words[3:] if word.startswith("--") and word not in told] == []
    for option in ("preset", "stage"):
        for value in re.findall(rf"--{option} (\w+)", command):
            assert value in told


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page if not path else (page.parent / path)
        assert there.exists(), target
        titles = {
            re.sub(r"[^\w-]", "", t.lower().replace(" ", "-")) for t in re.findall(r"^#+ (.+)$", text(there), re.M)
        }
        assert not anchor or anchor in titles, target


@by_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:oneranker|export|runtime|tests|benchmarks|docker|docs|examples)/[\w./-]*)`", text(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_extra_of_the_readme_is_one_and_every_extra_is_told() -> None:
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    told = {name for row in rows(section("README.md", "Install")) for name in re.findall(r"`(\w+)`", row[0])}
    assert told == set(extras)


def test_the_changelog_opens_with_this_version() -> None:
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert re.findall(r"^## (\d\S*)", text("CHANGELOG.md"), re.M)[0] == version
    assert f'__version__ = "{version}"' in text("oneranker/__init__.py")


# docs/data.md


@pytest.fixture(scope="module")
def teashop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example describes, made of its blocks."""
    folder = tmp_path_factory.mktemp("docs") / "teashop"
    folder.mkdir()
    for language in ("toml", "csv"):
        for name, body in blocks("docs/data.md", language):
            (folder / name).write_text(body, encoding="utf-8")
    return folder


def named_json(name: str) -> Any:
    return next(json.loads(body) for title, body in blocks("docs/data.md", "json") if title == name)


def test_the_example_reads_as_the_page_says(teashop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(teashop.parent)
    [(_, program)] = blocks("docs/data.md", "python")
    run(program)
    shop = Dataset.read(teashop)
    assert asdict(shop.report) == named_json("report")
    assert f"# {catalogue_items(shop).names}" in program
    assert {key for key in schema.TOP_KEYS if key in tomllib.loads((teashop / "schema.toml").read_text())} == set(
        schema.TOP_KEYS
    ), "the example shows every key"


def test_the_request_of_the_page_is_the_one_the_data_gives_and_serving_takes(teashop: Path) -> None:
    shop, request = Dataset.read(teashop), named_json("request")
    assert request_json(shop, "ann", shop.schema.split.valid_until) == request
    items = catalogue_items(shop)
    tokenizer = fit_tokenizer(shop, 1, 8, items)
    codes = column_of(range(len(items.ids))).astype(int)[:, None]
    tokens = tokenizer.encode(request, SimpleItemLookup(items.ids, tokenizer.item_fields(codes, items.columns)), 64)
    assert tokens.unknown_items == 1  # 099, as the page says


def test_the_reference_lists_exactly_the_keys_that_are_read() -> None:
    told = {key for row in rows(section("docs/data.md", "Every key")) for key in re.findall(r"`([\w.]+)`", row[0])}
    parts = {
        "events": schema.EventsSpec, "items": schema.TableSpec, "users": schema.TableSpec,
        "chain": schema.ChainSpec, "split": schema.SplitSpec,
    }  # fmt: skip
    known = {f"{key}.{field.name}" for key, spec in parts.items() for field in fields(spec)}
    known |= {"schema_version", "catalogue.min_users"} | (set(schema.TOP_KEYS) - set(parts) - {"catalogue"})
    assert told - set(schema.FIELD_TYPES) == known
    assert told & set(schema.FIELD_TYPES) == set(schema.FIELD_TYPES)


def test_the_floors_of_the_page_are_those_a_test_asserts() -> None:
    asserted = text("tests/oneranker/data/test_data_adapters.py")
    part = text("docs/data.md").split("<!-- floors:")[1].split("<!-- /floors -->")[0]
    for row in rows(part):
        assert f"[{', '.join('0' + cell for cell in row[1:])}]" in asserted, row


# Code and examples


def run(program: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "docs"}
    exec(compile(program, "<docs>", "exec"), scope)
    return scope


@pytest.fixture
def beside_a_bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of the tiny bundle, where the docs' code runs."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    shutil.copytree(tiny_bundle, tmp_path / "demo" / "bundle")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_of_the_readme_recommends(beside_a_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [(_, program)] = blocks("README.md", "python")
    answer = run(program)["answer"]
    assert len(answer.items) == 5
    assert answer.unknown_items == 2  # the readme's products are not in the tiny catalogue
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [item.id for item in answer.items]


def test_the_code_of_the_serving_page_does_what_it_says(beside_a_bundle: Path) -> None:
    scope = run("\n".join(body for _, body in blocks("docs/serving.md", "python")))
    assert scope["answer"].unknown_items == 0
    assert scope["scores"].shape == (1, 3)
    assert set(scope["spans"]) >= {"tokens", "generator", "enhancer", "retriever", "ranker"}


def test_the_code_of_the_semantic_ids_page_says_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [(_, program)] = blocks("docs/semantic-ids.md", "python")
    ids = run(program)["ids"]
    told = re.findall(r"^ids\.(\w+)(?:\(\))?  # (\w+) \[([\d, ]+)\]", program, re.M)
    assert [name for name, _, _ in told] == ["codes", "codebooks", "reconstruct"]
    for name, dtype, shape in told:
        value = getattr(ids, name)
        array = value() if callable(value) else value
        assert (array.dtype.name, list(array.shape)) == (dtype, [int(size) for size in shape.split(",")]), name


def test_the_example_answers_one_request(
    beside_a_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (beside_a_bundle / "request.json").write_text(json.dumps({"now": 1_700_000_000}))
    main = runpy.run_path(str(ROOT / "examples" / "recommend_one_user.py"))["main"]
    assert main(["bundle", "request.json"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["1", "2", "3", "4", "5"]
    assert main(["bundle"]) == 2
    assert main(["nowhere", "request.json"]) == 3
    assert "manifest.json" in capsys.readouterr().err
