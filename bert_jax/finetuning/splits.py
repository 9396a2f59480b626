# SPDX-License-Identifier: Apache-2.0
"""A split of a task, ready for the network, and what its outputs say: one class for each family of tasks.

All have the same face: `units` are drawn, `labels` are what a batch is trained on, `outcome` turns outputs into scores.

Shapes: N examples of a batch, B its rows, S tokens, C classes or choices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bert_jax.errors import UserError
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.finetuning.batches import Draw, NOBODY, RowTable, Units, units_of_examples, units_of_rows
from bert_jax.model_description import TaskHead
from bert_jax.scoring import cmrc, conll, glue, squad
from bert_jax.tasks import answers, schemes
from bert_jax.tasks.columns import read_examples
from bert_jax.tasks.conll import read_conll, write_conll
from bert_jax.tasks.examples import ChoiceExample, Question, Sentence, TextExample
from bert_jax.tasks.question_rows import question_rows, QuestionSettings
from bert_jax.tasks.questions import read_questions, read_tfds_questions
from bert_jax.tasks.submissions import write_predictions, write_submission
from bert_jax.tasks.table import is_test, Task, TFDS
from bert_jax.tasks.tagging_rows import decode, tagging_rows
from bert_jax.tasks.task_files import find_file
from bert_jax.tasks.text_rows import text_rows, unknown_note
from bert_jax.tokenization import Tokenizer

Outputs = Sequence[np.ndarray]  # of each unit: [C], or of each row: [S, C]


@dataclass
class Outcome:
    """What a pass over a split has found.

    Attributes:
      scores: by name, in the units of the official scorer; None: not defined. Empty without labels.
      gold, predicted: [N] numbers of classes or choices, or ratings; None of spans and tags.
      records: an object for each example, for people and programs.
      write: writes the official files into a folder, and returns their names.
      found: what is kept with the model, such as a threshold.
    """

    scores: dict[str, float | None]
    gold: np.ndarray | None
    predicted: np.ndarray | None
    records: list[dict[str, Any]]
    write: Callable[[Path], list[Path]]
    found: dict[str, float] = field(default_factory=dict)


class Split(Protocol):
    """The face of a split."""

    name: str
    units: Units
    counts: dict[str, int]
    notes: list[str]

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """What a batch is trained on; see `losses.task_scores`."""

    def outcome(self, outputs: Outputs) -> Outcome:
        """Scores and predictions from the outputs of all units, in their order."""


class Source(NamedTuple):
    """What a split is made from."""

    task: Task  # with its labels
    data: str | Path
    tokenizer: Tokenizer
    config: FinetuneConfig  # resolved
    head: TaskHead


def load_split(source: Source, name: str, training: bool = False, found: dict[str, float] | None = None) -> Split:
    """Read a split and make its rows.

    Args:
      name: of the task's splits.
      training: rows get labels; a question whose answer is not found is left out.
      found: what was kept with the model.

    Raises:
      UserError: what its reader refuses.
    """
    kind = source.task.kind
    if kind == "span":
        return QuestionSplit(source, name, training, found or {})
    if kind == "tagging":
        return TaggingSplit(source, name, training)
    if kind == "choice":
        return ChoiceSplit(source, name)
    return TextSplit(source, name)


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
        learning_rate=config.learning_rate or task.learning_rate,
        batch_size=config.batch_size or task.batch_size,
        epochs=config.epochs or float(task.epochs),
        max_length=length,
        stride=min(stride, length),
        too_long=config.too_long or ("windows" if tokens else "truncate"),
    )


def note_cuts(counts: dict[str, int], name: str, max_length: int, notes: list[str]) -> None:
    """Say what of the text the network does not see, and text of another script."""
    if counts.get("cut"):
        notes.append(f"{name}: {counts['cut']:,} of {counts['rows']:,} rows are cut to max_length={max_length} tokens")
    if counts.get("words left out"):
        notes.append(f"{name}: {counts['words left out']:,} words are left out so")
    if "unknown tokens" in counts and (note := unknown_note(counts, name)):
        notes.append(note)


# ---- texts and pairs: classification, regression -------------------------------------------------------------------


class TextSplit:
    """Texts or pairs with a class or a rating."""

    def __init__(self, source: Source, name: str, examples: list[TextExample] | None = None):
        self.name, self.task = name, source.task
        self.notes: list[str] = []
        if examples is None:
            examples, self.notes = read_examples(source.task, name, source.data)  # type: ignore[assignment]
        self.examples: list[TextExample] = examples or []
        config = source.config
        assert config.max_length and config.too_long and config.stride
        rows, self.counts = text_rows(
            self.examples, source.tokenizer, config.max_length, config.too_long, config.stride
        )
        note_cuts(self.counts, name, config.max_length, self.notes)
        self.units = units_of_examples(RowTable(rows))
        self.gold = _labels(self.examples)

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`labels` [N] int32, or `targets` [N] float32."""
        assert self.gold is not None
        chosen = np.where(draw.examples == NOBODY, 0, self.gold[draw.examples])
        if self.task.kind == "regression":
            return {"targets": chosen.astype(np.float32)}
        return {"labels": chosen.astype(np.int32)}

    def outcome(self, outputs: Outputs) -> Outcome:
        """From the scores of the classes [C] of each example."""
        logits = np.stack(outputs)
        if self.task.kind == "regression":
            predicted, shares = logits[:, 0].astype(np.float64), None
        else:
            predicted, shares = logits.argmax(-1), softmax(logits)
        return _text_outcome(self.task, self.name, self.examples, self.gold, predicted, shares)


