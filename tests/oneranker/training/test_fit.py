import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from oneranker.errors import CheckpointError
from oneranker.train import new_model
from oneranker.training.batches import BatchSampler, BatchSettings
from oneranker.training.fit import RESUME_FILE, FitSettings, fit
from oneranker.training.preparation import Prepared
from oneranker.training.step import ItemSide

SETTINGS = FitSettings(
    steps=12,
    joint_steps=7,
    save_every=3,
    batch=BatchSettings(windows=3, positions=2, targets=2, ranked=1),
)


def run(
    prepared: Prepared, folder: Path, settings: FitSettings = SETTINGS, die_at: int | None = None
) -> torch.nn.Module:
    model = new_model(prepared, seed=0)
    sampler = BatchSampler(prepared.streams, prepared.config, settings.batch, items=60, until=0, seed=0)
    if die_at is not None:
        whole = sampler.batch

        def dying(number: int) -> object:
            if number == die_at:
                raise KeyboardInterrupt
            return whole(number)

        sampler.batch = dying  # type: ignore[method-assign, assignment]
    fit(model, sampler, ItemSide(prepared.catalogue), settings, folder)
    return model


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_interrupted_and_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    prepared: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = run(prepared, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(prepared, tmp_path / "broken", die_at=8)
    resumed = run(prepared, tmp_path / "broken")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_step_3_stands_still_until_it_joins(prepared: Prepared, tmp_path: Path) -> None:
    settings = FitSettings(steps=4, joint_steps=0, batch=SETTINGS.batch)
    before = {name: tensor.clone() for name, tensor in new_model(prepared, seed=0).state_dict().items()}
    after = run(prepared, tmp_path, settings).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"generator", "enhancer", "retriever"}
    assert settings.loss_at(3).beta == 0.0
    assert FitSettings(steps=4, joint_steps=1).loss_at(3) == FitSettings().loss


def test_training_lowers_the_loss(prepared: Prepared, tmp_path: Path) -> None:
    settings = FitSettings(steps=60, joint_steps=20, batch=BatchSettings(windows=4, positions=3, ranked=2))
    model = new_model(prepared, seed=0)
    sampler = BatchSampler(prepared.streams, prepared.config, settings.batch, items=60, until=0, seed=0)
    report = fit(model, sampler, ItemSide(prepared.catalogue), settings, tmp_path)
    first, last = report.curve[0], report.curve[-1]
    assert last["mtp"] < 0.9 * first["mtp"]


def test_state_of_other_settings_or_half_a_state_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    run(prepared, tmp_path)
    with pytest.raises(CheckpointError, match="learning_rate"):
        run(
            prepared,
            tmp_path,
            FitSettings(steps=12, joint_steps=7, save_every=3, batch=SETTINGS.batch, learning_rate=1e-4),
        )
    path = tmp_path / RESUME_FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="delete it"):
        run(prepared, tmp_path)


def test_killed_command_goes_on_where_it_stopped_and_ends_the_same(town: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        words = ["--data", str(town), "--preset", "tiny", "--steps", "20", "--save-every", "4", "--out", out]
        return [sys.executable, "-m", "oneranker.train", *words]

    environment = {"OMP_NUM_THREADS": "1", "PATH": ""}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    first = subprocess.run(command(str(whole)), env=environment, capture_output=True, text=True, check=True)
    assert json.loads(first.stdout)["reused"] is False
    process = subprocess.Popen(command(str(broken)), env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (broken / RESUME_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    again = subprocess.run(command(str(broken)), env=environment, capture_output=True, text=True, check=True)
    assert "resuming at step" in again.stderr or "has ended before" in again.stderr
    one, other = load_file(whole / "model.safetensors"), load_file(broken / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    third = subprocess.run(command(str(whole)), env=environment, capture_output=True, text=True, check=True)
    assert json.loads(third.stdout)["reused"] is True


def test_no_value_that_is_not_finite_is_ever_saved(prepared: Prepared, tmp_path: Path) -> None:
    model = new_model(prepared, seed=0)
    with torch.no_grad():
        model.ranker.score_output.weight[0, 0] = np.nan
    sampler = BatchSampler(prepared.streams, prepared.config, SETTINGS.batch, items=60, until=0, seed=0)
    for joint, message in ((12, "gradient norm"), (7, "NaN")):  # seen by the loss, or by a look at the weights
        settings = FitSettings(steps=12, joint_steps=joint, save_every=3, batch=SETTINGS.batch)
        with pytest.raises(CheckpointError, match=message):
            fit(model, sampler, ItemSide(prepared.catalogue), settings, tmp_path)
        assert not (tmp_path / RESUME_FILE).exists()
