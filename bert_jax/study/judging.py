# SPDX-License-Identifier: Apache-2.0
"""The outcome of a study: every figure beside the paper's, and whether differences have the paper's sign."""

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json, write_json
from bert_jax.base.types import JsonObject
from bert_jax.finetuning.directory import open_finetuned
from bert_jax.finetuning.run import read_result
from bert_jax.finetuning.several import RunEntry, summary
from bert_jax.mesh.distributed import say
from bert_jax.model.accounting import run_flops
from bert_jax.pages.comparison import RESAMPLES_OF_A_PAGE, verdict
from bert_jax.pages.study import study_page
from bert_jax.pages.template import write
from bert_jax.pages.wording import counted
from bert_jax.runs.comparison import compare_runs
from bert_jax.runs.finetuned import load_several
from bert_jax.runs.names import REPORT_FILE, SCORES_FILE, SEEDS_FILE, STUDY_FILE
from bert_jax.study.row_settings import settings_of
from bert_jax.study.running import jobs_of, make_plan, open_output, run_jobs, StudyPlan
from bert_jax.study.table import PERPLEXITY
from bert_jax.tasks.scoring.chance import spread_of
from bert_jax.train.run import locked_by_main

RIGHT, WRONG, UNDECIDED, MISSING, NO_SIGN = "right", "wrong", "not decided", "missing", "no sign in the paper"


def run_study(
    name: str,
    budget: str,
    data: Path,
    tasks: Mapping[str, str],
    output: Path,
    teacher: Path | None = None,
    *,
    resume_command: str,
) -> JsonObject:
    """Run what is not finished of a study, and write study.json and a page; returns the record. See `make_plan`.

    Raises:
      UserError: as `make_plan`; `output` holds another study.
      Interrupted: asked to stop; the same command goes on.
    """
    plan = make_plan(name, budget, data, tasks, output, teacher)
    with locked_by_main(output, "study"):
        open_output(plan)
        for task in plan.absent:
            say(f"{task} is left out: its data is not given (--tasks {task}=FOLDER)")
        failed = run_jobs(jobs_of(plan, resume_command), resume_command)
        record = record_of(plan, failed)
        write_json(output / STUDY_FILE, record)
        write(study_page(record), output / REPORT_FILE)
    return record


def record_of(plan: StudyPlan, failed: Mapping[str, str]) -> JsonObject:
    """Return study.json: no time and no path is in it, so that it is the same whatever stood between its runs."""
    study = plan.study
    measured: dict[tuple[str, str], JsonObject] = {}
    for row, column in plan.cells():
        measured[row, column] = _perplexity(plan, row) if column == PERPLEXITY else _scores(plan, row, column)
    say(f"comparing {counted(len(study.comparisons) * len(plan.columns), 'pair')} of rows")
    return {
        "study": plan.name,
        "title": study.title,
        "source": study.source,
        "budget": plan.budget_name,
        "budget_help": plan.budget.help,
        "seeds": plan.budget.seeds,
        "columns": {name: column.title for name, column in plan.columns.items()},
        "rows": {
            name: {
                "title": row.title,
                "settings": settings_of(study, plan.budget, row.pretrain + row.finetune),
                "flops": _flops(plan, name),
                "cells": {
                    column: {"published": row.published.get(column), **measured.get((name, column), {})}
                    for column in plan.columns
                },
            }
            for name, row in study.rows.items()
        },
        "comparisons": [
            _compared(plan, pair, column)
            for pair in study.comparisons
            for column, measure in plan.columns.items()
            if measure.rows is None or {*pair} <= {*measure.rows}
        ],
        "failed": dict(failed),
        "absent": plan.absent,
        "notes": list(study.notes),
    }


def _flops(plan: StudyPlan, name: str) -> float | None:
    """Return the FLOPs of the pre-training that a row stands on, its teacher's among them; None of n-grams."""
    row = plan.study.rows[name]
    if row.ngrams:
        return None
    teacher = plan.teacher.description if row.is_taught and plan.teacher is not None else None
    return run_flops(plan.configs[row.model or name], teacher)


# ---- figures --------------------------------------------------------------------------------------------------------


