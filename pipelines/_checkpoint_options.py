# SPDX-License-Identifier: Apache-2.0
"""The options by which the user decides what the files of a checkpoint do not say, of every stage that opens one."""

import argparse
from typing import TYPE_CHECKING

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path
from bert_jax.config.description import TASKS
from bert_jax.config.model import HIDDEN_ACTIVATIONS

if TYPE_CHECKING:
    from bert_jax.conversion.checkpoints import Asked


ANY_FORMAT = "a run, a directory of Hugging Face's, or a TensorFlow 1 checkpoint"


def add_checkpoint_options(parser: argparse.ArgumentParser, *, kind: bool = True, former_task: bool = True) -> None:
    """Add the options to a stage's command line.

    Args:
      parser: of the stage.
      kind: whether `--kind` is one of them, which says what a fine-tuned head predicts.
      former_task: whether `--task` stood for it in earlier versions, and is taken for it.
    """
    option = parser.add_argument_group("what the files of a checkpoint do not say").add_argument
    vocabulary = "the vocabulary, where MODEL has none beside it or another one is meant"
    option("--vocab", type=any_path, metavar="VOCAB", help=vocabulary)
    rows = "rows of the embedding beyond the vocabulary, which are refused otherwise"
    option("--padding-rows", choices=("drop", "keep"), help=rows)
    if kind:
        predicts = f"what a fine-tuned head predicts, where the config does not say: {', '.join(TASKS)}"
        option("--kind", choices=tuple(TASKS), metavar="KIND", help=predicts)
    if kind and former_task:
        option("--task", dest="kind", choices=tuple(TASKS), action=_options.Former, now="--kind")
    option("--gelu", choices=HIDDEN_ACTIVATIONS, help="the form of GELU, where the config means another than it says")
    skip = "leave out a tensor that has no place in a BERT; a pattern with * or ? names several"
    option("--skip", action="append", default=[], metavar="TENSOR", help=skip)
    _bucket_options.add_bucket_options(parser)


def asked(arguments: argparse.Namespace, *, kind: str | None = None, head: bool = True) -> "Asked":
    """Return what was decided.

    Args:
      arguments: of the command line.
      kind: what a fine-tuned head predicts, where that is told.
      head: whether such a head is taken at all.
    """
    from bert_jax.conversion.checkpoints import Asked

    return Asked(
        gelu=arguments.gelu,
        task=kind,
        vocabulary=arguments.vocab,
        padding_rows=arguments.padding_rows,
        skip=tuple(arguments.skip),
        head=head,
    )


def refuse_idle(arguments: argparse.Namespace, why: str, *others: str) -> None:
    """Refuse these options, and others that go with a checkpoint, where none is opened.

    Args:
      arguments: of the command line.
      why: what is wrong with an option that is given, behind its name.
      others: names of arguments.
    """
    names = (*others, "vocab", "padding_rows", "kind", "gelu", "skip")
    if given := [name for name in names if getattr(arguments, name, None)]:
        raise UserError(f"--{given[0].replace('_', '-')} {why}")
