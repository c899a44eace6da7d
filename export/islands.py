"""Modules that compute in another type than their stage: named in the settings, cast on the way in and out."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from export.settings import GraphSettings, Precision
from oneranker.model import OneRanker
from runtime.errors import BuildError
from runtime.manifest import STAGES

Kept = Mapping[str, torch.dtype]  # module -> the type of its inside
# their answers are log-probabilities and scores, fp32 in every precision: nothing casts these back
_ANSWER_FP32 = frozenset({"retriever", "retriever.scorer", "ranker"})


def kept_modules(model: OneRanker, settings: GraphSettings) -> dict[str, torch.dtype]:
    """The modules that `settings` keep in fp32; a list of modules stands for every module in it.

    Raises:
        BuildError: A name of no module, or of a module outside the stages; or nothing to keep apart from.
    """
    modules = dict(model.named_modules())
    kept: dict[str, torch.dtype] = {}
    for name in settings.keep_fp32:
        _check(name, modules, settings.precision)
        inner = [f"{name}.{key}" for key in dict(modules[name].named_children())]
        kept |= dict.fromkeys(inner if isinstance(modules[name], nn.ModuleList) else [name], torch.float32)
    return kept


def _check(name: str, modules: Mapping[str, nn.Module], precision: Precision) -> None:
    if precision is Precision.FP32:
        raise BuildError(
            f"--keep-fp32 {name}: with --precision fp32, expected fp16: there is nothing to keep it apart from. "
            f"Leave --keep-fp32 out, or build with --precision fp16."
        )
    if name.split(".")[0] not in STAGES:
        raise BuildError(
            f"--keep-fp32 {name}: a module of no stage, expected one of {', '.join(STAGES)}, or a module inside one, "
            "such as ranker.layer.feed. Correct the name."
        )
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3, cutoff=0.3)
        raise BuildError(
            f"--keep-fp32 {name}: the model has no such module, expected one such as {', '.join(near) or 'ranker'}. "
            "Correct the name."
        )


def keep(model: nn.Module, source: nn.Module, kept: Kept, dtype: torch.dtype) -> None:
    """Give the kept modules of `model`, which has `dtype`, their type and the exact weights of `source`, in place.

    Their inputs are cast to their type, their answers back to the type of what surrounds the module.
    """
    with torch.no_grad():
        for name, tensor in (*source.named_parameters(), *source.named_buffers()):
            if (inside := kept_around(name, kept)) and tensor.is_floating_point():
                owner, _, attribute = name.rpartition(".")
                getattr(model.get_submodule(owner), attribute).data = tensor.detach().clone().to(inside)
    for name in kept:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(_inwards(kept[name]), with_kwargs=True)
        if name not in _ANSWER_FP32:
            module.register_forward_hook(_outwards(kept_around(name.rpartition(".")[0], kept) or dtype))


def _inwards(dtype: torch.dtype) -> Any:
    return lambda _, args, kwargs: (_cast(args, dtype), _cast(kwargs, dtype))


def _outwards(dtype: torch.dtype) -> Any:
    return lambda _, args, answer: _cast(answer, dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _cast(part, dtype) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_cast(part, dtype) for part in value)
    return value


def kept_around(name: str, kept: Kept) -> torch.dtype | None:
    """The type of the innermost kept module that holds the weight `name`; None outside of all."""
    around = [module for module in kept if name == module or name.startswith(f"{module}.")]
    return kept[max(around, key=len)] if around else None
