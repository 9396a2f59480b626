# SPDX-License-Identifier: Apache-2.0
"""A fine-tuned run before its first step; all that can be refused is refused here."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.distill import DistillConfig
from bert_jax.config.finetune import FinetuneConfig, ResolvedConfig
from bert_jax.config.model import ModelConfig
from bert_jax.config.settings import to_dict
from bert_jax.conversion.checkpoints import Asked, Checkpoint, open_checkpoint
from bert_jax.conversion.own_format import flat, nested
from bert_jax.finetuning.batches import choose_widths, EpochOrder
from bert_jax.finetuning.directory import OwnTask, task_record
from bert_jax.finetuning.distillation import open_task_teacher
from bert_jax.finetuning.packed import PackedOrder, shares_rows
from bert_jax.finetuning.prediction import TaskTraining
from bert_jax.finetuning.split import SplitRequest, TaskSplit
from bert_jax.finetuning.splits import load_split, resolved
from bert_jax.finetuning.tagging_split import read_sentences
from bert_jax.mesh.distributed import say
from bert_jax.mesh.sharding import check_batch, check_heads, make_mesh, put_whole, row_shards
from bert_jax.tasks.columns import with_labels
from bert_jax.tasks.schemes import detect_scheme, labels_of, named_labels, scheme_named
from bert_jax.tasks.table import find_task, Task
from bert_jax.tasks.task_files import find_file
from bert_jax.tokenization import Tokenizer
from bert_jax.train.distillation import Teacher
from bert_jax.train.state import Training, TrainState

# Settings of a model as `repr` writes them where they are those that all models of earlier versions have.
_LATER_FIELDS = (", embedding_size=None", ", pooler_act='tanh'", ", causal=False", ", lstm_units=None")


@dataclass(frozen=True)
class Wanted:
    """A request for a fine-tuned run: task, data, model and settings."""

    task: str | OwnTask  # a name of the table, or one's own
    data: str  # folder, file or tfds:...
    model: Path
    config: FinetuneConfig
    from_scratch: bool = False  # the model's shape and vocabulary, and weights drawn anew
    asked: Asked = Asked()  # noqa: RUF009  # frozen
    teacher: Path | None = None  # a fine-tuned model of the task, which the run learns from too


class FinetuneSetup:
    """Everything that is known before a step: checkpoint, task with labels, rows, shapes. Refuses what it can."""

    def __init__(self, wanted: Wanted):
        self.wanted = wanted
        self.checkpoint = _open_encoder(wanted)
        tokenizer = self.checkpoint.tokenizer
        assert tokenizer is not None
        self.tokenizer: Tokenizer = tokenizer
        model = self.checkpoint.description.model
        task = find_task(wanted.task) if isinstance(wanted.task, str) else wanted.task.task()
        if task.trains_with is not None:
            raise UserError(
                f"{task.name} has no training data: bert-jax finetune {task.trains_with}, then bert-jax predict --task"
                f" {task.name}"
            )
        wanted.config.require_effect(task.kind)
        wanted.config.optimizer.require_layers(model)
        config = resolved(wanted.config, task, model.max_position_embeddings)
        self.task, self.config, self.head = _with_head(task, config, wanted.data)
        # Only what is trained is kept: other heads would be saved as they were, and mean nothing.
        self.description = ModelDescription(model, pooler=self.head.needs_pooler, mlm=False, nsp=False, task=self.head)
        if self.config.optimizer.freeze == "encoder" and self.head.needs_pooler and not self._has_pooler():
            raise UserError(
                f"optimizer.freeze=encoder: {wanted.model} has no pooler, and one drawn anew would stay as it is: add"
                f" layers=-1, which reads the last layer's {_read_of(model)} instead"
            )
        self.mesh = make_mesh(self.config.mesh)
        check_heads(model, self.mesh)
        assert self.config.batch_size is not None
        check_batch(self.config.batch_size, self.config.micro_batches, self.mesh, "batch_size")
        self.train_split = self.split("train", training=True)
        if not len(self.train_split.units):
            raise UserError(f"{wanted.data}: no training example is left: {'; '.join(self.train_split.notes)}")
        if self.config.packing == "packed" and not isinstance(self.schedule, PackedOrder):
            what = (
                "a BiLSTM over a text reads a row" if self.head.lstm else "the windows of a text are computed together"
            )
            raise UserError(f"packing=packed: {what}: leave it out")
        if self.config.micro_batches > 1 and self.train_split.units.is_grouped:
            raise UserError(
                f"micro_batches={self.config.micro_batches}: the windows of a text are computed together: set micro_batches=1"
                " or another too_long or normalisation"
            )
        self.teacher = self._open_teacher()

    def _open_teacher(self) -> Teacher | None:
        if self.wanted.teacher is None:
            self.config.distill.require_teacher()
            return None
        place = f"--teacher {self.wanted.teacher}"
        if not self.config.distill.terms:
            raise UserError(f"{place}: distill.soft=0, and nothing is learned of it: give it a weight, or leave it out")
        if self.task.kind == "span" and self.config.normalisation == "question":
            raise UserError(
                f"{place}: its predictions are over the tokens of a window, and normalisation=question is over all windows of a"
                " question: leave one out"
            )
        if self.task.kind == "regression" and self.config.distill.temperature != DistillConfig().temperature:
            raise UserError(
                f"distill.temperature={self.config.distill.temperature:g} is of classes, and {self.task.title} has ratings:"
                " leave it out"
            )
        teacher = open_task_teacher(self.wanted.teacher, self.task, self.head)
        head = teacher.description.task
        if head is not None and head.lstm and head.is_pooled and isinstance(self.schedule, PackedOrder):
            raise UserError(
                f"{place}: its BiLSTM over a text reads a row, and here a row holds several: add packing=buckets"
            )
        teacher.require_fit(self.training, self.tokenizer, [int(self.train_split.units.lengths.max())])
        return teacher

    def _has_pooler(self) -> bool:
        return self.checkpoint.description.pooler and not self.wanted.from_scratch

    def split(self, name: str, training: bool = False) -> TaskSplit:
        """A split of the data."""
        source = SplitRequest(
            self.task, self.wanted.data, self.tokenizer, self.config, self.head, self.description.model
        )
        return load_split(source, name, training)

    @cached_property
    def dev_splits(self) -> list[TaskSplit]:
        """The splits with labels to score on; the first is the main one."""
        names = [name for name in self.task.files if name.startswith("dev") and self._is_there(name)]
        return [self.split(name) for name in names]

    def _is_there(self, name: str) -> bool:
        if str(self.wanted.data).startswith("tfds:"):
            return True
        try:
            find_file(self.task, name, readable(self.wanted.data))
        except UserError:
            return False
        return readable(self.wanted.data).is_dir()

    @cached_property
    def schedule(self) -> EpochOrder | PackedOrder:
        """The order in which steps go through the training examples."""
        units, config, multiple = self.train_split.units, self.config, row_shards(self.mesh)
        assert config.batch_size is not None and config.max_length is not None
        if shares_rows(config.packing, self.head, units):
            hidden_size = self.description.model.hidden_size
            return PackedOrder(units, config.batch_size, config.seed, hidden_size, multiple * config.micro_batches)
        widths = choose_widths(units.lengths, config.buckets, config.max_length)
        return EpochOrder(units, config.batch_size, widths, config.seed, multiple)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.training.config.total_steps

    @cached_property
    def training(self) -> TaskTraining:
        """Graph, optimizer, shardings."""
        config = ResolvedConfig.of(self.config, self.description.model, self.schedule.steps_per_epoch)
        return Training(config, self.mesh, self.description)

    def initial_state(self) -> TrainState:
        """The checkpoint's encoder with a new head; parameters that the checkpoint lacks are drawn."""
        state = self.training.initial_state()
        if self.wanted.from_scratch:
            return state
        theirs = flat(self.checkpoint.parameters())
        ours = flat(state.params)
        taken = [name for name in ours if name.startswith("encoder/") and name in theirs]
        for name in taken:
            ours[name] = put_whole(np.asarray(theirs[name]), ours[name].sharding)
        fresh = sorted(
            {name.split("/")[0] if name[:8] != "encoder/" else "pooler" for name in ours.keys() - set(taken)}
        )
        say(f"weights of {self.wanted.model}; drawn anew: {', '.join(fresh)}")
        model = self.description.model
        of_text = (
            f", and the head reads the {_read_of(model)} of a text"
            if self.head.is_pooled and not self.head.lstm
            else ""
        )
        if model.causal:
            say(f"left to right: a token sees those before it only{of_text}")
        if model.is_recurrent:
            say(f"forward and backward apart: each half of a token's vector sees one side{of_text}")
        return state.beginning_with(nested(ours))

    def _source_digest(self) -> str:
        """Return a digest of what is taken from the model: encoder and vocabulary, whatever its format and path."""
        checkpoint, digest = self.checkpoint, hashlib.sha256(self.tokenizer.fingerprint.encode())
        model = repr(replace(checkpoint.description.model, tie_word_embeddings=True))  # which is of the MLM head
        for later in _LATER_FIELDS:
            model = model.replace(later, "")
        digest.update(model.encode())
        if not self.wanted.from_scratch:
            for row in sorted(checkpoint.rows, key=lambda row: row.ours):
                if row.ours.startswith("encoder/"):
                    digest.update(row.ours.encode())
                    digest.update(np.ascontiguousarray(checkpoint.weight(row)))
        return digest.hexdigest()[:16]

    def _fingerprint(self) -> str:
        """Return a digest of the rows that are trained on and their labels: where it is the same, a stopped run may go on."""
        table = self.train_split.units.table
        gold = getattr(self.train_split, "gold", None)
        digest = hashlib.sha256()
        for array in (
            table.lengths,
            table.ids,
            table.segments,
            table.examples,
            np.asarray(0 if gold is None else gold),
        ):
            digest.update(np.ascontiguousarray(array))
        for labels in table.labels:
            digest.update(np.asarray(labels, np.int32))
        return digest.hexdigest()[:16]

    def record(self) -> JsonObject:
        """finetune.json."""
        splits = [self.train_split, *self.dev_splits]
        return {
            "task": task_record(self.wanted.task if isinstance(self.wanted.task, OwnTask) else self.task.name),
            "title": self.task.title,
            "kind": self.task.kind,
            "metrics": list(self.task.metrics),
            "f1_of": self.task.f1_of,
            "labels": list(self.head.labels),
            "settings": to_dict(self.config),
            "source": {
                "path": str(self.wanted.model),
                "format": self.checkpoint.format,
                "summary": self.checkpoint.description.summary(),
                "causal": self.checkpoint.description.model.causal,
                "bilm": self.checkpoint.description.model.is_recurrent,
                "from_scratch": self.wanted.from_scratch,
                "digest": self._source_digest(),
            },
            "data": str(self.wanted.data),
            "content": {split.name: split.content() for split in splits},
            "examples": {
                split.name: split.counts.get("examples", split.counts.get("questions", 0)) for split in splits
            },
            "counts": {split.name: split.counts for split in splits},
            "training_rows": self._fingerprint(),
            "total_steps": self.total_steps,
            "found": {},
            **({} if self.teacher is None else {"teacher": self.teacher.record}),
        }


