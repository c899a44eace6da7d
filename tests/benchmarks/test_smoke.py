"""The guard times the smallest committed case, compares ratios alone, and believes what is worse every time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_rows import RUN, row_set

from benchmarks import smoke
from benchmarks.latency import LatencySettings
from benchmarks.row import CHAIN, EAGER, ENGINE, KERNELS, KERNELS_RECOMPUTE, NAIVE, RECOMPUTE
from benchmarks.row_set import RowSet
from benchmarks.smoke import main, smallest_case
from export.settings import BuildSettings
from runtime.errors import OneRankerError

STAGES = ("generator", CHAIN)


def report(factor: dict[str, float], seed: int, engines: Sequence[str], noise: float) -> dict[str, Any]:
    """As `benchmarks.latency.run` makes it, on a machine three times as slow."""
    environment = {**RUN, "processor": "Other CPU", "cores": 8}
    everything = {engine: 3.0 * factor.get(engine, 1.0) for engine in engines}
    found = row_set(seed, everything, noise=noise).rows
    rows = [row for row in found if row.engine in everything and row.stage in STAGES]
    return {"environment": environment, "rows": [{**asdict(row), "case": row.case[len("demo-") :]} for row in rows]}


@pytest.fixture
def kernels(tmp_path: Path) -> str:
    path = tmp_path / "kernels.so"
    path.touch()
    return str(path)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was built and timed; nothing really is."""
    found: list[Any] = []
    monkeypatch.setattr(smoke, "build_bundle", found.append)
    monkeypatch.setattr(smoke, "usable_cores", lambda: 8)
    return found


def planted(monkeypatch: pytest.MonkeyPatch, seen: list[Any], factors: Sequence[dict[str, float]]) -> None:
    """Engines slowed by these factors, one run after the other."""
    left = list(factors)

    def run(settings: LatencySettings) -> tuple[dict[str, Any], None]:
        seen.append(settings)
        factor = dict(left.pop(0))
        return report(factor, len(left) + 77, settings.engines, factor.pop(NOISE, 0.02)), None

    monkeypatch.setattr(smoke, "run_latency", run)


NOISE = "noise"
SLOW, OTHER = {KERNELS: 1.6}, {ENGINE: 1.6}
RESTLESS = {NOISE: 0.4}


