# SPDX-License-Identifier: Apache-2.0
"""Reading what fine-tuning made: the directory of a run, of several runs of one task, and of several tasks."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bert_jax.base.errors import UserError
from bert_jax.base.files import parse_json, reading
from bert_jax.config.finetune import current_settings
from bert_jax.runs.cost import BAD, Cost
from bert_jax.runs.names import FINETUNE_FILE, METRICS_FILE, PREDICTIONS, SCORES_FILE, SEEDS_FILE
from bert_jax.runs.reading import number, read_json, read_metrics, Record
from bert_jax.runs.shapes import FINETUNE, SCORES, SEEDS
from bert_jax.tasks.table import Task, TASKS

# The official programs of these give per cent, those of GLUE fractions.
PER_CENT_KINDS = ("span", "tagging")
# What lines of metrics.jsonl and dictionaries of scores hold beside metrics.
_OTHERS = {"kind", "split", "step", "epoch", "total", "TOTAL", "SKIP", "HasAns_total", "NoAns_total"}

MOST_CURVES = 3
AGAIN = "make it again with bert-jax finetune"


@dataclass(frozen=True)
class FinetunedRun:
    """The content of a fine-tuned run's files. A file that is not there is None, or empty."""

    directory: Path
    record: Record  # finetune.json
    outcome: Record | None  # scores.json, written last
    train: list[Record]  # lines of metrics.jsonl by step
    dev: list[Record]  # of every dev split
    predictions: list[Record]  # of the main split, an object for each example
    unreadable: list[int]  # line numbers of metrics.jsonl, from 1
    cost: Cost | None = None
    bad: Sequence[Record] = ()  # steps that did not count

    @property
    def kind(self) -> str:
        """The kind of task; one of description.TASKS."""
        return str(self.record["kind"])

    @property
    def title(self) -> str:
        """The name of the task for people."""
        return str(self.record["title"])

    @property
    def task(self) -> Task | None:
        """The task of the table; None for one's own data."""
        return TASKS.get(self.record["task"].get("name", ""))

    @property
    def settings(self) -> Record:
        """Every setting, resolved."""
        return self.record["settings"]

    @property
    def split(self) -> str:
        """The split that the main score, the predictions and the tables are of."""
        return (self.outcome or {}).get("main", {}).get("split") or "dev"

    @property
    def scores(self) -> Mapping[str, Record]:
        """Scores by split and metric, in the units of the official scorers."""
        return (self.outcome or {}).get("scores", {})

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that were measured, the main one first."""
        found = dict.fromkeys(name for name in self.scores.get(self.split, {}) if is_metric(name))
        for line in self.dev if not found else ():
            found |= dict.fromkeys(name for name in line if is_metric(name))
        wanted = [(self.outcome or {}).get("main", {}).get("metric"), *self.record["metrics"]]
        return list(dict.fromkeys([*(name for name in wanted if name in found), *found]))

    @property
    def drawn_metrics(self) -> list[str]:
        """Metrics that get a curve: the task's own where the scorer names them so."""
        return [name for name in self.metrics if name in self.record["metrics"]] or self.metrics[:MOST_CURVES]

    def scored_words(self, record: Record) -> list[bool]:
        """Whether each word of a tagged sentence is scored: one whose tag is of no class is not, where the run ignores such."""
        ignores, known = self.settings["unknown_labels"] == "ignore", set(self.record["labels"])
        return [not ignores or tag in known for tag in record["label"]]

    @property
    def per_cent(self) -> bool:
        """Whether scores are per cent (SQuAD, CoNLL) and not fractions (GLUE)."""
        return self.kind in PER_CENT_KINDS

    @property
    def degenerate(self) -> Record | None:
        """A record of what is degenerate about the run, with `kind` and `explanation`."""
        return (self.outcome or {}).get("degenerate")

    @property
    def undecided(self) -> str | None:
        """Why the scores cannot tell whether anything was learned."""
        return (self.outcome or {}).get("undecided")

    @property
    def total_steps(self) -> int:
        """Optimizer steps that the run is to take."""
        return int(number(self.record, "total_steps") or 0)

    @property
    def last_step(self) -> int:
        """Optimizer steps known to be completed."""
        return max((record["step"] for record in [*self.train, *self.dev]), default=0)

    @property
    def finished(self) -> bool:
        """Scores are written."""
        return self.outcome is not None

    @cached_property
    def labelled(self) -> list[Record]:
        """The predictions whose truth is known."""
        return [record for record in self.predictions if record.get("label") is not None]

    def class_words(self, place: int) -> str:
        """A class in words: "1 positive"."""
        if self.kind == "choice":
            return f"choice {place + 1}"
        labels: Sequence[str] = self.record["labels"]
        name = str(labels[place]) if 0 <= place < len(labels) else f"class {place}"
        known = self.task
        if known is not None and known.meanings is not None and tuple(labels) == known.labels:
            return f"{name} {known.meanings[place]}"
        return name

    def main_dev(self) -> list[Record]:
        """Lines of metrics.jsonl of the main split."""
        return [line for line in self.dev if line.get("split", self.split) == self.split]


