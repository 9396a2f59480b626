# SPDX-License-Identifier: Apache-2.0
"""bert-jax pretrain: configuration + prepared data -> run directory."""

import shlex
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options, _processes

from bert_jax.base.paths import any_path, any_text
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import load_config, override, settings_help

if TYPE_CHECKING:
    from bert_jax.train.distillation import Teacher


def make_parser() -> _options.StageParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax pretrain",
        description="Pre-train BERT, from drawn weights or from a model. The same command goes on where a run was stopped, to"
        " the same bit.",
        epilog=f"settings, with their defaults:\n{settings_help()}\n  model=SIZE takes the layers and width of a named"
        " size: tiny, mini, small, medium, base, large, 6x768x12, ...\n  objective=NAME is short for objective.name=NAME",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        type=any_text,
        metavar="CONFIG",
        help="a name in configs/ (demo, tiny, base, large, ...) or a .py file",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="changed settings, such as optimizer.name=lamb"
    )
    parser.add_argument("--data", type=any_path, required=True, metavar="DATA", help="made by bert-jax prepare")
    parser.add_argument("--output", type=any_path, required=True, metavar="PATH", help="the run directory")
    _add_start_options(parser)
    _add_teacher_option(parser)
    _processes.add_process_options(parser)
    parser.config = PretrainConfig()
    return parser


def _add_start_options(parser: _options.StageParser) -> None:
    option = parser.add_argument_group("a model to begin with").add_argument
    option(
        "--from",
        dest="model",
        type=any_path,
        metavar="MODEL",
        help=f"pre-train a model further: {_checkpoint_options.ANY_FORMAT}. It gives shape and vocabulary; heads that it"
        " lacks are drawn. Objective, schedule and steps are CONFIG's",
    )
    option(
        "--keep",
        choices=("moments", "step"),
        help="of MODEL's own training: the optimizer's moments; these and its step, to go on in the same schedule",
    )
    option(
        "--map-vocab",
        action="store_true",
        help="DATA is of another vocabulary: rows go to pieces of the same text, new pieces begin as means",
    )
    _checkpoint_options.add_checkpoint_options(parser, kind=False)


def _add_teacher_option(parser: _options.StageParser) -> None:
    parser.add_argument_group("a model to learn from").add_argument(
        "--teacher",
        type=any_path,
        metavar="MODEL",
        help=f"distil a model with the data's vocabulary: {_checkpoint_options.ANY_FORMAT}. What is learned of it say the"
        " settings distill.*; the run needs it until its end",
    )


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_with_settings(argv)
    recipe = load_config(arguments.config)
    if arguments.model is None:
        why = "is of a model to begin with: name it with --from, or leave it out"
        _checkpoint_options.refuse_idle(arguments, why, "keep", "map_vocab")
        recipe = override(recipe, arguments.settings)

    from bert_jax.mesh import distributed

    _processes.join_processes(arguments)
    place, command = (arguments.data, arguments.output), f"bert-jax pretrain {shlex.join(argv)}"
    teacher = _teacher(arguments.teacher)
    if arguments.model is None:
        from bert_jax.train.pretraining import pretrain

        run = pretrain(recipe, *place, resume_command=command, teacher=teacher)
    else:
        from bert_jax.conversion.further import pretrain_further, Start

        asked = _checkpoint_options.asked(arguments, head=False)
        start = Start(arguments.model, arguments.keep, arguments.map_vocab, asked)
        run = pretrain_further(recipe, arguments.settings, start, *place, resume_command=command, teacher=teacher)
    if distributed.is_main():
        print(f"pre-trained: {run.path}; next: bert-jax evaluate {run.path} --data {arguments.data}")
    return 0


def _teacher(path: Path | None) -> "Teacher | None":
    """Open the teacher in every process."""
    if path is None:
        return None
    from bert_jax.conversion.teachers import open_teacher
    from bert_jax.mesh.distributed import all_or_none

    with all_or_none():
        return open_teacher(path)
