"""FAMAE: item embeddings from hiding some fields of the item that comes next (ReSID's E-stage, resid.md 1).

Source: ReSID (arXiv 2602.02338), sections 3.1 and 3.2 and appendix C. Written from the specification; what the paper
leaves open is marked [inferred] where it is decided.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from oneranker.errors import DataError
from oneranker.semantic_ids.famae_batches import Sequences, Windows, draw_masks, hold_out
from oneranker.semantic_ids.famae_embeddings import FamaeEmbeddings, item_codes, single_values, value_count
from oneranker.semantic_ids.famae_metrics import Evaluation, evaluate
from oneranker.semantic_ids.famae_model import Famae, famae_loss
from oneranker.token_fields import FIELD_TYPES, Field

logger = logging.getLogger(__name__)
ITEM_ID = "item_id"  # the field of metrics 1 and 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FamaeSettings:
    """The network and its budget: epochs or max_steps, whichever ends first, less what early stopping saves.

    Width, layers, heads, dropout, history, learning rate, decay, patience and negatives are the paper's. Its batch is
    2048 for at most 500 epochs, evaluated once an epoch; here it is 800 batches of 512, about 400,000 rows. The cost of
    a row grows with the history, and with the width and its square: on a CPU, give up long histories first.
    """

    width: int = 128  # D, of every field
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    history: int = 32  # items before the target
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    batch_size: int = 512
    epochs: int = 500
    max_steps: int = 800
    evaluate_every: int = 100  # steps
    patience: int = 3  # evaluations without a better score before it stops
    validation_rows: int = 4096  # at most; 0: no validation, the budget is used up
    recall_at: int = 10
    negatives: int = 128
    full_softmax_up_to: int = 32768  # values of a field; above it the softmax is sampled [inferred]
    field_weights: Mapping[str, float] = field(default_factory=dict)  # α_k by name, 1 where not given
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("width", "layers", "heads", "history", "batch_size", "epochs", "max_steps", "evaluate_every")
        for name in (*positive, "patience", "recall_at", "negatives", "full_softmax_up_to", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"FAMAE: {name}={getattr(self, name)}, expected more than 0; raise it")
        if self.width % self.heads:
            raise ValueError(
                f"FAMAE: width={self.width} with heads={self.heads}, expected a multiple of it; change one"
            )
        if not 0 <= self.dropout < 1 or self.weight_decay < 0 or self.validation_rows < 0:
            raise ValueError(
                f"FAMAE: dropout={self.dropout}, weight_decay={self.weight_decay}, validation_rows="
                f"{self.validation_rows}, expected dropout in 0 .. 1 and the others >= 0; correct it"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"FAMAE: seed={self.seed}, expected 0 to 2**32 - 1; choose another")
        if any(not 0 <= weight < math.inf for weight in self.field_weights.values()):
            raise ValueError(
                f"FAMAE: field_weights={dict(self.field_weights)}, expected finite weights >= 0; correct it"
            )


def fit_famae(
    sequences: Sequences,
    columns: Mapping[str, NDArray[Any]],
    settings: FamaeSettings | None = None,
    types: Mapping[str, str] | None = None,
) -> FamaeEmbeddings:
    """Train on what users took next and give every item its field rows; the same input and seed give the same rows.

    (On one machine and thread count: matrix products sum in another order elsewhere.) Give training events only. Name
    the identity of an item "item_id"; without it nothing is measured and the whole budget is used. `types` names
    columns that are no categories: "number" takes quantile buckets. A user with one event makes no row; values that
    occur in no row are unknown, as are those of later items (FamaeEmbeddings says what unknown means).

    Shapes: columns [N] each

    Raises:
        DataError: columns or sequences that do not fit, no user with two events, or a loss that is not finite.
    """
    start, settings = time.perf_counter(), settings or FamaeSettings()
    training, held_out = hold_out(sequences, settings.validation_rows, settings.seed)
    length = np.diff(training.offsets)
    items = _check(sequences, columns, settings, types or {})
    seen = np.unique(training.rows[np.repeat(length >= 2, length)])
    if not len(seen):
        raise DataError(
            f"FAMAE: got {len(sequences.rows)} events of {len(length)} users, expected a user with two events at "
            "least. Give sequences of more than one item."
        )
    fields = tuple(_fit_field(name, (types or {}).get(name, "category"), columns[name], seen) for name in columns)
    codes = item_codes(fields, columns, "FAMAE")
    validation = Windows(sequences, settings.history).at(held_out, sequences.rows)
    windows = Windows(training, settings.history)
    logger.info(
        "FAMAE: %s rows, %s of %s items seen, %d held out, values per field %s",
        *(f"{len(windows.targets):,}", f"{len(seen):,}", f"{items:,}", len(validation)),
        {each.name: value_count(each) for each in fields},
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay theirs
        torch.manual_seed(settings.seed)
        model, evaluations = _train(windows, validation, codes, fields, settings)
    tables = tuple(_table(model.value_rows(j), codes[seen, j]) for j in range(len(fields)))
    return FamaeEmbeddings(
        fields=fields,
        tables=tables,
        codes=codes,
        evaluations=tuple(evaluations),
        settings=asdict(settings),
        seconds=time.perf_counter() - start,
    )


def _train(
    windows: Windows,
    validation: NDArray[np.int64],
    item_code: NDArray[np.int32],
    fields: tuple[Field, ...],
    settings: FamaeSettings,
) -> tuple[Famae, list[Evaluation]]:
    """AdamW under a cosine, stopped when validation no longer rises; the best weights seen are kept (1.5)."""
    names = [each.name for each in fields]
    padding = np.zeros_like(item_code[:1])  # the last row, which -1 reads
    codes = torch.from_numpy(np.concatenate([item_code, padding]).astype(np.int64))
    rng = np.random.default_rng(settings.seed)
    model = Famae(
        [value_count(each) for each in fields],
        width=settings.width,
        history=settings.history,
        layers=settings.layers,
        heads=settings.heads,
        dropout=settings.dropout,
        seed=settings.seed,
    ).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    steps = min(settings.max_steps, settings.epochs * -(-len(windows.targets) // settings.batch_size))
    alpha = [settings.field_weights.get(name, 1.0) for name in names]
    item_field = names.index(ITEM_ID) if ITEM_ID in names else -1
    watch, losses, batches = _Best(settings.patience), [], windows.batches(settings.batch_size, rng)
    bar = tqdm(range(1, steps + 1), desc="FAMAE", mininterval=2.0, delay=2.0)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps))
        loss = _loss(model, codes, next(batches), alpha, settings, rng)
        optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            optimiser.step()
        losses.append(float(loss.detach()))
        if step % settings.evaluate_every == 0 or step == steps:
            metric1, metric2 = evaluate(model, codes, validation, item_field, settings.recall_at)
            done = Evaluation(
                step=step, loss=float(np.mean(losses)), metric1=metric1, metric2=metric2, rows=len(validation)
            )
            losses.clear()
            logger.info("FAMAE: step %d of %d, %s", step, steps, done)
            bar.set_postfix_str(f"loss {done.loss:.3f}, metrics {metric1:.4f} {metric2:.4f}", refresh=False)
            if watch.stop(model, done):
                logger.info("FAMAE: no better for %d evaluations, stopped at step %d", settings.patience, step)
                break
    watch.restore(model)
    return model, watch.evaluations


def _loss(
    model: Famae,
    codes: torch.Tensor,
    rows: NDArray[np.int64],
    alpha: list[float],
    settings: FamaeSettings,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Hide fields of a batch, draw negatives where a vocabulary is large, and ask: rows int64 [B, T] -> scalar."""
    window, present = codes[torch.from_numpy(rows)], torch.from_numpy(rows >= 0)
    masked = torch.from_numpy(draw_masks(len(rows), len(alpha), rng))
    counts = [len(model.value_rows(j)) for j in range(len(alpha))]
    negatives = [
        torch.from_numpy(rng.integers(0, count - 1, (len(rows), settings.negatives)))
        if count > settings.full_softmax_up_to
        else None
        for count in counts
    ]
    return famae_loss(model, model(window, present, masked), window[:, -1], masked, alpha, negatives)


