# SPDX-License-Identifier: Apache-2.0
"""bert-jax pretrain: configuration + prepared data -> run directory."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from bert_jax.config.settings import load_config, override, settings_help


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bert-jax pretrain",
        description="Pre-train BERT. The same command goes on where a run was stopped, to the same bit.",
        epilog=f"settings, with their defaults:\n{settings_help()}\n  model=SIZE takes the layers and width of a named"
        " size: tiny, mini, small, medium, base, large, 6x768x12, ...\n  objective=NAME is short for objective.name=NAME",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="a name in configs/ (demo, tiny, base, large, ...) or a .py file"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="changed settings, such as optimizer.name=lamb"
    )
    parser.add_argument("--data", type=Path, required=True, help="made by bert-jax prepare")
    parser.add_argument("--output", type=Path, required=True, help="the run directory")
    several = parser.add_argument_group(
        "several processes", "start the same command on every host; --output is a folder that all of them share"
    )
    several.add_argument("--distributed", action="store_true", help="join as the TPU pod, Slurm or Open MPI says")
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="or by hand: process 0's host and a free port there"
    )
    several.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    several.add_argument("--process-id", type=int, metavar="I", help="the number of this one, from 0")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_intermixed_args(argv)
    config = override(load_config(arguments.config), arguments.settings)

    from bert_jax.mesh import distributed
    from bert_jax.objectives.pretraining import pretrain

    place = (arguments.coordinator, arguments.processes, arguments.process_id)
    if arguments.distributed or any(part is not None for part in place):
        distributed.initialize(*place)
    run = pretrain(config, arguments.data, arguments.output, resume_command=f"bert-jax pretrain {shlex.join(argv)}")
    if distributed.is_main():
        print(f"pre-trained: {run.path}; next: bert-jax evaluate {run.path} --data {arguments.data}")
    return 0
