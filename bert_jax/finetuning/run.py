# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: checkpoint + task + data -> directory with scores."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from bert_jax.base.files import own_folder, reading, write_json
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.feed.batch import Batch
from bert_jax.feed.feed import plain_feed
from bert_jax.finetuning.batches import encoder_fields, NOBODY
from bert_jax.finetuning.degenerate import Degenerate, judge, Judgement
from bert_jax.finetuning.directory import (
    Finetuned,
    read_if_same,
    read_record,
    settings_as_begun,
    start_or_resume,
    write_records,
)
from bert_jax.finetuning.distillation import TaskDistillation
from bert_jax.finetuning.losses import TaskLoss
from bert_jax.finetuning.prediction import own_part, Predictor
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
from bert_jax.finetuning.split import Outcome
from bert_jax.mesh import distributed
from bert_jax.mesh.distributed import all_or_none, is_main, say
from bert_jax.runs.trackers import require_installed
from bert_jax.tasks.table import Task
from bert_jax.train.metrics import MetricsInterval, taught_scores
from bert_jax.train.run import locked_by_main, open_shared, train_run
from bert_jax.train.session import RunObjective, Session, StepSpan
from bert_jax.train.state import TrainState
from bert_jax.train.step import Loss


@dataclass(frozen=True)
class Result:
    """The outcome of a finished run."""

    path: Path
    metric: str
    split: str
    value: float | None
    scores: dict[str, dict[str, float | None]]
    degenerate: Degenerate | None
    undecided: str | None = None  # why its scores cannot tell whether it has learned anything
    f1_of: str | None = None  # the class that F1 is of, where it is of one alone


def finetune(wanted: Wanted, output: Path, *, resume_command: str) -> Result:
    """Fine-tune to the end, from the newest checkpoint of `output` if there is one; score, predict, judge.

    Of several processes (`distributed.initialize`) each calls this with the same arguments; `output` is a folder that all
    of them share.

    Args:
      wanted: task, data, model and settings.
      output: the run's directory.
      resume_command: printed when the run is interrupted.

    Raises:
      UserError: bad input, named; a loss that is not finite; another process writes into `output`.
      Interrupted: asked to stop; the state is saved.
    """
    with locked_by_main(output, "finetune"):
        with all_or_none():
            require_installed(wanted.config.tracker)  # before data and model on a bucket are copied
            wanted = replace(wanted, config=settings_as_begun(output, wanted.config))
            prepared = FinetuneSetup(wanted)
            record = prepared.record()
        run = open_run_directory(output, prepared, record)
        if distributed.of_main(run.scores_file.exists()):  # written last
            say(
                f"{run.path} has finished its {prepared.total_steps:,} steps; to train on, begin a new run with its encoder"
                f" (--model {run.path} --output NEW), under a head drawn anew"
            )
            return read_result(run)
        objective = Finetuning(prepared, run)
        session, state = train_run(
            objective, run, prepared.training.attention_case(prepared.schedule.widths), resume_command=resume_command
        )
        assert state is not None
        return objective.finish(session, state)


def open_run_directory(output: Path, prepared: FinetuneSetup, record: JsonObject) -> Finetuned:
    """Return the run directory, made or recognised by the main process and seen by all.

    Raises:
      UserError: see `start_or_resume`; processes that were started differently or share no folder.
    """
    return open_shared(
        output,
        {"task, --data, --model and settings": repr(record)},
        lambda: start_or_resume(output, record, prepared.description, prepared.tokenizer),
        lambda: read_if_same(output, record),
    )


