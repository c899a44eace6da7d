"""Answers one raw request from a bundle: `python -m examples.recommend_one_user BUNDLE REQUEST.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime import OneRankerError, Pipeline


def main(argv: Sequence[str] | None = None) -> int:
    """Load, ask, show; exit codes as everywhere: 1 our error, 2 usage, 3 bundle."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    bundle, request = words
    try:
        with Pipeline.load(bundle) as pipeline:
            answer = pipeline.recommend([json.loads(Path(request).read_text(encoding="utf-8"))], top_k=5)[0]
    except OneRankerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    for place, item in enumerate(answer.items, start=1):
        sys.stdout.write(f"{place}  {item.score:8.4f}  {item.id:>10}  {item.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
