"""`python -m oneranker.data prepare NAME --out FOLDER`: writes a known data set as a schema folder."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from oneranker.data.prepare import ADAPTERS, prepare
from oneranker.errors import DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, prepare, print one JSON line; exit code 0, 1 for our error, 2 for usage."""
    parser = argparse.ArgumentParser("python -m oneranker.data")
    command = parser.add_subparsers(required=True).add_parser("prepare", help="write a known data set as a folder")
    command.add_argument("name", choices=ADAPTERS, help="which data set")
    command.add_argument("--out", type=Path, required=True, help="folder to write; replaced if prepared before")
    command.add_argument("--households", type=int, help="completejourney only: read this many households")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        report = prepare(arguments.name, arguments.out, arguments.households)
    except DataError as error:
        logging.error("%s", error)
        return 1
    except OSError as error:
        logging.error(
            "%s: could not be written (%s), expected a writable folder with room; free space or choose another --out",
            arguments.out,
            error,
        )
        return 1
    sys.stdout.write(json.dumps({"data": arguments.name, "out": str(arguments.out)} | asdict(report)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
