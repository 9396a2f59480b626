# SPDX-License-Identifier: Apache-2.0
"""Two fine-tuned runs of one task, or two folders of seeds, on the same examples: which one is better?

What is compared is what the runs have written, predictions/<split>.jsonl, scored by the official scorers of tasks/scoring.

Shapes: N examples, R runs of both sides, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.files import reading
from bert_jax.base.types import JsonObject
from bert_jax.runs.finetuned import (
    AGAIN,
    FinetunedRun,
    load_finetuned,
    load_several,
    prediction_fields,
    read_predictions,
)
from bert_jax.runs.names import PREDICTIONS, SEEDS_FILE
from bert_jax.runs.reading import Record
from bert_jax.tasks.schemes import in_iob
from bert_jax.tasks.scoring import cmrc, glue, multi_label, squad, tags
from bert_jax.tasks.scoring.chance import difference_of, RESAMPLES, ScoreDifference, ScorePredictions

_SAME = 1e-6  # of a score here and in scores.json, relative: they are of the same predictions

Scorers = dict[str, ScorePredictions]  # by the name of the metric


@dataclass(frozen=True)
class Side:
    """A or B: the runs that count of a folder, with the predictions that they have written for a split."""

    path: Path
    runs: list[FinetunedRun]
    predictions: list[list[Record]]


@dataclass(frozen=True)
class RunComparison:
    """The difference of two sides in every metric of a split, the main one first."""

    sides: tuple[Side, Side]
    split: str
    examples: int
    differences: dict[str, ScoreDifference]

    def to_dict(self) -> JsonObject:
        """Return what `bert-jax compare --json` prints."""
        return {
            "a": str(self.sides[0].path),
            "b": str(self.sides[1].path),
            "split": self.split,
            "examples": self.examples,
            "metrics": {name: asdict(one) | {"decided": one.decided} for name, one in self.differences.items()},
        }


def compare_runs(first: Path, second: Path, split: str | None = None, resamples: int = RESAMPLES) -> RunComparison:
    """Compare two fine-tuned runs, or two folders of seeds, whose collapsed runs do not count.

    Args:
      first, second: A and B.
      split: with predictions of both; None: that of the main score.
      resamples: of the examples.

    Raises:
      UserError: no such runs, a sweep, another task, other examples, or predictions that are not those of scores.json.
    """
    of_first = _runs_of(first)
    split = split or of_first[0].split
    sides = Side(first, of_first, [_predictions(run, split) for run in of_first]), _side(second, split)
    every = [run for side in sides for run in side.runs]
    predictions = [records for side in sides for records in side.predictions]
    with reading(first / PREDICTIONS, AGAIN):
        for run, records in zip(every[1:], predictions[1:], strict=True):
            _require_same(every[0], run, split, predictions[0], records)
        scorers = _scorers(every, predictions)
    examples = len(predictions[0])
    if examples < 2:
        raise UserError(
            f"{first / PREDICTIONS}: {split} has one example, which tells nothing of others: name another --split"
        )
    scorers = {name: scorers[name] for name in every[0].metrics if name in scorers} if scorers else {}
    _require_scores(every, split, scorers, examples)
    counts = len(sides[0].runs), len(sides[1].runs)
    tests = 2 if counts[0] == counts[1] else 1
    differences = {}
    with tqdm(
        total=len(scorers) * tests * resamples, unit="resample", desc="compare", disable=None, leave=False
    ) as bar:
        for name, score in scorers.items():
            differences[name] = difference_of(score, examples, counts, bar.update, resamples)
    return RunComparison(sides, split, examples, differences)


# ---- reading -------------------------------------------------------------------------------------------------------


def _side(path: Path, split: str) -> Side:
    runs = _runs_of(path)
    return Side(path, runs, [_predictions(run, split) for run in runs])


def _runs_of(path: Path) -> list[FinetunedRun]:
    if not (path / SEEDS_FILE).is_file():
        run = load_finetuned(path)
        if not run.finished:
            raise UserError(f"{path} has no scores yet: finish it with the same bert-jax finetune command")
        return [run]
    several = load_several(path)
    if several.is_sweep:
        best = several.best
        such = f", such as {path / best.folder}" if best else ""
        raise UserError(f"{path} is a sweep, whose runs differ in settings: name one of its folders{such}")
    runs = [one.run for one in several.sound if one.run is not None]
    if not runs:
        raise UserError(f"{path}: none of its runs has learned anything: look at bert-jax report {path}")
    return runs


def _predictions(run: FinetunedRun, split: str) -> list[Record]:
    file = run.directory / PREDICTIONS / f"{split}.jsonl"
    records = read_predictions(file, run.kind)
    if not records:
        raise UserError(f"{file} is missing or empty: the run has no predictions of {split}; name another --split")
    if any(record.get("label") is None for record in records):
        raise UserError(f"{file} has no labels to score with: name a --split that has them")
    return records


def _require_same(
    first: FinetunedRun, other: FinetunedRun, split: str, records: Sequence[Record], others: Sequence[Record]
) -> None:
    """Refuse runs of different tasks, or with other examples."""
    task, theirs = ((run.title, run.kind, sorted(map(str, run.record["labels"]))) for run in (first, other))
    if task != theirs:
        labels = ", with other labels" if task[:2] == theirs[:2] else ""
        raise UserError(
            f"{first.directory} is of {first.title} ({first.kind}) and {other.directory} of {other.title}"
            f" ({other.kind}){labels}: only runs of one task can be compared"
        )
    pairs = zip(records, others)  # noqa: B905  # unequal numbers are told below
    unlike = ((line, _unlike((first, other), pair)) for line, pair in enumerate(pairs, start=1))
    what = next((f"another {found} at line {line}" for line, found in unlike if found), "")
    if not what and len(records) != len(others):
        what = f"{len(records):,} and {len(others):,} examples"
    if not what:
        return
    raise UserError(
        f"{other.directory / PREDICTIONS / f'{split}.jsonl'}: has not the examples of {first.directory} ({what}): predict the"
        " same file with both"
    )


def _unlike(runs: Sequence[FinetunedRun], records: Sequence[Record]) -> str:
    """Return in what two predictions are not of the same example; empty where they are."""
    if any(records[0].get(name) != records[1].get(name) for name in ("name", "text")):
        return "example"
    first, other = (_truth(run, record) for run, record in zip(runs, records, strict=True))
    if first != other:
        return "label"
    if runs[0].kind != "tagging":
        return ""
    first, other = (run.scored_words(record) for run, record in zip(runs, records, strict=True))
    return "word scored (unknown_labels)" if first != other else ""


def _truth(run: FinetunedRun, record: Record) -> object:
    """Return an example's label in words: runs may number their classes differently, or have tags of another scheme."""
    label, names = record["label"], run.record["labels"]
    if run.kind == "classification":
        return [*names, None][label]  # the last: of an example whose label is no class
    if run.kind == "multi_label":
        return sorted(names[place] for place in label)
    return in_iob(label, run.settings["tag_scheme"]) if run.kind == "tagging" else label


