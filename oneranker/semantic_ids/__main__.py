"""Semantic IDs by command: `python -m oneranker.semantic_ids build`, `… assign` and `… report`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from oneranker.data.dataset import catalogue_items
from oneranker.data.prepare import ADAPTERS, load_dataset
from oneranker.data.prepared_folder import check_place
from oneranker.errors import DataError
from oneranker.semantic_ids.famae import FamaeSettings
from oneranker.semantic_ids.from_dataset import fit_from_dataset
from oneranker.semantic_ids.gaoq import Indexing
from oneranker.semantic_ids.semantic_ids import NOTES_FILE, SemanticIds, fit
from oneranker.semantic_ids.sequences import famae_columns
from oneranker.semantic_ids.settings import DEFAULT_CODES, IdSettings, Method, one_of
from oneranker.tokens import TokenError

FAMAE = FamaeSettings()
DEFAULT = IdSettings()
WIDTH = 64


class _UsageError(Exception):
    """Words that contradict each other."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do it, print one JSON line; exit code 0, 1 for our error, 2 for usage."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        told = arguments.do(arguments)
    except _UsageError as error:
        parser.error(str(error))
    except (DataError, TokenError) as error:
        logging.error("%s", error)
        return 1
    except OSError as error:
        logging.error(
            "%s: could not be read or written (%s), expected a readable input and a place with room; free space or "
            "choose another folder",
            *(error.filename or arguments.out, error),
        )
        return 1
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def _build(arguments: argparse.Namespace) -> dict[str, Any]:
    _check_source(arguments)
    settings, famae = _settings(arguments)
    check_place(arguments.out, NOTES_FILE)
    if arguments.data is None:
        embeddings = _embeddings(arguments.embeddings)
        ids = fit(embeddings, settings, item_ids=_item_ids(arguments.item_ids))
    else:
        dataset = load_dataset(arguments.data, arguments.data_root)
        items = catalogue_items(dataset)
        width = WIDTH if arguments.width is None else arguments.width
        ids = fit_from_dataset(dataset, items, settings, width=width, famae=famae)
    ids.save(arguments.out)
    return _told(ids, arguments.out)


def _check_source(arguments: argparse.Namespace) -> None:
    """Refuse words about embeddings that the method and its source do not read."""
    resid = arguments.method is Method.RESID
    if resid and arguments.data is None:
        raise _UsageError("semantic IDs: method resid with --embeddings, expected --data: FAMAE learns them; use gaoq")
    readers = {
        "item_ids": (arguments.data is None, "--embeddings"),
        "width": (arguments.data is not None and not resid, "--data and another method than resid"),
        **dict.fromkeys(("famae_width", "famae_steps", "famae_history"), (resid, "--method resid")),
    }
    for name, (read, where) in readers.items():
        if getattr(arguments, name) is not None and not read:
            word = "--" + name.replace("_", "-")
            raise _UsageError(
                f"semantic IDs: {word} with --method {arguments.method.value} and "
                f"{'--embeddings' if arguments.data is None else '--data'}, expected it with {where} only; leave it out"
            )


def _settings(arguments: argparse.Namespace) -> tuple[IdSettings, FamaeSettings]:
    given = {
        "width": arguments.famae_width,
        "max_steps": arguments.famae_steps,
        "history": arguments.famae_history,
    }
    try:
        ids = IdSettings(
            method=arguments.method,
            levels=arguments.levels,
            codes=arguments.codes,
            branching=arguments.branching,
            anchors=arguments.anchors,
            spare_leaves=arguments.spare_leaves,
            refine_steps=arguments.refine_steps,
            seed=arguments.seed,
        )
        famae = FamaeSettings(
            **{name: value for name, value in given.items() if value is not None}, seed=arguments.seed
        )
    except ValueError as error:
        raise _UsageError(str(error)) from error
    return ids, famae


def _assign(arguments: argparse.Namespace) -> dict[str, Any]:
    if (arguments.data is None) != (arguments.item_ids is not None):
        raise _UsageError(
            "semantic IDs: --embeddings without --item-ids, or these with --data, expected ids with embeddings only; "
            "name the new items of embeddings, those of a data set have ids"
        )
    check_place(arguments.out, NOTES_FILE)
    known = SemanticIds.load(arguments.ids)
    if arguments.data is None:
        ids = known.assign(_item_ids(arguments.item_ids) or (), _embeddings(arguments.embeddings))
    elif known.famae is None:
        raise _UsageError(
            f"semantic IDs: --data with method {known.settings.method.value}, expected --embeddings: only FAMAE embeds "
            "an item that no user has had; embed the new items where the old ones were embedded"
        )
    else:
        dataset = load_dataset(arguments.data, arguments.data_root)
        items, before = catalogue_items(dataset), set(known.item_ids)
        new = items.take(np.flatnonzero([item not in before for item in items.ids]))
        if not new.ids:
            raise DataError(
                f"{arguments.data}: 0 of {len(items.ids)} items are new, expected some. An item that no user "
                "has had is in the catalogue where the schema says `catalogue = { min_users = 0 }`."
            )
        ids = known.assign(new.ids, known.famae.embed(famae_columns(dataset.schema.content, new)))
    ids.save(arguments.out)
    return _told(ids, arguments.out) | {"new": len(ids.item_ids) - len(known.item_ids)}


