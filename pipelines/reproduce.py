# SPDX-License-Identifier: Apache-2.0
"""bert-jax reproduce: a run computed again, and compared with what it left."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text, local_path


def parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    parser = _options.StageParser(
        prog="bert-jax reproduce",
        description="Compute a run again, all of it or its first steps, and compare data, metrics, parameters and moments"
        " with what it left: equal bit for bit, or the first step that differs and what may explain it. With --kills the"
        " second run is killed on the way and goes on each time: that proves resume on your own configuration.",
        epilog="exit status: 0 equal bit for bit, 1 something differs",
    )
    parser.add_argument("run", metavar="RUN", type=any_path, help="made by bert-jax pretrain or finetune")
    parser.add_argument("--steps", type=int, metavar="N", help="the first steps alone (default: all)")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill the second run so often (default: 0)")
    parser.add_argument("--data", type=any_text, metavar="DATA", help="where the run's data lies, if not where it lay")
    parser.add_argument(
        "--output",
        type=local_path,
        metavar="PATH",
        help="of the second run, which stays there (default: a folder that goes)",
    )
    _bucket_options.add_bucket_options(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = parser().parse_args(argv)
    if arguments.kills < 0:
        raise UserError(f"--kills {arguments.kills}: 0 or more")
    if arguments.kills and arguments.output is not None and arguments.output.exists():
        raise UserError(
            f"--output {arguments.output}: is there already, and kills may miss a run in it: name a new one"
        )

    from bert_jax.base.bucket_cache import cache_size
    from bert_jax.rerun.reproduce import kill_on_the_way, report, reproduce
    from bert_jax.runs.directory import RunDirectory

    with ExitStack() as stack:
        output = arguments.output
        if output is None:
            output = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reproduce-"))) / "run"
        if arguments.kills:
            command = [sys.executable, "-m", "bert_jax.cli", "reproduce", str(arguments.run), "--output", str(output)]
            command += ["--data", arguments.data] if arguments.data else []
            command += ["--steps", str(arguments.steps)] if arguments.steps else []
            command += ["--cache-size", f"{cache_size():g}"]
            kill_on_the_way(command, RunDirectory(arguments.run), output, arguments.kills, arguments.steps)
        found = reproduce(arguments.run, output, arguments.data, arguments.steps)
    print(report(found))
    return int(not found.equal)