class Finetuning(RunObjective):
    """Fine-tuning as the session sees it. The end of a run is still scored, and shapes are seen when batches come."""

    keeps_optimizer = False  # what is left of a finished run is to be used
    remedy = "lower optimizer.learning_rate or raise optimizer.warmup_share"

    def __init__(self, prepared: FinetuneSetup, run: Finetuned):
        self.prepared, self.run = prepared, run
        self.training = prepared.training
        self.data_place = str(prepared.wanted.data)
        own = TaskLoss(prepared.task.kind, frozen_encoder=prepared.config.optimizer.freeze == "encoder")
        self.loss: Loss = own
        if (teacher := prepared.teacher) is not None:
            fixed = teacher.on_mesh(self.training)
            self.loss = TaskDistillation(own, teacher, prepared.config.distill, fixed)
        self.predictor = Predictor(self.training)
        self.outcomes: dict[str, Outcome] = {}  # of the last evaluation, by split

    def say_choices(self) -> None:
        """Say what was read, and what the run does with it."""
        prepared, config = self.prepared, self.prepared.config
        for split in (prepared.train_split, *prepared.dev_splits):
            for note in split.notes:
                say(note)
        if not prepared.dev_splits:
            say(f"{prepared.wanted.data} has no dev split: nothing will be scored")
        counts = prepared.train_split.counts
        told = ", ".join(
            f"{count:,} {what}" for what, count in counts.items() if what in ("examples", "questions", "rows")
        )
        widths = ", ".join(map(str, prepared.schedule.widths))
        say(
            f"{prepared.task.title}: {told}; {prepared.total_steps:,} steps of {config.batch_size}, rows of {widths} tokens;"
            f" learning rate {config.optimizer.learning_rate:g}"
        )
        if prepared.teacher is not None:
            say(prepared.teacher.words(config.distill))

    def initial_state(self) -> TrainState:
        """Return the checkpoint's encoder with a new head."""
        return self.prepared.initial_state()

    def spans(self) -> list[StepSpan]:
        """Return the run, which is of one piece."""
        return [StepSpan(0, 0, self.prepared.total_steps)]

    def batches(self, span: StepSpan, first: int) -> Generator[Batch]:
        """Yield this process's rows of the batches from step `first` to the end."""
        return plain_feed(self._batch, first, span.end)

    def _batch(self, step: int) -> Batch:
        draw, split = self.prepared.schedule.draw(step), self.prepared.train_split
        batch = {**encoder_fields(split.units, draw), **split.labels(draw)}
        return own_part(batch, self.training.mesh)

    def examples(self, span: StepSpan, step: int) -> JsonObject:
        """Return the examples of a step's batch, by their numbers among those of training."""
        examples = self.prepared.schedule.draw(step).examples
        return {"examples": examples[examples != NOBODY].tolist()}

    def shown(self, sums: Mapping[str, float]) -> dict[str, str]:
        """Return the loss of a step, and the distance from a teacher."""
        shown = {"loss": sums["task_loss"] / max(sums["task_weight"], 1.0)} | taught_scores(sums)
        return {name: f"{value:.3f}" for name, value in shown.items()}

    def line(self, done: int, span: int, interval: MetricsInterval) -> JsonObject:
        """Return the line of metrics.jsonl for the steps up to `done`."""
        schedule, sums = self.prepared.schedule, interval.sums
        weight = max(sums["task_weight"], 1e-9)
        line = {"kind": "train", "step": done, "epoch": self._epoch(done), "loss": sums["task_loss"] / weight}
        if (kind := self.prepared.task.kind) != "regression":
            line["subset_accuracy" if kind == "multi_label" else "accuracy"] = sums["task_correct"] / weight
        line |= taught_scores(sums)
        line |= {name: sums[name] for name in ("learning_rate", "grad_norm")}
        line["examples_per_second"] = interval.steps * schedule.batch_size / max(interval.seconds, 1e-9)
        line["valid_token_share"] = sums["valid_tokens"] / max(sums["row_tokens"], 1.0)
        return line

    def _epoch(self, done: int) -> float:
        return round(done / self.prepared.schedule.steps_per_epoch, 4)

    def evaluate(self, done: int, params: PyTree) -> Iterator[tuple[JsonObject, str]]:
        """Score the dev splits."""
        self.outcomes = self._outcomes(params)
        for name, outcome in self.outcomes.items():
            place = {"kind": "dev", "split": name, "step": done, "epoch": self._epoch(done)}
            yield {**place, **_numbers(outcome.scores)}, spoken(name, outcome.scores, self.prepared.task.f1_of)

    def _outcomes(self, params: PyTree) -> dict[str, Outcome]:
        return {
            split.name: split.outcome(self.predictor.outputs(params, split.units, split.name))
            for split in self.prepared.dev_splits
        }

    # ---- the end ---------------------------------------------------------------------------------------------------

    def finish(self, session: Session, state: TrainState) -> Result:
        """Write predictions and scores of the finished run, and judge it; the main process writes."""
        if not self.outcomes and self.prepared.dev_splits:
            self.outcomes = self._outcomes(state.used)
        with all_or_none():
            if is_main():
                self._write_predictions()
                write_json(self.run.scores_file, self._scores(session) | self._mix(state.used))
        return read_result(self.run)

    def _write_predictions(self) -> None:
        folder, found = own_folder(self.run.predictions), dict[str, float]()
        for name, outcome in self.outcomes.items():
            write_records(folder / f"{name}.jsonl", outcome.records)
            outcome.write(folder, name)
            found = outcome.found | found  # of several dev splits the first decides
        write_json(self.run.finetune_file, {**self.run.record, "found": found})

    def _scores(self, session: Session) -> JsonObject:
        """Return scores.json."""
        task, config = self.prepared.task, self.prepared.config
        judgement, value, split, metric = Judgement(), None, "", task.metrics[0]
        if self.outcomes:
            split, first = next(iter(self.outcomes.items()))
            metric = main_metric(task, first.scores)
            value = first.scores.get(metric)
            loss = session.progress.last_line.get("loss")
            trained_on = getattr(self.prepared.train_split, "gold", None)
            judgement = judge(task.kind, first, config, self.prepared.total_steps, loss, trained_on)
        devices = list(self.training.mesh.devices.flat)
        examples = self.prepared.total_steps * self.prepared.schedule.batch_size
        return {
            "scores": {name: _numbers(outcome.scores) for name, outcome in self.outcomes.items()},
            "main": {"metric": metric, "split": split, "value": value},
            "f1_of": task.f1_of,
            "degenerate": judgement.degenerate.to_dict() if judgement.degenerate else None,
            "undecided": judgement.undecided,
            "seconds": session.progress.seconds,
            "examples_per_second": examples / max(session.progress.seconds, 1e-9),
            "device": f"{len(devices)} x {devices[0].device_kind}",
            "seed": config.seed,
            "step": self.prepared.total_steps,
        }

    def _mix(self, params: PyTree) -> JsonObject:
        """Return the learned weights of a mix of layers and its scale (1802.05365, equation 1), where the head has one."""
        head = self.prepared.head
        if not head.layers or head.combine != "mix":
            return {}
        mix, layers = params["features"]["mix"], self.prepared.description.model.num_hidden_layers + 1
        shares = np.asarray(jax.nn.softmax(mix["weights"])).tolist()
        return {"mix": {"layers": [n % layers for n in head.layers], "weights": shares, "scale": float(mix["scale"])}}


