# SPDX-License-Identifier: Apache-2.0
"""The options with which several processes find each other, the same in every stage that runs in several."""

import argparse
from collections.abc import Mapping

from bert_jax.base.errors import UserError

OPTIONS = ("distributed", "coordinator", "processes", "process_id")


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Add `--distributed`, or `--coordinator`, `--processes` and `--process-id`."""
    several = parser.add_argument_group(
        "several processes", "start the same command on every host; all files are in folders that the hosts share"
    )
    several.add_argument(
        "--distributed",
        action="store_true",
        help="join as the cluster says: Cloud TPU, GKE, Kubernetes Job or JobSet, Slurm, Open MPI",
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="or by hand: process 0's host and a free port there"
    )
    several.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    several.add_argument("--process-id", type=int, metavar="I", help="the number of this one, from 0")


def join_processes(arguments: argparse.Namespace) -> None:
    """Join the other processes where the options ask for it; see `distributed.initialize`."""
    if given_options(arguments):
        from bert_jax.mesh import distributed

        distributed.initialize(arguments.coordinator, arguments.processes, arguments.process_id)


def given_options(arguments: argparse.Namespace) -> list[str]:
    """The process options that are given."""
    values = ((name, getattr(arguments, name)) for name in OPTIONS)
    return [f"--{name.replace('_', '-')}" for name, value in values if value is not None and value is not False]


def refuse_process_options(arguments: argparse.Namespace, shared: str) -> None:
    """Refuse process options where lines of standard input are answered; `shared`: the option whose files are dealt out.

    Raises:
      UserError: naming the first.
    """
    if given := given_options(arguments):
        raise UserError(
            f"{given[0]}: several processes deal out the files of {shared}, and standard input has one reader: leave it out"
        )


def require_same_work(arguments: argparse.Namespace, contents: Mapping[str, str]) -> None:
    """Refuse processes that would deal out different work, or that were not joined.

    Args:
      arguments: of the command line.
      contents: what the stage has found, such as the step of a run: its name, and as text.

    Raises:
      UserError: in every process, with what differs; see `distributed.require_same`.
    """
    from bert_jax.mesh import distributed

    distributed.require_connection()
    command = {name: str(value) for name, value in vars(arguments).items() if name != "process_id"}
    distributed.require_same({"command": str(command), **contents})
