# SPDX-License-Identifier: Apache-2.0
"""`bert-jax score`: predictions and the true answers -> the official scores of SQuAD, CoNLL and GLUE."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

from bert_jax.pipelines import _options

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject

if TYPE_CHECKING:
    from bert_jax.tasks.table import Task

_NAMED = 3  # ids in a message
ALL = "all"


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    {"squad": score_squad, "conll": score_conll, "glue": score_glue}[arguments.scorer](arguments)
    return 0


# ---- squad -------------------------------------------------------------------------------------------------


def score_squad(arguments: argparse.Namespace) -> None:
    """Print the scores of answers to questions."""
    from bert_jax.tasks.scoring import squad
    from bert_jax.tasks.scoring.cmrc import scores_cmrc

    if arguments.version != "2.0" and (arguments.na_probs or arguments.na_threshold is not None):
        raise UserError(
            f"--na-probs and --na-threshold belong to --version 2.0, not to {arguments.version}: leave them out"
        )
    if arguments.na_threshold is not None and not arguments.na_probs:
        raise UserError("--na-threshold needs probabilities to compare with: give --na-probs FILE")
    if arguments.na_threshold is not None and not math.isfinite(arguments.na_threshold):
        raise UserError(f"--na-threshold {arguments.na_threshold} is no probability: give a number from 0 to 1")
    answers, predictions = squad.read_answers(arguments.data), squad.read_predictions(arguments.predictions)
    covered = squad.coverage(answers, predictions)
    scores: Mapping[str, object]
    if arguments.version == "1.1":
        scores = squad.scores_v1(answers, predictions)
    elif arguments.version == "2.0":
        na_probs = squad.read_na_probs(arguments.na_probs) if arguments.na_probs else None
        threshold = squad.NA_THRESHOLD if arguments.na_threshold is None else arguments.na_threshold
        scores = squad.scores_v2(answers, predictions, na_probs, threshold)
    else:
        scores = _as_cmrc_prints(scores_cmrc(answers, predictions), arguments.predictions)
    _tell("questions without prediction, which are scored 0", covered.missing)
    _tell("predictions for no question of the file, which are not counted", covered.extra)
    if arguments.json:
        print(json.dumps(scores, indent=2, ensure_ascii=False))
    else:
        print(f"SQuAD {arguments.version}" if arguments.version != "cmrc" else "CMRC 2018", end="")
        print(f", {arguments.data.name}, {len(answers):,} questions, per cent")
        print(_table({key: value for key, value in scores.items() if key != "FILE"}))


def _as_cmrc_prints(scores: Mapping[str, float], predictions: Path) -> dict[str, object]:
    """The official program prints its three scores as text of three digits, and the name of the file."""
    shown = {key: f"{value:.3f}" if key in ("AVERAGE", "F1", "EM") else value for key, value in scores.items()}
    return {**shown, "FILE": str(predictions)}


def _tell(what: str, names: Sequence[str]) -> None:
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        print(f"{what}: {len(names):,} ({', '.join(names[:_NAMED])}{more})", file=sys.stderr)


# ---- conll -------------------------------------------------------------------------------------------------


def score_conll(arguments: argparse.Namespace) -> None:
    """Print what conlleval prints of a file, or the same as JSON."""
    from bert_jax.tasks.scoring import conll

    if arguments.outside != conll.OUTSIDE.letter and not arguments.raw:
        raise UserError(f"--outside {arguments.outside} is for bare types: give --raw too, or leave it out")
    words = list(conll.read_words(arguments.file, arguments.delimiter, arguments.raw, arguments.outside))
    if not any(words):
        raise UserError(f"{arguments.file} has no word to score: give lines that end in a gold and a predicted tag")
    counts = conll.count(words)
    unknown = [] if arguments.raw else conll.unknown_prefixes(words)
    if unknown:
        print(
            f"there are tags that begin with {', '.join(unknown)}: conlleval does not know this scheme and may take neighbours"
            " of one type for one phrase; make both columns IOB2 before",
            file=sys.stderr,
        )
    text = json.dumps(conll.as_dict(counts), indent=2) if arguments.json else conll.as_text(counts)
    print(text.encode(errors="surrogateescape").decode(errors="replace"))


# ---- glue --------------------------------------------------------------------------------------------------


def score_glue(arguments: argparse.Namespace) -> None:
    """Print the metrics of one task, or those of all tasks and their averages."""
    from bert_jax.tasks.table import find_task

    if arguments.task == ALL:
        _score_all(arguments)
        return
    task = find_task(arguments.task)
    split = arguments.split or _split_of(task.files, arguments.data.name)
    result, notes = _score_task(task, split, arguments.data, arguments.predictions)
    _print_notes(notes)
    if arguments.json:
        print(json.dumps(_official(result["scores"]), indent=2))
    else:
        print(f"{result['title']}, {result['examples']:,} examples, x 100")
        print(_table({name: _hundredfold(value) for name, value in result["scores"].items()}))


def _score_all(arguments: argparse.Namespace) -> None:
    """Every task whose predictions are in the folder, under the names of a submission, and the averages."""
    from bert_jax.tasks.scoring.glue import PAPER_AVERAGE, paper_average, SITE_AVERAGE, site_average
    from bert_jax.tasks.table import TASKS

    if arguments.split is not None:
        raise UserError("--split is of one task: with --task all the files say which they are; leave it out")
    if not arguments.data.is_dir() or not arguments.predictions.is_dir():
        raise UserError(
            "--task all reads folders: --data with GLUE's folders, --predictions with CoLA.tsv, MNLI-m.tsv ..."
        )
    results: dict[str, JsonObject] = {}
    for task in TASKS.values():
        for test_split, submission in task.submissions.items():
            split, file = test_split.replace("test", "dev"), arguments.predictions / submission.file
            if split in task.files and file.exists():
                result, notes = _score_task(task, split, arguments.data, file)
                results[task.name + split.removeprefix("dev")] = result
                _print_notes(notes)
    if not results:
        raise UserError(f"{arguments.predictions} has no predictions: name them as GLUE does, CoLA.tsv, MNLI-m.tsv ...")
    scores = {name: result["scores"] for name, result in results.items()}
    averages: dict[str, float] = {}
    for name, average in ((PAPER_AVERAGE, paper_average), (SITE_AVERAGE, site_average)):
        try:
            averages[name] = average(scores)
        except UserError as incomplete:
            print(incomplete, file=sys.stderr)
    if arguments.json:
        official = {name: _official(found) for name, found in scores.items()}
        print(json.dumps({"tasks": official, "averages": averages}, indent=2))
        return
    for result in results.values():
        figures = "  ".join(f"{name} {_hundredfold(value)}" for name, value in result["scores"].items())
        print(f"{result['title']:<28} {result['examples']:>7,} examples  {figures}")
    for name, value in averages.items():
        print(f"{_hundredfold(value)}  {name}")


def _score_task(task: "Task", split: str, data: Path, predictions: Path) -> tuple[JsonObject, list[str]]:
    """Return title, number of examples and scores of a task's split; notes for people."""
    from bert_jax.tasks.columns import read_examples
    from bert_jax.tasks.examples import Sentence
    from bert_jax.tasks.scoring import glue

    if task.kind not in ("classification", "regression", "choice"):
        scorer = "conll" if task.kind == "tagging" else "squad"
        raise UserError(f"{task.name} is no task of labels or ratings: use bert-jax score {scorer}")
    examples, notes = read_examples(task, split, data)
    gold: list[Any] = []
    for example in examples:
        if isinstance(example, Sentence) or example.label is None:
            raise UserError(f"{example.place} has no label to score against: give a file with labels, as dev.tsv")
        gold.append(example.label)
    found = glue.read_predictions(predictions, [example.name for example in examples])
    if task.kind == "regression":
        predicted = glue.ratings(found)
    else:
        words = {word: number for names in (task.labels, task.meanings) for number, word in enumerate(names or ())}
        predicted = glue.class_numbers(found, words)
    scores = glue.scores(task.metrics, gold, predicted, len(task.labels or ()), task.positive_class)
    if len(set(predicted.tolist())) == 1 and len(examples) > 1:
        undefined = [name for name, value in scores.items() if value is None]
        says = f"{', '.join(undefined)} of a constant is not defined" if undefined else "the model tells nothing apart"
        notes = [*notes, f"all {len(examples):,} predictions are {found[0].text}: {says}"]
    return {"title": f"{task.title}, {split}", "examples": len(examples), "scores": scores}, notes


