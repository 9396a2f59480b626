# SPDX-License-Identifier: Apache-2.0
"""The task of a fine-tuned checkpoint that was not made here: from its head, its config and what the user says of it."""

from dataclasses import replace
from pathlib import Path

from bert_jax.base.errors import listed, UserError
from bert_jax.config.description import TaskHead
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.config_files import LABELLED
from bert_jax.finetuning.splits import resolved
from bert_jax.tasks.examples import Sentence
from bert_jax.tasks.schemes import detect_scheme
from bert_jax.tasks.scoring.labels import label_key
from bert_jax.tasks.table import find_task, Task


def published_task(checkpoint: Checkpoint, name: str | None) -> tuple[Task, FinetuneConfig]:
    """Return the task that a checkpoint was fine-tuned on, with the labels of its head, and the settings to read it by.

    Args:
      checkpoint: of another format than ours.
      name: of a task of the table, whose files are then read, or None: text of one's own, line by line.

    Raises:
      UserError: the checkpoint has no fine-tuned head, one of another kind, or one with other labels than the task.
    """
    path, head = checkpoint.path, checkpoint.description.task
    if head is None:
        raise UserError(
            f"{path}: holds {checkpoint.description.summary()}, and no fine-tuned head: make one with bert-jax finetune"
            f" TASK --model {path}"
        )
    names = head.labels or tuple(f"LABEL_{number}" for number in range(head.outputs))
    if head.kind == "tagging" and not head.labels:
        raise UserError(f"{path}: its config names no tags (id2label of {head.outputs} outputs): complete it")
    if name is None:
        classes = names if head.kind in LABELLED and head.kind != "regression" else None
        task = Task("own", "own data", head.kind, (), {}, labels=classes)
    else:
        task = _with_order_of(find_task(name), head, path)
    config = FinetuneConfig()
    if head.kind == "tagging":
        alone = [Sentence("", ("",), (tag,), 0, str(path)) for tag in names]
        config = replace(config, tag_scheme=detect_scheme(alone))
    return task, resolved(config, task, checkpoint.description.model.max_position_embeddings)


def _with_order_of(task: Task, head: TaskHead, path: Path) -> Task:
    """Return a task of the table with its classes in the order of a head's outputs, by their names or their meanings."""
    if task.kind != head.kind:
        raise UserError(f"--task {task.name}: {task.title} is {task.kind}, and {path} has a head for {head.kind}")
    if task.kind != "classification" or task.labels is None:
        return task
    spellings = (task.meanings or (), task.labels)
    places = {label_key(word.lower()): place for words in spellings for place, word in enumerate(words)}
    order = [places.get(label_key(name.lower()), -1) for name in head.labels]
    if all(name == f"LABEL_{number}" for number, name in enumerate(head.labels)):  # no names: the table's order
        order = list(range(head.outputs))
    if sorted(order) != list(range(len(task.labels))):
        raise UserError(
            f"--task {task.name}: {task.title} has the classes {listed(task.meanings or task.labels)}, and the head of"
            f" {path} {head.outputs} ({listed(head.labels) or 'without names'}): name the task that it was fine-tuned on"
        )
    return replace(
        task,
        labels=tuple(task.labels[place] for place in order),
        meanings=task.meanings and tuple(task.meanings[place] for place in order),
        positive=task.positive or (task.labels[1] if len(task.labels) == 2 else None),
    )
