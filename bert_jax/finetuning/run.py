# SPDX-License-Identifier: Apache-2.0
"""One fine-tuned run, put together: checkpoint + task + data -> directory with scores."""

import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from bert_jax.errors import Interrupted, UserError
from bert_jax.feed.batch import Batch
from bert_jax.feed.feed import plain_feed
from bert_jax.files import own_folder, reading, write_json
from bert_jax.finetuning.batches import encoder_fields
from bert_jax.finetuning.degenerate import Degenerate, judge, Judgement
from bert_jax.finetuning.directory import Finetuned, read_record, start_or_resume, write_records
from bert_jax.finetuning.prediction import Predictor
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
from bert_jax.finetuning.split import Outcome
from bert_jax.finetuning.steps import compile_train_step
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.distributed import say
from bert_jax.mesh.sharding import put_on_mesh
from bert_jax.model.attention import resolve_implementation
from bert_jax.model.attention.check import check_at_start
from bert_jax.process.output_lock import locked
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import append_metrics, forget_metrics_after
from bert_jax.runs.names import FINETUNE_FILE, PREDICTIONS
from bert_jax.runs.tensorboard import Board
from bert_jax.tasks.table import Task
from bert_jax.train.loop import Hooks, listen_for_stop, Phase, StopRequest, train
from bert_jax.train.loop import LoopSchedule as Due
from bert_jax.train.metrics import check_finite
from bert_jax.train.state import TrainState


