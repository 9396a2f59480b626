# SPDX-License-Identifier: Apache-2.0
"""A fine-tuned model, loaded: evaluated on a split with labels, or asked about examples without."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.serving import texts_of
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.config.finetune import ACTS_IN, FinetuneConfig, ResolvedConfig
from bert_jax.config.training import MeshConfig
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.finetuning.directory import Finetuned, is_finetuned, open_finetuned, write_records
from bert_jax.finetuning.multi_label_split import class_lines
from bert_jax.finetuning.prediction import Predictor, TaskTraining
from bert_jax.finetuning.published import published_task
from bert_jax.finetuning.question_split import QuestionSplit
from bert_jax.finetuning.split import Outcome, SplitRequest, TaskSplit
from bert_jax.finetuning.splits import load_split, text_split
from bert_jax.finetuning.tagging_split import TaggingSplit
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.sharding import make_mesh, put_whole
from bert_jax.model.forward import require_finite
from bert_jax.tasks.examples import Question, Sentence, TextExample
from bert_jax.tasks.questions import read_question_lines
from bert_jax.tasks.scoring.glue import confusion_matrix
from bert_jax.tasks.table import find_task, Task
from bert_jax.tokenization import Tokenizer
from bert_jax.train.state import Training

MOST_CLASSES = 12  # of a confusion matrix in a terminal


class SavedModel:
    """A fine-tuned checkpoint of any format with its task, settings and tokenizer; of a run of ours the newest.

    Attributes:
      path: of the checkpoint; of a folder of several runs that of the best one.
      run: the run of ours; None: it was made elsewhere.
      task: that it was trained on, with the labels of its head.
      settings: of the run, but `unknown_labels` where that is given.
      temperature: of the probabilities of classes; 1: those that the network was trained with.
    """

    temperature = 1.0

    def __init__(
        self,
        path: Path,
        unknown_labels: str | None = None,
        task: str | None = None,
        asked: Asked = Asked(),  # noqa: B008  # frozen
    ):
        """Open a checkpoint.

        Args:
          path: of the checkpoint, whose format is found out.
          unknown_labels: in the place of the run's setting.
          task: of a checkpoint that was made elsewhere, see `published.published_task`.
          asked: what its files do not say.

        Raises:
          UserError: there is none, or it has no fine-tuned head.
        """
        use_compilation_cache()
        self.run: Finetuned | None = None
        if is_finetuned(path):
            self.run = open_finetuned(path)
            self.checkpoint = open_checkpoint(self.run.path, asked)
            self.task: Task = self.run.task()
            self.settings: FinetuneConfig = self.run.settings()
            self.found: dict[str, float] = self.run.record.get("found") or {}
        else:
            kind = asked.task if task is None else find_task(task).kind
            self.checkpoint = open_checkpoint(path, replace(asked, task=kind))
            self.task, self.settings = published_task(self.checkpoint, task)
            self.found = {}
        self.path = self.checkpoint.path
        if unknown_labels is not None:
            if self.task.kind not in ACTS_IN["unknown_labels"]:
                raise UserError(f"--unknown-labels: {path} is a run of {self.task.kind}, which has no labels")
            self.settings = replace(self.settings, unknown_labels=unknown_labels)
        if self.checkpoint.tokenizer is None:
            raise UserError(f"{path} has no vocabulary: put its vocab.txt beside it, or name one with --vocab")
        self.description: ModelDescription = self.checkpoint.description
        self.tokenizer: Tokenizer = self.checkpoint.tokenizer
        self.mesh = make_mesh(MeshConfig(), jax.local_devices())  # several processes deal the batches out

    @cached_property
    def training(self) -> TaskTraining:
        """Graph and shardings."""
        return Training(ResolvedConfig.of(self.settings, self.description.model), self.mesh, self.description)

    @cached_property
    def params(self) -> PyTree:
        """The checkpoint's parameters, on the mesh."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.training.abstract_state.params)
        return jax.tree.map(
            lambda leaf, place: put_whole(np.asarray(leaf), place), self.checkpoint.parameters(), places
        )

    @cached_property
    def predictor(self) -> Predictor:
        """The compiled programs of the model."""
        return Predictor(self.training)

    def source(self, data: str, task: Task | None = None) -> SplitRequest:
        """Return the request by which a split is read."""
        head = self.description.task
        assert head is not None
        return SplitRequest(task or self.task, data, self.tokenizer, self.settings, head, self.description.model)

    def split(self, data: str, name: str, task: Task | None = None) -> TaskSplit:
        """A split of a folder of the task's files, or a file in their format.

        Raises:
          UserError: what its reader refuses; labels that the head does not have.
        """
        return load_split(self.source(data, task), name, found=self.found, temperature=self.temperature)

    def outcome(self, split: TaskSplit) -> Outcome:
        """Return scores, where there are labels, and predictions.

        Raises:
          UserError: as `require_finite`.
        """
        outputs = self.predictor.outputs(self.params, split.units, split.name)
        for output in outputs:
            require_finite(output, self.params)
        return split.outcome(outputs)

    def other_task(self, name: str) -> Task:
        """Another task of the table that this head can predict: the diagnostic of MNLI.

        Raises:
          UserError: its labels are not those of the head.
        """
        task = find_task(name)
        if task.kind != self.task.kind or (task.labels is not None and task.labels != self.task.labels):
            ours = ", ".join(self.task.labels or ()) or self.task.kind
            theirs = ", ".join(task.labels or ()) or task.kind
            raise UserError(
                f"--task {name}: {self.path} was fine-tuned on {self.task.title} ({ours}), and {task.title} has"
                f" {theirs}: use a run of that task"
            )
        return replace(task, labels=self.task.labels) if task.kind == "classification" else task

    def of_lines(self, lines: Sequence[str], first: int = 1, texts: int | None = None) -> tuple[Outcome, list[str]]:
        """Return predictions of lines, and notes, such as of texts that were cut.

        A line is a text, or two with a tab between; of tagging words with blanks between; of questions JSON.

        Args:
          lines: of standard input.
          first: number of the first of them, for messages.
          texts: that each line has; None: as many as the first of these.

        Raises:
          UserError: the task has no lines; a line has another number of texts, or is no question.
        """
        self.require_lines()
        split: TaskSplit
        if self.task.kind == "span":
            return self._of_questions(read_question_lines(lines, first))
        if self.task.kind == "tagging":
            sentences = [
                Sentence(str(number), tuple(line.split()), None, 0, f"line {number + first}")
                for number, line in enumerate(lines)
            ]
            split = TaggingSplit(self.source(""), "lines", False, sentences)
        else:
            split = text_split(self.source(""), "lines", _texts(lines, first, texts), self.temperature)
        return self.outcome(split), split.notes

    def of_request(self, request: JsonObject) -> tuple[JsonObject, list[str]]:
        """Return the prediction for one request of `predict --serve`, and notes, such as of a text that was cut.

        Args:
          request: `text`, and `pair` where there are two; of tagging `text`, words with blanks between; of questions `question`
            and `context`.

        Raises:
          UserError: the request lacks one, or has others.
        """
        source, place = self.source(""), "the request"
        split: TaskSplit
        if self.task.kind == "span":
            question, context = texts_of(request, ("question", "context"))
            asked = Question("0", question, context, (), None, place)
            split = QuestionSplit(source, "lines", False, self.found, [asked])
        elif self.task.kind == "tagging":
            words = texts_of(request, ("text",))[0].split()
            split = TaggingSplit(source, "lines", False, [Sentence("0", tuple(words), None, 0, place)])
        else:
            texts = texts_of(request, ("text",), ("pair",))
            split = text_split(source, "lines", [TextExample("0", tuple(texts), None, place)], self.temperature)
        return self.outcome(split).records[0], split.notes

    def calibrate(self) -> None:
        """Have probabilities be as sure as the model is right: with the temperature that was found on dev.

        Raises:
          UserError: a head without classes, or none was found.
        """
        if self.task.kind != "classification":
            raise UserError(
                f"--calibrated: {self.path} is of {self.task.kind}, and only classes have a temperature: leave it out"
            )
        if "temperature" not in self.found:
            again = (
                f"remove {self.run.scores_file} and run its bert-jax finetune command again"
                if self.run
                else "fine-tune one here"
            )
            raise UserError(
                f"--calibrated: no temperature was kept with {self.path}, which a dev split with labels gives: {again}"
            )
        self.temperature = self.found["temperature"]

    def require_lines(self) -> None:
        """Refuse a task whose examples are no lines.

        Raises:
          UserError: naming it.
        """
        if self.task.kind == "choice":
            raise UserError(
                f"{self.path}: {self.task.title} ({self.task.kind}) is not predicted from lines: give --data with a file"
                " in the task's format"
            )

    def _of_questions(self, questions: list[Question]) -> tuple[Outcome, list[str]]:
        """Answers go by ids, which of lines may be equal: by their places meanwhile."""
        if not questions:
            return Outcome({}, None, None, [], lambda folder, stem: []), []
        placed = [replace(question, name=str(place)) for place, question in enumerate(questions)]
        split = QuestionSplit(self.source(""), "lines", False, self.found, placed)
        outcome = self.outcome(split)
        for record, question in zip(outcome.records, questions, strict=True):
            record["name"] = question.name
        return outcome, split.notes


