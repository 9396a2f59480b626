# SPDX-License-Identifier: Apache-2.0
"""`bert-jax compare`: two fine-tuned runs of one task, or two folders of seeds -> is A better than B?"""

import argparse
import json
from collections.abc import Sequence

from bert_jax.pipelines import _options

from bert_jax.base.paths import any_path


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    from bert_jax.pages.comparison import comparison_lines
    from bert_jax.runs.comparison import compare_runs

    comparison = compare_runs(arguments.first, arguments.second, arguments.split)
    if arguments.json:
        print(json.dumps(comparison.to_dict(), indent=2))
    else:
        print("\n".join(comparison_lines(comparison)))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    result = _options.StageParser(
        prog="bert-jax compare",
        description="Whether run A is better than run B on the same examples: the official scores of both, their difference"
        " with a paired bootstrap and a paired permutation test, and, of folders of several seeds, whether more seeds would"
        " decide it.",
    )
    run = "made by bert-jax finetune: a run, or the folder of several seeds"
    result.add_argument("first", metavar="RUN_A", type=any_path, help=run)
    result.add_argument("second", metavar="RUN_B", type=any_path, help="the same, of the same task")
    result.add_argument("--split", metavar="NAME", help="with predictions of both (default: that of the main score)")
    result.add_argument("--json", action="store_true", help="print JSON")
    return result
