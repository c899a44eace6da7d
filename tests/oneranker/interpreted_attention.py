"""Triton's interpreter in a process of its own: it must be switched on before a kernel is read.

`python interpreted_attention.py` answers one call after another: stdin names a file of tensors and options, stdout says
"done" or what was raised, and the answer lies beside the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
GAPS = ("query_time", "key_time", "starts")


class Interpreter:
    """`fused_silu_attention` on the CPU, every program of it in Python; the process ends with the context."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "call.safetensors"
        environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def attention(self, tensors: dict[str, Tensor | None], scale: float) -> Tensor:
        """One call; strides of query, key and value are those of [B, S, H, E], as the model has them."""
        return self._call("attention", {name: each for name, each in tensors.items() if each is not None}, scale=scale)[
            "mixed"
        ]

    def model(self, batch: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        return self._call("model", batch, **options)

    def _call(self, what: str, tensors: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        save_file({name: each.contiguous() for name, each in tensors.items()}, self._file)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, "file": str(self._file), **options}) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        assert said == "done", said or "the interpreter's process has ended"
        return load_file(self._file)


def _attention(tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    from oneranker.fused_attention import fused_silu_attention
    from oneranker.hstu import TimeGaps

    three = [tensors.pop(name) for name in ("query", "key", "value")]
    times = [tensors.pop(name) for name in GAPS if name in tensors]
    gaps = TimeGaps(*times) if times else None
    heads_inside = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in three]
    return {"mixed": fused_silu_attention(*heads_inside, scale=scale, gaps=gaps, **tensors).contiguous()}


def _model(batch: dict[str, Tensor], preset_changes: dict[str, Any], half: bool) -> dict[str, Tensor]:
    """The same model in both forms."""
    from assertions import tiny_world

    from oneranker.hstu import AttentionForm

    world = tiny_world(dtype=torch.float16 if half else torch.float32, **preset_changes)
    found = {}
    for form in AttentionForm:
        world.model.generator.choose_attention(form)
        with torch.inference_mode():
            answer = world.model(batch, world.index_for(len(batch["history_length"])))
        found |= {f"{form}.{name}": tensor.contiguous() for name, tensor in answer.items()}
    return found


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    torch.set_num_threads(1)
    for line in sys.stdin:
        call = json.loads(line)
        file, what = call.pop("file"), call.pop("what")
        try:
            with torch.inference_mode():
                save_file({"attention": _attention, "model": _model}[what](load_file(file), **call), file)
            said = "done"
        except Exception as error:  # the caller's test fails with it
            said = f"{type(error).__name__}: {error}".replace("\n", " ")
        sys.stdout.write(said + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
