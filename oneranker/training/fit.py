"""The training loop: AdamW, warm-up and cosine, clipping, a progress bar, resumable at every saved step."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

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

    steps: int = 1500
    learning_rate: float = 5e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    save_every: int = 200
    seed: int = 0
    batch: BatchSettings = field(default_factory=BatchSettings)
    loss: LossSettings = field(default_factory=LossSettings)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine to a tenth."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * (0.55 + 0.45 * math.cos(math.pi * step / self.steps))


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
            group["lr"] = settings.learning_rate_at(step)
        batch = sampler.batch(step)
        loss, parts = joint_loss(model.train(), batch, items, settings.loss, warmup, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm, error_if_nonfinite=True)
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


def parameter_groups(model: OneRanker, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices of linear layers alone; embeddings, norms and biases go free."""
    decayed = [p for name, p in model.named_parameters() if p.ndim == 2 and "embedding" not in name]
    chosen = {id(p) for p in decayed}
    free = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


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
