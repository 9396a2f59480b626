# SPDX-License-Identifier: Apache-2.0
"""`bert-jax doctor`: prepared data, a run or a configuration -> what is likely wrong, and what to do about it."""

import argparse
import json
import math
from collections.abc import Sequence

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    parser = _options.StageParser(
        prog="bert-jax doctor",
        description="Look at prepared data (its passport) or at a run (its configuration, its data's passport and its"
        " curves; it may still be at work) and say what is likely wrong, what was seen, what usually causes it, and the"
        " command that mends it.",
        epilog="exit status: 0 no problem (there may be warnings), 1 at least one problem, 2 nothing could be looked at",
    )
    parser.add_argument(
        "path", metavar="DATA|RUN|CONFIG", type=any_path, help="made by bert-jax prepare, pretrain or finetune"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--overfit",
        action="store_true",
        help="of a run, or a configuration of pre-training: can one batch be learned by heart? Two minutes at most",
    )
    parser.add_argument(
        "--data", type=any_text, metavar="DATA", help="with --overfit: the data, if not where that of the run lay"
    )
    _bucket_options.add_bucket_options(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = parser().parse_args(argv)
    if arguments.overfit:
        return _overfit(arguments)
    if arguments.data is not None:
        raise UserError("--data is of --overfit: leave it out, or add that")

    from bert_jax.checks.examination import examine
    from bert_jax.checks.printing import as_text

    examination = examine(arguments.path)
    if arguments.json:
        print(json.dumps(examination.as_record(), indent=2, ensure_ascii=False))
    else:
        print(as_text(examination))
    return int(examination.problem)


def _overfit(arguments: argparse.Namespace) -> int:
    """Learn one batch, and print the curve and what the judge says."""
    from bert_jax.checks.examination import Examination
    from bert_jax.checks.printing import as_text
    from bert_jax.rerun.overfit import overfit

    learned = overfit(arguments.path, arguments.data)
    examination = Examination(arguments.path, "batch", f"one batch of {learned.rows} rows", [learned.finding()])
    if arguments.json:
        losses = [loss if math.isfinite(loss) else None for loss in learned.losses]  # JSON has no NaN
        print(json.dumps({**examination.as_record(), "losses": losses}, indent=2))
    else:
        print(f"loss {learned.losses[0]:.3f} {learned.curve()} {learned.losses[-1]:.3f}")
        print(as_text(examination))
    return int(examination.problem)
