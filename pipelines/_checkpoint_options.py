# SPDX-License-Identifier: Apache-2.0
"""The options by which the user decides what the files of a checkpoint do not say, of every stage that opens one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.config.description import TASKS
from bert_jax.config.model import HIDDEN_ACTIVATIONS

if TYPE_CHECKING:
    from bert_jax.conversion.checkpoints import Asked


ANY_FORMAT = "a run, a directory of Hugging Face's, or a TensorFlow 1 checkpoint"


def add_checkpoint_options(parser: argparse.ArgumentParser, source: str, *, task: bool = True) -> None:
    """Add the options to a stage's command line.

    Args:
      parser: of the stage.
      source: what the stage calls the checkpoint.
      task: whether `--task` is one of them, which says what a fine-tuned head predicts.
    """
    option = parser.add_argument_group("what the files of a checkpoint do not say").add_argument
    option(
        "--vocab",
        type=Path,
        metavar="FILE",
        help=f"the vocabulary, where {source} has none beside it or another one is meant",
    )
    option(
        "--padding-rows",
        choices=("drop", "keep"),
        help="rows of the embedding beyond the vocabulary, which are refused otherwise",
    )
    if task:
        option("--task", choices=tuple(TASKS), help="what a fine-tuned head predicts, where the config does not say")
    option("--gelu", choices=HIDDEN_ACTIVATIONS, help="the form of GELU, where the config means another than it says")
    option(
        "--skip",
        action="append",
        default=[],
        metavar="TENSOR",
        help="leave out a tensor that has no place in a BERT; a pattern with * or ? names several",
    )


def asked(arguments: argparse.Namespace, *, task: str | None = None, head: bool = True) -> "Asked":
    """Return what was decided.

    Args:
      arguments: of the command line.
      task: what a fine-tuned head predicts, where that is told.
      head: whether such a head is taken at all.
    """
    from bert_jax.conversion.checkpoints import Asked

    return Asked(
        gelu=arguments.gelu,
        task=task,
        vocabulary=arguments.vocab,
        padding_rows=arguments.padding_rows,
        skip=tuple(arguments.skip),
        head=head,
    )
