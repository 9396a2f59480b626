# SPDX-License-Identifier: Apache-2.0
"""Reading a run directory: its files -> `Run`, and the figures that follow from them at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bert_jax.base import files
from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.objective import directions, token_words, TokenWords
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.runs.cost import BAD, CLOCK, Cost
from bert_jax.runs.directory import open_run, RunDirectory
from bert_jax.runs.names import EVALUATION_TEXT_FILE
from bert_jax.runs.shapes import (
    ENVIRONMENT,
    EVALUATION,
    EVALUATION_TEXT,
    PASSPORT,
    require_shape,
    Shape,
    SOURCE,
    TEACHER,
)

Record = Mapping[str, Any]  # one JSON object of a run's files


@dataclass(frozen=True)
class Run:
    """The content of a run directory's files. A file that is not there is None."""

    directory: Path
    config: PretrainConfig
    data: Record | None  # the passport of the data it is trained on
    environment: Record | None
    evaluation: Record | None
    train: list[Record]  # lines of metrics.jsonl by step
    evals: list[Record]
    first_batches: list[Record]  # what was measured of the data before the first step, for each phase
    vocabulary: Sequence[str]
    seconds: float  # in training steps
    cost: Cost | None = None
    bad: list[Record] = field(default_factory=list)  # steps that did not count
    unreadable: list[int] = field(default_factory=list)  # line numbers of metrics.jsonl, from 1
    evaluation_text: Record | None = None  # of a text that was named
    source: Record | None = None  # the model that it began with, where its weights were not drawn
    teacher: Record | None = None

    @property
    def last_step(self) -> int:
        """Optimizer steps known to be completed."""
        return max((record["step"] for record in [*self.train, *self.evals]), default=0)

    @property
    def finished(self) -> bool:
        """The last step of the last phase is done."""
        return self.last_step >= self.config.total_steps

    @property
    def tokens(self) -> TokenWords:
        """The words for the tokens that it predicts."""
        return token_words(self.config.objective)

    @property
    def directions(self) -> list[TokenWords]:
        """The words for all tokens that it predicts: of a biLM those of either direction."""
        return directions(self.config.objective)

    @property
    def token_loss(self) -> str:
        """The name of their loss in lines and records."""
        return f"{self.tokens.term}_loss"

    @property
    def train_split(self) -> Record:
        """The training split of the passport; empty where it is not there."""
        return (self.data or {}).get("splits", {}).get("train", {})

    def examples(self, split: Record, length: int) -> Record:
        """Return what the passport says of a split's examples for the run's objective; empty where it says nothing."""
        return split.get("tables", {}).get(f"{self.config.objective.examples}_{length}", {})

    @property
    def unigram_entropy(self) -> float | None:
        """Entropy of the training text's word frequencies, in nats a token."""
        return number(self.train_split, "unigram_entropy")

    @property
    def commonest_token(self) -> tuple[str, float] | None:
        """The commonest token of the training text and its share of the text."""
        place, share = (number(self.train_split, key) for key in ("commonest_token", "commonest_token_share"))
        if place is None or share is None:
            return None
        token = self.token(place)
        return (f"id {place}" if token is None else token), share

    @property
    def peak_flops(self) -> float | None:
        """The peak of all devices together, in FLOP a second; None where it is not known."""
        peak, devices = (number(self.environment, key) for key in ("peak_flops_per_device", "device_count"))
        return peak * devices if peak and devices else None

    def token(self, place: Any) -> str | None:
        """The vocabulary's entry at `place`; None where there is none."""
        known = isinstance(place, int) and 0 <= place < len(self.vocabulary)
        return self.vocabulary[place] if known else None


def load_run(directory: Path) -> Run:
    """Read a run directory.

    Raises:
      UserError: not a run directory, or one of its JSON files cannot be read.
    """
    files = open_run(directory)
    records, unreadable = read_metrics(files.metrics_file)
    again = "make it again with bert-jax evaluate"
    return Run(
        directory=directory,
        config=files.config(),
        data=read_json(files.data_file, "bert-jax prepare writes it; copy it from the data directory", PASSPORT),
        environment=read_json(files.environment_file, "remove it: it is written when the run goes on", ENVIRONMENT),
        evaluation=read_json(files.evaluation_file, again, EVALUATION),
        train=[record for record in records if record["kind"] == "train"],
        evals=[record for record in records if record["kind"] == "eval"],
        first_batches=[record for record in records if record["kind"] == "data"],
        vocabulary=_vocabulary(files),
        seconds=math.fsum(number(record, "seconds") or 0 for record in records),
        cost=Cost.of(records),
        bad=[record for record in records if record["kind"] == BAD],
        unreadable=unreadable,
        evaluation_text=read_json(directory / EVALUATION_TEXT_FILE, again, EVALUATION_TEXT),
        source=read_json(files.source_file, "restore the file", SOURCE),
        teacher=read_json(files.teacher_file, "restore the file", TEACHER),
    )


def _vocabulary(files: RunDirectory) -> Sequence[str]:
    """The entries of the run's vocabulary; none where it cannot be read, and tokens are then named by their ids."""
    try:
        return files.tokenizer().vocabulary
    except UserError:
        return []


def read_json(path: Path, remedy: str, shape: Shape) -> Record | None:
    """The object in a JSON file; None where there is no file.

    Raises:
      UserError: it cannot be read, or a value in it is not of its shape.
    """
    try:
        content: JsonObject = files.read_json(path, remedy)
    except FileNotFoundError:
        return None
    require_shape(path, content, shape, remedy)
    return content


def read_metrics(path: Path) -> tuple[list[Record], list[int]]:
    """The records of a metrics.jsonl as they were written, and the numbers of the lines that cannot be read.

    A kill may tear the last line.
    """
    records: list[Record] = []
    unreadable: list[int] = []
    if not path.is_file():
        return records, unreadable
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line_number, line in enumerate(lines, start=1):
            record = _parse_record(line)
            if record is not None:
                records.append(record)
            elif line.strip():
                unreadable.append(line_number)
    return records, unreadable


def _parse_record(line: str) -> Record | None:
    try:
        record = files.parse_json(line)
    except ValueError:
        return None
    known = record.get("kind") in ("train", "eval", "data", "dev", CLOCK, BAD)
    counts = ("step", "count", "moved") if record.get("kind") == BAD else ("step",)
    return record if known and all(type(record.get(name)) is int for name in counts) else None


def number(record: Record | None, key: str) -> float | None:
    """The number under `key`, None where there is none."""
    value = (record or {}).get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def series(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """(step, value) of every record that has a number under `key`."""
    pairs = [(record["step"], number(record, key)) for record in records]
    return [(step, value) for step, value in pairs if value is not None]


def mean_share(records: Sequence[Record], key: str) -> float | None:
    """Mean of a share over the records, weighted by their valid tokens."""
    pairs = [(number(record, key), number(record, "valid_tokens") or 0) for record in records]
    known = [(share, weight) for share, weight in pairs if share is not None and math.isfinite(share)]
    total = sum(weight for _, weight in known)
    return math.fsum(share * weight for share, weight in known) / total if total else None