def _split_of(files: Mapping[str, Sequence[str]], name: str) -> str:
    """Return the split whose file has that name; dev where none has."""
    plain = name.removesuffix(".xz").removesuffix(".gz")
    return next((split for split, names in files.items() if plain in names), "dev")


def _official(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    from bert_jax.tasks.scoring.glue import OFFICIAL_NAMES

    return {OFFICIAL_NAMES.get(name, name): value for name, value in scores.items()}


def _hundredfold(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.2f}"


# ---- printing and the command line -------------------------------------------------------------------------


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def _table(rows: Mapping[str, object]) -> str:
    width = max(map(len, rows))
    shown = {key: f"{value:.4f}" if isinstance(value, float) else str(value) for key, value in rows.items()}
    return "\n".join(f"  {key:<{width}}  {value:>9}" for key, value in shown.items())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    result = _options.StageParser(
        prog="bert-jax score", description="The official scores of SQuAD, CoNLL and GLUE, from files alone."
    )
    scorers = result.add_subparsers(dest="scorer", required=True, metavar="squad|conll|glue")
    _squad_options(scorers.add_parser("squad", help="answers to questions: exact match and F1"))
    _conll_options(scorers.add_parser("conll", help="tagged phrases: precision, recall and F1 per type, as conlleval"))
    _glue_options(scorers.add_parser("glue", help="accuracy, F1, Matthews, Pearson, Spearman, and GLUE's averages"))
    for scorer in scorers.choices.values():
        scorer.add_argument("--json", action="store_true", help="print JSON with the official names")
    return result


def _squad_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--version", required=True, choices=("1.1", "2.0", "cmrc"), help="cmrc: Chinese, CMRC 2018 and DRCD")
    option(
        "--data",
        type=readable,
        required=True,
        metavar="DATA",
        help="questions with answers (.json, .json.xz, .json.gz)",
    )
    option("--predictions", type=readable, required=True, metavar="FILE", help="JSON, question's id -> text")
    option("--na-probs", type=readable, metavar="FILE", help="JSON, question's id -> probability that it has no answer")
    option("--na-threshold", type=float, metavar="P", help="no answer where its probability exceeds X (default: 1.0)")


def _conll_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "file",
        type=readable,
        metavar="FILE",
        help="lines that end in gold and predicted tag, empty between sentences",
    )
    option("-d", "--delimiter", default=" ", metavar="REGEX", help="between the items of a line (default: one blank)")
    option("-r", "--raw", action="store_true", help="tags are bare types, each word is a phrase")
    option("-o", "--outside", default="O", metavar="TAG", help="with --raw: the tag of no phrase (default: O)")


def _glue_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--task", required=True, metavar="NAME", help="cola, sst2, mnli ...; all: folders, and the averages")
    option("--data", type=readable, required=True, metavar="DATA", help="the official file with labels, or its folder")
    option(
        "--predictions",
        type=readable,
        required=True,
        metavar="FILE",
        help="index<TAB>prediction, or one label a line",
    )
    option("--split", metavar="NAME", help="of the task (default: told by the file's name, else dev)")
