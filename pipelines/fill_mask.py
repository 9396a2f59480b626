# SPDX-License-Identifier: Apache-2.0
"""bert-jax fill-mask: a checkpoint of any format + text with [MASK] -> the likeliest words."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options  # type: ignore[import-not-found,unused-ignore]

from bert_jax.base.errors import UserError

if TYPE_CHECKING:
    from bert_jax.base.types import JsonObject
    from bert_jax.config.objective import PairWords
    from bert_jax.use.fill_mask import TextPrediction


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax fill-mask",
        description="Predict the words behind [MASK]. A [SEP] in the text begins segment B; whether it"
        " follows (IsNext), or the order of both, is then told too, where the model has a head for it.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts with [MASK]; none: lines of standard input")
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help="predictions for each [MASK] (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON, an object for each text")
    _checkpoint_options.add_checkpoint_options(parser, kind=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if arguments.top_k < 1:
        raise UserError(f"--top-k {arguments.top_k} is not possible: use 1 or more")

    from bert_jax.base.lines import text_lines
    from bert_jax.config.objective import pair_words
    from bert_jax.use.fill_mask import encode, MASK, predict, SEPARATOR, shorten
    from bert_jax.use.model import load

    texts = arguments.texts or [
        line.rstrip("\r") for _, line in text_lines(sys.stdin.buffer, "standard input") if line.strip()
    ]
    if not texts:
        raise UserError(f"no text was given: write bert-jax fill-mask {arguments.model} 'the [MASK] of the file'")
    for text in texts:
        if MASK not in text:
            raise UserError(f"{shorten(text)!r}: has no [MASK] to fill: put one where a word is to be predicted")
    model = load(arguments.model, dtype=None, asked=_checkpoint_options.asked(arguments, head=False))
    model.require_masked_lm("filling masks")
    rows = [encode(model, text) for text in texts]
    words = pair_words(model.origin.config.objective)  # none: the head for pairs is untrained and says nothing
    for text, prediction in zip(texts, predict(model, rows, arguments.top_k), strict=True):
        if arguments.json:
            print(as_json(text, prediction, words))
        else:
            print(as_text(text, prediction, words if SEPARATOR in text else None))
    return 0


def as_json(text: str, prediction: "TextPrediction", words: "PairWords | None") -> str:
    """One line of JSON; the probability of the pair's label 0 is `is_next` or `in_order`."""
    fields: JsonObject = {"text": text, "masks": [dataclasses.asdict(slot) for slot in prediction.masks]}
    if words is not None and prediction.is_next is not None:
        fields["is_next" if words.short == "NSP" else "in_order"] = prediction.is_next
    return json.dumps(fields, ensure_ascii=False)


def as_text(text: str, prediction: "TextPrediction", words: "PairWords | None") -> str:
    """A text and its predictions for people; `words`: for the label of its pair, None where it is not told."""
    lines = [text]
    for slot in prediction.masks:
        best = ", ".join(f"{entry.token} {entry.probability:.1%}" for entry in slot.entries)
        lines.append(f"  [MASK] {best}")
    if words is not None and prediction.is_next is not None:
        word = words.labels[prediction.is_next < 0.5]
        lines.append(f"  {word} {max(prediction.is_next, 1 - prediction.is_next):.1%}")
    return "\n".join(lines)