def _require_scores(runs: Sequence[FinetunedRun], split: str, scorers: Scorers, examples: int) -> None:
    """Refuse predictions that do not give what scores.json says: they are of another model or of another file."""
    for number, run in enumerate(runs):
        known = run.scores.get(split, {})
        for name, score in scorers.items():
            value = score(np.arange(examples) + examples * number)
            if known.get(name) is not None and not math.isclose(value, known[name], rel_tol=_SAME, abs_tol=_SAME):
                raise UserError(
                    f"{run.directory / PREDICTIONS / f'{split}.jsonl'}: gives {name} {value:.6g}, and scores.json says"
                    f" {known[name]:.6g}: one of them was changed; remove scores.json and run bert-jax finetune again"
                )


# ---- scoring -------------------------------------------------------------------------------------------------------


def _scorers(runs: Sequence[FinetunedRun], predictions: Sequence[Sequence[Record]]) -> Scorers:
    """The metrics of the kind of task as functions of chosen predictions, numbered run x N + example."""
    by_kind = {"span": _of_answers, "tagging": _of_tags, "multi_label": _of_sets}
    return by_kind.get(runs[0].kind, _of_numbers)(runs, predictions)


def _of_numbers(runs: Sequence[FinetunedRun], predictions: Sequence[Sequence[Record]]) -> Scorers:
    """Classes, choices and ratings."""
    gold, _ = _numbers(runs[0], runs[0], predictions[0])
    found = np.concatenate([_numbers(runs[0], run, own)[1] for run, own in zip(runs, predictions, strict=True)])
    classes, positive = len(runs[0].record["labels"]), _positive(runs[0])

    def scorer(metric: str) -> ScorePredictions:
        def score(places: np.ndarray) -> float:
            value = glue.scores([metric], gold[places % len(gold)], found[places], classes, positive)[metric]
            return 0.0 if value is None else value  # a correlation with a constant

        return score

    return {name: scorer(name) for name in ("f1", "macro_f1", *glue.METRICS)}


