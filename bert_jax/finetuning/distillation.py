# SPDX-License-Identifier: Apache-2.0
"""Task distillation: a fine-tuned teacher's predictions on the examples of a task, beside their labels.

Hinton et al. 2015 (1503.02531), section 2; of ratings the squared difference.

Shapes: B rows, S tokens, N examples, C classes or choices.
"""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp

from bert_jax.base.errors import listed, UserError
from bert_jax.base.types import PyTree
from bert_jax.config.description import TaskHead
from bert_jax.config.distill import DistillConfig
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.teachers import teacher_of
from bert_jax.finetuning.directory import is_finetuned
from bert_jax.finetuning.losses import by_example, task_scores, TaskLoss
from bert_jax.finetuning.saved import SavedModel
from bert_jax.model.attention.reference import MASKED
from bert_jax.tasks.rows import IGNORE
from bert_jax.tasks.table import Task, TASKS
from bert_jax.train.distillation import soft_distance, summed, TEACHER, Teacher
from bert_jax.train.losses import Scores
from bert_jax.train.state import Training
from bert_jax.train.step import Arrays, Loss


@dataclass(frozen=True)
class TaskDistillation(Loss):
    """The loss of a task, and beside it the distance from the teacher's predictions (`soft`)."""

    own: TaskLoss
    teacher: Teacher
    config: DistillConfig
    parameters: PyTree = field(repr=False)  # the teacher's, on the mesh

    @property
    def fixed(self) -> PyTree:
        """The teacher's parameters."""
        return self.parameters

    def weights(self, batch: Arrays) -> Arrays:
        """Return the number of examples, or of tagged words, for both."""
        weights = self.own.weights(batch)
        return weights | dict.fromkeys(self.config.terms, weights["task"])

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of `task` and `soft`; see `train.step.Loss`."""
        own = {name: branch for name, branch in params.items() if name != TEACHER}
        logits, teacher = self.own.logits(training, own, batch, seeds), self.teacher.model(training, params)
        targets = teacher.task_logits(teacher.encode(batch), batch, None)
        assert targets is not None
        soft = soft_task_scores(self.own.kind, logits, targets, batch, self.config.temperature)
        return {"task": task_scores(self.own.kind, logits, batch), "soft": soft}

    def statistics(self, batch: Arrays) -> Arrays:
        """Return the counts of the own loss."""
        return self.own.statistics(batch)


def soft_task_scores(kind: str, logits: jax.Array, targets: jax.Array, batch: Arrays, temperature: float) -> Scores:
    """Sums of the distance from a teacher's predictions over the examples, or the tagged words, that count.

    Args:
      kind: of the task, see `finetuning.losses.task_scores`.
      logits, targets: of `BertModel.task_logits`, float32, of the run and of the teacher.
      batch: the encoder's fields and the labels.
      temperature: of the divergence; ratings have none.
    """
    if kind == "tagging":
        counted = (batch["labels"] != IGNORE).astype(jnp.float32)
        return summed(soft_distance(logits, targets, temperature), counted)
    if kind == "span":  # a mean of the first and the last token of the answer
        seen = batch["sequence_ids"][:, None, :] > 0
        both = [jnp.where(seen, one.swapaxes(1, 2), MASKED) for one in (logits, targets)]  # [B, 2, S]
        return summed(soft_distance(both[0], both[1], temperature).mean(-1), batch["example_weights"])
    weights, own = by_example(logits, batch)
    _, theirs = by_example(targets, batch)
    if kind == "regression":
        return summed(jnp.square(own[:, 0] - theirs[:, 0]), weights)
    if kind == "multi_label":  # of each class yes or no, a mean over the classes
        both = [jnp.stack([jnp.zeros_like(one), one], axis=-1) for one in (own, theirs)]  # [N, C, 2]
        return summed(soft_distance(both[0], both[1], temperature).mean(-1), weights)
    return summed(soft_distance(own, theirs, temperature), weights)


# ---- the teacher ---------------------------------------------------------------------------------------------------


def open_task_teacher(path: Path, task: Task, head: TaskHead) -> Teacher:
    """Open a fine-tuned model as the teacher of a task.

    Args:
      path: of a fine-tuned run, of several the best one, or of a checkpoint that was made elsewhere.
      task: of the run that is to learn, with its labels.
      head: the run's.

    Raises:
      UserError: it has no fine-tuned head, or one of another task or other labels.
    """
    ours = is_finetuned(path)
    if not ours:
        _require_head(path, task)
    try:
        asked = Asked(task=None if ours else task.kind, padding_rows="keep")
        saved = SavedModel(path, task=task.name if task.name in TASKS and not ours else None, asked=asked)
    except UserError as error:
        raise UserError(f"--teacher {path}: {error}") from error
    if (saved.task.kind, saved.task.name) != (task.kind, task.name):
        raise UserError(
            f"--teacher {path}: was fine-tuned on {saved.task.title} ({saved.task.kind}), and this is {task.title}"
            f" ({task.kind}): name a model of the same task"
        )
    assert saved.description.task is not None
    named = task.kind in ("classification", "multi_label")
    wanted, has = (task.labels, saved.task.labels) if named else (head.labels, saved.description.task.labels)
    if tuple(wanted or ()) != tuple(has or ()):
        raise UserError(
            f"--teacher {path}: has the labels {listed(has or ())}, and this run {listed(wanted or ())}: name a model of the"
            " same labels in the same order"
        )
    return teacher_of(saved.checkpoint, path)


def _require_head(path: Path, task: Task) -> None:
    """Refuse a checkpoint that was made elsewhere, or pre-trained here, without a head for the kind of task."""
    told = open_checkpoint(path, Asked(padding_rows="keep", head=False)).description
    if told.task is None:
        raise UserError(
            f"--teacher {path}: holds {told.summary()}, and no fine-tuned head: make one with bert-jax finetune TASK --model"
            f" {path}"
        )
    if told.task.kind not in (task.kind, "tagging"):  # which stands for a head that its config says nothing of
        raise UserError(
            f"--teacher {path}: was fine-tuned for {told.task.kind}, and this is {task.title} ({task.kind}): name a model of"
            " the same task"
        )