def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    from oneranker.semantic_ids.report import write_report  # brings matplotlib

    ids = SemanticIds.load(arguments.ids)
    dataset = None if arguments.data is None else load_dataset(arguments.data, arguments.data_root)
    folder = arguments.ids.resolve()  # "." has no name
    out = arguments.out or folder.with_name(f"{folder.name}-report")
    return {"out": str(out), **write_report(ids, out, dataset)}


def _told(ids: SemanticIds, out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "method": ids.settings.method.value,
        "items": len(ids.item_ids),
        "widths": list(ids.widths),
        "seconds": {name: round(took, 3) for name, took in ids.seconds.items()},
    }


def _embeddings(path: Path) -> NDArray[np.floating]:
    try:
        embeddings = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected numbers [N, D]. Name what numpy.save wrote.") from error
    except (ValueError, EOFError, BadZipFile, MemoryError) as error:
        raise DataError(
            f"{path}: got {error}, expected numbers [N, D] as numpy.save writes them. Save again."
        ) from error
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: got {getattr(embeddings, 'dtype', type(embeddings).__name__)}, expected one array of numbers "
            "[N, D]. Save it by numpy.save."
        )
    return embeddings.astype(np.float32, copy=False)


def _item_ids(path: Path | None) -> list[str] | None:
    """The lines of a file; an id may hold what else str.splitlines would break at."""
    try:
        return None if path is None else path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected text, one id a line. Correct the name.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: got {error}, expected UTF-8 text, one id a line. Save it as UTF-8.") from error


def _method(word: str) -> Method:
    try:
        return one_of(Method, word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _branching(word: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in word.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {word!r}, expected whole numbers and commas, such as 32,32") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m oneranker.semantic_ids")
    commands = parser.add_subparsers(required=True)
    form = argparse.ArgumentDefaultsHelpFormatter
    build = commands.add_parser(
        "build", help="give every item of a data set, or row of embeddings, codes", formatter_class=form
    )
    build.set_defaults(do=_build)
    build.add_argument("--method", type=_method, required=True, metavar=_words(Method), help="how")
    _add_source(build, "items and their events")
    build.add_argument("--out", type=Path, required=True, help="folder to write; replaced if it was written by build")
    build.add_argument("--levels", type=int, default=DEFAULT.levels, help="codes of a path")
    build.add_argument(
        "--codes",
        type=int,
        help=f"codes of each level (default {DEFAULT_CODES}); with gaoq and resid the most there may be",
    )
    build.add_argument(
        "--branching", type=_branching, metavar="B1,B2", help="gaoq, resid: codes of all levels but the last"
    )
    build.add_argument(
        "--anchors", type=Indexing, choices=list(Indexing), default=DEFAULT.anchors.value, metavar=_words(Indexing),
        help="gaoq, resid: what gives codes their numbers",
    )  # fmt: skip
    build.add_argument(
        "--spare-leaves", type=int, default=0, help="gaoq, resid: last codes kept for items that come later"
    )
    build.add_argument(
        "--refine-steps", type=int, default=DEFAULT.refine_steps, help="rq-kmeans-plus: steps of the RQ-VAE"
    )
    build.add_argument(
        "--width", type=int, help=f"of co-occurrence embeddings, all methods but resid (default {WIDTH})"
    )
    build.add_argument("--famae-width", type=int, help=f"resid: of each field (default {FAMAE.width})")
    build.add_argument("--famae-steps", type=int, help=f"resid: most batches (default {FAMAE.max_steps})")
    build.add_argument("--famae-history", type=int, help=f"resid: items before the target (default {FAMAE.history})")
    build.add_argument("--seed", type=int, default=0, help="of everything drawn")
    assign = commands.add_parser(
        "assign", help="give codes to new items; no known one changes its own", formatter_class=form
    )
    assign.set_defaults(do=_assign)
    assign.add_argument("--ids", type=Path, required=True, help="folder that build wrote")
    _add_source(assign, "resid: its items that have no codes yet")
    assign.add_argument("--out", type=Path, required=True, help="folder to write: known items, then new ones")
    report = commands.add_parser("report", help="how good the codes are: table, JSON, plots", formatter_class=form)
    report.set_defaults(do=_report)
    report.add_argument("--ids", type=Path, required=True, help="folder that build wrote")
    report.add_argument("--data", help="measure histories and co-occurrence of this data set, too")
    report.add_argument("--data-root", type=Path, default=Path("data"), help="where known data sets lie or will lie")
    report.add_argument("--out", type=Path, help="folder to write (default: IDS-report beside the folder)")
    return parser


def _add_source(command: argparse.ArgumentParser, what: str) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help=f"one of {', '.join(ADAPTERS)}, or a folder with schema.toml: {what}")
    source.add_argument("--embeddings", type=Path, help="numpy file of float [N, D], one row per item")
    command.add_argument("--data-root", type=Path, default=Path("data"), help="where known data sets lie or will lie")
    command.add_argument(
        "--item-ids", type=Path, help="text file beside --embeddings, one id a line (default: row numbers)"
    )


def _words(kind: type[Method] | type[Indexing]) -> str:
    return "|".join(each.value for each in kind)


if __name__ == "__main__":
    sys.exit(main())
