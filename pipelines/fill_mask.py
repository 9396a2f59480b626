# SPDX-License-Identifier: Apache-2.0
"""bert-jax fill-mask: a checkpoint of any format + text with [MASK] -> the likeliest words."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path
from bert_jax.base.serving import HELP, serve, texts_of

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
    parser.add_argument("model", type=any_path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts with [MASK]; none: lines of standard input")
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help="predictions for each [MASK] (default: 5)")
    parser.add_argument("--serve", action="store_true", help=HELP % '"text": ...')
    parser.add_argument("--json", action="store_true", help="print JSON, an object for each text")
    _checkpoint_options.add_checkpoint_options(parser, kind=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if arguments.serve and (arguments.texts or arguments.json):
        what = "--json" if arguments.json else "TEXT"
        raise UserError(f"{what}: --serve answers JSON lines of standard input: leave it out")
    if arguments.top_k < 1:
        raise UserError(f"--top-k {arguments.top_k} is not possible: use 1 or more")

    from bert_jax.config.objective import pair_words
    from bert_jax.use.fill_mask import encode, predict, require_mask, SEPARATOR
    from bert_jax.use.model import load

    texts = [] if arguments.serve else _texts(arguments)
    for text in texts:
        require_mask(text)
    model = load(arguments.model, dtype=None, asked=_checkpoint_options.asked(arguments, head=False))
    model.require_masked_lm("filling masks")
    words = pair_words(model.origin.config.objective)  # none: the head for pairs is untrained and says nothing
    if arguments.serve:

        def answer(request: "JsonObject") -> "JsonObject":
            text = texts_of(request, ("text",))[0]
            require_mask(text)
            return fields_of(predict(model, [encode(model, text)], arguments.top_k)[0], words)

        serve(answer, sys.stdin.buffer, sys.stdout)
        return 0
    rows = [encode(model, text) for text in texts]
    for text, prediction in zip(texts, predict(model, rows, arguments.top_k), strict=True):
        if arguments.json:
            print(as_json(text, prediction, words))
        else:
            print(as_text(text, prediction, words if SEPARATOR in text else None))
    return 0


def _texts(arguments: argparse.Namespace) -> list[str]:
    """The texts of the command line, or else the lines of standard input."""
    from bert_jax.base.lines import text_lines

    lines = text_lines(sys.stdin.buffer, "standard input") if not arguments.texts else ()
    texts = arguments.texts or [line.rstrip("\r") for _, line in lines if line.strip()]
    if not texts:
        raise UserError(f"no text was given: write bert-jax fill-mask {arguments.model} 'the [MASK] of the file'")
    return texts


def as_json(text: str, prediction: "TextPrediction", words: "PairWords | None") -> str:
    """One line of JSON; the probability of the pair's label 0 is `is_next` or `in_order`."""
    return json.dumps({"text": text, **fields_of(prediction, words)}, ensure_ascii=False)


def fields_of(prediction: "TextPrediction", words: "PairWords | None") -> "JsonObject":
    """Return what is told of a text as JSON."""
    fields: JsonObject = {"masks": [dataclasses.asdict(slot) for slot in prediction.masks]}
    if words is not None and prediction.is_next is not None:
        fields["is_next" if words.short == "NSP" else "in_order"] = prediction.is_next
    return fields


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
