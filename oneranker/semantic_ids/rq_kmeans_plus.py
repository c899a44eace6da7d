"""RQ-KMeans+: RQ-KMeans codebooks go on training as an RQ-VAE whose encoder starts as the identity.

Source: GPR (arXiv 2511.10138) as others describe it: (1) residual K-means gives codebooks; (2) they initialise an
RQ-VAE, whose loss then updates them; (3) its encoder has a residual link, Z = X + MLP(X), so that Z ≈ X fits the
codebooks at the start. Losses, straight-through quantisation and the commitment weight are those of RQ-VAE in TIGER
(arXiv 2305.05065). The decoder X' = Ẑ + MLP(Ẑ), zero last layers (Z = X exactly at the start), depth and width of the
MLPs, the optimiser and the restarts of dead codes are our reading: GPR does not give them [inferred].
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats, check_points, nearest, root_mean_square_norm
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.rq_kmeans import add_items, fit_rq_kmeans

logger = logging.getLogger(__name__)
_ROWS_AT_ONCE = 1 << 13
_PARTS = ("0.weight", "0.bias", "2.weight", "2.bias")  # of each MLP
_SPREAD = 1e-3  # of the points' size: restarted codes on the same item are near each other and never equal


@dataclass(frozen=True, slots=True, kw_only=True)
class RqKmeansPlusSettings:
    """Budget and optimiser of the RQ-VAE; with steps=0 the result is that of RQ-KMeans."""

    steps: int = 1000
    batch_size: int = 1024
    hidden: int = 0  # of both MLPs; 0: as wide as the embeddings
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    commitment: float = 0.25  # β
    restart_every: int = 100  # steps, or an epoch if that is longer: a code that no item took since then starts anew
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "learning_rate", "restart_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"RQ-KMeans+: {name}={getattr(self, name)}, expected more than 0; raise it")
        for name in ("steps", "hidden", "weight_decay", "commitment"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"RQ-KMeans+: {name}={getattr(self, name)}, expected 0 or more; raise it")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"RQ-KMeans+: seed={self.seed}, expected 0 to 2**32 - 1; choose another")


@dataclass(frozen=True, slots=True, kw_only=True)
class RqKmeansPlus:
    """Semantic IDs in the latent space Z, and the MLPs that lead there and back.

    The codebooks of `ids` live in Z, of the same width as the embeddings; `ids.reconstruct` gives Ẑ, the sum of codes,
    and this is the space that retriever and anchors use. `decode` turns it into an estimate of the embeddings. What
    compares `ids` with embeddings, such as `reconstruction_errors`, takes `encode(embeddings)`.

    Shapes: weights of encoder and decoder: 0.weight [h, D], 0.bias [h], 2.weight [D, h], 2.bias [D]
    """

    ids: CodePaths
    encoder: dict[str, Floats]
    decoder: dict[str, Floats]
    scale: float = 1.0  # a power of two: the MLPs see embeddings divided by it

    def encode(self, embeddings: NDArray[np.floating]) -> Floats:
        """Z = X + MLP(X).

        Shapes: [n, D] -> float32 [n, D]

        Raises:
            DataError: a number is not finite, or the width is another.
        """
        return self._through(self.encoder, embeddings)

    def decode(self, latent: NDArray[np.floating]) -> Floats:
        """X' = Ẑ + MLP(Ẑ).

        Shapes: [n, D] -> float32 [n, D]

        Raises:
            DataError: a number is not finite, or the width is another.
        """
        return self._through(self.decoder, latent)

    def add_items(self, embeddings: NDArray[np.floating]) -> CodePaths:
        """Give new items paths by the same encoder and codebooks; no known item changes its path.

        Shapes: embeddings [n, D] of the new items -> codes int32 [N+n, L], known items first

        Raises:
            DataError: an embedding is not finite or of another width, or no path is left.
        """
        return add_items(self.ids, self.encode(embeddings))

    def _through(self, weights: dict[str, Floats], embeddings: NDArray[np.floating]) -> Floats:
        points = check_points(embeddings, "RQ-KMeans+")
        width = len(weights["2.bias"])
        if points.shape[1] != width:
            raise DataError(
                f"RQ-KMeans+: embeddings are {list(points.shape)}, expected width {width}. "
                "Embed them in the same space."
            )
        mlp = _Residual(width, len(weights["0.bias"]))
        mlp.mlp.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        return _run(mlp, points / np.float32(self.scale)) * np.float32(self.scale)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ids.write(folder / "semantic_ids.safetensors")
        parts = (("encoder", self.encoder), ("decoder", self.decoder))
        tensors = {f"{side}.{name}": value for side, weights in parts for name, value in weights.items()}
        save_file(tensors | {"scale": np.array([self.scale], np.float32)}, folder / "rq_vae.safetensors")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            DataError: a file is missing, damaged, or does not fit the other.
        """
        ids, path = CodePaths.read(folder / "semantic_ids.safetensors"), folder / "rq_vae.safetensors"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: got {error}, expected the MLPs of RQ-KMeans+. Fit it again.") from error
        width, hidden = ids.codebooks.shape[2], len(tensors.get("encoder.0.bias", ()))
        shapes = dict(zip(_PARTS, ([hidden, width], [hidden], [width, hidden], [width]), strict=True))
        expected: dict[str, list[int]] = {
            f"{side}.{n}": s for side in ("encoder", "decoder") for n, s in shapes.items()
        }
        found = {name: list(value.shape) for name, value in tensors.items()}
        if found != expected | {"scale": [1]}:
            raise DataError(f"{path}: got {found}, expected {expected} and the scale. Fit it again.")
        sides = ({name: tensors[f"{side}.{name}"] for name in _PARTS} for side in ("encoder", "decoder"))
        return cls(ids=ids, encoder=next(sides), decoder=next(sides), scale=float(tensors["scale"][0]))