def _texts(lines: Sequence[str], first: int, wanted: int | None) -> list[TextExample]:
    parts = [tuple(line.split("\t")) for line in lines]
    for number, texts in enumerate(parts):
        if len(texts) > 2 or len(texts) != (wanted or len(parts[0])):
            raise UserError(
                f"line {number + first} has {len(texts)} texts (between tabs), and the first line {wanted or len(parts[0])}:"
                " give one a line, or two with a tab between"
            )
    return [TextExample(str(number), texts, None, f"line {number + first}") for number, texts in enumerate(parts)]


def write_outcome(outcome: Outcome, name: str, folder: Path) -> list[Path]:
    """Predictions of a split, an object an example, and the official files; returns their paths."""
    path = folder / f"{name}.jsonl"
    write_records(path, outcome.records)
    return [path, *outcome.write(folder, name)]


def confusion_lines(task: Task, outcome: Outcome) -> list[str]:
    """How often a class was predicted as another, a class a line; nothing where there are no classes or very many.

    Of classes any number of which is right: the scores of each.
    """
    if task.kind == "multi_label":
        return class_lines(task, outcome)
    words = task.meanings or task.labels
    if task.kind != "classification" or words is None or len(words) > MOST_CLASSES or outcome.gold is None:
        return []
    assert outcome.predicted is not None
    matrix = confusion_matrix(outcome.gold, outcome.predicted, len(words))
    others = [f"(other label {number})" for number in range(len(matrix) - len(words))]  # unknown_labels=error
    words = (*words, *others)
    width = max(*(len(word) for word in words), 8) + 2
    lines = ["", f"{'true, predicted':<{width + 6}}" + "".join(f"{word:>{width}}" for word in words)]
    for word, row in zip(words, matrix, strict=True):
        lines.append(f"  {word:<{width + 4}}" + "".join(f"{int(count):>{width},}" for count in row))
    return [*lines, ""]
