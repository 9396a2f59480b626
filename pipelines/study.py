# SPDX-License-Identifier: Apache-2.0
"""`bert-jax study`: a table of the BERT paper as one list of runs, and a page with ours beside the paper's figures."""

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text
from bert_jax.study.table import BUDGETS, STUDIES


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    studies = "\n".join(f"  {name:<10} {study.source}: {study.title}" for name, study in STUDIES.items())
    budgets = "\n".join(f"  {name:<10} {budget.help}" for name, budget in BUDGETS.items())
    result = _options.StageParser(
        prog="bert-jax study",
        description="Run a table of the BERT paper: pre-training and fine-tuning of each row at equal steps and data, several"
        " seeds, and a page that says of every difference whether its sign is the paper's. The same command goes on where it"
        " was stopped. Exit status 1: a run failed.",
        epilog=f"studies:\n{studies}\n\nbudgets:\n{budgets}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = result.add_argument
    option("name", metavar="STUDY", help="a name of the list below")
    option("--data", type=any_path, required=True, metavar="DATA", help="made by bert-jax prepare, for all objectives")
    option("--output", type=any_path, required=True, metavar="PATH", help="the folder of all runs and of the page")
    tasks = (
        "folders with official files of tasks, or tfds:NAME; tasks of the paper's table that are not given are left out"
    )
    option("--tasks", nargs="+", default=[], metavar="TASK=FOLDER", help=tasks)
    taught = "a model with the data's vocabulary, which a row of `ladder` learns from; without it that row is left out"
    option("--teacher", type=any_path, metavar="MODEL", help=taught)
    option("--budget", default="hour", metavar="NAME", help="how much is computed for each row (default: hour)")
    _bucket_options.add_bucket_options(result)
    return result


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    tasks = _tasks(arguments.tasks)
    from bert_jax.study.judging import run_study

    again = f"bert-jax study {shlex.join(argv)}"
    place = arguments.data, tasks, arguments.output, arguments.teacher
    record = run_study(arguments.name, arguments.budget, *place, resume_command=again)
    signs = Counter(one["sign"] for one in record["comparisons"])
    print("signs of differences: " + (", ".join(f"{count} {name}" for name, count in signs.items()) or "none"))
    for name, why in record["failed"].items():
        print(f"failed: {name}: {why}")
    print(f"written: {arguments.output / 'report.html'}")
    return 1 if record["failed"] else 0


def _tasks(words: Sequence[str]) -> dict[str, str]:
    """Return the folders by their tasks.

    Raises:
      UserError: a word is not TASK=FOLDER, or a task comes twice.
    """
    tasks: dict[str, str] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or not name or not place:
            raise UserError(f"--tasks {word}: write TASK=FOLDER, such as sst2=GLUE/SST-2")
        if name in tasks:
            raise UserError(f"--tasks names {name} twice: leave one out")
        tasks[name] = any_text(place)
    return tasks
