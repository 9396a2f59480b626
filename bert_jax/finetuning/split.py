# SPDX-License-Identifier: Apache-2.0
"""The face of a split of a task, whatever its family: `units` are drawn, `labels` are what a batch is trained on,
`outcome` turns outputs into scores.

Shapes: N examples of a batch, S tokens, C classes or choices.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.config.description import TaskHead
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.model import ModelConfig
from bert_jax.finetuning.batches import Draw, RowTable, Units
from bert_jax.tasks.rows import Row
from bert_jax.tasks.table import Task
from bert_jax.tasks.text_rows import unknown_note
from bert_jax.tokenization import Tokenizer

Outputs = Sequence[np.ndarray]  # of each unit: [C], or of each row: [S, C]


@dataclass
class Outcome:
    """The outcome of a pass over a split.

    Attributes:
      scores: by name, in the units of the official scorer; None: not defined. Empty without labels.
      gold, predicted: [N] numbers of classes or choices, or ratings; None of spans and tags.
      records: an object for each example, for people and programs.
      write: writes the official files into a folder, under names that begin with a stem, and returns them.
      found: what is kept with the model, such as a threshold.
    """

    scores: dict[str, float | None]
    gold: np.ndarray | None
    predicted: np.ndarray | None
    records: list[JsonObject]
    write: Callable[[Path, str], list[Path]]
    found: dict[str, float] = field(default_factory=dict)


class TaskSplit(Protocol):
    """The face of a split."""

    name: str
    units: Units
    counts: dict[str, int]
    notes: list[str]

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """Return the labels of a batch; see `losses.task_scores`."""

    def outcome(self, outputs: Outputs) -> Outcome:
        """Scores and predictions from the outputs of all units, in their order."""

    def content(self) -> str:
        """Return a digest of the examples, whatever file they stand in; see `content_of`."""


class SplitRequest(NamedTuple):
    """Everything that a split is made from: task, data, tokenizer, settings, head, model."""

    task: Task  # with its labels
    data: str | Path
    tokenizer: Tokenizer
    config: FinetuneConfig  # resolved
    head: TaskHead
    model: ModelConfig


def row_table(source: SplitRequest, name: str, rows: Sequence[Row], examples: Sequence[Any]) -> RowTable:
    """Return the rows of a split as a table, its segments as the model has them.

    Args:
      name: of the split.
      rows, examples: a row's `example` is a place among these.

    Raises:
      UserError: the rows have more segments than the model.
    """
    table = RowTable(rows)
    if source.config.single_segment:
        table.segments[:] = 0
    if len(table.segments) and (highest := int(table.segments.max())):
        row = int(np.searchsorted(table.begins, int(table.segments.argmax()), side="right")) - 1
        remedy = "fine-tune with single_segment=true, which parts both texts by [SEP] alone, or another model"
        source.model.require_segments(highest + 1, f"{examples[table.examples[row]].place} ({name})", remedy)
    return table


def content_of(examples: Iterable[Any]) -> str:
    """Return a digest of what examples say (texts, labels, names), the same for every file and line they stand in."""
    digest = hashlib.sha256()
    for example in examples:
        said = [getattr(example, one.name) for one in fields(example) if one.name != "place"]
        digest.update(repr(said).encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def note_cuts(counts: dict[str, int], name: str, max_length: int, notes: list[str]) -> None:
    """Say what of the text the network does not see, and text of another script."""
    if counts.get("cut"):
        notes.append(f"{name}: {counts['cut']:,} of {counts['rows']:,} rows are cut to max_length={max_length} tokens")
    if counts.get("words left out"):
        notes.append(f"{name}: {counts['words left out']:,} words are left out so")
    if "unknown tokens" in counts and (note := unknown_note(counts, name)):
        notes.append(note)