class ChoiceSplit:
    """Contexts with continuations."""

    def __init__(self, source: Source, name: str):
        self.name, self.task = name, source.task
        examples, self.notes = read_examples(source.task, name, source.data)
        self.examples: list[ChoiceExample] = examples  # type: ignore[assignment]
        config = source.config
        assert config.max_length and config.too_long and config.stride
        rows, self.counts = text_rows(
            self.examples, source.tokenizer, config.max_length, config.too_long, config.stride
        )
        note_cuts(self.counts, name, config.max_length, self.notes)
        first = self.examples[0]
        for one in self.examples:
            if len(one.pairs) != len(first.pairs):
                raise UserError(
                    f"{one.place}: {len(one.pairs)} choices, and {first.place} has {len(first.pairs)}: every example must"
                    " have as many"
                )
        self.units = units_of_examples(RowTable(rows), choices=len(first.pairs))
        self.gold = _labels(self.examples)

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`labels` [N] int32."""
        assert self.gold is not None
        return {"labels": np.where(draw.examples == NOBODY, 0, self.gold[draw.examples]).astype(np.int32)}

    def outcome(self, outputs: Outputs) -> Outcome:
        """From the scores of the choices [C] of each example."""
        logits = np.stack(outputs)
        return _text_outcome(self.task, self.name, self.examples, self.gold, logits.argmax(-1), softmax(logits))


def _labels(examples: Sequence[Any]) -> np.ndarray | None:
    known = [example.label for example in examples if example.label is not None]
    return np.array(known) if len(known) == len(examples) else None


def softmax(logits: np.ndarray) -> np.ndarray:
    """[..., C] -> probabilities, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _text_outcome(
    task: Task,
    split: str,
    examples: Sequence[Any],
    gold: np.ndarray | None,
    predicted: np.ndarray,
    shares: np.ndarray | None,
) -> Outcome:
    scores = {} if gold is None else glue.scores(task.metrics, gold, predicted)
    records = []
    for number, example in enumerate(examples):
        record = {"name": example.name, "predicted": predicted[number].item(), "label": example.label}
        record["text"] = " | ".join(example.texts if isinstance(example, TextExample) else example.pairs[0])
        if shares is not None:
            record["probabilities"] = [round(share, 6) for share in shares[number].tolist()]
        records.append(record)

    def write(folder: Path) -> list[Path]:
        path = folder / f"{split}.tsv"
        write_predictions(task, examples, predicted, shares, path)
        written = [path]
        if split in task.submissions and len(examples) == task.submissions[split].examples:
            written.append(write_submission(task, split, examples, predicted, folder / "submission"))
        return written

    return Outcome(scores, gold, predicted, records, write)


# ---- questions -----------------------------------------------------------------------------------------------------


