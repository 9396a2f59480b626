# SPDX-License-Identifier: Apache-2.0
"""bert-jax pretrain: configuration + prepared data -> run directory."""

import shlex
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from bert_jax.pipelines import _options, _processes  # type: ignore[import-not-found,unused-ignore]

from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import load_config, override, settings_help


def make_parser() -> _options.StageParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax pretrain",
        description="Pre-train BERT. The same command goes on where a run was stopped, to the same bit.",
        epilog=f"settings, with their defaults:\n{settings_help()}\n  model=SIZE takes the layers and width of a named"
        " size: tiny, mini, small, medium, base, large, 6x768x12, ...\n  objective=NAME is short for objective.name=NAME",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="a name in configs/ (demo, tiny, base, large, ...) or a .py file"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="changed settings, such as optimizer.name=lamb"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="made by bert-jax prepare")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="the run directory")
    _processes.add_process_options(parser)
    parser.config = PretrainConfig()
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_with_settings(argv)
    config = override(load_config(arguments.config), arguments.settings)

    from bert_jax.mesh import distributed
    from bert_jax.train.pretraining import pretrain

    _processes.join_processes(arguments)
    run = pretrain(config, arguments.data, arguments.output, resume_command=f"bert-jax pretrain {shlex.join(argv)}")
    if distributed.is_main():
        print(f"pre-trained: {run.path}; next: bert-jax evaluate {run.path} --data {arguments.data}")
    return 0
