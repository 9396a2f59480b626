# SPDX-License-Identifier: Apache-2.0
"""bert-jax generate: a left-to-right checkpoint + prompts -> the texts that it goes on with."""

import argparse
import json
import sys
from collections.abc import Sequence

from bert_jax.pipelines import _checkpoint_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax generate",
        description="Go on with a text, token by token, by a left-to-right model (objective=ltr). Without --temperature always"
        " the likeliest entry is taken. A text ends with a [SEP], or where --tokens were added.",
    )
    parser.add_argument("model", type=any_path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    parser.add_argument("prompts", nargs="*", metavar="TEXT", help="texts to go on with; none: lines of standard input")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens to add at most (default: 50, or what fits)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="draw, with logits divided by T (default: 0, the likeliest)",
    )
    parser.add_argument(
        "--top-k", type=int, metavar="N", help="with --temperature: draw from the N likeliest (default: all)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="with --temperature: of the draws (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, an object for each text")
    _checkpoint_options.add_checkpoint_options(parser, kind=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if arguments.seed is not None and not arguments.temperature:
        raise UserError(f"--seed {arguments.seed} is for texts that are drawn: give --temperature too, such as 1.0")

    from bert_jax.base.lines import text_lines
    from bert_jax.use.generate import generate, GenerateSettings
    from bert_jax.use.model import load

    settings = GenerateSettings(arguments.tokens, arguments.temperature, arguments.top_k, arguments.seed or 0)
    prompts = arguments.prompts or [
        line.rstrip("\r") for _, line in text_lines(sys.stdin.buffer, "standard input") if line.strip()
    ]
    if not prompts:
        raise UserError(f"no text was given: write bert-jax generate {arguments.model} 'the beginning of a text'")
    model = load(arguments.model, dtype=None, asked=_checkpoint_options.asked(arguments, head=False))
    for prompt, found in zip(prompts, generate(model, prompts, settings), strict=True):
        if arguments.json:
            words = model.tokenizer.vocabulary
            record = {
                "prompt": prompt,
                "text": found.text,
                "added": [words[token] for token in found.added],
                "ended": found.ended,
            }
            print(json.dumps(record, ensure_ascii=False))
        else:
            print(found.text)
    return 0
