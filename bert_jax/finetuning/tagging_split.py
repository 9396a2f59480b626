# SPDX-License-Identifier: Apache-2.0
"""A split of sentences of words with tags: a class for each word.

Shapes: B rows of a batch, S tokens of a row, C tags.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import listed, UserError
from bert_jax.finetuning.batches import Draw, units_of_rows
from bert_jax.finetuning.split import content_of, note_cuts, Outcome, Outputs, row_table, SplitRequest
from bert_jax.tasks import schemes
from bert_jax.tasks.columns import read_examples, unknown_advice
from bert_jax.tasks.conll import read_conll, write_conll
from bert_jax.tasks.examples import Sentence
from bert_jax.tasks.scoring.tags import tag_scores
from bert_jax.tasks.table import is_test, Task, TFDS
from bert_jax.tasks.tagging_rows import decode, tagging_rows
from bert_jax.tasks.task_files import find_file, plain_suffix


def read_sentences(task: Task, data: str | Path, name: str) -> tuple[list[Sentence], list[str]]:
    """The sentences of a split: CoNLL's format, JSON lines (by the file's ending), or a data set of TFDS."""
    if str(data).startswith(TFDS):
        examples, notes = read_examples(task, name, data)
        return list(examples), notes  # type: ignore[arg-type]
    path = find_file(task, name, readable(data))
    columns = task.columns_of(name) if task.columns is not None else None
    if plain_suffix(path) == ".jsonl":
        if columns is None:
            raise UserError(
                f"{path}: name the fields of words and tags, such as --text-column words --label-column tags"
            )
        examples, notes = read_examples(task, name, data)
        return list(examples), notes  # type: ignore[arg-type]
    if columns is not None and columns.id is not None:
        raise UserError(
            f"--id-column {columns.id}: sentences of a CoNLL file have no ids, they are numbered: leave it out"
        )
    word = None if columns is None else columns.text[0]
    tag = -1 if columns is None or columns.label is None else columns.label
    notes = []
    sentences = read_conll(path, word, tag, may_lack_tags=is_test(name), notes=notes)
    if not is_test(name) and any(sentence.tags is None for sentence in sentences):
        raise UserError(f"{sentences[0].place}: has words and no tags: only a test split may come without them")
    return list(sentences), notes


class TaggingSplit:
    """Sentences, of which a long one takes several rows."""

    def __init__(self, source: SplitRequest, name: str, training: bool, sentences: list[Sentence] | None = None):
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
            "refuse" if name == "train" else config.unknown_labels,
            unknown_advice(source.task, name),
        )
        self.notes += [f"{name}: {count:,} {what} (broken tags)" for what, count in broken.items()]
        note_cuts(self.counts, name, config.max_length, self.notes)
        self.ignores_unknown = config.unknown_labels == "ignore"
        self.notes += self._notes_of_labels(training)
        self.units = units_of_rows(row_table(source, name, rows, sentences))
        self.constrained = config.tag_scheme if config.constrained else None

    def _notes_of_labels(self, training: bool) -> list[str]:
        """Return notes on tags that are classes, and on those that the network does not know."""
        notes = []
        if training and self.scheme is None:
            shown = listed(label for label in self.labels_known if label != schemes.OUTSIDE)
            phrases = "; neighbours of one class are a phrase of that type" if self._has_phrases else ""
            notes.append(f"{self.name}: the tags are of no scheme ({shown}): each word is scored as a class{phrases}")
        if count := self.counts["words with an unknown label"]:
            tags = {tag for sentence in self.sentences for tag in sentence.tags or ()} - set(self.labels_known)
            what = "are not scored" if self.ignores_unknown else "count as mistakes"
            notes.append(
                f"{self.name}: {count:,} words have tags that are no labels ({listed(sorted(tags))}) and {what}"
            )
        return notes

    @property
    def _has_phrases(self) -> bool:
        """Whether tags mark phrases: of a scheme, or classes beside O."""
        return self.scheme is not None or schemes.OUTSIDE in self.labels_known

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`labels` [B, S] int32."""
        return {"labels": self.units.table.token_labels(draw.rows, draw.shape.width)}

    def content(self) -> str:
        """Return a digest of the sentences."""
        return content_of(self.sentences)

    def outcome(self, outputs: Outputs) -> Outcome:
        """Score and predict from the logits [S, C] of each row."""
        tagged = decode(outputs, self.words, self.labels_known, self.constrained)
        # conlleval reads IOB: neighbours of other schemes would be joined.
        gold = [schemes.in_iob(one.tags or (), self.scheme) for one in self.sentences]
        predicted = [schemes.in_iob(one.tags, self.scheme) for one in tagged]
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

        def write(folder: Path, stem: str) -> list[Path]:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{stem}.conll"
            shown = [
                replace(one, tags=tuple(tags) if self.has_tags else None)
                for one, tags in zip(self.sentences, gold, strict=True)
            ]
            write_conll(path, shown, predicted)
            return [path]

        return Outcome(scores, None, None, records, write)

    def _scores(self, gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float | None]:
        """Return the scores of words by class and, where there are any, of phrases; per cent."""
        known = set(self.labels_known)
        scored = [[not self.ignores_unknown or tag in known for tag in one.tags or ()] for one in self.sentences]
        classes = None if self.scheme is not None else self.labels_known
        return tag_scores(gold, predicted, scored, classes)


def in_scheme(sentence: Sentence, scheme: str) -> Sentence:
    """The sentence with its tags in a scheme."""
    return replace(sentence, tags=tuple(schemes.in_scheme(sentence.tags or (), scheme)))