def _numbers(first: FinetunedRun, run: FinetunedRun, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and predictions, classes being numbered as in the first run."""
    gold, predicted = map(np.asarray, prediction_fields(records))
    labels = [*run.record["labels"], None]  # the last: of an example whose label is no class
    if labels[:-1] == first.record["labels"] or run.kind != "classification":
        return gold, predicted
    order = np.array([[*first.record["labels"], None].index(label) for label in labels])
    return order[gold], order[predicted]


def _positive(run: FinetunedRun) -> int:
    """The number of the class that F1 is of; scores.json has it in words."""
    word = (run.outcome or {}).get("f1_of")
    words = (run.task.meanings if run.task else None) or run.record["labels"]
    return words.index(word) if word in words else 1


def _of_sets(runs: Sequence[FinetunedRun], predictions: Sequence[Sequence[Record]]) -> Scorers:
    """Any number of classes."""
    names = runs[0].record["labels"]
    gold = multi_label.indicators([record["label"] for record in predictions[0]], len(names))
    # A run's number of a class -> the first run's.
    orders = [[names.index(label) for label in run.record["labels"]] for run in runs]
    found = multi_label.indicators(
        [
            [order[place] for place in record["predicted"]]
            for order, own in zip(orders, predictions, strict=True)
            for record in own
        ],
        len(names),
    )

    def scorer(metric: str) -> ScorePredictions:
        def score(places: np.ndarray) -> float:
            value = multi_label.scores([metric], gold[places % len(gold)], found[places])[metric]
            assert value is not None
            return value

        return score

    return {name: scorer(name) for name in ("micro_f1", "macro_f1", "subset_accuracy")}


def _of_answers(runs: Sequence[FinetunedRun], predictions: Sequence[Sequence[Record]]) -> Scorers:
    """Answers to questions: every metric is a mean over questions, in per cent."""
    names = next(({"exact": "2.0", "EM": "cmrc"}[name] for name in runs[0].metrics if name in ("exact", "EM")), "1.1")
    exact, f1 = {"2.0": ("exact", "f1"), "cmrc": ("EM", "F1"), "1.1": ("exact_match", "f1")}[names]
    pairs = np.array([pair for own in predictions for pair in _answer_scores(own, names)], np.float64)  # [R N, 2]
    return {
        f1: lambda places: 100 * float(pairs[places, 1].mean()),
        exact: lambda places: 100 * float(pairs[places, 0].mean()),
    }


def _answer_scores(records: Sequence[Record], version: str) -> Iterator[tuple[float, float]]:
    """Exact match and F1 of each answer, 0 to 1."""
    if version == "cmrc":
        for record in records:
            yield (
                cmrc.exact_score(record["label"], record["predicted"]),
                cmrc.f1_score(record["label"], record["predicted"]),
            )
        return
    gold = {str(place): record["label"] for place, record in enumerate(records)}
    answers = {str(place): record["predicted"] for place, record in enumerate(records)}
    yield from squad.answer_scores(gold, answers, version).values()


def _of_tags(runs: Sequence[FinetunedRun], predictions: Sequence[Sequence[Record]]) -> Scorers:
    """Phrases as conlleval counts them, and classes of words."""
    classes = None if runs[0].settings["tag_scheme"] else runs[0].record["labels"]
    counts = np.stack(
        [_tag_counts(run, record, classes) for run, own in zip(runs, predictions, strict=True) for record in own]
    )

    def scorer(metric: str) -> ScorePredictions:
        def score(places: np.ndarray) -> float:
            return tags.scores_of_counts(counts[places].sum(0), classes).get(metric) or 0.0

        return score

    return {name: scorer(name) for name in ("f1", "precision", "recall", "accuracy", "macro_f1")}


def _tag_counts(run: FinetunedRun, record: Record, classes: Sequence[str] | None) -> np.ndarray:
    gold, predicted = (in_iob(record[name], run.settings["tag_scheme"]) for name in ("label", "predicted"))
    return tags.count_tags(gold, predicted, run.scored_words(record), classes)