@dataclass(frozen=True)
class Result:
    """What came out of a run."""

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

    Args:
      wanted: task, data, model and settings.
      output: the run's directory.
      resume_command: printed when the run is interrupted.

    Raises:
      UserError: bad input, named; another process writes into `output`.
      Interrupted: asked to stop; the state is saved.
    """
    use_compilation_cache()
    if jax.process_count() > 1:
        raise UserError("fine-tuning runs in one process, on all of its devices: start it on one host")
    with locked(output, "finetune"):
        return _finetune(wanted, output, resume_command)


def _finetune(wanted: Wanted, output: Path, resume_command: str) -> Result:
    prepared = FinetuneSetup(wanted)
    run = start_or_resume(output, prepared.record(), prepared.description, prepared.tokenizer)
    if run.scores_file.exists():  # written last
        say(
            f"{run.path} has finished its {prepared.total_steps:,} steps; to train on, begin a new run with its encoder"
            f" (--model {run.path} --output NEW), under a head drawn anew"
        )
        return read_result(run)
    with listen_for_stop() as stop, Checkpoints(run.run.checkpoints, keep=1) as checkpoints:
        stop.idle = True
        session = FinetuneSession(prepared, run, checkpoints)
        session.train(stop)
    if stop.signal_number is not None and session.done < prepared.total_steps:
        raise Interrupted(
            f"saved at step {session.done:,} of {prepared.total_steps:,}; go on with: {resume_command}",
            stop.signal_number,
        )
    return session.finish()


# ---- the steps -----------------------------------------------------------------------------------------------------


@dataclass
class Interval:
    """Sums since the last line of metrics.jsonl."""

    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def add(self, sums: Mapping[str, float], seconds: float) -> None:
        """Take in a step."""
        self.seconds += seconds
        self.last = dict(sums)
        for name in ("loss", "correct", "weight", "tokens", "places"):
            self.sums[name] = self.sums.get(name, 0.0) + sums[name]

    def line(self, step: int, epoch: float, kind: str, examples: int) -> dict[str, Any]:
        """For metrics.jsonl; `examples` of the steps since the last line."""
        weight = max(self.sums["weight"], 1e-9)
        line = {"kind": "train", "step": step, "epoch": round(epoch, 4), "loss": self.sums["loss"] / weight}
        if kind != "regression":
            line["subset_accuracy" if kind == "multi_label" else "accuracy"] = self.sums["correct"] / weight
        line |= {name: self.last[name] for name in ("learning_rate", "grad_norm")}
        line["examples_per_second"] = examples / max(self.seconds, 1e-9)
        line["valid_token_share"] = self.sums["tokens"] / max(self.sums["places"], 1.0)
        return line


class FinetuneSession:
    """The steps of a run, and what happens between them."""

    def __init__(self, prepared: FinetuneSetup, run: Finetuned, checkpoints: Checkpoints):
        self.prepared, self.run, self.checkpoints = prepared, run, checkpoints
        self.predictor = Predictor(prepared.training)
        self.steps: dict[Any, Callable[..., Any]] = {}
        self.interval, self.interval_begin = Interval(), 0
        self.compiling = 0.0  # seconds within the current step
        self.outcomes: dict[str, Outcome] = {}
        self.done = 0
        self.seconds = 0.0  # of steps, without compiling and scoring
        self.state: TrainState | None = None
        self.last_loss: float | None = None
        self.examples_seen = 0

    def train(self, stop: StopRequest) -> None:
        """From the newest checkpoint, or from the beginning, to the end or until a stop is asked for."""
        prepared = self.prepared
        self._say_choices()
        self.state, self.done = self._restore_or_begin()
        forget_metrics_after(self.run.run, self.done)
        total = prepared.total_steps
        if self.done >= total:  # and was stopped before its scores were written
            return
        every = max(1, -(-prepared.schedule.steps_per_epoch // prepared.config.evals_per_epoch))
        phase = Phase(0, 0, total, lambda: self._step, self._feed)
        hooks = Hooks(self._measured, self._evaluate, self._save, partial(put_on_mesh, prepared.mesh))
        interval = 0.1 if sys.stderr.isatty() else 30.0
        self.bar = tqdm(total=total, initial=self.done, unit="step", dynamic_ncols=True, mininterval=interval)
        self.board = Board(self.run.run.tensorboard, self.done)
        try:
            self.done = train(self.state, self.done, [phase], Due(total, every, every), hooks, stop)
        finally:
            self.bar.close()
            self.board.close()

    def _say_choices(self) -> None:
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
        say(f"{prepared.task.title}: {told}; {prepared.total_steps:,} steps of {config.batch_size}, rows of"
            f" {', '.join(map(str, prepared.schedule.widths))} tokens; learning rate {config.learning_rate:g}")  # fmt: skip
        case = prepared.attention_case()
        name = resolve_implementation(config.attention, case)
        say(f"attention: {name}" if name == "reference" else check_at_start(name, case))

    def _restore_or_begin(self) -> tuple[TrainState, int]:
        if self.checkpoints.unfinished:
            say(f"a save was cut off ({', '.join(self.checkpoints.unfinished)}) and is removed")
            self.checkpoints.remove_unfinished()
        latest = self.checkpoints.latest
        if latest is None:
            return self.prepared.initial_state(), 0
        abstract = self.prepared.training.abstract_state
        items: dict[str, Any] = {"params": abstract.params}
        if self.checkpoints.has(latest, "optimizer"):
            items["optimizer"] = (abstract.opt_state, abstract.step)
        restored = self.checkpoints.restore(latest, items)
        self.seconds, self.last_loss = restored["record"]["seconds"], restored["record"]["last_loss"]
        self.examples_seen = restored["record"]["examples_seen"]
        self.interval = Interval(**restored["record"]["interval"])
        self.interval_begin = restored["record"]["interval_begin"]
        if "optimizer" not in items:  # the end: its moments are not kept
            return TrainState(restored["params"], None, None), latest  # type: ignore[arg-type]
        say(f"resuming {self.run.path} at step {latest:,} of {self.prepared.total_steps:,}")
        return TrainState(restored["params"], *restored["optimizer"]), latest

    def _feed(self, first: int) -> Generator[Batch]:
        return plain_feed(self._batch, first, self.prepared.total_steps)

    def _batch(self, step: int) -> Batch:
        draw = self.prepared.schedule.draw(step)
        return {**encoder_fields(self.prepared.train_split.units, draw), **self.prepared.train_split.labels(draw)}

    def _step(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        """One program for each shape, compiled when it comes."""
        shape = tuple((name, field.shape) for name, field in sorted(batch.items()))
        if shape not in self.steps:
            begin = time.perf_counter()
            with jax.transfer_guard("allow"):  # constants of the program
                self.steps[shape] = compile_train_step(self.prepared.training, batch)
            self.compiling += time.perf_counter() - begin
            self.bar.unpause()
        return self.steps[shape](state, batch)

    def _measured(self, done: int, phase: Phase, sums: dict[str, float], seconds: float) -> None:
        check_finite(done, sums, str(self.run.run.checkpoints), "lower learning_rate or raise warmup_share")
        seconds, self.compiling = max(seconds - self.compiling, 0.0), 0.0
        self.seconds += seconds
        self.interval.add(sums, seconds)
        self.bar.update(1)
        weight = max(self.interval.sums["weight"], 1e-9)
        self.bar.set_postfix({"loss": f"{self.interval.sums['loss'] / weight:.3f}"}, refresh=False)
        if done % self.prepared.config.log_every == 0 or done == self.prepared.total_steps:
            self._log_interval(done)

    def _log_interval(self, done: int) -> None:
        schedule = self.prepared.schedule
        examples = (done - self.interval_begin) * schedule.batch_size
        line = self.interval.line(done, done / schedule.steps_per_epoch, self.prepared.task.kind, examples)
        self.examples_seen += examples
        self.last_loss = line["loss"]
        self._log(line)
        self.interval, self.interval_begin = Interval(), done

    def _log(self, line: dict[str, Any]) -> None:
        append_metrics(self.run.run, line)
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        curves = {f"{line['kind']}/{name}": value for name, value in numbers.items() if name != "step"}
        self.board.add(line["step"], curves)

    def _evaluate(self, done: int, state: TrainState) -> None:
        """Score the dev splits."""
        self.outcomes = self._outcomes(state.params)
        for name, outcome in self.outcomes.items():
            epoch = round(done / self.prepared.schedule.steps_per_epoch, 4)
            self._log({"kind": "dev", "split": name, "step": done, "epoch": epoch, **_numbers(outcome.scores)})
            say(f"step {done:,}: {spoken(name, outcome.scores, self.prepared.task.f1_of)}")

    def _outcomes(self, params: Any) -> dict[str, Outcome]:
        return {
            split.name: split.outcome(self.predictor.outputs(params, split.units, split.name))
            for split in self.prepared.dev_splits
        }

    def _save(self, done: int, state: TrainState) -> None:
        items: dict[str, Any] = {"params": state.params}
        if done < self.prepared.total_steps:
            items["optimizer"] = (state.opt_state, state.step)
        record = {
            "seconds": self.seconds,
            "last_loss": self.last_loss,
            "examples_seen": self.examples_seen,
            "interval": asdict(self.interval),
            "interval_begin": self.interval_begin,
        }
        self.checkpoints.save(done, items, record)

    def finish(self) -> Result:
        """Write predictions and scores of the finished run, and judge it."""
        if not self.outcomes and self.prepared.dev_splits:
            assert self.state is not None
            self.outcomes = self._outcomes(self.state.params)
        folder = own_folder(self.run.path / PREDICTIONS)
        found: dict[str, float] = {}
        for name, outcome in self.outcomes.items():
            write_records(folder / f"{name}.jsonl", outcome.records)
            outcome.write(folder)
            found |= outcome.found
        record = {**self.run.record, "found": found}
        write_json(self.run.path / FINETUNE_FILE, record)
        return self._write_scores()

    def _write_scores(self) -> Result:
        task, config = self.prepared.task, self.prepared.config
        judgement, value, split = Judgement(), None, ""
        if self.outcomes:
            split, first = next(iter(self.outcomes.items()))
            value = first.scores.get(main_metric(task, first.scores))
            trained_on = getattr(self.prepared.train_split, "gold", None)
            judgement = judge(task.kind, first, config, self.prepared.total_steps, self.last_loss, trained_on)
        metric = main_metric(task, first.scores) if self.outcomes else task.metrics[0]
        scores = {name: outcome.scores for name, outcome in self.outcomes.items()}
        devices = list(self.prepared.mesh.devices.flat)
        write_json(
            self.run.scores_file,
            {
                "scores": {name: _numbers(values) for name, values in scores.items()},
                "main": {"metric": metric, "split": split, "value": value},
                "f1_of": task.f1_of,
                "degenerate": judgement.degenerate.to_dict() if judgement.degenerate else None,
                "undecided": judgement.undecided,
                "seconds": self.seconds,
                "examples_per_second": self.examples_seen / max(self.seconds, 1e-9),
                "device": f"{len(devices)} x {devices[0].device_kind}",
                "seed": config.seed,
                "step": self.prepared.total_steps,
            },
        )
        told = (judgement.degenerate, judgement.undecided, task.f1_of)
        return Result(self.run.path, metric, split, value, scores, *told)


def read_result(run: Finetuned) -> Result:
    """Of a finished run, from its scores.json."""
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
