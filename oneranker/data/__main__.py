"""Commands over data sets: `python -m oneranker.data prepare` and `python -m oneranker.data requests`.

The first writes a known data set as a schema folder, the second the requests of its test users, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from oneranker.data.prepare import ADAPTERS, S3REC, load_dataset, prepare
from oneranker.data.requests import requests_of_test
from oneranker.errors import DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do it, print one JSON line; exit code 0, 1 for our error, 2 for usage."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        report = arguments.do(arguments)
    except DataError as error:
        logging.error("%s", error)
        return 1
    except OSError as error:
        logging.error(
            "%s: could not be written (%s), expected a writable place with room; free space or choose another --out",
            arguments.out,
            error,
        )
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m oneranker.data")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="write a known data set as a folder")
    command.set_defaults(do=_prepare)
    command.add_argument("name", choices=[*ADAPTERS, S3REC], help="which data set")
    command.add_argument("--out", type=Path, required=True, help="folder to write; replaced if prepared before")
    command.add_argument("--households", type=int, help="completejourney only: read this many households")
    command.add_argument("--sequences", type=Path, help="s3rec only: text file, a line `user item item ...` per user")
    command.add_argument("--attributes", type=Path, help='s3rec only: JSON file, {"item": [attribute ids]}')
    command = commands.add_parser("requests", help="write real requests: one of each user of the test part")
    command.set_defaults(do=_requests)
    command.add_argument("name", help=f"one of {', '.join(ADAPTERS)}, or a folder with a schema.toml")
    command.add_argument("--data-root", type=Path, default=Path("data"), help="where known data sets lie or will lie")
    command.add_argument("--count", type=int, help="this many, from the first user on (default: all)")
    command.add_argument("--out", type=Path, required=True, help="file to write, one JSON object a line")
    return parser


def _prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    report = prepare(
        arguments.name,
        arguments.out,
        arguments.households,
        sequences=arguments.sequences,
        attributes=arguments.attributes,
    )
    return {"data": arguments.name, "out": str(arguments.out)} | asdict(report)


def _requests(arguments: argparse.Namespace) -> dict[str, Any]:
    dataset = load_dataset(arguments.name, arguments.data_root)
    written = 0
    with arguments.out.open("w", encoding="utf-8") as file:
        for request in islice(requests_of_test(dataset), arguments.count):
            file.write(json.dumps(request, ensure_ascii=False) + "\n")
            written += 1
    return {"data": arguments.name, "out": str(arguments.out), "requests": written}


if __name__ == "__main__":
    sys.exit(main())
