"""The report on semantic IDs: its numbers against slow loops, its files, and what it must not destroy."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted_ids import SETTINGS, D, N, drawn, files_below, fitted

from oneranker.errors import DataError
from oneranker.semantic_ids import IdSettings, Method, SemanticIds, fit
from oneranker.semantic_ids import report as report_module
from oneranker.semantic_ids.report import FILES, report, table, write_report


def squares(left: np.ndarray) -> float:
    return float((np.asarray(left, np.float64) ** 2).sum())


def minus_mean(points: np.ndarray, keys: list[Any]) -> np.ndarray:
    means = {key: np.mean([p for p, k in zip(points, keys, strict=True) if k == key], axis=0) for key in set(keys)}
    return np.array([p - means[k] for p, k in zip(points, keys, strict=True)])


def equal_codes(paths: list[tuple[int, ...]], level: int) -> list[tuple[int, int]]:
    pairs = [(i, j) for i, j in combinations(range(len(paths)), 2) if paths[i][level] == paths[j][level]]
    return [(i, j) for i, j in pairs if level == 0 or paths[i][:level] != paths[j][:level]]


@pytest.fixture(scope="module", params=list(Method), ids=lambda method: method.value)
def ids(request: pytest.FixtureRequest) -> SemanticIds:
    return fitted(request.param)


def test_every_number_of_a_level_is_that_of_a_slow_loop(ids: SemanticIds) -> None:
    points = ids.points.astype(np.float64)
    paths = [tuple(path) for path in ids.codes.tolist()]
    found = report(ids)["levels"]
    assert len(found) == len(ids.widths) == 3
    left = points.copy()
    for level, numbers in enumerate(found):
        codes = [path[level] for path in paths]
        count = list(Counter(codes).values())
        parents = minus_mean(points, [path[:level] for path in paths])
        left -= np.array([ids.codebooks[level, code] for code in codes])
        unit = [p / np.linalg.norm(p) if np.linalg.norm(p) > 1e-6 else 0 * p for p in parents]
        cosines = [float(unit[i] @ unit[j]) for i, j in equal_codes(paths, level)]
        assert numbers == {
            "codes": ids.widths[level],
            "used": len(count),
            "utilisation": pytest.approx(len(count) / ids.widths[level]),
            "entropy_bits": pytest.approx(-sum(n / N * log2(n / N) for n in count)),
            "gini": pytest.approx(sum(abs(n - m) for n in count for m in count) / (2 * len(count) * N)),
            "prefixes": len({path[: level + 1] for path in paths}),
            "reconstruction_error": pytest.approx(squares(left) / squares(points - points.mean(axis=0)), rel=1e-4),
            "explained_variance": pytest.approx(1 - squares(minus_mean(parents, codes)) / squares(parents), abs=1e-5),
            "code_coherence": pytest.approx(np.mean(cosines), abs=1e-5),
        }


def test_every_number_of_the_whole_is_that_of_a_slow_loop(ids: SemanticIds) -> None:
    paths = [tuple(path) for path in ids.codes.tolist()]
    found = report(ids)
    assert found["method"] == ids.settings.method.value
    assert IdSettings.from_dict(found["settings"]) == ids.settings
    assert (found["items"], found["widths"], found["embedding_width"]) == (N, list(ids.widths), D)
    assert found["collisions"] == N - len(set(paths)) == 0
    assert found["largest_leaf"] == max(Counter(path[:-1] for path in paths).values())
    assert found["seconds"] == ids.seconds
    for level, width in enumerate(ids.widths):
        assert found["code_counts"][level] == sorted((ids.codes[:, level] == np.arange(width)[:, None]).sum(1))[::-1]
    for depth, sizes in enumerate(found["prefix_sizes"]):
        assert dict(sizes) == Counter(Counter(path[:depth] for path in paths).values())


def test_what_unique_paths_cost_is_told_where_codes_are_the_nearest_ones(ids: SemanticIds) -> None:
    found = report(ids)["nearest_codes"]
    if ids.settings.method not in (Method.RQ_KMEANS, Method.RQ_KMEANS_PLUS):
        assert found is None
        return
    free, moved = [], np.zeros((N, 3), bool)
    for item, (point, path) in enumerate(zip(ids.points, ids.codes, strict=True)):
        walked: list[int] = []
        for level, book in enumerate(ids.codebooks):
            distance = [
                [squares(point - ids.codebooks[range(level), above].sum(axis=0) - code) for code in book]
                for above in (walked, path[:level])
            ]
            walked.append(int(np.argmin(distance[0])))
            moved[item, level] = np.argmin(distance[1]) != path[level]
        free.append(tuple(walked))
    assert found == {
        "collisions": [N - len({path[: depth + 1] for path in free}) for depth in range(3)],
        "codes_moved": pytest.approx(moved.mean(axis=0)),
        "paths_moved": pytest.approx(moved.any(axis=1).mean()),
    }
    assert 0 < found["collisions"][-1] < found["collisions"][0]


def test_twelve_equal_items_move_as_the_room_of_each_level_says() -> None:
    """Rooms 9, 3, 1 of V=3: 9 + 3 items, of the nine 3 + 3 + 3, and of every three one keeps the nearest code."""
    made = report(fit(np.ones((12, D), np.float32), IdSettings(codes=3)))
    assert made["nearest_codes"] == {
        "collisions": [11, 11, 11],
        "codes_moved": pytest.approx([3 / 12, 6 / 12, 8 / 12]),
        "paths_moved": pytest.approx(11 / 12),
    }
    assert "91.7 % of items would share the path of an earlier one; 91.7 % have another path" in table(made)


def test_codes_that_no_item_has_are_counted_as_unused() -> None:
    found = report(fit(drawn(), IdSettings(codes=N + 8)))
    for level, count in zip(found["levels"], found["code_counts"], strict=True):
        assert level["codes"] == N + 8 == len(count)
        assert level["utilisation"] == level["used"] / (N + 8) < 1
        assert min(count[: level["used"]]) > max(count[level["used"] :]) == 0


def test_the_error_of_decoded_codes_is_told_where_the_codebooks_see_no_embeddings(ids: SemanticIds) -> None:
    found = report(ids)["embedding_error"]
    if ids.settings.method is not Method.RQ_KMEANS_PLUS:
        assert found is None
        return
    error = squares(ids.embeddings - ids.reconstruct()) / squares(ids.embeddings - ids.embeddings.mean(axis=0))
    assert found == pytest.approx(error, rel=1e-4)
    assert found != pytest.approx(report(ids)["levels"][-1]["reconstruction_error"], rel=1e-4)


@pytest.mark.parametrize(
    ("points", "settings"),
    [
        (drawn(1), IdSettings(codes=3)),
        (drawn(9), IdSettings(codes=9, levels=1)),
        (np.ones((9, D), np.float32), IdSettings(codes=3)),
        (np.zeros((9, D), np.float32), SETTINGS[Method.RQ_KMEANS_PLUS]),
        (np.ones((12, D), np.float32), SETTINGS[Method.GAOQ]),
    ],
    ids=["one item", "one level", "equal items", "all zero", "equal items in a tree"],
)
def test_there_is_no_nan_whatever_the_items(points: np.ndarray, settings: IdSettings, tmp_path: Path) -> None:
    made = write_report(fit(points, settings), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert told == made
    assert "nan" not in table(made)


def test_the_table_is_aligned_and_says_what_the_report_says(ids: SemanticIds) -> None:
    made = report(ids)
    lines = [line for line in table(made).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for level, (cells, numbers) in enumerate(zip(rows, made["levels"], strict=True)):
        row = dict(zip(names, map(float, cells), strict=True))
        expected = {
            "level": level + 1,
            "codes": numbers["codes"],
            "used": numbers["used"],
            "used, %": pytest.approx(100 * numbers["utilisation"], abs=0.06),
            "bits": pytest.approx(numbers["entropy_bits"], abs=6e-4),
            "Gini": pytest.approx(numbers["gini"], abs=6e-5),
            "prefixes": numbers["prefixes"],
            "error": pytest.approx(numbers["reconstruction_error"], abs=6e-5),
            "explained": pytest.approx(numbers["explained_variance"], abs=6e-5),
            "coherence": pytest.approx(numbers["code_coherence"], abs=6e-5),
        }
        if made["nearest_codes"]:
            expected["collisions"] = made["nearest_codes"]["collisions"][level]
            expected["moved, %"] = pytest.approx(100 * made["nearest_codes"]["codes_moved"][level], abs=0.06)
        assert row == expected
    assert ("after decoding" in table(made)) == (made["embedding_error"] is not None)


def test_the_folder_holds_the_report_the_table_and_pictures_of_readable_size(ids: SemanticIds, tmp_path: Path) -> None:
    made = write_report(ids, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert json.loads((out / "report.json").read_text()) == made == report(ids)
    markdown = (out / "report.md").read_text()
    assert markdown.startswith(table(made))
    pictures = [file for file in FILES if file.endswith(".png")]
    assert len(pictures) == 4
    for file in pictures:
        data = (out / file).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert data.endswith(b"IEND\xaeB`\x82")
        width, height = struct.unpack(">II", data[16:24])
        assert 600 <= width <= 1500
        assert 350 <= height <= 1000
        assert 5_000 < len(data) < 200_000
        assert f"({file})" in markdown


def test_pictures_are_of_the_data(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_report(fit(drawn(seed=seed), SETTINGS[Method.RQ_KMEANS]), tmp_path / name)
    for file in report_module.PLOTS:
        one, same, other = ((tmp_path / name / file).read_bytes() for name in ("one", "same", "other"))
        assert one == same
        assert one != other


def test_an_earlier_report_is_replaced_whole(tmp_path: Path) -> None:
    write_report(fit(drawn(), SETTINGS[Method.RQ_KMEANS]), tmp_path / "out")
    made = write_report(fit(drawn(), SETTINGS[Method.GAOQ]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == made
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def note_alone(out: Path) -> None:
    out.mkdir()
    (out / "note.txt").write_text("mine")


def note_beside_a_report(out: Path) -> None:
    write_report(fit(drawn(), SETTINGS[Method.GAOQ]), out)
    (out / "note.txt").write_text("mine")


def report_of_another_program(out: Path) -> None:
    out.mkdir()
    (out / "report.json").write_text("{}")


def semantic_ids(out: Path) -> None:
    fit(drawn(), SETTINGS[Method.GAOQ]).save(out)


def file_in_its_place(out: Path) -> None:
    out.write_text("mine")


def file_above(out: Path) -> None:
    out.parent.rmdir()
    out.parent.write_text("mine")


STRANGERS = (note_alone, note_beside_a_report, report_of_another_program, semantic_ids, file_in_its_place, file_above)


@pytest.mark.parametrize("make", STRANGERS, ids=lambda make: make.__name__)
def test_what_is_not_a_report_is_left_as_it_is(make: Callable[[Path], None], tmp_path: Path) -> None:
    out = tmp_path / "below" / "out"
    out.parent.mkdir()
    make(out)
    before = files_below(tmp_path)
    with pytest.raises(DataError, match=r"out: .*expected .*\. Choose another"):
        write_report(fit(drawn(), SETTINGS[Method.RQ_KMEANS]), out)
    assert files_below(tmp_path) == before


def test_a_report_that_cannot_be_finished_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(fit(drawn(), SETTINGS[Method.GAOQ]), tmp_path / "out")
    before = files_below(tmp_path)

    def full(made: dict[str, Any], folder: Path) -> None:
        (folder / "code_usage.png").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(report_module, "write_plots", full)
    for name in ("out", "new"):
        with pytest.raises(DataError, match=rf"{name}: got OSError: no space left, expected .*make room"):
            write_report(fit(drawn(), SETTINGS[Method.RQ_KMEANS]), tmp_path / name)
    assert files_below(tmp_path) == before
