# SPDX-License-Identifier: Apache-2.0
"""bert-jax plan: configuration + accelerator topology -> does it fit, what does it cost; nothing runs or is allocated."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.config.settings import load_config, override


def make_parser() -> argparse.ArgumentParser:
    """The options of the stage."""
    parser = argparse.ArgumentParser(
        prog="bert-jax plan",
        description="Compile the real train step of every phase for chips that need not be there, and tell memory, FLOPs,"
        " collectives, an estimate of time, whether it fits, the largest micro-batch, and, where it does not fit, the"
        " smallest change that makes it fit.",
        epilog="TPU topologies need libtpu: pip install 'bert-jax[plan]'. A compilation of BERT-large takes about a minute"
        " on two cores.",
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="a name in configs/ (base, large, ...), a .py file or a run's config.json"
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changed settings, such as remat=dots")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SHAPE",
        help="such as v5e:16x16, v5p:4x4x4, 2xv5e:4x4 (two slices), or local: the devices of this machine",
    )
    parser.add_argument(
        "--slices", type=int, default=1, metavar="N", help="slices of that topology, joined by mesh.dcn"
    )
    parser.add_argument("--quick", action="store_true", help="compile each phase once, and look for nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_intermixed_args(argv)
    config = override(load_config(arguments.config), arguments.settings)
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise UserError(
            f"--json {arguments.json}: there is no folder {arguments.json.parent}: make it, or name another"
        )
    local = arguments.topology == "local"
    if not local and "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"  # this process compiles only: leave accelerators to those who run

    from bert_jax.base.files import write_json
    from bert_jax.mesh.chips import parse_topology
    from bert_jax.plan import as_text, local_machine, make_plan, topology_machine

    if local and arguments.slices != 1:
        raise UserError("--slices is for TPU topologies: drop it with --topology local")
    machine = local_machine() if local else topology_machine(parse_topology(arguments.topology, arguments.slices))
    plan = make_plan(config, machine, search=not arguments.quick)
    print(as_text(plan))
    if arguments.json is not None:
        write_json(arguments.json, plan.as_record())
    return 0
