# SPDX-License-Identifier: Apache-2.0
"""bert-jax finetune: a pre-trained model + a task -> a fine-tuned run with scores and predictions."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.pipelines import _checkpoint_options, _options, _processes

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text, local_text
from bert_jax.base.types import JsonObject
from bert_jax.config.description import TASKS as KINDS
from bert_jax.config.finetune import current_assignment, FinetuneConfig
from bert_jax.config.settings import flatten, named_recipes, override, settings_help, to_dict


def make_parser() -> _options.StageParser:
    """The command line."""
    recipes = "\n".join(f"  {name:<12} {recipe.note}" for name, recipe in named_recipes().items())
    parser = _options.StageParser(
        prog="bert-jax finetune",
        description="Fine-tune a model on a task and score it on the dev split. The same command goes on where it was stopped.",
        epilog=f"recipes (configs/finetune.py):\n{recipes}\n\nsettings, with their defaults:\n"
        f"{settings_help(FinetuneConfig())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.config = FinetuneConfig()
    option = parser.add_argument
    recipe = "a name in configs/finetune.py (a task of the paper, or own: your files), or a .py file"
    option("recipe", type=local_text, nargs="?", metavar="RECIPE", help=recipe)
    option("--task", dest="former_task", action=_options.Former, now="bert-jax finetune TASK, without an option,")
    option(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="changed settings, such as optimizer.learning_rate=3e-5 epochs=4",
    )
    option(
        "--data",
        type=any_text,
        required=True,
        metavar="DATA",
        help="folder with the task's official files, or tfds:NAME",
    )
    option("--model", type=any_path, required=True, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    option("--output", type=any_path, required=True, metavar="PATH", help="the fine-tuned run, or a folder of several")
    teacher = (
        f"distil a fine-tuned model of the same task and vocabulary: {_checkpoint_options.ANY_FORMAT}; see distill.*"
    )
    option("--teacher", type=any_path, metavar="MODEL", help=teacher)
    option("--from-scratch", action="store_true", help="the model's shape and vocabulary with weights drawn anew")
    several = parser.add_argument_group("several runs")
    several.add_argument(
        "--seeds", type=int, metavar="N", help="N runs: mean, standard deviation, best, how many collapsed"
    )
    several.add_argument(
        "--sweep", action="store_true", help="the paper's grid of learning rate, batch size and epochs"
    )
    several.add_argument(
        "--retries", type=int, default=0, metavar="N", help="where a run has learned nothing: other seeds, at most N"
    )
    add_own_options(parser)
    _checkpoint_options.add_checkpoint_options(parser, kind=False)
    _processes.add_process_options(parser)
    return parser


def add_own_options(parser: argparse.ArgumentParser, own_task: str = "bert-jax finetune own") -> None:
    """Options that describe one's own files; `own_task`: how the stage is told that they are."""
    own = parser.add_argument_group(f"your own data ({own_task}): train, dev and test as .tsv, .csv, .jsonl in --data")

    def column(name: str, former: str, help: str, nargs: str | None = None) -> None:
        dest = former.removeprefix("--")
        default: list[str] | None = None if nargs is None else []
        own.add_argument(name, dest=dest, nargs=nargs, default=default, metavar="COLUMN", help=help)
        if own_task.startswith("bert-jax finetune"):
            own.add_argument(former, dest=dest, nargs=nargs, action=_options.Former, now=name)

    own.add_argument("--kind", choices=tuple(KINDS), metavar="KIND", help=f"what is predicted: {', '.join(KINDS)}")
    text = (
        "of the text, or of both texts of a pair; of tagging, tasks of the table too, that of the words: a number from 0"
        " or, negative, from the end, or a name of CoNLL-U (FORM, UPOS, MISC:name)"
    )
    column("--text-column", "--text", text, nargs="+")
    column("--label-column", "--label", "of the label, the rating or the tags; of multi_label of all classes")
    column("--id-column", "--id", "of a name of the example (default: its number)")
    column("--choice-column", "--choices", "of each continuation", nargs="+")
    separator = "multi_label: what stands between the classes of a cell (default: cells are JSON lists)"
    own.add_argument("--separator", metavar="TEXT", help=separator)
    labels = (
        "classes, in order (default: those of the training file); of tagging, tasks of the table too, tags or types; of"
        " multi_label without --label-column the columns of 0 and 1"
    )
    own.add_argument("--labels", nargs="+", metavar="WORD", help=labels)
    positive = "of two classes the one that F1 is of (default: the second in order)"
    own.add_argument("--positive", metavar="WORD", help=positive)


def own_task_of(arguments: argparse.Namespace, name: str) -> Any:
    """The task's name, or one's own as named by options.

    Raises:
      UserError: options of one's own data with a task of the table, or none without.
    """
    options = ("kind", "text", "label", "id", "labels", "choices", "positive", "separator")
    given = [name for name in options if getattr(arguments, name) not in (None, [])]
    _refuse_swallowed_settings(arguments)
    if name != "own":
        return _named_task(arguments, name, given) if given else name
    if arguments.kind is None:
        raise UserError(f"your own data needs --kind: {', '.join(KINDS)}")
    from bert_jax.finetuning.directory import OwnTask

    columns: dict[str, Any] = {name: tuple(map(_column, getattr(arguments, name))) for name in ("text", "choices")}
    labels = tuple(arguments.labels) if arguments.labels else None
    columns |= {"label": _column(arguments.label), "id": _column(arguments.id)}
    named = {"labels": labels, "positive": arguments.positive, "separator": arguments.separator}
    task = OwnTask(arguments.kind, **named, **columns)
    task.task()  # refuses columns that do not fit, before anything is read
    return task


