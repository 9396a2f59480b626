# SPDX-License-Identifier: Apache-2.0
"""Stage `prepare`: text -> sharded training data."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DESCRIPTION = """
Tokenise text, hold a share of the documents out for validation, and write shards of tokens with sentence
pairs for masked-language-model and next-sentence prediction. Masks are drawn later, anew in every epoch.
Input is UTF-8 text with one sentence a line and a blank line between documents, or WikiExtractor's output.
"""


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    parser = argparse.ArgumentParser(prog="bert-jax prepare", description=DESCRIPTION)
    add = parser.add_argument
    default = " (default: %(default)s)"
    add("--input", nargs="+", type=Path, required=True, metavar="PATH", help="text files, or folders of them")
    add("--vocab", type=Path, required=True, help="vocab.txt, or a directory that has one")
    add("--output", type=Path, required=True, metavar="DIR", help="directory to write; new or empty")
    lengths = "tokens in a row, with [CLS] and [SEP]; one table of examples for each (default: 128 512)"
    add("--sequence-length", nargs="+", type=int, default=[128, 512], metavar="S", help=lengths)
    held_out = "share of documents for validation; 0: no validation split" + default
    add("--held-out", type=float, default=0.05, metavar="SHARE", help=held_out)
    short = "share of documents that are cut into shorter pairs" + default
    add("--short-seq-prob", type=float, default=0.1, metavar="P", help=short)
    random_next = "probability that B is taken from another document (NotNext)" + default
    add("--random-next-prob", type=float, default=0.5, metavar="P", help=random_next)
    add("--seed", type=int, default=0, help="of the choice of held-out documents and of the pairs" + default)
    add("--shard-tokens", type=int, default=2**25, metavar="N", help="tokens in a shard at most" + default)
    case = parser.add_mutually_exclusive_group()
    cased, uncased = (
        "keep case and accents",
        "lower-case and strip accents; without either: as the vocabulary",
    )
    case.add_argument("--cased", dest="lowercase", action="store_false", help=cased)
    case.add_argument("--uncased", dest="lowercase", action="store_true", help=uncased)
    parser.set_defaults(lowercase=None)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    options = parser().parse_args(argv)

    from bert_jax.data.preparation import prepare, PrepareSettings
    from bert_jax.tokenization import load_tokenizer

    settings = PrepareSettings(
        sequence_lengths=tuple(options.sequence_length),
        held_out=options.held_out,
        short_seq_prob=options.short_seq_prob,
        random_next_prob=options.random_next_prob,
        seed=options.seed,
        shard_tokens=options.shard_tokens,
    )
    tokenizer = load_tokenizer(options.vocab, options.lowercase)
    begin = time.monotonic()
    manifest, made = prepare(options.input, tokenizer, options.output, settings)
    if made:
        print(summary(options.output, manifest, time.monotonic() - begin))
        for warning in manifest["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
    else:
        print(f"{options.output} is complete, from the same text with the same settings: nothing to do")
    return 0


def summary(output: Path, manifest: Mapping[str, Any], seconds: float) -> str:
    """What was made, for people."""
    megabytes = sum(file["bytes"] for file in manifest["inputs"]) / 1e6
    lines = [f"{output}: {megabytes:,.1f} MB of text in {seconds:,.1f} s ({megabytes / seconds:,.1f} MB/s)"]
    for name, split in manifest["splits"].items():
        lines.append(
            f"  {name:<10} {split['documents']:,} documents, {split['sentences']:,} sentences,"
            f" {split['tokens']:,} tokens ({split['unknown_tokens'] / split['tokens']:.2%} [UNK]),"
            f" {len(split['shards'])} shard(s)"
        )
        for length, examples in split["examples"].items():
            is_next, filled = split["is_next_share"][length], split["valid_token_share"][length]
            lines.append(
                f"    sequence length {length:>4}: {examples:,} examples,"
                f" {is_next:.1%} IsNext, {1 - is_next:.1%} NotNext, {filled:.1%} of a row filled"
            )
    if manifest["dropped_sentences"]:
        lines.append(
            f"  dropped: {manifest['dropped_sentences']:,} sentences without tokens,"
            f" {manifest['dropped_documents']:,} documents of nothing else"
        )
    return "\n".join(lines)
