# SPDX-License-Identifier: Apache-2.0
"""What is missing, torn or suspicious in a run, and the command that mends it."""

import math
import shlex
from dataclasses import dataclass

from bert_jax.pages.pretrain_summary import newest_scores
from bert_jax.pages.wording import count, decimal
from bert_jax.runs.reading import number, Run, series


@dataclass(frozen=True)
class Notice:
    """Something to know before reading on: `kind` is problem, warning or note."""

    kind: str
    text: str
    command: str = ""


def notices(run: Run) -> list[Notice]:
    """Everything that is missing, torn or suspicious, and the command that mends it."""
    data_warnings = [Notice("warning", f"Data: {text}") for text in (run.data or {}).get("warnings", [])]
    doubts = [
        Notice("warning", f"First batches of phase {record.get('phase')}: {text}")
        for record in run.first_batches
        for text in record.get("warnings", [])
    ]
    return [*data_warnings, *doubts, *_loss_notices(run), *_progress_notices(run), *_file_notices(run)]


def _loss_notices(run: Run) -> list[Notice]:
    bad = [step for step, loss in series(run.train, "loss") if not math.isfinite(loss)]
    if bad:
        text = f"The training loss is not a number at step {count(bad[0])}: do not trust what follows it."
        return [Notice("warning", text)]
    record, _ = newest_scores(run)
    loss, entropy = number(record, "mlm_loss"), run.unigram_entropy
    if run.finished and loss is not None and entropy is not None and loss > entropy - 0.1:
        text = (
            f"MLM loss ends at {decimal(loss)} nats, no lower than what word frequencies alone give"
            f" ({decimal(entropy)}): the model has not learned from context. What usually helps: more steps,"
            " another peak learning rate (optimizer.learning_rate) or more text."
        )
        return [Notice("warning", text)]
    return []


def _progress_notices(run: Run) -> list[Notice]:
    found = []
    if not run.train and not run.evals:
        text = f"No step is logged yet: metrics.jsonl gets a line every {count(run.config.log_every)} steps."
        found.append(Notice("note", f"{text} The same command starts or goes on:", pretrain_command(run)))
    elif not run.finished:
        text = "The last step is not reached. If the run is not at work, this goes on from its last checkpoint:"
        found.append(Notice("note", text, pretrain_command(run)))
    if run.unreadable:
        lines = len(run.unreadable)
        places = ", ".join(map(str, run.unreadable[:5])) + (" ..." if lines > 5 else "")
        torn = f"line {places} is" if lines == 1 else f"{count(lines)} lines ({places}) are"
        found.append(Notice("note", f"metrics.jsonl: {torn} torn, as a kill leaves behind, and left out here."))
    return found


def _file_notices(run: Run) -> list[Notice]:
    found = []
    if run.evaluation is None:
        text = "No evaluation yet, so there are no intervals and no sample predictions. This makes them:"
        found.append(Notice("note", text, evaluate_command(run)))
    elif (step := number(run.evaluation, "step")) is not None and step < run.last_step:
        text = f"The evaluation is of step {count(step)}, the run is at step {count(run.last_step)}. Again:"
        found.append(Notice("note", text, evaluate_command(run)))
    if run.data is None:
        text = "passport.json is missing, so nothing is known of the data. Copy it from the data directory, made by"
        found.append(Notice("note", text, "bert-jax prepare --input PATH --vocab VOCAB --output DIR"))
    if run.environment is None:
        text = "environment.json is missing: device and peak are not known. It is written when the run goes on:"
        found.append(Notice("note", text, pretrain_command(run)))
    return found


def evaluate_command(run: Run) -> str:
    """The command that writes evaluation.json."""
    return f"bert-jax evaluate {shlex.quote(str(run.directory))} --data DIR"


def pretrain_command(run: Run) -> str:
    """The command that takes the run up again."""
    directory = shlex.quote(str(run.directory))
    return f"bert-jax pretrain {shlex.quote(str(run.directory / 'config.json'))} --data DIR --output {directory}"
