# SPDX-License-Identifier: Apache-2.0
"""bert-jax predict: a fine-tuned checkpoint of any format + a file, or lines -> predictions, and files for official sites."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options, _processes

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text
from bert_jax.base.serving import HELP, serve
from bert_jax.base.types import JsonObject
from bert_jax.config.description import TASKS as KINDS

if TYPE_CHECKING:
    from bert_jax.finetuning.saved import SavedModel
    from bert_jax.finetuning.split import Outcome

LINES_AT_ONCE, CHARACTERS_AT_ONCE = 1024, 2**22


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax predict",
        description="Predict a split of the task's files with --data, or lines of standard input: a text a line, or a pair"
        ' with a tab between; of tagging words with blanks between; of questions JSON lines, {"question": ..., "context":'
        ' ..., "id": ...}.',
    )
    add = parser.add_argument
    model = (
        "a run of bert-jax finetune (of several seeds the best is taken), or a fine-tuned checkpoint of another format"
    )
    add("model", type=any_path, metavar="MODEL", help=model)
    data = "folder with the task's files, one file, or tfds:NAME (default: standard input)"
    add("--data", type=any_text, metavar="DATA", help=data)
    add("--split", metavar="NAME", help="of the data: dev, test, test_mismatched, ... (default: test)")
    task = (
        "the task whose files --data has, where MODEL does not say it (another format than ours), or has learned another"
        " with the same labels (ax for mnli)"
    )
    add("--task", metavar="NAME", help=task)
    unknown = "labels that the run does not know: refuse, error (scored as mistakes), ignore (default: as the run)"
    add("--unknown-labels", choices=("refuse", "error", "ignore"), help=unknown)
    add("--output", type=any_path, metavar="PATH", help="folder for predictions (default: RUN/predictions)")
    add("--calibrated", action="store_true", help="probabilities by the temperature that was found on dev")
    add("--serve", action="store_true", help=HELP % '"text": ..., "pair": ...')
    add("--zip", type=any_path, metavar="FILE", help="put the GLUE submission files that are in --output into a zip")
    _checkpoint_options.add_checkpoint_options(parser, former_task=False)
    _processes.add_process_options(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if arguments.task in KINDS:
        print(f"--task {arguments.task} is written --kind {arguments.task} now", file=sys.stderr)
        arguments.task, arguments.kind = None, arguments.task
    if arguments.serve and arguments.data is not None:
        raise UserError("--serve answers lines of standard input: leave out --data")
    if arguments.data is None:
        idle = [name for name in ("split", "unknown_labels", "output", "zip") if getattr(arguments, name) is not None]
        if idle:
            raise UserError(f"--{idle[0].replace('_', '-')} goes with --data: leave it out, or name the data")
        _processes.refuse_process_options(arguments, "--data")
    _processes.join_processes(arguments)

    from bert_jax.mesh.distributed import all_or_none

    with all_or_none():
        model = _open(arguments)
    if arguments.serve:
        serve(lambda request: _answer(model, request), sys.stdin.buffer, sys.stdout)
        return 0
    if arguments.data is None:
        return _predict_lines(model)
    return _predict_split(model, arguments)


def _open(arguments: argparse.Namespace) -> "SavedModel":
    """The model, of which everything else that is asked can be had.

    Raises:
      UserError: naming what is lacking.
    """
    from bert_jax.finetuning.saved import SavedModel

    asked = _checkpoint_options.asked(arguments, kind=arguments.kind)
    model = SavedModel(arguments.model, arguments.unknown_labels, arguments.task, asked)
    if model.run is not None and arguments.data is None and arguments.task is not None:
        raise UserError("--task goes with --data: leave it out, or name the data")
    if model.run is None and arguments.data is not None:
        if model.task.name == "own":
            raise UserError(
                f"--data: name the task whose files it has, for which {model.path} was fine-tuned, with --task"
            )
        if arguments.output is None:
            raise UserError(f"{model.path} is no run that could keep predictions: name a folder with --output")
    if arguments.calibrated:
        model.calibrate()
    if arguments.serve:
        model.require_lines()
    return model


def _predict_split(model: "SavedModel", arguments: argparse.Namespace) -> int:
    from bert_jax.finetuning.run import spoken
    from bert_jax.mesh.distributed import all_or_none, is_main, say
    from bert_jax.runs.names import PREDICTIONS

    name = arguments.split or "test"
    folder = arguments.output or model.path / PREDICTIONS
    with all_or_none():
        task = model.other_task(arguments.task) if arguments.task and model.run is not None else None
        split = model.split(arguments.data, name, task)
        stem = name if task is None else f"{task.name}_{name}"
        if arguments.calibrated:  # beside the run's own, whose probabilities its page shows as trained
            stem += "_calibrated"
        scored = model.run.record.get("content", {}) if model.run is not None else {}
        if folder == model.path / PREDICTIONS and scored.get(stem, split.content()) != split.content():
            raise UserError(
                f"--data {arguments.data}: its {name} split has other examples than that of which {folder / stem}.jsonl and"
                " scores.json are: name another folder with --output"
            )
    _processes.require_same_work(arguments, {"step": str(model.checkpoint.step), "--data": split.content()})
    for note in split.notes:
        say(note)
    outcome = model.outcome(split)
    with all_or_none():
        if is_main():
            scores = spoken(name, outcome.scores, (task or model.task).f1_of) if outcome.scores else None
            _write(outcome, stem, folder, scores, arguments.zip)
    return 0


def _write(outcome: "Outcome", stem: str, folder: Path, scores: str | None, archive: Path | None) -> None:
    """Write predictions, the official files and the archive where one is asked for; print their paths and the scores."""
    from bert_jax.finetuning.saved import write_outcome
    from bert_jax.tasks.submissions import zip_submissions

    for path in write_outcome(outcome, stem, folder):
        print(path)
    if scores is not None:
        print(scores)
    if archive is not None:
        lacking = zip_submissions(folder / "submission", archive)
        print(archive)
        if lacking:
            print(f"not in it yet: {', '.join(lacking)}", file=sys.stderr)


def _predict_lines(model: "SavedModel") -> int:
    from bert_jax.mesh.distributed import say

    texts = None  # of the first line, and so of each
    for first, lines in _blocks(sys.stdin.buffer):
        texts = texts or lines[0].count("\t") + 1
        outcome, notes = model.of_lines(lines, first, texts)
        for note in notes:
            say(f"from line {first} on, {note}")
        for record in outcome.records:
            print(json.dumps(_told(record, model), ensure_ascii=False), flush=True)
    return 0


def _answer(model: "SavedModel", request: JsonObject) -> JsonObject:
    """The prediction for a request of --serve, without the text that was sent."""
    record, notes = model.of_request(request)
    told = {name: value for name, value in _told(record, model).items() if name not in ("id", "text")}
    return told | ({"notes": notes} if notes else {})


def _told(record: JsonObject, model: "SavedModel") -> JsonObject:
    """The prediction in words."""
    labels = model.task.meanings or model.task.labels
    told = {"text": record["text"], "predicted": record["predicted"]}
    if model.task.kind == "span":
        told = {
            "id": record["name"],
            **told,
            "candidates": record["candidates"],
            "probabilities": record["probabilities"],
        }
    if model.task.kind == "classification" and labels:
        told["predicted"] = labels[record["predicted"]]
        told["probabilities"] = dict(zip(labels, record["probabilities"], strict=True))
    if model.task.kind == "multi_label" and labels:
        told["predicted"] = [labels[number] for number in record["predicted"]]
        told["probabilities"] = dict(zip(labels, record["probabilities"], strict=True))
    return told


def _blocks(file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    """Lines of standard input with the number of the first; a person who types gets an answer a line."""
    from bert_jax.base.lines import text_lines

    block: list[str] = []
    number = characters = 0
    interactive = file.isatty()
    for number, line in text_lines(file, "standard input"):
        block.append(line.rstrip("\r"))
        characters += len(line)
        if interactive or len(block) == LINES_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield number - len(block) + 1, block
            block, characters = [], 0
    if block:
        yield number - len(block) + 1, block