@dataclass(frozen=True)
class SeedRun:
    """One of several runs: its entry in seeds.json, and its files where they are there."""

    entry: Record
    run: FinetunedRun | None

    @property
    def folder(self) -> str:
        """The name of its folder, relative to the folder of all."""
        return str(self.entry["folder"])

    @property
    def value(self) -> float | None:
        """Main score."""
        return number(self.entry, "value")

    @property
    def degenerate(self) -> Record | None:
        """A record of what is degenerate about the run."""
        return self.entry.get("degenerate")


@dataclass(frozen=True)
class SeveralRuns:
    """The runs in seeds.json: several seeds of one task, or the settings of a sweep."""

    directory: Path
    record: Record
    runs: list[SeedRun]

    @property
    def kind(self) -> str:
        """The kind of task; classification where no run can be read."""
        return next((one.run.kind for one in self.runs if one.run), "classification")

    @property
    def per_cent(self) -> bool:
        """Whether scores are per cent and not fractions."""
        return self.kind in PER_CENT_KINDS

    @property
    def metric(self) -> str:
        """Name of the main score."""
        return str(self.record["metric"])

    @property
    def split(self) -> str:
        """The split that the main score is of."""
        return str(self.record["split"])

    @property
    def values(self) -> list[float]:
        """Main scores of the runs that count."""
        return [one.value for one in self.sound if one.value is not None]

    @property
    def best(self) -> SeedRun | None:
        """The best of the runs that count; among equal ones the one that seeds.json names."""
        named = self.record.get("best")
        return max(self.sound, key=lambda one: (one.value, one.folder == named), default=None)

    @property
    def is_sweep(self) -> bool:
        """Whether the runs differ in settings."""
        return len({json.dumps(one.entry.get("settings"), sort_keys=True) for one in self.runs}) > 1

    @property
    def sound(self) -> list[SeedRun]:
        """The runs that count: scored, and not degenerate."""
        return [one for one in self.runs if one.value is not None and one.degenerate is None]

    @property
    def collapsed(self) -> list[SeedRun]:
        """The degenerate ones."""
        return [one for one in self.runs if one.degenerate is not None]