class _Best:
    """Keeps the weights of the best evaluation, and says when `patience` others brought nothing."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.evaluations: list[Evaluation] = []
        self.best, self.waited = -math.inf, 0
        self.weights: dict[str, torch.Tensor] = {}

    def stop(self, model: Famae, done: Evaluation) -> bool:
        if not math.isfinite(done.loss):
            raise DataError(
                f"FAMAE step {done.step}: mean loss is {done.loss}, expected a finite one. Lower learning_rate."
            )
        self.evaluations.append(done)
        score = done.score()
        self.waited += 1
        if score > self.best:
            self.best, self.waited = score, 0
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        return not math.isnan(score) and self.waited >= self.patience

    def restore(self, model: Famae) -> None:
        if self.weights:
            model.load_state_dict(self.weights)


def _table(rows: torch.Tensor, codes: NDArray[np.int32]) -> NDArray[np.float32]:
    """Put the mean in front, where unknown values read it; a bucket that no seen item falls into is unknown, too."""
    values = rows.detach().numpy()
    used = np.bincount(codes, minlength=len(values) + 1)[1:, None] > 0
    mean = values.mean(axis=0, where=used) if used.any() else np.zeros(values.shape[1], np.float32)
    return np.concatenate([mean[None], np.where(used, values, mean)]).astype(np.float32)


def _fit_field(name: str, kind: str, column: NDArray[Any], seen: NDArray[np.int64]) -> Field:
    return Field.fit(name, kind, single_values(np.asarray(column)[seen], kind))


def _check(
    sequences: Sequences, columns: Mapping[str, NDArray[Any]], settings: FamaeSettings, types: Mapping[str, str]
) -> int:
    """Return N.

    Raises:
        DataError: what does not fit.
    """
    shapes = {name: list(np.shape(column)) for name, column in columns.items()}
    first = next(iter(shapes.values()), [])
    if len(first) != 1 or any(shape != first for shape in shapes.values()):
        raise DataError(f"FAMAE: fields are {shapes}, expected [N] each. Give one value per item and field.")
    if strangers := (set(types) | set(settings.field_weights)) - set(columns):
        raise DataError(
            f"FAMAE: types or field_weights name {sorted(strangers)}, expected some of {sorted(columns)}. Correct it."
        )
    allowed = set(FIELD_TYPES) - {"list"}
    if wrong := {name: kind for name, kind in types.items() if kind not in allowed}:
        raise DataError(f"FAMAE: types are {wrong}, expected one of {sorted(allowed)}. Declare lists as categories.")
    rows = sequences.rows
    if len(rows) and (rows.min() < 0 or rows.max() >= first[0]):
        raise DataError(
            f"FAMAE: item rows span {rows.min()} .. {rows.max()}, expected 0 .. {first[0] - 1}. "
            "Use rows of the items that the fields describe."
        )
    return int(first[0])
