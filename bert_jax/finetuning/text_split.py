# SPDX-License-Identifier: Apache-2.0
"""A split of texts, pairs or contexts with choices: a class, a rating or the right choice for each example.

Shapes: N examples of a batch, C classes or choices.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.base.errors import listed, UserError
from bert_jax.finetuning.batches import Draw, NOBODY, units_of_examples
from bert_jax.finetuning.split import content_of, note_cuts, Outcome, Outputs, row_table, SplitRequest
from bert_jax.tasks.columns import read_examples
from bert_jax.tasks.examples import ChoiceExample, TextExample
from bert_jax.tasks.scoring import glue
from bert_jax.tasks.scoring.calibration import best_temperature, tempered
from bert_jax.tasks.submissions import write_predictions, write_submission
from bert_jax.tasks.table import is_test, Task
from bert_jax.tasks.text_rows import text_rows


class TextSplit:
    """Texts or pairs with a class or a rating, or contexts with continuations."""

    def __init__(
        self,
        source: SplitRequest,
        name: str,
        examples: Sequence[TextExample] | Sequence[ChoiceExample] | None = None,
        temperature: float = 1.0,
    ):
        self.name, self.task, self.temperature = name, source.task, temperature
        self.notes: list[str] = []
        if examples is None:
            unknown = "refuse" if name == "train" else source.config.unknown_labels
            examples, self.notes = read_examples(source.task, name, source.data, unknown)  # type: ignore[assignment]
        self.examples: Sequence[TextExample] | Sequence[ChoiceExample] = examples or []
        config = source.config
        assert config.max_length and config.too_long and config.stride
        rows, self.counts = text_rows(
            self.examples, source.tokenizer, config.max_length, config.too_long, config.stride
        )
        note_cuts(self.counts, name, config.max_length, self.notes)
        self.units = units_of_examples(row_table(source, name, rows, self.examples), _choices(self.examples))
        self.gold = self.true_labels()

    def true_labels(self) -> np.ndarray | None:
        """Numbers of the classes or choices, or ratings, [N]; None where the file does not tell."""
        gold, task = _labels(self.examples), self.task
        if task.kind == "classification" and "macro_f1" in task.metrics and gold is not None:
            absent = [word for number, word in enumerate(task.labels or ()) if number not in gold]
            if absent:
                self.notes.append(
                    f"{self.name} has no example of {listed(absent)}: nothing can be right there, and macro F1 counts 0"
                )
        return gold

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`labels` [N] int32, or `targets` [N] float32; of packed rows [B, E]."""
        assert self.gold is not None
        chosen = np.where(draw.examples == NOBODY, 0, self.gold[draw.examples])
        if self.task.kind == "regression":
            return {"targets": chosen.astype(np.float32)}
        return {"labels": chosen.astype(np.int32)}

    def content(self) -> str:
        """Return a digest of the examples."""
        return content_of(self.examples)

    def outcome(self, outputs: Outputs) -> Outcome:
        """Score and predict from the logits [C] of the classes or choices of each example."""
        logits = np.stack(outputs)
        if self.task.kind == "regression":
            return _outcome(self.task, self.name, self.examples, self.gold, logits[:, 0].astype(np.float64), None)
        shares = tempered(logits, self.temperature)
        outcome = _outcome(self.task, self.name, self.examples, self.gold, logits.argmax(-1), shares)
        if (
            self.task.kind == "classification"
            and self.gold is not None
            and self.name != "train"
            and not is_test(self.name)
        ):
            outcome.found["temperature"] = best_temperature(logits, self.gold)
        return outcome


def _choices(examples: Sequence[Any]) -> int:
    """Rows of each example that are scored against each other; 1 where there are no choices."""
    if not examples or not isinstance(examples[0], ChoiceExample):
        return 1
    first = examples[0]
    for one in examples:
        if len(one.pairs) != len(first.pairs):
            raise UserError(
                f"{one.place}: {len(one.pairs)} choices, and {first.place} has {len(first.pairs)}: every example must"
                " have as many"
            )
    return len(first.pairs)


def _labels(examples: Sequence[Any]) -> np.ndarray | None:
    known = [example.label for example in examples if example.label is not None]
    return np.array(known) if len(known) == len(examples) else None


def _outcome(
    task: Task,
    split: str,
    examples: Sequence[Any],
    gold: np.ndarray | None,
    predicted: np.ndarray,
    shares: np.ndarray | None,
) -> Outcome:
    scores: dict[str, float | None] = {}
    if gold is not None:
        scores = glue.scores(task.metrics, gold, predicted, len(task.labels or ()), task.positive_class)
    records = []
    for number, example in enumerate(examples):
        record = {"name": example.name, "predicted": predicted[number].item(), "label": example.label}
        record["text"] = " | ".join(example.texts if isinstance(example, TextExample) else example.pairs[0])
        if shares is not None:
            record["probabilities"] = [round(share, 6) for share in shares[number].tolist()]
        records.append(record)

    def write(folder: Path, stem: str) -> list[Path]:
        path = folder / f"{stem}.tsv"
        write_predictions(task, examples, predicted, shares, path)
        written = [path]
        if split in task.submissions and len(examples) == task.submissions[split].examples:
            written.append(write_submission(task, split, examples, predicted, folder / "submission"))
        return written

    return Outcome(scores, gold, predicted, records, write)
