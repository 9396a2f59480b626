# SPDX-License-Identifier: Apache-2.0
"""bert-jax replay: a step of a run, taken again in float32, operation by operation."""

import argparse
from collections.abc import Sequence

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.paths import any_path, any_text


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    parser = _options.StageParser(
        prog="bert-jax replay",
        description="Take a step of a run again on this machine, in float32, and look at the result of every operation,"
        " forward and backward: which is the first that is not finite, in which layer, and what are the texts?",
        epilog="exit status: 0 every operation is finite, 1 one is not",
    )
    parser.add_argument("run", metavar="RUN", type=any_path, help="made by bert-jax pretrain or finetune")
    parser.add_argument("--step", type=int, metavar="N", help="from 1 (default: the newest step that was noted as bad)")
    parser.add_argument("--data", type=any_text, metavar="DATA", help="where the run's data lies, if not where it lay")
    _bucket_options.add_bucket_options(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = parser().parse_args(argv)

    from bert_jax.rerun.replay import replay, report

    replayed = replay(arguments.run, arguments.step, arguments.data)
    print(report(replayed))
    return int(replayed.is_bad)
