# SPDX-License-Identifier: Apache-2.0
"""`bert-jax corpus`: English text from the documentation of the Python packages that are installed."""

import argparse
from collections.abc import Sequence

from bert_jax.pipelines import _options

from bert_jax.base.errors import UserError
from bert_jax.base.host import usable_cores
from bert_jax.base.paths import local_path
from bert_jax.base.types import JsonObject

MOST_WORKERS = 16  # more do not pay: the files are read in half a minute of one core


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.megabytes is not None and not 0 < arguments.megabytes < float("inf"):
        raise UserError(f"--megabytes {arguments.megabytes:g} must be more than 0; leave it out to take all")
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers} must be at least 1")
    from bert_jax.text import corpus

    made = corpus.finished_corpus(arguments.output, arguments.megabytes, arguments.seed)
    if made is not None:
        print(f"{arguments.output} is complete: {summary(made)}")
        folders = corpus.package_folders()
        versions = corpus.package_versions(corpus.find_modules(folders), folders)
        print_changed_packages(corpus.changed_packages(made, versions))
        return 0
    made = corpus.write_corpus(arguments.output, arguments.megabytes, arguments.seed, workers=arguments.workers)
    print_made(made, arguments)
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = _options.StageParser(
        prog="bert-jax corpus",
        description="Make English text out of the docstrings of the standard library and of all installed"
        " Python packages: one sentence a line, a blank line after each document. Nothing is imported or"
        " downloaded.",
    )
    option = result.add_argument
    option(
        "--output",
        type=local_path,
        required=True,
        metavar="PATH",
        help="folder for corpus-00000.txt, ... and corpus.json",
    )
    option(
        "--megabytes", type=float, metavar="N", help="stop after so many (of 1,000,000 bytes); default: all there is"
    )
    option("--seed", type=int, default=0, metavar="N", help="of the order of the modules (default: %(default)s)")
    workers = min(usable_cores(), MOST_WORKERS)
    option("--workers", type=int, default=workers, metavar="N", help="processes; the text is the same (default: cores)")
    return result


def summary(made: JsonObject) -> str:
    """The size of a corpus in words."""
    return (
        f"{made['bytes'] / 1e6:.1f} MB, {made['sentences']:,} sentences, {made['documents']:,} documents,"
        f" {len(made['files'])} text files"
    )


def print_made(made: JsonObject, arguments: argparse.Namespace) -> None:
    """Print what was written, and what was left out."""
    modules, left_out = made["modules"], made["left_out"]
    print(f"{arguments.output}: {summary(made)}")
    print(
        f"modules: {modules['found']:,} found, {modules['read']:,} read, of these"
        f" {modules['without_docstring']:,} without docstrings and {modules['unreadable']:,} unreadable"
    )
    print(
        f"left out as duplicates: {left_out['duplicate_documents']:,} documents,"
        f" {left_out['duplicate_paragraphs']:,} paragraphs, {left_out['near_duplicate_paragraphs']:,}"
        f" near-duplicate paragraphs, {left_out['duplicate_sentences']:,} further sentences"
    )
    print(
        f"left out besides: {left_out['short_documents']:,} documents of fewer than 3 sentences,"
        f" {left_out['not_prose']:,} pieces that do not read like English sentences"
    )
    if made["unreadable"]:
        name, error = next(iter(made["unreadable"].items()))
        print(f"unreadable modules are named in corpus.json; the first: {name} ({error})")
    if arguments.megabytes is not None and made["bytes"] < arguments.megabytes * 1e6:
        print(f"--megabytes {arguments.megabytes:g} asked for more than the installed packages hold")


def print_changed_packages(changed: list[str]) -> None:
    """Say that the corpus is older than the packages."""
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        print(
            f"it was made of other packages than are installed now ({', '.join(changed[:3])}{more}) and is"
            " kept as it is: remove it to make it again"
        )
