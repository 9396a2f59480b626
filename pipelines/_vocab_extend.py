# SPDX-License-Identifier: Apache-2.0
"""`bert-jax vocab extend`: a checkpoint -> the same with more words, or more positions, old ids keeping their outputs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text

if TYPE_CHECKING:
    from bert_jax.conversion.checkpoints import Asked
    from bert_jax.conversion.extension import Suggestion

DESCRIPTION = """\
Add words to a checkpoint's WordPiece vocabulary, and rows to its position table. A word takes the place of an [unusedN]
entry, or a new row; it begins as the mean of the pieces it was cut into. The result has the format of MODEL, and a
certificate (conversion.json): every old id gives the outputs it gave."""


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = _parser().parse_args(argv)
    if not (arguments.words or arguments.input or arguments.positions):
        raise UserError("nothing to add: give --words FILE, --input TEXT --add N, or --positions N")
    if bool(arguments.input) != bool(arguments.add):
        raise UserError("--input and --add go together: the N words of TEXT that save most tokens are added")
    if arguments.output is None and (arguments.words or arguments.positions or arguments.keep_unused):
        given = next(name for name in ("words", "positions", "keep_unused") if getattr(arguments, name))
        raise UserError(
            f"--{given.replace('_', '-')} without --output: words of --input are shown, and nothing is written; name --output"
        )
    if arguments.keep_unused and not (arguments.words or arguments.input):
        raise UserError("--keep-unused is of words that are added: leave it out, or name words")
    from bert_jax.conversion.convert import extend

    asked = _checkpoint_options.asked(arguments, kind=arguments.kind)
    words = _words(arguments.words) if arguments.words else []
    if arguments.input:
        suggested = _suggest(arguments.model, arguments.input, arguments.add, asked)
        print(f"{'gain':>10} {'times':>8} {'pieces':>6}  word, by the tokens it saves")
        print("\n".join(f"{one.gain:>10,} {one.times:>8,} {one.pieces:>6}  {one.word}" for one in suggested))
        words += [one.word for one in suggested if one.word not in words]
    if arguments.output is None:
        return 0
    fill = not arguments.keep_unused
    certificate, extension = extend(arguments.model, arguments.output, words, arguments.positions, fill, asked)
    model = certificate.source.description.model
    print(f"{len(extension.added)} words added, {extension.filled} of them in the place of [unused] entries")
    print(f"{model.vocab_size:,} entries, {model.max_position_embeddings} positions")
    print("\n".join(certificate.lines()))
    print(f"written: {arguments.output}" if certificate.holds else f"left in {certificate.left_in}")
    return 0 if certificate.holds else 1


def _words(path: Path) -> list[str]:
    """A word a line; empty lines are passed over."""
    from bert_jax.text.streams import read_lines

    return [line.strip() for _, line in read_lines(path) if line.strip()]


def _suggest(model: Path, inputs: Sequence[str], most: int, asked: "Asked") -> "list[Suggestion]":
    from bert_jax.conversion.checkpoints import open_checkpoint
    from bert_jax.conversion.extension import suggest
    from bert_jax.text.documents import read_documents
    from bert_jax.text.sources import parse_sources
    from bert_jax.tokenization import WordPieceTokenizer

    tokenizer = open_checkpoint(model, asked).tokenizer
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise UserError(f"{model} has no WordPiece vocabulary that words could be added to")
    files = (file for source in parse_sources(inputs) for file in source.files)
    return suggest((line for file in files for document in read_documents(file) for line in document), tokenizer, most)


def _parser() -> argparse.ArgumentParser:
    result = _options.StageParser(
        prog="bert-jax vocab extend",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 0 the certificate holds, 1 it does not, 2 the model cannot be extended",
    )
    option = result.add_argument
    option("model", type=any_path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    option("--output", type=any_path, metavar="PATH", help="a new directory; without it words are only suggested")
    option("--words", type=readable, metavar="FILE", help="words to add, one a line, as the tokenizer normalises them")
    option("--input", type=any_text, nargs="+", metavar="TEXT", help="text to find words in")
    option("--add", type=int, metavar="N", help="words of --input to add: those that save most tokens")
    option("--positions", type=int, metavar="N", help="rows of the position table; the new ones repeat the old")
    option("--keep-unused", action="store_true", help="add rows even where [unusedN] entries are free")
    _checkpoint_options.add_checkpoint_options(result)
    return result