def _read_of(model: ModelConfig) -> str:
    """Return in words what a head reads a text from."""
    return "mean of tokens" if model.is_recurrent else "last token" if model.causal else "[CLS]"


def _open_encoder(wanted: Wanted) -> Checkpoint:
    checkpoint = open_checkpoint(wanted.model, wanted.asked)
    if checkpoint.tokenizer is None:
        raise UserError(f"{wanted.model} has no vocabulary: put its vocab.txt beside it, or give --vocab")
    return checkpoint


def _with_head(task: Task, config: FinetuneConfig, data: str) -> tuple[Task, FinetuneConfig, TaskHead]:
    """The task with its labels, the settings with the scheme of its tags, and the head that they ask for."""
    labels: tuple[str, ...] = ()
    if task.kind == "tagging":
        sentences, _ = read_sentences(task, data, "train")
        own = detect_scheme(sentences)
        scheme = scheme_named(config.tag_scheme) if config.tag_scheme else own
        if own is None and config.tag_scheme:
            raise UserError(f"tag_scheme={config.tag_scheme}: the tags of {data} are of no scheme: leave it out")
        for name, idle in (("constrained", config.constrained), ("broken_tags", config.broken_tags != "repair")):
            if idle and scheme is None:
                raise UserError(
                    f"{name} is of tags that follow a scheme, and those of {data} are of none: leave it out"
                )
        config = replace(config, tag_scheme=scheme)
        labels = tuple(labels_of(sentences, scheme) if task.labels is None else named_labels(task.labels, scheme))
    elif task.kind in ("classification", "multi_label"):
        task = with_labels(task, data)
        labels = task.labels or ()
    outputs = {"regression": 1, "choice": 1, "span": 2}.get(task.kind, len(labels))
    head = TaskHead(task.kind, outputs, labels, config.chosen_layers, config.combine, config.lstm, config.fusion)
    return task, config, head
