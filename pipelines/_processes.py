# SPDX-License-Identifier: Apache-2.0
"""The options with which several processes find each other, the same in every stage that runs in several."""

import argparse


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Add `--distributed`, or `--coordinator`, `--processes` and `--process-id`."""
    several = parser.add_argument_group(
        "several processes", "start the same command on every host; --output is a folder that all of them share"
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
    from bert_jax.mesh import distributed

    place = (arguments.coordinator, arguments.processes, arguments.process_id)
    if arguments.distributed or any(part is not None for part in place):
        distributed.initialize(*place)