def read_task_questions(task: Task, data: str | Path, name: str) -> list[Question]:
    """The questions of a split: a file in the shape of SQuAD's, or a data set of TFDS."""
    labelled = not is_test(name)
    if str(data).startswith(TFDS):
        return read_tfds_questions(task, name, str(data), labelled)
    return read_questions(find_file(task, name, Path(data)), labelled)


class QuestionSplit:
    """Questions about contexts, in the shape of SQuAD."""

    def __init__(self, source: Source, name: str, training: bool, found: dict[str, float]):
        self.name, self.task, config = name, source.task, source.config
        self.notes: list[str] = []
        self.questions = read_task_questions(source.task, source.data, name)
        assert config.max_length and config.too_long and config.stride
        settings = QuestionSettings(config.max_length, config.stride, config.max_query_length, config.too_long)
        self.made = question_rows(self.questions, source.tokenizer, settings, labelled=training)
        self.counts = dict(self.made.counts)
        told = {"questions", "rows"}
        self.notes += [f"{name}: {count:,} {what}" for what, count in self.counts.items() if what not in told]
        table = RowTable(self.made.rows)
        self.shares_norm = config.normalisation == "question"
        self.units = units_of_examples(table) if training and self.shares_norm else units_of_rows(table)
        self.settings = answers.AnswerSettings(
            config.n_best, config.max_answer_length, self._may_be_impossible(found), config.normalisation
        )
        self.found = found

    def _may_be_impossible(self, found: dict[str, float]) -> bool:
        """Version 2.0: the file says so, or the model has a threshold from such a file."""
        return "null_threshold" in found or any(question.impossible is not None for question in self.questions)

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`spans` [B, 2] int32."""
        fields = {"spans": self.units.table.spans(draw.rows)}
        return fields | ({"row_examples": draw.row_examples} if self.shares_norm else {})

    def outcome(self, outputs: Outputs) -> Outcome:
        """From the scores [S, 2] of each row."""
        start, end = ([row[:, column] for row in outputs] for column in (0, 1))
        answered = answers.find_answers(self.questions, self.made, start, end, self.settings)
        impossible, threshold, found = self.settings.may_be_impossible, self.found.get("null_threshold", 0.0), {}
        labelled = all(question.answers or question.impossible for question in self.questions)
        if labelled and impossible and "null_threshold" not in self.found:
            tuned = answers.tune_thresholds(self.questions, answered)
            threshold = tuned.best_f1_thresh
            found = {"null_threshold": threshold}
        texts = {one.name: one.decided(threshold) for one in answered}
        scores = self._scores(answered, texts) if labelled else {}
        records = [
            {
                "name": question.name,
                "predicted": texts[question.name],
                "label": [answer.text for answer in question.answers],
                "text": question.question,
                "probabilities": [round(candidate.probability, 6) for candidate in one.candidates[:3]],
                "candidates": [candidate.text for candidate in one.candidates[:3]],
            }
            for question, one in zip(self.questions, answered, strict=True)
        ]

        def write(folder: Path) -> list[Path]:
            folder.mkdir(parents=True, exist_ok=True)
            written = [folder / f"{self.name}_predictions.json", folder / f"{self.name}_nbest_predictions.json"]
            answers.write_predictions(written[0], answered, threshold)
            answers.write_candidates(written[1], answered)
            if impossible:
                written += [folder / f"{self.name}_null_odds.json", folder / f"{self.name}_na_probs.json"]
                answers.write_null_differences(written[2], answered)
                answers.write_null_probabilities(written[3], answered)
            return written

        return Outcome(scores, None, None, records, write, found)

    def _scores(self, answered: Sequence[answers.Answered], texts: dict[str, str]) -> dict[str, float | None]:
        gold = {question.name: [answer.text for answer in question.answers] for question in self.questions}
        if self.task.name in ("cmrc", "drcd"):
            return dict(cmrc.scores_cmrc(gold, texts))
        if not self.settings.may_be_impossible:
            return dict(squad.scores_v1(gold, texts))
        return dict(squad.scores_v2(gold, texts))


# ---- tags ----------------------------------------------------------------------------------------------------------


def read_sentences(task: Task, data: str | Path, name: str) -> tuple[list[Sentence], list[str]]:
    """The sentences of a split: CoNLL's format, JSON lines where the task names columns, or a data set of TFDS."""
    if task.columns is not None or str(data).startswith(TFDS):
        examples, notes = read_examples(task, name, data)
        return list(examples), notes  # type: ignore[arg-type]
    sentences = read_conll(find_file(task, name, Path(data)))
    if not is_test(name) and any(sentence.tags is None for sentence in sentences):
        raise UserError(f"{sentences[0].place}: has words and no tags: only a test split may come without them")
    return list(sentences), []


