# SPDX-License-Identifier: Apache-2.0
"""Notices of what is missing or torn in the files of a run, with the command that mends it."""

import shlex
from collections.abc import Sequence

from bert_jax.checks.commands import pretrain_command
from bert_jax.checks.findings import Finding, NOTE
from bert_jax.pages.wording import count, counted
from bert_jax.runs.reading import number, Run

MOST_NAMED = 5  # lines of metrics.jsonl


def notices(run: Run) -> list[Finding]:
    """Notes about a pre-training run that is not at its end, and about files that are not there."""
    return [*_progress(run), *torn_lines(run.unreadable), *_files(run)]


def _progress(run: Run) -> list[Finding]:
    if not run.train and not run.evals:
        seen = f"no step is logged yet: metrics.jsonl gets a line every {count(run.config.log_every)} steps"
    elif not run.finished:
        seen = "the last step is not reached"
    else:
        return []
    remedy = "if the run is not at work, this starts it or goes on from its last checkpoint"
    return [Finding(NOTE, "Progress", seen, "", remedy, pretrain_command(run))]


def torn_lines(numbers: Sequence[int]) -> list[Finding]:
    """The lines of metrics.jsonl that cannot be read, by their numbers from 1."""
    if not numbers:
        return []
    places = ", ".join(map(str, numbers[:MOST_NAMED])) + (" ..." if len(numbers) > MOST_NAMED else "")
    seen = f"metrics.jsonl has {counted(len(numbers), 'torn line')} ({places}), as a kill leaves behind, left out here"
    return [Finding(NOTE, "Metrics", seen)]


def _files(run: Run) -> list[Finding]:
    found = []
    if run.evaluation is None:
        seen = "evaluation.json is missing, so there are no intervals and no sample predictions"
        found.append(Finding(NOTE, "Evaluation", seen, "", "this makes it", evaluate_command(run)))
    elif (step := number(run.evaluation, "step")) is not None and step < run.last_step:
        seen = f"the evaluation is of step {count(step)}, the run is at step {count(run.last_step)}"
        found.append(Finding(NOTE, "Evaluation", seen, "", "make it again", evaluate_command(run)))
    if run.data is None:
        prepare = "bert-jax prepare --input TEXT --vocab VOCAB --output PATH"
        seen, remedy = (
            "passport.json is missing, so nothing is known of the data",
            "copy it from the data directory, made by",
        )
        found.append(Finding(NOTE, "Passport", seen, "", remedy, prepare))
    if run.environment is None:
        seen, remedy = (
            "environment.json is missing: device and peak are not known",
            "it is written when the run goes on",
        )
        found.append(Finding(NOTE, "Environment", seen, "", remedy, pretrain_command(run)))
    return found


def evaluate_command(run: Run) -> str:
    """The command that writes evaluation.json."""
    return f"bert-jax evaluate {shlex.quote(str(run.directory))} --data DATA"
