# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds: the shape of the encoder, and which heads stand on it. Kept as model.json beside it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.errors import UserError

MODEL_FILE = "model.json"

# What a head predicts, and from what: the [CLS] of an example through the pooler, or every token.
TASKS = {
    "classification": "pooled",
    "regression": "pooled",
    "choice": "pooled",  # a score for each choice; the choices of a question are examples of their own
    "span": "tokens",  # scores of a token as the first and as the last of an answer
    "tagging": "tokens",
}


@dataclass(frozen=True)
class TaskHead:
    """A fine-tuned head: a dense layer on the encoder."""

    kind: str  # one of TASKS
    outputs: int  # regression, choice: 1; span: 2
    labels: tuple[str, ...] = ()  # names of the outputs, where they have names

    def __post_init__(self) -> None:
        if self.kind not in TASKS:
            raise UserError(f"task.kind={self.kind} is not known: choose one of {', '.join(TASKS)}")
        fixed = {"regression": 1, "choice": 1, "span": 2}.get(self.kind)
        if self.outputs < 1 or (fixed is not None and self.outputs != fixed):
            raise UserError(
                f"task.outputs={self.outputs} is not possible for {self.kind}: it has {fixed or '1 or more'}"
            )
        if self.labels and len(self.labels) != self.outputs:
            raise UserError(f"task.labels names {len(self.labels)} outputs, and task.outputs={self.outputs}")


@dataclass(frozen=True)
class ModelDescription:
    """The encoder and its heads."""

    model: ModelConfig
    pooler: bool = True
    mlm: bool = True
    nsp: bool = True
    task: TaskHead | None = None

    def __post_init__(self) -> None:
        needs = [name for name, has in (("nsp", self.nsp), (self._pooled_task(), self.task)) if has and name]
        if needs and not self.pooler:
            raise UserError(f"the head {needs[0]} stands on the pooler, and there is none")

    def _pooled_task(self) -> str | None:
        return self.task.kind if self.task is not None and TASKS[self.task.kind] == "pooled" else None

    @property
    def is_pretraining(self) -> bool:
        """Whether it is all that pre-training trains, and nothing else."""
        return self.pooler and self.mlm and self.nsp and self.task is None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `description_from` inverts it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def summary(self) -> str:
        """In words: "12 layers of 768, 30,522 entries, with pooler, MLM and NSP heads"."""
        model = self.model
        parts = [name for name, has in (("pooler", self.pooler), ("MLM", self.mlm), ("NSP", self.nsp)) if has]
        parts += [self.task.kind] if self.task else []
        heads = f"with {', '.join(parts)}" if parts else "encoder alone"
        return f"{model.num_hidden_layers} layers of {model.hidden_size}, {model.vocab_size:,} entries, {heads}"


def description_from(values: dict[str, Any], path: Path) -> ModelDescription:
    """The description that JSON holds.

    Raises:
      UserError: it is none; `path` is named.
    """
    try:
        task = values.pop("task", None)
        if task is not None:
            task = TaskHead(**{**task, "labels": tuple(task.get("labels", ()))})
        return ModelDescription(ModelConfig(**values.pop("model")), task=task, **values)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} describes no model ({error}): convert the checkpoint again") from None
