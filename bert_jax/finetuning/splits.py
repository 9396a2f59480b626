# SPDX-License-Identifier: Apache-2.0
"""Settings and a split of a task -> the split, read and made into rows for the network."""

from collections.abc import Sequence
from dataclasses import replace

from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.finetuning.multi_label_split import MultiLabelSplit
from bert_jax.finetuning.question_split import QuestionSplit
from bert_jax.finetuning.split import SplitRequest, TaskSplit
from bert_jax.finetuning.tagging_split import TaggingSplit
from bert_jax.finetuning.text_split import TextSplit
from bert_jax.tasks.examples import TextExample
from bert_jax.tasks.table import Task


def load_split(
    source: SplitRequest,
    name: str,
    training: bool = False,
    found: dict[str, float] | None = None,
    temperature: float = 1.0,
) -> TaskSplit:
    """Read a split and make its rows.

    Args:
      name: of the task's splits.
      training: rows get labels; a question whose answer is not found is left out.
      found: what was kept with the model, for questions.
      temperature: of the probabilities of classes.

    Raises:
      UserError: what its reader refuses.
    """
    kind = source.task.kind
    if kind == "span":
        return QuestionSplit(source, name, training, found)
    if kind == "tagging":
        return TaggingSplit(source, name, training)
    return text_split(source, name, temperature=temperature)


def text_split(
    source: SplitRequest, name: str, examples: Sequence[TextExample] | None = None, temperature: float = 1.0
) -> TextSplit:
    """A split of texts, pairs or choices, from its file, or of `examples` that are there already.

    Args:
      temperature: of the probabilities of classes, which logits are divided by.

    Raises:
      UserError: what the reader refuses.
    """
    return (MultiLabelSplit if source.task.kind == "multi_label" else TextSplit)(source, name, examples, temperature)


def resolved(config: FinetuneConfig, task: Task, positions: int) -> FinetuneConfig:
    """The settings with those of the task where they say none; rows no longer than the model has positions."""
    tokens = task.kind in ("span", "tagging")
    length = config.max_length or min(task.max_length, positions)
    if length > positions:
        raise UserError(
            f"max_length={length} is beyond the {positions} positions of the model: set max_length={positions}"
        )
    stride = config.stride or (task.stride if task.kind == "span" else length // 2)
    return replace(
        config,
        optimizer=replace(config.optimizer, learning_rate=config.optimizer.learning_rate or task.learning_rate),
        batch_size=config.batch_size or task.batch_size,
        epochs=config.epochs or float(task.epochs),
        max_length=length,
        stride=min(stride, length),
        too_long=config.too_long or ("windows" if tokens else "truncate"),
    )