def fit_rq_kmeans_plus(
    embeddings: NDArray[np.floating], levels: int, codes: int, settings: RqKmeansPlusSettings | None = None
) -> RqKmeansPlus:
    """Fit RQ-KMeans, train on, and give every item its own path; the same input and seed give the same codes.

    (On one machine and thread count.) Paths are placed as RQ-KMeans places them, by the trained codebooks.

    Shapes: embeddings [N, D], levels L, codes V -> codes int32 [N, L], codebooks float32 [L, V, D] in Z

    Raises:
        DataError: an embedding is not finite, there are more items than paths, or the loss is not finite.
    """
    settings = settings or RqKmeansPlusSettings()
    points = check_points(embeddings, "RQ-KMeans+")
    start = fit_rq_kmeans(points, levels, codes, settings.seed)
    spread = root_mean_square_norm(points) / math.sqrt(points.shape[1])
    scale = 2.0 ** round(math.log2(spread)) if spread > 1e-30 else 1.0  # exact: dividing by it rounds nothing
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = _RqVae(start.codebooks / np.float32(scale), settings.hidden or points.shape[1])
        _train(model, points / np.float32(scale), settings)
    latent = _run(model.encoder, points / np.float32(scale)) * np.float32(scale)
    codebooks = model.codebooks.detach().numpy() * np.float32(scale)
    none = np.zeros((0, levels), np.int32)
    return RqKmeansPlus(
        ids=add_items(CodePaths(codes=none, codebooks=codebooks), latent),
        encoder={name: value.numpy() for name, value in model.encoder.mlp.state_dict().items()},
        decoder={name: value.numpy() for name, value in model.decoder.mlp.state_dict().items()},
        scale=scale,
    )


