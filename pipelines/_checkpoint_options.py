# SPDX-License-Identifier: Apache-2.0
"""The options by which the user decides what the files of a checkpoint do not say, of every stage that opens one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.config.description import TASKS
from bert_jax.config.model import HIDDEN_ACTIVATIONS

if TYPE_CHECKING:
    from bert_jax.conversion.checkpoints import Asked


def add_checkpoint_options(parser: argparse.ArgumentParser, source: str) -> None:
    """Add them; `source` is what the stage calls the checkpoint."""
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
    option("--task", choices=tuple(TASKS), help="what a fine-tuned head predicts, where the config does not say")
    option("--gelu", choices=HIDDEN_ACTIVATIONS, help="the form of GELU, where the config means another than it says")
    option(
        "--skip",
        action="append",
        default=[],
        metavar="TENSOR",
        help="leave out a tensor that has no place in a BERT; a pattern with * or ? names several",
    )


def asked(arguments: argparse.Namespace) -> "Asked":
    """What was decided, as `bert_jax.conversion.checkpoints.Asked`."""
    from bert_jax.conversion.checkpoints import Asked

    return Asked(
        gelu=arguments.gelu,
        task=arguments.task,
        vocabulary=arguments.vocab,
        padding_rows=arguments.padding_rows,
        skip=tuple(arguments.skip),
    )
