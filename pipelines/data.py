# SPDX-License-Identifier: Apache-2.0
"""`bert-jax data check`: a folder of a task's files -> which official ones are there, and the known traps."""

import argparse
import json
from collections.abc import Sequence

from bert_jax.pipelines import _options

from bert_jax.base.bucket_cache import readable


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    from bert_jax.checks.printing import as_text
    from bert_jax.checks.task_files import check_task_files

    examination = check_task_files(arguments.folder, arguments.task)
    if arguments.json:
        print(json.dumps(examination.as_record(), indent=2, ensure_ascii=False))
    else:
        print(as_text(examination))
    return int(examination.problem)


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    result = _options.StageParser(prog="bert-jax data", description="Look at the files of tasks.")
    commands = result.add_subparsers(dest="command", required=True, metavar="check")
    check = commands.add_parser(
        "check",
        help="files of a task beside the official ones",
        description="Which official files of a task are in a folder: counts and hashes beside the expected ones, and traps:"
        " rows that were put together by quotes, shuffled ids, labels that are missing. Nothing is written.",
        epilog="exit status: 0 no problem (there may be warnings), 1 at least one problem, 2 nothing could be looked at",
    )
    check.add_argument(
        "folder", metavar="DATA", type=readable, help="with the task's files, or GLUE's folder around them"
    )
    check.add_argument("--task", required=True, metavar="NAME", help="sst2, squad1, conll2003 ...")
    check.add_argument("--json", action="store_true", help="print JSON: all findings")
    return result