class _Residual(nn.Module):
    """x + MLP(x), which is x until it is trained: [n, D] -> [n, D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class _RqVae(nn.Module):
    def __init__(self, codebooks: Floats, hidden: int) -> None:
        super().__init__()
        width = codebooks.shape[2]
        self.encoder, self.decoder = _Residual(width, hidden), _Residual(width, hidden)
        self.codebooks = nn.Parameter(torch.from_numpy(codebooks.copy()))

    def forward(self, x: Tensor, commitment: float) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Return ‖x - x'‖² + Σ_l ‖sg(r_l) - e_l‖² + β ‖r_l - sg(e_l)‖² (mean over items), residuals, codes.

        Shapes: x [B, D] -> scalar, [L, B, D], int64 [L, B]
        """
        z = self.encoder(x)
        residual, total, loss = z, torch.zeros_like(z), z.new_zeros(())
        residuals, paths = [], []
        for codebook in self.codebooks:
            residuals.append(residual.detach())
            code, _ = nearest(residual.detach().numpy(), codebook.detach().numpy())
            chosen = codebook[torch.from_numpy(code)]
            loss = loss + F.mse_loss(chosen, residual.detach(), reduction="sum")
            loss = loss + commitment * F.mse_loss(residual, chosen.detach(), reduction="sum")
            total, residual = total + chosen.detach(), residual - chosen.detach()
            paths.append(code)
        decoded = self.decoder(z + (total - z).detach())  # straight through: the gradient of Ẑ is that of Z
        loss = loss + F.mse_loss(decoded, x, reduction="sum")
        return loss / len(x), torch.stack(residuals), np.stack(paths)


def _train(model: _RqVae, points: Floats, settings: RqKmeansPlusSettings) -> None:
    """AdamW under a cosine; codes that nothing took for `restart_every` steps move to a residual of the last batch."""
    start = time.perf_counter()
    rng = np.random.default_rng(settings.seed)
    levels, codes, _ = model.codebooks.shape
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    period = max(settings.restart_every, -(-len(points) // settings.batch_size))
    used, order = np.zeros((levels, codes), np.int64), np.zeros(0, np.int64)
    losses: list[float] = []
    bar = tqdm(range(settings.steps), desc="RQ-KMeans+", mininterval=2.0, delay=2.0)
    for step in bar:
        if not len(order):
            order = rng.permutation(len(points))
        rows, order = order[: settings.batch_size], order[settings.batch_size :]
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))
        loss, residuals, paths = model(torch.from_numpy(points[rows]), settings.commitment)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        for level in range(levels):
            used[level] += np.bincount(paths[level], minlength=codes)
        if (step + 1) % period == 0 and step + 1 < settings.steps:
            restarted = _restart(model, residuals, used == 0, rng)
            bar.set_postfix_str(f"loss {np.mean(losses[-100:]):.4f}, {restarted} codes restarted", refresh=False)
            used[:] = 0
    if losses and not math.isfinite(losses[-1]):
        raise DataError(f"RQ-KMeans+: the last loss is {losses[-1]}, expected a finite one. Lower learning_rate.")
    if losses:
        logger.info(
            "RQ-KMeans+: %d steps, loss %.4f -> %.4f, %.1f s",
            *(len(losses), losses[0], float(np.mean(losses[-100:])), time.perf_counter() - start),
        )


def _restart(model: _RqVae, residuals: Tensor, dead: NDArray[np.bool_], rng: np.random.Generator) -> int:
    """Move dead codes to random residuals of their level; AdamW's memory of a code without gradients has faded.

    Shapes: residuals [L, B, D], dead bool [L, V] -> how many
    """
    with torch.no_grad():
        for level in range(len(dead)):
            where = np.flatnonzero(dead[level])
            chosen = residuals[level][torch.from_numpy(rng.integers(0, residuals.shape[1], len(where)))]
            noise = torch.from_numpy(rng.normal(size=chosen.shape).astype(np.float32))
            model.codebooks[level, torch.from_numpy(where)] = chosen + _SPREAD * noise
    return int(dead.sum())


def _run(module: nn.Module, points: Floats) -> Floats:
    out = np.empty_like(points)
    with torch.inference_mode():
        for begin in range(0, len(points), _ROWS_AT_ONCE):
            out[begin : begin + _ROWS_AT_ONCE] = module(torch.from_numpy(points[begin : begin + _ROWS_AT_ONCE])).numpy()
    return out