def _scores(plan: StudyPlan, row: str, column: str) -> JsonObject:
    """Return mean and deviation, in points, of the runs of a cell that count; seeds.json is written of those there are."""
    folder = plan.folder(row, column)
    there = [
        (RunEntry(f"seed-{wanted.config.seed}", wanted), read_result(open_finetuned(path)))
        for wanted in plan.wanted(row, column)
        if ((path := folder / f"seed-{wanted.config.seed}") / SCORES_FILE).is_file()
    ]
    if not there:
        return {}
    entries, results = zip(*there, strict=True)
    write_json(folder / SEEDS_FILE, summary(entries, results))
    several = load_several(folder)
    metric = plan.columns[column].metric or several.metric
    scale = 1 if several.per_cent else 100
    runs = [one.run.scores.get(several.split, {}).get(metric) for one in several.sound if one.run is not None]
    spread = spread_of([scale * value for value in runs if value is not None])
    counts = {"metric": metric, "runs": len(there), "collapsed": len(several.collapsed)}
    return counts | ({} if spread is None else {"mean": spread.mean, "deviation": spread.deviation})


def _perplexity(plan: StudyPlan, row: str) -> JsonObject:
    batches = _losses(plan, row)
    if not batches:
        return {}
    loss = sum(loss for loss, _ in batches) / sum(tokens for _, tokens in batches)
    return {"metric": PERPLEXITY, "runs": 1, "collapsed": 0, "mean": math.exp(min(loss, 700)), "deviation": None}


def _losses(plan: StudyPlan, row: str) -> list[tuple[float, float]]:
    """Return the summed loss and the predicted tokens of each held-out batch; none where they are not measured."""
    file = plan.folder(row, PERPLEXITY)
    return read_json(file, "remove it: it is measured again")["batches"] if file.is_file() else []


# ---- differences ----------------------------------------------------------------------------------------------------


class RowDifference(NamedTuple):
    """A difference of two rows, A - B, with its 95 % interval (None: unknown), and what is to be said of it."""

    value: float
    interval: tuple[float, float] | None
    words: str = ""


def sign(published: float | None, found: RowDifference | None) -> str:
    """Return whether a difference has the sign of the paper's.

    Args:
      published: the paper's; None, or 0: it has no sign.
      found: ours; None: a side of it is missing.
    """
    if not published:
        return NO_SIGN
    if found is None:
        return MISSING
    if found.interval is None or found.interval[0] <= 0 <= found.interval[1]:
        return UNDECIDED
    return RIGHT if (found.value > 0) == (published > 0) else WRONG


def _compared(plan: StudyPlan, pair: tuple[str, str], column: str) -> JsonObject:
    figures = [plan.study.rows[name].published.get(column) for name in pair]
    published = None if None in figures else round(figures[0] - figures[1], 4)  # type: ignore[operator]
    found, words = None, ""
    try:
        found = _perplexity_difference(plan, pair) if column == PERPLEXITY else _score_difference(plan, pair, column)
        told, words = sign(published, found), "" if found is None else found.words
    except UserError as error:  # the two cannot be compared
        told, words = UNDECIDED if published else NO_SIGN, str(error)
    return {
        "a": pair[0],
        "b": pair[1],
        "column": column,
        "published": published,
        "difference": None if found is None else found.value,
        "interval": None if found is None else found.interval,
        "sign": told,
        "words": words,
    }


def _score_difference(plan: StudyPlan, pair: tuple[str, str], column: str) -> RowDifference | None:
    """Return the difference in points, by the paired tests of `bert-jax compare`; None where a side has no runs."""
    folders = [plan.folder(row, column) for row in pair]
    if not all((folder / SEEDS_FILE).is_file() for folder in folders):
        return None
    collapsed = [row for row, folder in zip(pair, folders, strict=True) if not load_several(folder).sound]
    if collapsed:
        raise UserError(f"{' and '.join(collapsed)}: no run has learned anything")
    comparison = compare_runs(folders[0], folders[1], resamples=RESAMPLES_OF_A_PAGE)
    first = comparison.sides[0].runs[0]
    found = comparison.differences[plan.columns[column].metric or first.metrics[0]]
    scale = 1 if first.per_cent else 100
    low, high = found.interval
    return RowDifference(scale * found.difference, (scale * low, scale * high), verdict(found))


def _perplexity_difference(plan: StudyPlan, pair: tuple[str, str]) -> RowDifference | None:
    """Return the difference of the losses in nats a token, with an interval by batches that both models read."""
    first, second = (_losses(plan, row) for row in pair)
    if not first or not second:
        return None
    if [tokens for _, tokens in first] != [tokens for _, tokens in second]:
        raise UserError(f"{pair[0]} and {pair[1]} did not predict the same tokens")
    tokens = statistics.fmean(count for _, count in first)
    # In shares of the mean batch, so that a short last one counts as much as it has tokens.
    differences = [(one - other) / tokens for (one, _), (other, _) in zip(first, second, strict=True)]
    spread = spread_of(differences)
    assert spread is not None
    words = "by held-out batches, of one pre-trained model each" if spread.interval else "one batch has no interval"
    return RowDifference(spread.mean, spread.interval, words)
