# SPDX-License-Identifier: Apache-2.0
"""bert-jax fill-mask: run + text with [MASK] -> the likeliest words."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.errors import UserError

if TYPE_CHECKING:
    from bert_jax.inference import Prediction


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bert-jax fill-mask",
        description="Predict the words behind [MASK]. A [SEP] in the text begins segment B; IsNext is then told too.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts with [MASK]; none: lines of standard input")
    parser.add_argument("--top-k", type=int, default=5, help="predictions for each [MASK] (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object for each text")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if arguments.top_k < 1:
        raise UserError(f"--top-k {arguments.top_k} is not possible: use 1 or more")

    from bert_jax.inference import Inference, MASK, SEPARATOR, shorten
    from bert_jax.run_directory import open_run

    run = open_run(arguments.run)
    texts = arguments.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise UserError(f"no text was given: write bert-jax fill-mask {run.path} 'the [MASK] of the file'")
    for text in texts:
        if MASK not in text:
            raise UserError(f"{shorten(text)!r}: has no [MASK] to fill: put one where a word is to be predicted")
    inference = Inference(run)
    ids, segments = zip(*map(inference.encode, texts), strict=True)
    for text, prediction in zip(texts, inference.predict(ids, segments, arguments.top_k), strict=True):
        nsp = inference.config.objective.nsp  # without it the head for pairs is untrained and says nothing
        print(
            as_json(text, prediction, nsp) if arguments.json else as_text(text, prediction, nsp and SEPARATOR in text)
        )
    return 0


def as_json(text: str, prediction: "Prediction", nsp: bool) -> str:
    """One line of JSON."""
    fields = {"text": text, **dataclasses.asdict(prediction)}
    if not nsp:
        del fields["is_next"]
    return json.dumps(fields, ensure_ascii=False)


def as_text(text: str, prediction: "Prediction", pair: bool) -> str:
    """A text and its predictions for people."""
    lines = [text]
    for slot in prediction.masks:
        best = ", ".join(f"{entry.token} {entry.probability:.1%}" for entry in slot.entries)
        lines.append(f"  [MASK] {best}")
    if pair:
        word = "IsNext" if prediction.is_next >= 0.5 else "NotNext"
        lines.append(f"  {word} {max(prediction.is_next, 1 - prediction.is_next):.1%}")
    return "\n".join(lines)