def load_finetuned(directory: Path) -> FinetunedRun:
    """Read the directory of a fine-tuned run.

    Raises:
      UserError: it is none, or one of its files cannot be read.
    """
    record = read_json(directory / FINETUNE_FILE, AGAIN, FINETUNE)
    if record is None:
        raise UserError(f"{directory}: is no fine-tuned run (no {FINETUNE_FILE}): {AGAIN}")
    _require(directory / FINETUNE_FILE, record, ("task", "title", "kind", "metrics", "labels", "settings"))
    with reading(directory / FINETUNE_FILE, AGAIN):
        record = {**record, "settings": current_settings(record["settings"])}
    outcome = read_json(directory / SCORES_FILE, f"remove it and {AGAIN}: the run is only scored", SCORES)
    lines, unreadable = read_metrics(directory / METRICS_FILE)
    split = ((outcome or {}).get("main") or {}).get("split") or "dev"
    return FinetunedRun(
        directory=directory,
        record=record,
        outcome=outcome,
        train=[line for line in lines if line["kind"] == "train"],
        dev=[line for line in lines if line["kind"] == "dev"],
        predictions=read_predictions(directory / PREDICTIONS / f"{split}.jsonl", str(record["kind"])),
        unreadable=unreadable,
        cost=Cost.of(lines),
        bad=[line for line in lines if line["kind"] == BAD],
    )


def read_predictions(path: Path, kind: str) -> list[Record]:
    """The objects of a file of predictions; none where there is no file.

    Args:
      kind: of the task, one of description.TASKS.

    Raises:
      UserError: a line is no JSON object with a prediction of that kind, or its label is none.
    """
    if not path.is_file():
        return []
    records: list[Record] = []
    with path.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            try:
                record = parse_json(line.decode(), characters=False)  # texts of users, as they were
            except ValueError:
                record = {}
            label, predicted = record.get("label"), record.get("predicted")
            given = [[predicted] if kind == "span" else predicted, *([] if label is None else [label])]
            if not all(_fits(kind, value) for value in given):
                raise UserError(f"{path}, line {line_number}: is no prediction: remove the file and {AGAIN}")
            records.append(record)
    return records


def _fits(kind: str, value: Any) -> bool:
    """Whether a value can be a label of a kind of task, or a prediction; of questions a label is a list of texts."""
    if kind in ("span", "tagging"):
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    if kind == "multi_label":
        return isinstance(value, list) and all(type(part) is int and part >= 0 for part in value)
    return type(value) in (int, float) and math.isfinite(value)


def load_several(directory: Path) -> SeveralRuns:
    """Read a folder of several runs of one task; a run whose folder is not there has no files.

    Raises:
      UserError: it is none, or one of its files cannot be read.
    """
    record = read_json(directory / SEEDS_FILE, AGAIN, SEEDS)
    if record is None:
        raise UserError(f"{directory}: has no runs of several seeds (no {SEEDS_FILE}): {AGAIN} --seeds 5")
    _require(directory / SEEDS_FILE, record, ("title", "metric", "split", "runs"))
    runs = []
    with reading(directory / SEEDS_FILE, AGAIN):
        for entry in record["runs"]:
            folder = directory / str(entry["folder"])
            runs.append(SeedRun(entry, load_finetuned(folder) if (folder / FINETUNE_FILE).is_file() else None))
    return SeveralRuns(directory, record, runs)


def _require(path: Path, record: Record, names: Sequence[str]) -> None:
    if missing := [name for name in names if record.get(name) is None]:
        raise UserError(f"{path}: lacks {', '.join(missing)}: {AGAIN}")


def is_fine_tuned(directory: Path) -> bool:
    """Whether it holds a fine-tuned run, or several of one task."""
    return (directory / FINETUNE_FILE).is_file() or (directory / SEEDS_FILE).is_file()


def parts_of(directory: Path) -> list[Path]:
    """The folders in it that hold fine-tuned runs, by name; a folder of several tasks has nothing else."""
    if not directory.is_dir():
        return []
    return [folder for folder in sorted(directory.iterdir()) if folder.is_dir() and is_fine_tuned(folder)]


def prediction_fields(records: Sequence[Record]) -> tuple[list[Any], list[Any]]:
    """Truth and prediction of every record."""
    return [record["label"] for record in records], [record["predicted"] for record in records]


def is_metric(name: str) -> bool:
    """Whether it is a score, and no count, threshold or place."""
    return name not in _OTHERS and not name.endswith("_thresh")
