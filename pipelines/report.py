# SPDX-License-Identifier: Apache-2.0
"""`bert-jax report`: a run directory, or a folder of runs -> report.html."""

import argparse
from collections.abc import Sequence

from bert_jax.pipelines import _options

from bert_jax.base.paths import any_path


def main(argv: Sequence[str]) -> None:
    """Write the report of a run and print its path."""
    arguments = parser().parse_args(argv)
    from bert_jax.pages.any_run import write_any

    print(write_any(arguments.run))


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    parser = _options.StageParser(
        prog="bert-jax report",
        description="Write RUN/report.html: curves, scores, data, sample predictions and configuration of a"
        " run, as one page that needs nothing else. A run that is still at work can be reported on, too. Of several seeds,"
        " or tasks the folder around them gives a page that compares them, and the runs in it get theirs.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        type=any_path,
        help="run directory, made by bert-jax pretrain or finetune, or a folder of such runs",
    )
    return parser