class TaggingSplit:
    """Sentences of words with tags; a class for each word."""

    def __init__(self, source: Source, name: str, training: bool, sentences: list[Sentence] | None = None):
        self.name, self.task, config = name, source.task, source.config
        self.labels_known = source.head.labels
        self.notes: list[str] = []
        if sentences is None:
            sentences, self.notes = read_sentences(source.task, source.data, name)
        self.has_tags = all(sentence.tags is not None for sentence in sentences)
        self.scheme = config.tag_scheme
        broken: dict[str, int] = {}
        if self.has_tags and self.scheme is not None:
            # The file's own scheme is repaired before it is written in that of the network.
            own = schemes.detect_scheme(sentences) or self.scheme
            sentences, broken = schemes.checked(sentences, own, config.broken_tags)
            if own != self.scheme:
                sentences = [in_scheme(sentence, self.scheme) for sentence in sentences]
        self.sentences = sentences
        assert config.max_length and config.too_long and config.stride
        rows, self.words, self.counts = tagging_rows(
            sentences if self.has_tags else [replace(one, tags=None) for one in sentences],
            source.tokenizer,
            source.head.labels,
            config.max_length,
            config.too_long,
            config.stride,
        )
        self.notes += [f"{name}: {count:,} {what} (broken tags)" for what, count in broken.items()]
        note_cuts(self.counts, name, config.max_length, self.notes)
        self.units = units_of_rows(RowTable(rows))
        self.constrained = config.tag_scheme if config.constrained else None

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`labels` [B, S] int32."""
        return {"labels": self.units.table.token_labels(draw.rows, draw.shape.width)}

    def outcome(self, outputs: Outputs) -> Outcome:
        """From the scores [S, C] of each row."""
        tagged = decode(outputs, self.words, self.labels_known, self.constrained)
        # conlleval reads IOB: neighbours of other schemes would be joined.
        gold = [in_iob(one.tags or (), self.scheme) for one in self.sentences]
        predicted = [in_iob(one.tags, self.scheme) for one in tagged]
        scores = self._scores(gold, predicted) if self.has_tags else {}
        records = [
            {
                "name": sentence.name,
                "text": " ".join(sentence.words),
                "predicted": list(one.tags),
                "label": list(sentence.tags) if sentence.tags is not None else None,
                "probabilities": [round(share, 6) for share in one.probabilities],
            }
            for sentence, one in zip(self.sentences, tagged, strict=True)
        ]

        def write(folder: Path) -> list[Path]:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{self.name}.conll"
            shown = [
                replace(one, tags=tuple(tags) if self.has_tags else None)
                for one, tags in zip(self.sentences, gold, strict=True)
            ]
            write_conll(path, shown, predicted)
            return [path]

        return Outcome(scores, None, None, records, write)

    def _scores(self, gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float | None]:
        if self.scheme is None:  # a class for each word, such as a part of speech
            pairs = [
                (a, b) for one, other in zip(gold, predicted, strict=True) for a, b in zip(one, other, strict=True)
            ]
            return {"accuracy": 100 * sum(a == b for a, b in pairs) / len(pairs)}
        found = conll.scores(gold, predicted)
        names = {"f1": "FB1", "precision": "precision", "recall": "recall", "accuracy": "accuracy"}
        return {ours: found[theirs] for ours, theirs in names.items()}


def in_scheme(sentence: Sentence, scheme: str) -> Sentence:
    """The sentence with its tags in a scheme."""
    return replace(sentence, tags=tuple(schemes.in_scheme(sentence.tags or (), scheme)))


def in_iob(tags: Sequence[str], scheme: str | None) -> list[str]:
    """Tags of a scheme in IOB2; tags of none as they are."""
    return list(tags) if scheme is None else schemes.in_scheme(tags, "IOB2")
