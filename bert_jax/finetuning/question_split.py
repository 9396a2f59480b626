# SPDX-License-Identifier: Apache-2.0
"""A split of questions about contexts, in the shape of SQuAD.

Shapes: B rows of a batch, S tokens of a row.
"""

from pathlib import Path

import numpy as np

from bert_jax.base.bucket_cache import readable
from bert_jax.finetuning.batches import Draw, units_of_examples, units_of_rows
from bert_jax.finetuning.split import content_of, Outcome, Outputs, row_table, SplitRequest
from bert_jax.tasks import answers
from bert_jax.tasks.examples import Question
from bert_jax.tasks.question_rows import question_rows, QuestionSettings
from bert_jax.tasks.questions import read_questions, read_tfds_questions
from bert_jax.tasks.scoring import cmrc, squad
from bert_jax.tasks.table import CMRC, is_test, Task, TFDS
from bert_jax.tasks.task_files import find_file


def read_task_questions(task: Task, data: str | Path, name: str, training: bool = False) -> list[Question]:
    """The questions of a split: a file in the shape of SQuAD's, or a data set of TFDS; only in training ids may be equal."""
    labelled, unique = not is_test(name), not training
    if str(data).startswith(TFDS):
        return read_tfds_questions(task, name, str(data), labelled, unique)
    return read_questions(find_file(task, name, readable(data)), labelled, unique)


class QuestionSplit:
    """Questions, each with the rows that its context takes."""

    def __init__(
        self,
        source: SplitRequest,
        name: str,
        training: bool,
        found: dict[str, float] | None,
        questions: list[Question] | None = None,
    ):
        """Read the questions of a split, or take those given.

        Args:
          found: what was kept with the model; None: it is found here, on a dev split of the run that trains it.
        """
        self.name, self.task, config = name, source.task, source.config
        self.notes: list[str] = []
        if questions is None:
            questions = read_task_questions(source.task, source.data, name, training)
        self.questions = questions
        assert config.max_length and config.too_long and config.stride
        settings = QuestionSettings(config.max_length, config.stride, config.max_query_length, config.too_long)
        self.made = question_rows(self.questions, source.tokenizer, settings, labelled=training)
        self.counts = dict(self.made.counts)
        told = {"questions", "rows"}
        self.notes += [f"{name}: {count:,} {what}" for what, count in self.counts.items() if what not in told]
        table = row_table(source, name, self.made.rows, self.questions)
        self.shares_norm = config.normalisation == "question"
        self.units = units_of_examples(table) if training and self.shares_norm else units_of_rows(table)
        self.settings = answers.AnswerSettings(
            config.n_best, config.max_answer_length, self._may_be_impossible(found), config.normalisation
        )
        self.found = found

    def _may_be_impossible(self, found: dict[str, float] | None) -> bool:
        """Version 2.0: the file says so, or the model has a threshold from such a file."""
        return "null_threshold" in (found or {}) or any(question.impossible is not None for question in self.questions)

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`spans` [B, 2] int32."""
        fields = {"spans": self.units.table.spans(draw.rows)}
        return fields | ({"row_examples": draw.row_examples} if self.shares_norm else {})

    def content(self) -> str:
        """Return a digest of the questions."""
        return content_of(self.questions)

    def outcome(self, outputs: Outputs) -> Outcome:
        """Score and predict from the logits [S, 2] of each row."""
        start, end = ([row[:, column] for row in outputs] for column in (0, 1))
        answered = answers.find_answers(self.questions, self.made, start, end, self.settings)
        impossible, found = self.settings.may_be_impossible, {}
        threshold = (self.found or {}).get("null_threshold", 0.0)  # run_squad.py's default
        labelled = all(question.answers or question.impossible for question in self.questions)
        if labelled and impossible and self.found is None:
            threshold = answers.tuned_threshold(self.questions, answered)
            found = {"null_threshold": threshold}
        texts = {one.name: one.decided(threshold) for one in answered}
        scores = self._scores(texts) if labelled else {}
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

        def write(folder: Path, stem: str) -> list[Path]:
            folder.mkdir(parents=True, exist_ok=True)
            written = [folder / f"{stem}_predictions.json", folder / f"{stem}_nbest_predictions.json"]
            answers.write_predictions(written[0], answered, threshold)
            answers.write_candidates(written[1], answered)
            if impossible:
                written += [folder / f"{stem}_null_odds.json", folder / f"{stem}_na_probs.json"]
                answers.write_null_differences(written[2], answered)
                answers.write_null_probabilities(written[3], answered)
            return written

        return Outcome(scores, None, None, records, write, found)

    def _scores(self, texts: dict[str, str]) -> dict[str, float | None]:
        gold = {question.name: [answer.text for answer in question.answers] for question in self.questions}
        if self.task.question_scorer == CMRC:
            return dict(cmrc.scores_cmrc(gold, texts))
        if not self.settings.may_be_impossible:
            return dict(squad.scores_v1(gold, texts))
        return dict(squad.scores_v2(gold, texts))
