# SPDX-License-Identifier: Apache-2.0
"""The runs of a study, one after the other: finished ones are kept, failed ones are named, and the others go on.

OUTPUT/plan.json                          which study, budget, data and tasks
OUTPUT/pretrain/ROW                       a run of pre-training
OUTPUT/finetune/ROW/COLUMN/seed-N         a fine-tuned run; seeds.json beside them
OUTPUT/perplexity/ROW.json                the language model's loss on the held-out part of the data
OUTPUT/study.json, report.html            what came out
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import first_line, TryAgain, UserError
from bert_jax.base.files import read_json, write_json
from bert_jax.base.output_lock import LOCK_FILE
from bert_jax.base.paths import any_path
from bert_jax.base.stopping import begin_next
from bert_jax.base.types import JsonObject
from bert_jax.config.objective import token_words
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import override, to_dict
from bert_jax.conversion.teachers import open_teacher
from bert_jax.feed.examples import evaluation_batch, Examples
from bert_jax.feed.shards import DataDirectory, open_data, TRAIN, VALIDATION
from bert_jax.finetuning.prepared import Wanted
from bert_jax.finetuning.recipes import load_recipe
from bert_jax.finetuning.run import finetune
from bert_jax.mesh.distributed import say
from bert_jax.pages.wording import counted, duration
from bert_jax.runs.checkpoint import unfinished_saves
from bert_jax.runs.directory import refuse_changes, RunDirectory
from bert_jax.runs.names import CHECKPOINTS, PLAN_FILE, SCORES_FILE
from bert_jax.study.row_settings import pretrain_config, settings_of
from bert_jax.study.table import (
    Budget,
    Column,
    find_budget,
    find_study,
    PERPLEXITY,
    SMALL_TASKS,
    STUDIES,
    Study,
)
from bert_jax.tasks.table import find_task, TFDS
from bert_jax.tasks.task_files import find_file
from bert_jax.train.distillation import require_teacher, Teacher
from bert_jax.train.pretraining import check_examples, prepare_training, pretrain
from bert_jax.use.evaluation import scored_batches, ScoredObjective
from bert_jax.use.intrinsic import segments_of, SplitTokens, text_offsets
from bert_jax.use.model import load, Pretrained
from bert_jax.use.ngrams import fit_ngrams, NAMES

BY_TASK = ("tasks", "recipes")  # of plan.json: the folders of tasks, and a digest of the recipe of each


@dataclass(frozen=True)
class Job:
    """One of the runs of a study.

    name: its folder or file. kind: runs of one kind take about as long. needs: the job without which it cannot begin.
    """

    name: str
    kind: str
    needs: str
    is_done: Callable[[], bool]
    run: Callable[[], object]


@dataclass(frozen=True)
class StudyPlan:
    """A study with everything that is known before its first run."""

    name: str
    budget_name: str
    data: DataDirectory
    tasks: Mapping[str, str]  # name -> folder of its files
    output: Path
    teacher: Teacher | None = None

    @cached_property
    def study(self) -> Study:
        """The entry of the table, without rows whose teacher is not given."""
        study = find_study(self.name)
        return study if self.teacher is not None else study.untaught()

    @cached_property
    def budget(self) -> Budget:
        """The budget."""
        return find_budget(self.budget_name)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns that can be measured: those of the tasks that are given, also where the paper has none."""
        known = {column.task for column in self.study.columns.values()}
        found = {key: column for key, column in self.study.columns.items() if column.task in ("", *self.tasks)}
        return found | {
            task: Column(find_task(task).title, task, is_small=task in SMALL_TASKS)
            for task in self.tasks
            if task not in known
        }

    @property
    def absent(self) -> list[str]:
        """The tasks of the paper's table whose data is not given."""
        wanted = dict.fromkeys(column.task for column in self.study.columns.values() if column.task)
        return [task for task in wanted if task not in self.tasks]

    @cached_property
    def configs(self) -> dict[str, PretrainConfig]:
        """The configurations of pre-training by row."""
        sizes = self.data.vocab_size, min(self.data.manifest["sequence_lengths"])
        taught_by = None if self.teacher is None else self.teacher.description
        return {
            name: pretrain_config(self.study, row, self.budget, *sizes, taught_by)
            for name, row in self.study.rows.items()
            if not row.model
        }

    def cells(self) -> Iterator[tuple[str, str]]:
        """Yield row and column of everything that is measured."""
        for name, row in self.study.rows.items():
            for key, column in self.columns.items():
                if (column.rows is None or name in column.rows) and not (column.task and row.ngrams):
                    yield name, key

    def pretrained(self, row: str) -> Path:
        """The pre-trained run that a row stands on."""
        return self.output / "pretrain" / (self.study.rows[row].model or row)

    def folder(self, row: str, column: str) -> Path:
        """The folder of the fine-tuned runs of a cell; of the perplexity its file."""
        if not self.columns[column].task:
            return self.output / "perplexity" / f"{row}.json"
        return self.output / "finetune" / row / column

    def wanted(self, row: str, column: str) -> list[Wanted]:
        """The fine-tuned runs of a cell, one for each seed."""
        study, measured = self.study, self.columns[column]
        recipe = load_recipe(measured.task)
        own = settings_of(study, self.budget, measured.finetune + study.rows[row].finetune)
        small = self.budget.small_tasks if measured.is_small else ()
        config = override(recipe.config, [*self.budget.finetune, *small, *own])
        seeds = range(config.seed, config.seed + self.budget.seeds)
        place = self.tasks[measured.task], self.pretrained(row)
        return [Wanted(recipe.task, *place, replace(config, seed=seed)) for seed in seeds]

    def record(self) -> JsonObject:
        """Return the content of plan.json: names, and digests of every setting, of the tasks' recipes one for each."""
        study, budget = self.study, self.budget
        runs = {
            "pretrain": {name: to_dict(config) for name, config in self.configs.items()},
            "rows": {name: [row.model, row.ngrams, *row.finetune] for name, row in study.rows.items()},
            "columns": {
                name: [column.task, column.is_small, *column.finetune] for name, column in study.columns.items()
            },
            "finetune": [budget.seeds, *budget.finetune, *budget.small_tasks],
            "scaled": dict(study.scaled) if budget.scaled else {},
        }
        told = {
            "study": self.name,
            "budget": self.budget_name,
            "data": self.data.fingerprint,
            "settings": _digest(runs),
        }
        if self.teacher is not None:
            told["teacher"] = self.teacher.record["weights_sha256"]
        recipes = {task: _digest(to_dict(load_recipe(task).config))[:12] for task in self.tasks}
        return {**told, "tasks": dict(self.tasks), "recipes": recipes}


