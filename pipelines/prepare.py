# SPDX-License-Identifier: Apache-2.0
"""Stage `prepare`: text -> sharded training data and its passport."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.paths import any_path, any_text
from bert_jax.base.types import JsonObject

if TYPE_CHECKING:
    from bert_jax.preparation.request import PrepareSettings

DESCRIPTION = """
Tokenise text, hold a share of the documents out for validation, and write shards of tokens with the examples that
objectives train on, and passport.json, which says what the text is made of. Masks are drawn later, anew in every
epoch. The text is read once, in bounded memory, on all cores; an interrupted run goes on when the same command is given
again. Input is UTF-8: one sentence a line and a blank line between documents (or --lines paragraphs), WikiExtractor's
output, or JSON lines; gz, bz2, xz or zst as it is; or a field of a TensorFlow data set that is on this machine.
"""


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    parser = _options.StageParser(prog="bert-jax prepare", description=DESCRIPTION)
    default = " (default: %(default)s)"
    _add_text_options(parser, default)
    _add_example_options(parser, default)
    _add_run_options(parser)
    _bucket_options.add_bucket_options(parser)
    return parser


def _add_text_options(parser: argparse.ArgumentParser, default: str) -> None:
    add = parser.add_argument
    inputs = (
        "files (text, JSON lines, Parquet, Arrow), folders, globs, hf:FOLDER (saved or cached by datasets),"
        " hf://datasets/OWNER/NAME/FILES (on its hub), or tfds:NAME[/CONFIG]/SPLIT:FIELD; with @WEIGHT behind it, 2 takes"
        " every document twice with other pairs, 0.25 a quarter of the documents"
    )
    add("--input", type=any_text, nargs="+", required=True, metavar="TEXT", help=inputs)
    add("--vocab", type=any_path, required=True, metavar="VOCAB", help="a vocabulary file, or a directory that has one")
    add("--output", type=any_path, required=True, metavar="PATH", help="directory to write; new or empty")
    case = parser.add_mutually_exclusive_group()
    uncased = "lower-case and strip accents; without either: as the vocabulary"
    case.add_argument("--cased", dest="lowercase", action="store_false", help="keep case and accents")
    case.add_argument("--uncased", dest="lowercase", action="store_true", help=uncased)
    parser.set_defaults(lowercase=None)
    _options.add_reading_options(parser)
    splitter = (
        "what splits paragraphs into sentences: rules (English, Chinese, Japanese), or sentencex:LANGUAGE for another, such"
        " as sentencex:de" + default
    )
    add("--splitter", default="rules", metavar="NAME", help=splitter)
    segmenter = "what cuts Chinese into words, for masking of whole words; none: each character is a word" + default
    add("--segmenter", choices=("none", "jieba"), default="none", help=segmenter)
    add("--licence", default="", metavar="TEXT", help="licence of the text, noted in the passport")
    near = (
        "look in all sources for documents that are nearly the same as an earlier one: count them, or drop them (default:"
        " not looked for)"
    )
    add("--near-duplicates", choices=("count", "drop"), default="", help=near)
    evaluation = "files whose overlap with the text (13-grams of words) is measured"
    add("--evaluation-data", nargs="+", type=any_path, default=[], metavar="FILE", help=evaluation)


def _add_example_options(parser: argparse.ArgumentParser, default: str) -> None:
    add = parser.add_argument
    objective = (
        "objectives to make examples for: mlm_nsp, mlm_pairs, mlm_sop, mlm_full_sentences, mlm_document, ltr, bilm, rtd"
        " (default: mlm_nsp)"
    )
    add("--objective", nargs="+", default=["mlm_nsp"], metavar="NAME", help=objective)
    lengths = "tokens in a row, with [CLS] and [SEP]; one table of examples for each (default: 128 512)"
    add("--sequence-length", nargs="+", type=int, default=[128, 512], metavar="S", help=lengths)
    held_out = "share of documents for validation; 0: no validation split" + default
    add("--held-out", type=float, default=0.05, metavar="SHARE", help=held_out)
    short = "share of documents that are cut into shorter pairs" + default
    add("--short-seq-prob", type=float, default=0.1, metavar="P", help=short)
    random_next = "probability that B is taken from another document (NotNext)" + default
    add("--random-next-prob", type=float, default=0.5, metavar="P", help=random_next)
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the choice of held-out documents and of the pairs" + default,
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    size = "text in a shard (default: a 64th of the input, from 4 to 32 MB); a B sentence comes from A's shard"
    add("--shard-size", type=int, default=0, metavar="BYTES", help=size)
    workers = "processes (default: all cores); the result does not depend on it"
    add("--workers", type=int, default=None, metavar="N", help=workers)
    runner = "prepare on Apache Beam, such as FlinkRunner or DirectRunner; the result does not depend on it"
    add("--runner", metavar="NAME", help=runner)
    runner_options = "options of that runner, in one word after =: --runner-options='--flink_master=HOST:PORT'"
    add("--runner-options", default="", metavar="OPTIONS", help=runner_options)


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    options = parser().parse_args(argv)

    from bert_jax.base.errors import UserError
    from bert_jax.preparation.job import prepare
    from bert_jax.tokenization import load_tokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are ours to count
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers} is not possible: use 1 or more")
    try:
        runner_options = shlex.split(options.runner_options)
    except ValueError as error:
        raise UserError(f"--runner-options {options.runner_options}: cannot be read as words: {error}") from error
    tokenizer = load_tokenizer(options.vocab, options.lowercase)
    begin = time.monotonic()
    manifest, made = prepare(
        options.input,
        tokenizer,
        options.output,
        settings_of(options),
        evaluation_data=options.evaluation_data,
        workers=options.workers,
        runner=options.runner,
        runner_options=runner_options,
    )

    from bert_jax.pages.passport import write_page  # takes half a second to import

    page = options.output / "passport.html"
    if made or not page.exists():
        page = write_page(options.output, tokenizer.vocabulary)
    if not made:
        print(f"{options.output} is complete, from the same text with the same settings: nothing to do")
        return 0
    print(summary(options.output, manifest, time.monotonic() - begin))
    print(f"  what the text is made of: {page}")
    for warning in manifest["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def settings_of(options: argparse.Namespace) -> "PrepareSettings":
    """The settings, checked."""
    from bert_jax.base.errors import UserError
    from bert_jax.config.objective import OBJECTIVES
    from bert_jax.preparation.request import PrepareSettings

    unknown = [name for name in options.objective if name not in OBJECTIVES]
    if unknown:
        raise UserError(f"--objective {unknown[0]} is not known: choose from {', '.join(OBJECTIVES)}")
    _refuse_idle(options, {OBJECTIVES[name].examples for name in options.objective})
    names = (
        "held_out short_seq_prob random_next_prob seed shard_size lines json_field errors text_format splitter"
        " segmenter licence near_duplicates"
    )
    return PrepareSettings(
        kinds=tuple(OBJECTIVES[name].examples for name in options.objective),
        sequence_lengths=tuple(options.sequence_length),
        **{name: getattr(options, name) for name in names.split()},
    )


def _refuse_idle(options: argparse.Namespace, kinds: set[str]) -> None:
    """Options that would do nothing."""
    from bert_jax.base.errors import UserError
    from bert_jax.feed.kinds import PAIRS

    def changed(name: str) -> bool:
        return getattr(options, name) != parser().get_default(name)

    idle = {
        "runner_options": (options.runner is None, "is of --runner, which is not given"),
        "workers": (options.runner is not None, "is of processes here, and --runner has its own"),
        "random_next_prob": ("nsp" not in kinds, "is of the pairs of mlm_nsp and mlm_pairs"),
        "short_seq_prob": (not kinds & set(PAIRS), "is of pairs, and no objective that has them is named"),
    }
    for name, (does_nothing, why) in idle.items():
        if does_nothing and changed(name):
            raise UserError(f"--{name.replace('_', '-')} {why}: leave it out")


def summary(output: Path, manifest: JsonObject, seconds: float) -> str:
    """Return a summary of the prepared data, for people."""
    megabytes = sum(file["bytes"] for source in manifest["sources"] for file in source["files"]) / 1e6
    lines = [f"{output}: {megabytes:,.1f} MB of text in {seconds:,.1f} s ({megabytes / seconds:,.1f} MB/s)"]
    for name, split in manifest["splits"].items():
        lines.append(
            f"  {name:<10} {split['documents']:,} documents, {split['sentences']:,} sentences,"
            f" {split['tokens']:,} tokens ({split['unknown_tokens'] / split['tokens']:.2%} [UNK]),"
            f" {len(split['shards'])} shard(s)"
        )
        lines += [_table_summary(table) for table in split["tables"].values()]
    return "\n".join(lines + _left_out(manifest))


def _table_summary(table: JsonObject) -> str:
    labels = ""
    if "is_next_share" in table:
        labels = f" {table['is_next_share']:.1%} IsNext, {1 - table['is_next_share']:.1%} NotNext,"
    elif "in_order_share" in table:
        labels = f" {table['in_order_share']:.1%} in order, {1 - table['in_order_share']:.1%} swapped,"
    return (
        f"    {table['kind']}, sequence length {table['sequence_length']:>4}: {table['examples']:,} examples,{labels}"
        f" {table['valid_token_share']:.1%} of a row filled"
    )


def _left_out(manifest: JsonObject) -> list[str]:
    """Whatever is not, or not as it was, in the data."""
    lines = []
    if manifest["dropped_sentences"]:
        lines.append(
            f"  dropped: {manifest['dropped_sentences']:,} sentences without tokens,"
            f" {manifest['dropped_documents']:,} documents of nothing else"
        )
    if looked_for := manifest["near_duplicate_documents"]:
        found, compared = (sum(source[name] for source in looked_for["sources"]) for name in ("found", "compared"))
        done = "dropped" if looked_for["dropped"] else "counted only"
        lines.append(f"  near-duplicates: {found:,} of {compared:,} documents, {done}")
    reading = manifest["reading"]
    words = {
        "replaced_bytes": "bytes that are not UTF-8 were replaced",
        "control_lines": "lines of nothing but control characters were left out",
        "empty_documents": "documents without text were left out",
        "empty_lines": "empty lines between JSON records were skipped",
    }
    return lines + [f"  {reading[name]:,} {text}" for name, text in words.items() if reading.get(name)]