def read_result(run: Finetuned) -> Result:
    """Return the outcome of a finished run, read from its scores.json."""
    record = read_record(run.scores_file)
    with reading(run.scores_file, "remove it and run the same command again: the run is only scored"):
        main, degenerate = record["main"], record["degenerate"]
        found = Degenerate(**degenerate) if degenerate else None
        told = (found, record.get("undecided"), record.get("f1_of"))
        return Result(run.path, main["metric"], main["split"], main["value"], record["scores"], *told)


def main_metric(task: Task, scores: Mapping[str, float | None]) -> str:
    """The task's first metric, under the name that the scorer gave it (CMRC's writes F1)."""
    names = {name.lower(): name for name in scores}
    return next((names[name] for name in task.metrics if name in names), next(iter(scores), task.metrics[0]))


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else float(value) for name, value in scores.items()}


def spoken(split: str, scores: Mapping[str, float | None], f1_of: str | None) -> str:
    """Every metric with its name and split: "dev accuracy 0.9128"; `f1_of`: the class that F1 is of, if of one alone."""
    parts = []
    for name, value in scores.items():
        if isinstance(value, float) or value is None:
            words = metric_words(name, f1_of)
            parts.append(f"{words} {'not defined' if value is None else format(value, '.4f')}")
    return f"{split} {', '.join(parts)}"


def metric_words(name: str, f1_of: str | None) -> str:
    """Return what a metric is called where people read it; F1 of one class says of which."""
    return f"{name} of {f1_of}" if name == "f1" and f1_of else name.replace("_", " ")
