# SPDX-License-Identifier: Apache-2.0
"""bert-jax plan: configuration + accelerator topology -> does it fit, what does it cost; nothing runs or is allocated."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text, on_bucket
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import load_config, override
from bert_jax.runs.names import CONFIG_FILE

if TYPE_CHECKING:
    from bert_jax.mesh.chips import Chip


def make_parser() -> _options.StageParser:
    """The options of the stage."""
    parser = _options.StageParser(
        prog="bert-jax plan",
        description="Compile the real train step of every phase for chips that need not be there, and tell memory, FLOPs,"
        " collectives, an estimate of time, whether it fits, the largest micro-batch, and, where it does not fit, the"
        " smallest change that makes it fit.",
        epilog="TPU topologies need libtpu: pip install 'bert-jax[plan]'. A compilation of BERT-large takes about a minute"
        " on two cores.",
    )
    parser.add_argument(
        "config",
        type=any_text,
        metavar="CONFIG",
        help="a name in configs/ (base, large, ...), a .py file or a run's config.json",
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
    flags = (
        "flags of the TPU compiler, without their dashes: every phase is compiled once more with them, and the"
        " difference is told; without values those that are known to help on such chips"
    )
    parser.add_argument("--flags", nargs="*", metavar="NAME=VALUE", help=flags)
    parser.add_argument("--quick", action="store_true", help="compile each phase once, and look for nothing else")
    parser.add_argument("--output", type=any_path, metavar="PATH", help="file to write all figures to, as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.config = PretrainConfig()
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_with_settings(_present_spelling(argv))
    config = override(load_config(arguments.config), arguments.settings)
    output = arguments.output
    if output is not None and not on_bucket(output) and not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}: make it, or name another")
    local = arguments.topology == "local"
    if not local and "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"  # this process compiles only: leave accelerators to those who run

    from bert_jax.base.files import write_json
    from bert_jax.mesh.chips import parse_topology
    from bert_jax.plan import as_text, local_machine, make_plan, topology_machine

    if local and arguments.slices != 1:
        raise UserError("--slices is for TPU topologies: drop it with --topology local")
    machine = local_machine() if local else topology_machine(parse_topology(arguments.topology, arguments.slices))
    flags = None if arguments.flags is None else _flags(arguments.flags, machine.chip, local)
    plan = make_plan(config, machine, search=not arguments.quick, flags=flags)
    print(json.dumps(plan.as_record(), indent=2) if arguments.json else as_text(plan))
    if output is not None:
        write_json(output, plan.as_record())
    return 0


def _flags(given: Sequence[str], chip: "Chip | None", local: bool) -> dict[str, str]:
    """Return the flags by name: those that are given, or the chip's own."""
    if local or chip is None:
        raise UserError("--flags are the TPU compiler's: drop it with --topology local")
    flags = dict(flag.partition("=")[::2] for flag in given or chip.flags)
    if wrong := [flag for flag in given if not flag.partition("=")[2]]:
        raise UserError(f"--flags {wrong[0]} has no value: write NAME=VALUE, such as {chip.flags[0]}")
    return flags


def _present_spelling(argv: Sequence[str]) -> list[str]:
    """`--json FILE` of earlier versions is `--output FILE`, and said so; `--json` alone prints."""
    words = list(argv)
    place = words.index("--json") + 1 if "--json" in words else len(words)
    if place < len(words) and words[place].endswith(".json") and Path(words[place]).name != CONFIG_FILE:
        print(f"--json {words[place]} is written --output {words[place]} now", file=sys.stderr)
        words[place - 1] = "--output"
    return words
