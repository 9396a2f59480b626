# SPDX-License-Identifier: Apache-2.0
"""`bert-jax doctor`: prepared data or a run -> what is likely wrong, and what to do about it."""

import argparse
import json
from collections.abc import Sequence

from bert_jax.pipelines import _options  # type: ignore[import-not-found,unused-ignore]

from bert_jax.base.paths import any_path


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
        "path", metavar="DATA|RUN", type=any_path, help="made by bert-jax prepare, pretrain or finetune"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = parser().parse_args(argv)

    from bert_jax.checks.examination import examine
    from bert_jax.checks.printing import as_text

    examination = examine(arguments.path)
    if arguments.json:
        print(json.dumps(examination.as_record(), indent=2, ensure_ascii=False))
    else:
        print(as_text(examination))
    return int(examination.problem)