def _digest(values: JsonObject) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def make_plan(
    name: str, budget: str, data: Path, tasks: Mapping[str, str], output: Path, teacher: Path | None = None
) -> StudyPlan:
    """Return the plan of a study, with everything refused that can be before the first run.

    Args:
      name, budget: in the tables of `study.table`.
      data: made by `bert-jax prepare`.
      tasks: the folders of official files, or tfds:NAME, by the task's name.
      output: the study's folder.
      teacher: a model with the data's vocabulary, which the rows that are taught learn from; None: they are left out.

    Raises:
      UserError: no such study, budget or task; data or a task's folder without what is needed; a teacher of none.
    """
    study, _ = find_study(name), find_budget(budget)
    if teacher is not None and not study.takes_teacher:
        taught = " and ".join(name for name, study in STUDIES.items() if study.takes_teacher)
        raise UserError(
            f"--teacher {teacher}: no row of study {name} has a teacher, only such of {taught}: leave it out"
        )
    known = {}
    for task, place in tasks.items():
        found = find_task(task)
        if not place.startswith(TFDS):
            find_file(found, "train", readable(place))
            place = str(any_path(place).resolve())
        known[found.name] = place
    plan = StudyPlan(name, budget, open_data(data), known, output, None if teacher is None else open_teacher(teacher))
    if not plan.columns:
        wanted = ", ".join(plan.absent)
        raise UserError(f"no task is given, and study {name} measures nothing else: add --tasks TASK=FOLDER ({wanted})")
    if PERPLEXITY in plan.columns:
        plan.data.split(VALIDATION)  # refused where it has none
    for row, config in plan.configs.items():
        for number in range(len(config.phases)):
            check_examples(config, plan.data, number)
        if plan.study.rows[row].is_taught:
            require_teacher(prepare_training(config, plan.data), plan.teacher, plan.data.load_tokenizer())
    return plan


def open_output(plan: StudyPlan) -> None:
    """Make the folder of a study, or recognise it; tasks may be added later.

    Raises:
      UserError: it holds another study, or something else.
    """
    open_plan(plan.output, plan.record(), "another study")


def open_plan(output: Path, record: JsonObject, other: str) -> None:
    """Write the plan into an empty folder, or compare it with the one there; what it has `BY_TASK` may be added to later."""
    file = output / PLAN_FILE
    if file.is_file():
        old = read_json(file, "copy it from a backup of the folder, or choose another --output")
        changed = [name for name in record if name not in BY_TASK and old.get(name) != record[name]]
        changes = [f"{name}: {str(old.get(name))[:12]} -> {str(record[name])[:12]}" for name in changed]
        for name in [name for name in BY_TASK if name in record]:
            before, tasks = old.get(name, {}), record[name]
            moved = [task for task in tasks if before.get(task, tasks[task]) != tasks[task]]
            changes += [f"{name}.{task}: {before[task]} -> {tasks[task]}" for task in moved]
            record = record | {name: {**before, **tasks}}
        refuse_changes(RunDirectory(output), other, changes)
    elif any(entry.name not in (LOCK_FILE, f"{PLAN_FILE}.partial") for entry in output.iterdir()):
        raise UserError(f"{output}: is not empty and holds no study or sweep: choose another --output")
    write_json(file, record)


# ---- the runs -------------------------------------------------------------------------------------------------------


