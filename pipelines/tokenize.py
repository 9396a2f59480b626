# SPDX-License-Identifier: Apache-2.0
"""bert-jax tokenize: a vocabulary or a model + a text or a pair -> pieces, ids, segments, positions, and its masks."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path
from bert_jax.config.objective import ObjectiveConfig

if TYPE_CHECKING:
    from bert_jax.feed.one_text import MaskedPiece, TextRow


def make_parser() -> _options.StageParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax tokenize",
        description="Show a text, or a pair of texts, as the row that a model reads: pieces, ids, segments, positions. A [MASK]"
        " in a text is one token.",
    )
    add = parser.add_argument
    model = "a vocabulary, or a directory that has one: a run, data, a model of Hugging Face's"
    add("model", type=any_path, metavar="MODEL|VOCAB", help=model)
    add("texts", nargs="+", metavar="TEXT", help="the text; a second one is segment B")
    mask = "show what the run's masking does to the text (of anything but a run: BERT's, 15 %% of the tokens, 80/10/10)"
    add("--mask", action="store_true", help=mask)
    add("--seed", type=int, metavar="N", help="of --mask (default: the run's, or 0)")
    add("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if len(arguments.texts) > 2:
        raise UserError(f"{len(arguments.texts)} texts were given, and a row has two at most: put each in quotes")
    if arguments.seed is not None and not arguments.mask:
        raise UserError("--seed is of --mask: give both, or leave it out")

    from bert_jax.feed.one_text import MASK, OneText
    from bert_jax.tokenization import load_segmenter, load_tokenizer

    if arguments.mask and any(MASK in text for text in arguments.texts):
        raise UserError(f"--mask draws the masks itself: leave {MASK} out of the text")
    tokenizer = load_tokenizer(arguments.model)
    objective, seed, segmenter = _run_settings(arguments.model)
    if arguments.mask and not objective.masks:
        sees = "from those on either side, apart" if objective.is_backward else "from those before it"
        raise UserError(
            f"--mask: {arguments.model} is a run of objective={objective.name}, which masks nothing: each token is predicted"
            f" {sees}: leave the option out"
        )
    seed = seed if arguments.seed is None else arguments.seed
    text = OneText(tokenizer, arguments.texts, None if segmenter == "none" else load_segmenter(segmenter))
    row, masks = text.row(), text.masked(objective, seed) if arguments.mask else None
    if arguments.json:
        print(as_json(row, masks))
    else:
        print(as_text(row, masks))
        if masks is not None:
            print(describe_masking(objective, seed, len(masks)))
    return 0


def _run_settings(path: Path) -> tuple[ObjectiveConfig, int, str]:
    """Return objective, seed and segmenter of a run; of prepared data its segmenter; else BERT's objective, 0 and none."""
    from bert_jax.runs.directory import RunDirectory

    run = RunDirectory(path)
    segmenter = run.manifest().get("segmenter", "none") if run.data_file.is_file() else "none"
    if not run.config_file.is_file() or not run.checkpoints.is_dir():
        return ObjectiveConfig(), 0, segmenter
    config = run.config()
    return config.objective, config.seed, segmenter


def as_json(row: "TextRow", masks: "Sequence[MaskedPiece] | None") -> str:
    """One line of JSON; `masks` only where they were asked for."""
    fields = dataclasses.asdict(row)
    if masks is not None:
        fields["masks"] = [dataclasses.asdict(one) for one in masks]
    return json.dumps(fields, ensure_ascii=False)


def as_text(row: "TextRow", masks: "Sequence[MaskedPiece] | None") -> str:
    """A line for each token, and the segments in one line."""
    done = {one.position: _treatment(one) for one in masks or ()}
    lines = ["position  segment      id  piece"]
    for position, segment, index, piece in zip(row.positions, row.segments, row.ids, row.pieces, strict=True):
        line = f"{position:>8}  {segment:>7}  {index:>6}  {piece}"
        lines.append(f"{line:<40}  {done[position]}" if position in done else line)
    return "\n".join([*lines, f"{len(row.ids)} tokens, segments {''.join(map(str, row.segments))}"])


def _treatment(one: "MaskedPiece") -> str:
    return "is predicted, and stays" if one.becomes == one.piece else f"is predicted behind {one.becomes}"


def describe_masking(objective: ObjectiveConfig, seed: int, picked: int) -> str:
    """Return what was drawn by which shares."""
    shares = objective.mask_share, objective.random_share, 1 - objective.mask_share - objective.random_share
    to = "/".join(f"{100 * share:.3g}" for share in shares)
    return (
        f"masking={objective.masking}, {100 * objective.mlm_probability:g} % of the tokens, {to} to [MASK], to a random entry,"
        f" kept; seed {seed}: {picked} picked"
    )