@pytest.mark.parametrize(
    ("factors", "code"),
    [
        ([{}], 0),
        ([{KERNELS: 0.5}], 0),
        ([SLOW, {}], 0),
        ([SLOW, OTHER], 0),
        ([SLOW, SLOW], 1),
        ([SLOW, SLOW | OTHER], 1),
    ],
    ids=["same", "faster", "once", "another one", "twice", "twice and another one"],
)
def test_only_a_ratio_that_is_worse_every_time_fails_and_a_slow_machine_does_not(
    factors: list[dict[str, float]],
    code: int,
    kernels: str,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row_set(1).write(tmp_path / "committed.jsonl")
    planted(monkeypatch, seen, factors)
    assert main(["--against", str(tmp_path / "committed.jsonl"), "--kernels", kernels]) == code
    told = capsys.readouterr().out
    line = json.loads(told.splitlines()[-1])
    assert line["worse_every_time"] == ([[f"demo-{CHAIN}-b1-s64-c32-n1000", KERNELS]] if code else [])
    assert line["noisy_every_time"] == []
    assert line["left_out"] == [NAIVE, RECOMPUTE, KERNELS_RECOMPUTE, "pytorch-compile"]
    assert f"left out, not timed here: {NAIVE}, " in told
    assert len([one for one in seen if isinstance(one, LatencySettings)]) == len(factors)
    assert {change["quantity"] for change in line["changes"]} == {"p50_vs_eager"}
    assert line["only_old"] == []


def test_the_case_is_built_and_timed_at_the_committed_sizes(
    kernels: str, seen: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_set(1).write(tmp_path / "committed.jsonl")
    planted(monkeypatch, seen, [{}])
    out = tmp_path / "new.jsonl"
    assert main(["--against", str(tmp_path / "committed.jsonl"), "--kernels", kernels, "--out", str(out)]) == 0
    built, timed = seen
    assert isinstance(built, BuildSettings)
    assert (built.preset, built.items, built.precision.value, built.engine.value) == ("demo", 1000, "fp32", "none")
    assert (timed.bundle, timed.batch, timed.history, timed.threads) == (built.out, (1,), 64, RUN["threads"])
    assert set(timed.engines) == {EAGER, ENGINE, KERNELS}
    assert {row.case for row in RowSet.read(out).rows} == {f"demo-{stage}-b1-s64-c32-n1000" for stage in STAGES}


@pytest.mark.parametrize("other", [{}, SLOW], ids=["noisy twice", "noisy, then worse"])
def test_what_is_too_noisy_every_time_fails_and_says_that_nothing_can_be_said(
    other: dict[str, float],
    kernels: str,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row_set(1).write(tmp_path / "committed.jsonl")
    planted(monkeypatch, seen, [RESTLESS, other or RESTLESS])
    assert main(["--against", str(tmp_path / "committed.jsonl"), "--kernels", kernels]) == 1
    told = capsys.readouterr().out
    line = json.loads(told.splitlines()[-1])
    assert [f"demo-{CHAIN}-b1-s64-c32-n1000", KERNELS] in line["noisy_every_time"]
    assert line["worse_every_time"] == []
    assert f"on {KERNELS}: nothing can be said on this machine now" in told


def test_what_is_noisy_once_and_fine_then_passes(
    kernels: str, seen: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_set(1).write(tmp_path / "committed.jsonl")
    planted(monkeypatch, seen, [RESTLESS, {}])
    assert main(["--against", str(tmp_path / "committed.jsonl"), "--kernels", kernels]) == 0


def test_committed_kernels_that_are_not_here_are_an_error_unless_they_are_left_out(
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "committed.jsonl"
    row_set(1).write(path)
    planted(monkeypatch, seen, [{}, {}])
    assert main(["--against", str(path), "--kernels", str(tmp_path / "absent.so")]) == 1
    assert seen == []
    assert "absent.so: no such file, expected the library of onnxruntime-kernels" in caplog.text
    assert "Build it with `make cpp`, or leave its rows unguarded with --no-kernels." in caplog.text
    assert main(["--against", str(path), "--no-kernels"]) == 0
    assert (set(seen[1].engines), seen[1].kernels) == ({EAGER, ENGINE}, None)
    told = capsys.readouterr().out
    assert KERNELS in json.loads(told.splitlines()[-1])["left_out"]
    assert f", {KERNELS}, " in next(line for line in told.splitlines() if line.startswith("left out"))
    without = [row for row in row_set(1).rows if row.engine != KERNELS]  # nothing to hold them against
    RowSet(RUN, without).write(path)
    assert main(["--against", str(path), "--kernels", str(tmp_path / "absent.so")]) == 0


@pytest.mark.parametrize(("engine", "code"), [(ENGINE, 1), (KERNELS, 1), (None, 0)])
def test_an_engine_of_ours_that_gives_no_number_any_more_fails(
    engine: str | None, code: int, kernels: str, seen: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_set(1).write(tmp_path / "committed.jsonl")

    def run(settings: LatencySettings) -> tuple[dict[str, Any], None]:
        kept = [one for one in settings.engines if one != engine]
        return report({}, 77, kept, 0.02), None

    monkeypatch.setattr(smoke, "run_latency", run)
    assert main(["--against", str(tmp_path / "committed.jsonl"), "--kernels", kernels]) == code


@pytest.mark.parametrize(("load", "said"), [(0.5, False), (None, False), (4.5, True)])
def test_a_busy_machine_is_told(
    load: float | None,
    said: bool,
    kernels: str,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    row_set(1).write(tmp_path / "committed.jsonl")
    monkeypatch.setattr(smoke, "load_average", lambda: load)
    planted(monkeypatch, seen, [{}])
    main(["--against", str(tmp_path / "committed.jsonl"), "--kernels", kernels])
    assert ("NOISY: 4.5 processes are already running" in caplog.text) is said


def test_the_smallest_case_is_the_one_of_the_least_tokens_then_items() -> None:
    rows = []
    for sizes in ("demo-b8-s64-c9-n10", "demo-b1-s256-c9-n50", "demo-b1-s256-c9-n20", "paper-b1-s8-c9-n5"):
        preset, _, rest = sizes.partition("-")
        rows += [replace(row, case=f"{preset}-{CHAIN}-{rest}") for row in row_set().rows if row.stage == CHAIN]
    found = RowSet(RUN, rows)
    assert smallest_case(found, "demo").groupdict() == {"preset": "demo", "B": "1", "S": "256", "N": "20"}
    assert smallest_case(found, "paper")[0] == "paper-b1-s8-c9-n5"
    with pytest.raises(OneRankerError, match="got no case of the preset tiny among 4"):
        smallest_case(found, "tiny")


def test_errors_and_usage_have_their_exit_codes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--against", str(tmp_path / "absent.jsonl")]) == 1
    assert "expected a row set" in caplog.text
    with pytest.raises(SystemExit) as stopped:
        main(["--rounds", "0"])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_the_tiny_preset_is_found_built_timed_and_compared(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    items, history = manifest["items"]["items"], manifest["profile"]["S"][2]  # the padded length of itself
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles" / f"tiny-n{items}-fp32"))
    sizes = f"b1-s{history}-c{manifest['model']['candidates']}-n{items}"
    rows = [replace(row, case=f"tiny-{row.stage}-{sizes}") for row in row_set().rows if row.engine in (EAGER, ENGINE)]
    RowSet(RUN, rows).write(tmp_path / "old.jsonl")
    words = ["--against", tmp_path / "old.jsonl", "--preset", "tiny", "--bundles", bundle.parent, "--tolerance", "9"]
    words += ["--iterations", "5", "--warmup", "2", "--threads", "1", "--out", tmp_path / "new.jsonl"]
    command = [sys.executable, "-m", "benchmarks.smoke", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compared = [change["case"] for change in json.loads(done.stdout.splitlines()[-1])["changes"]]
    assert set(compared) == {f"tiny-{stage}-{sizes}" for stage in ("generator", CHAIN)}
    new = RowSet.read(tmp_path / "new.jsonl")
    assert {row.kept for row in new.rows} == {2}
    assert {row.engine for row in new.rows} >= {EAGER, ENGINE}