def jobs_of(plan: StudyPlan, again: str) -> list[Job]:
    """Return the runs of a study in their order: of each row pre-training, then what is measured of it."""
    rows: dict[str, list[Job]] = {name: [] for name in plan.study.rows}
    for name, config in plan.configs.items():
        rows[name].append(_pretraining(plan, name, config, again))
    for row, column in plan.cells():
        rows[row] += _measuring(plan, row, column, again)
    return [job for jobs in rows.values() for job in jobs]


def _name(plan: StudyPlan, path: Path) -> str:
    return str(path.relative_to(plan.output))


def _pretraining(plan: StudyPlan, row: str, config: PretrainConfig, again: str) -> Job:
    path = plan.pretrained(row)
    teacher = plan.teacher if plan.study.rows[row].is_taught else None
    return pretraining_job(_name(plan, path), config, plan.data, path, again, teacher)


def pretraining_job(
    name: str, config: PretrainConfig, data: DataDirectory, path: Path, again: str, teacher: Teacher | None = None
) -> Job:
    """Return the job of a run of pre-training."""
    checkpoints, last = path / CHECKPOINTS, str(config.total_steps)

    def is_done() -> bool:
        return (checkpoints / last).is_dir() and last not in unfinished_saves(checkpoints)

    def run() -> object:
        return pretrain(config, data.directory, path, resume_command=again, teacher=teacher)

    return Job(name, "pretrain", "", is_done, run)


def _measuring(plan: StudyPlan, row: str, column: str, again: str) -> Iterator[Job]:
    needs, path = _name(plan, plan.pretrained(row)), plan.folder(row, column)
    if not plan.columns[column].task:
        yield Job(_name(plan, path), column, needs, path.is_file, lambda: _write_losses(plan, row, path))
        return
    for wanted in plan.wanted(row, column):
        folder = path / f"seed-{wanted.config.seed}"

        def run(wanted: Wanted = wanted, folder: Path = folder) -> object:
            return finetune(wanted, folder, resume_command=again)

        yield Job(_name(plan, folder), column, needs, (folder / SCORES_FILE).is_file, run)


def run_jobs(jobs: Sequence[Job], again: str) -> dict[str, str]:
    """Run what is not finished; return why runs failed, by their names. `again`: the command that goes on.

    Raises:
      Interrupted: asked to stop; what is finished or saved stays.
      TryAgain: the machines failed.
    """
    waiting = [job for job in jobs if not job.is_done()]
    finished = len(jobs) - len(waiting)
    failed: dict[str, str] = {}
    took: dict[str, list[float]] = {}
    say(f"{counted(len(jobs), 'run')}, {finished} finished")
    for number, job in enumerate(waiting):
        begin_next(again)
        if job.needs in failed:
            failed[job.name] = f"{job.needs} failed"
            continue
        say(f"run {finished + number + 1} of {len(jobs)}: {job.name}{_left(waiting[number:], took)}")
        begun = time.monotonic()
        try:
            job.run()
        except TryAgain:
            raise
        except (UserError, jax.errors.JaxRuntimeError) as error:
            failed[job.name] = first_line(error)
            say(f"FAILED  {job.name}: {failed[job.name]}")
        else:
            took.setdefault(job.kind, []).append(time.monotonic() - begun)
    return failed


def _left(jobs: Sequence[Job], took: Mapping[str, Sequence[float]]) -> str:
    """Return in words how long these runs will take, by the mean of those of their kind; of a new kind nothing is known."""
    known = [float(np.mean(took[job.kind])) for job in jobs if job.kind in took]
    if not known:
        return ""
    return f"; {'about' if len(known) == len(jobs) else 'at least'} {duration(sum(known))} left"


# ---- the perplexity -------------------------------------------------------------------------------------------------


def _write_losses(plan: StudyPlan, row: str, path: Path) -> None:
    """Write the losses (nats) and numbers of predicted tokens of the held-out part, batch by batch."""
    model = load(plan.pretrained(row))
    objective = ScoredObjective(model.origin.config.objective)
    examples = objective.examples(model, plan.data.split(VALIDATION), model.phase(None))
    term, order = token_words(objective.config).term, plan.study.rows[row].ngrams
    if order:
        batches = [_ngram_loss(plan, model, examples, order)]
    else:
        sums = (sums for sums, _ in scored_batches(model, examples, "perplexity", lambda number, batch: None))
        batches = [(one[f"{term}_loss"], one[f"{term}_weight"]) for one in sums]
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"batches": batches})


def _ngram_loss(plan: StudyPlan, model: Pretrained, examples: Examples, order: int) -> tuple[float, float]:
    """Return the loss of an n-gram model of the training split on the tokens that a left-to-right model predicts."""
    data, rows = plan.data, examples.shape.rows
    models = fit_ngrams(
        data.split(TRAIN).shards, model.tokenizer.vocab_size, str(data.directory), order, backward=False
    )
    segments, words = segments_of(examples), SplitTokens.of(examples.split)
    batches = ((number, evaluation_batch(examples, rows, number)) for number in range(-(-len(examples) // rows)))
    chosen = np.concatenate([text_offsets(segments, number, batch, next_tokens=True) for number, batch in batches])
    loss = models.losses(words.tokens, words.starts, chosen)[NAMES[order]]
    return loss * len(chosen), float(len(chosen))