def _refuse_swallowed_settings(arguments: argparse.Namespace) -> None:
    """Refuse `--labels a b epochs=2`: an option of several words would take the setting for one more of them."""
    from bert_jax.finetuning.directory import COLUMN_OPTIONS

    settings = {key for key, _ in flatten(to_dict(FinetuneConfig()))}
    for name in ("text", "labels", "choices"):
        for word in getattr(arguments, name) or ():
            key, equals, _ = word.partition("=")
            if equals and (key in settings or FinetuneConfig.spelling(key) is not None):
                option = COLUMN_OPTIONS.get(name, f"--{name}")
                raise UserError(f"{option} takes {word} for one of its words: write settings before {option}")


def _named_task(arguments: argparse.Namespace, name: str, given: Sequence[str]) -> Any:
    """A task of the table whose files have other columns, or more labels than its training file."""
    from bert_jax.finetuning.directory import COLUMN_OPTIONS, OwnTask
    from bert_jax.tasks.table import find_task

    task = find_task(name)
    foreign = [name for name in given if task.kind != "tagging" or name not in ("text", "label", "labels")]
    if foreign:
        option = COLUMN_OPTIONS.get(foreign[0], f"--{foreign[0]}")
        raise UserError(f"{option} describes your own data: use it with bert-jax finetune own")
    labels = tuple(arguments.labels) if arguments.labels else None
    text: Any = tuple(map(_column, arguments.text))
    return OwnTask(task.kind, text, _column(arguments.label), labels=labels, name=task.name)


def _column(name: str | None) -> str | int | None:
    """A column by its number, from 0 or, if negative, from the end; else its name."""
    return int(name) if name is not None and re.fullmatch("-?[0-9]+", name) else name


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_with_settings(argv)
    _check(arguments)
    name, settings = _recipe_name(arguments)

    from bert_jax.finetuning.recipes import load_recipe

    recipe = load_recipe(name)
    config = override(recipe.config, [_said(setting) for setting in settings])

    from bert_jax.finetuning.prepared import Wanted
    from bert_jax.finetuning.run import spoken
    from bert_jax.finetuning.several import grid, run_all, seeds, with_retries
    from bert_jax.mesh.distributed import is_main

    _processes.join_processes(arguments)
    asked = _checkpoint_options.asked(arguments, head=False)
    task, place = own_task_of(arguments, recipe.task), (arguments.data, arguments.model)
    wanted = Wanted(task, *place, config, arguments.from_scratch, asked, arguments.teacher)
    again = f"bert-jax finetune {shlex.join(argv)}"
    if arguments.seeds or arguments.sweep:
        entries = grid(wanted) if arguments.sweep else seeds(wanted, arguments.seeds)
        record = run_all(entries, arguments.output, resume_command=again)
        return _tell_several(record, arguments.output) if is_main() else 0
    result = with_retries(wanted, arguments.output, arguments.retries, resume_command=again)
    if not is_main():
        return 0
    for split, scores in result.scores.items():
        print(spoken(split, scores, result.f1_of))
    if result.degenerate is not None:
        print(f"this run is degenerate ({result.degenerate.kind}): {result.degenerate.explanation}", file=sys.stderr)
    if result.undecided is not None:
        print(f"whether this run has learned anything is not decided: {result.undecided}", file=sys.stderr)
    print(f"fine-tuned: {result.path}; next: bert-jax report {result.path}")
    return 0


def _recipe_name(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """The recipe's name and the settings: with `--task`, as earlier versions had it, the first word may be a setting."""
    former, settings = getattr(arguments, "former_task", None), arguments.settings
    if former is None and arguments.recipe is None:
        raise UserError(f"no recipe is named: write bert-jax finetune NAME, one of {', '.join(named_recipes())}")
    if former is None:
        return arguments.recipe, settings
    if arguments.recipe is not None and "=" not in arguments.recipe:
        raise UserError(f"{arguments.recipe} and --task {former}: name one recipe")
    return former, [*([] if arguments.recipe is None else [arguments.recipe]), *settings]


def _said(setting: str) -> str:
    """The setting under its present name, said where it was given under another."""
    current = current_assignment(setting)
    if current != setting:
        print(f"{setting} is written {current} now", file=sys.stderr)
    return current


def _check(arguments: argparse.Namespace) -> None:
    if arguments.seeds is not None and arguments.seeds < 1:
        raise UserError(f"--seeds {arguments.seeds}: at least 1")
    if arguments.sweep and arguments.seeds:
        raise UserError("--sweep and --seeds: one at a time; the best of a sweep is then run with --seeds")
    if arguments.retries < 0:
        raise UserError(f"--retries {arguments.retries}: at least 0")
    if arguments.retries and (arguments.sweep or arguments.seeds):
        raise UserError("--retries belongs to a single run: of several, those that collapsed are counted")


def _tell_several(record: JsonObject, output: Path) -> int:
    metric = f"{record['split']} {record['metric'].replace('_', ' ')}"
    for run in record["runs"]:
        value = "not defined" if run["value"] is None else f"{run['value']:.4f}"
        state = f"   degenerate: {run['degenerate']['kind']}" if run["degenerate"] else ""
        state = "   not decided" if run["undecided"] else state
        print(f"  {run['folder']:<40} {metric} {value}{state}")
    if record["mean"] is None:
        scored = record["collapsed"] == len(record["runs"])
        print(f"all {len(record['runs'])} runs collapsed" if scored else f"{metric}: no run has a value")
    else:
        spread = record["standard_deviation"]
        deviation = "" if spread is None else f", standard deviation {spread:.4f}"
        print(f"{metric}: mean {record['mean']:.4f}{deviation}, best {record['best']}, collapsed {record['collapsed']}")
    print(f"next: bert-jax report {output}")
    return 0
