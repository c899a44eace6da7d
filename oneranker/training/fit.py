"""The training loop: AdamW, warm-up and cosine, clipping, a progress bar, resumable at every saved step."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from oneranker.config import RetrieverMode
from oneranker.errors import CheckpointError
from oneranker.losses import ConsistencyWarmup
from oneranker.model import OneRanker
from oneranker.training.batches import BatchSampler, BatchSettings
from oneranker.training.step import ItemSide, LossSettings, joint_loss
from oneranker.weights import check_finite

RESUME_FILE = "resume.safetensors"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """Optimisation; a run is resumed only under the very same settings."""

    steps: int = 1600
    joint_steps: int = 500  # of these, the last: Step 3 joins Steps 1 and 2 (E38, staged); = steps: joint from scratch
    learning_rate: float = 5e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    save_every: int = 200
    seed: int = 0
    batch: BatchSettings = field(default_factory=BatchSettings)
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "warmup_steps", "clip_norm", "save_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training: {name}={getattr(self, name)}, expected more than 0; raise it")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"training: seed={self.seed}, expected 0 to 2**32 - 1; choose another")
        if not 0 <= self.joint_steps <= self.steps:
            raise ValueError(
                f"training: joint_steps={self.joint_steps} of steps={self.steps}, expected 0 to steps; lower it"
            )

    def loss_at(self, step: int) -> LossSettings:
        """Steps 1 and 2 alone, then Eq. 5 whole."""
        return self.loss if step >= self.steps - self.joint_steps else replace(self.loss, beta=0.0, gamma=0.0)

    def learning_rates_at(self, step: int) -> tuple[float, float]:
        """Of Steps 1 and 2 over the whole run, of Step 3 from when it joins: linear warm-up, then cosine to a tenth."""
        joined = self.steps - self.joint_steps
        return self._scheduled(step, self.steps), self._scheduled(max(step - joined, 0), max(self.joint_steps, 1))

    def _scheduled(self, step: int, steps: int) -> float:
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class FitReport:
    """What a run did."""

    steps: int
    resumed_from: int
    seconds: float
    items_per_s: float
    loss: float
    curve: list[dict[str, float]]


def fit(model: OneRanker, sampler: BatchSampler, items: ItemSide, settings: FitSettings, folder: Path) -> FitReport:
    """Train in place; every `save_every` steps the whole state lands in `folder`, one file, whole or absent.

    A step depends on (seed, step) and the state before it, so a run that was killed and resumed ends with the weights
    of an unbroken one (same machine and thread count).
    """
    optimiser = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98)
    )
    warmup = ConsistencyWarmup(settings.loss.gamma, settings.loss.gamma_warmup_steps)
    start, curve = load_state(folder, model, optimiser, warmup, settings)
    if start:
        log.info("resuming at step %d of %d", start, settings.steps)
    seen, began, smooth = 0, time.perf_counter(), math.nan
    bar = tqdm(range(start, settings.steps), initial=start, total=settings.steps, desc="train", mininterval=2.0)
    for step in bar:
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rates_at(step)[group["joins_later"]]
        batch = sampler.batch(step)
        loss, parts = joint_loss(model.train(), batch, items, settings.loss_at(step), warmup, step)
        optimiser.zero_grad(set_to_none=True)  # what has no gradient is left alone by AdamW
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm))
        if not math.isfinite(norm):
            raise CheckpointError(
                f"training step {step + 1}: gradient norm is {norm}, expected a finite one; what was saved before is "
                "whole, start again elsewhere with a lower --learning-rate"
            )
        optimiser.step()
        seen += int((batch.target_weight[:, -1] > 0).sum())
        smooth = parts["loss"] if math.isnan(smooth) else 0.95 * smooth + 0.05 * parts["loss"]
        if step % 20 == 19 or step == settings.steps - 1:
            curve.append({"step": step + 1, "smooth": smooth, **parts})
        rate = seen / (time.perf_counter() - began)
        bar.set_postfix_str(f"loss {smooth:.3f}, {rate:,.0f} items/s", refresh=False)
        if (step + 1) % settings.save_every == 0 or step == settings.steps - 1:
            check_finite(model, f"training step {step + 1}")
            save_state(folder, model, optimiser, warmup, settings, step + 1, curve)
    seconds = time.perf_counter() - began
    model.eval()
    return FitReport(settings.steps, start, seconds, seen / max(seconds, 1e-9), smooth, curve)


STEP3 = ("ranker.", "item_encoder.", "generator.ranker_key_value.", "enhancer.ranker_key_value.")


def parameter_groups(model: OneRanker, weight_decay: float) -> list[dict[str, Any]]:
    """Steps 1-2 and Step 3, each with and without weight decay: matrices of linear layers decay, the rest goes free.

    In dense mode the item encoder makes what is retrieved and belongs to Steps 1-2.
    """
    dense = model.config.retriever is RetrieverMode.DENSE
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        later = name.startswith(STEP3) and not (dense and name.startswith("item_encoder."))
        decays = parameter.ndim == 2 and "embedding" not in name
        groups.setdefault((later, decays), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "joins_later": later}
        for (later, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def save_state(
    folder: Path,
    model: OneRanker,
    optimiser: torch.optim.Optimizer,
    warmup: ConsistencyWarmup,
    settings: FitSettings,
    step: int,
    curve: list[dict[str, float]],
) -> None:
    """Weights, optimiser and bookkeeping in one safetensors file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value.clone() for name, value in state.items()}
    notes = {
        "step": step,
        "settings": asdict(settings),
        "warmup": asdict(warmup),
        "curve": curve,
        "model_config": model.config.to_json(),
    }
    temporary = folder / (RESUME_FILE + ".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"oneranker": json.dumps(notes)})
    temporary.replace(folder / RESUME_FILE)


def load_state(
    folder: Path,
    model: OneRanker,
    optimiser: torch.optim.Optimizer,
    warmup: ConsistencyWarmup,
    settings: FitSettings,
) -> tuple[int, list[dict[str, float]]]:
    """Step to go on from and the curve so far; (0, []) where nothing was saved.

    Raises: CheckpointError when what was saved belongs to other settings or cannot be read.
    """
    path = folder / RESUME_FILE
    if not path.exists():
        return 0, []
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["oneranker"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a readable training state ({error}), expected the file that training saves; "
            "delete it to start over"
        ) from error
    saved, now = notes["settings"], asdict(settings)
    if saved != now or notes["model_config"] != model.config.to_json():
        changed = sorted(k for k in now if saved.get(k) != now[k]) or ["model config"]
        raise CheckpointError(
            f"{path}: saved by a run with other {', '.join(changed)}, expected the same settings; "
            "use them again, or another --out"
        )
    model.load_state_dict(_below("model.", tensors), strict=True)
    state = optimiser.state_dict()
    state["state"] = {}
    for name, tensor in _below("optimiser.", tensors).items():
        index, key = name.split(".", 1)
        state["state"].setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(state)
    for name, value in notes["warmup"].items():
        setattr(warmup, name, value)
    return notes["step"], notes["curve"]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
