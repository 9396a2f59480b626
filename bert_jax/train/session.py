# SPDX-License-Identifier: Apache-2.0
"""One process's work on a run of any kind: resume, progress, metrics, curves, checkpoints. An `RunObjective` says the rest."""

import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, Protocol

import jax
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.feed.batch import Batch
from bert_jax.mesh import distributed
from bert_jax.mesh.distributed import is_main, say
from bert_jax.mesh.sharding import put_on_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import append_metrics, forget_metrics_after, RunDirectory
from bert_jax.runs.tensorboard import Board
from bert_jax.train.loop import Hooks, LoopSchedule, Phase, Step, StopRequest, train
from bert_jax.train.metrics import check_finite, MetricsInterval
from bert_jax.train.state import Training, TrainState
from bert_jax.train.step import compile_train_step, CompiledStep, Fields, Loss


class StepSpan(NamedTuple):
    """A stretch of steps with batches of its own shapes."""

    number: int
    begin: int  # first step
    end: int  # the step after the last


class RunObjective(Protocol):
    """The part of a run that its kind decides, as the session calls it. A kind inherits what it does not need to say."""

    keeps_optimizer: bool  # whether the finished run's checkpoint holds moments, to be trained on
    remedy: str  # what to change where a loss is not finite
    begins_trained: bool = (
        False  # whether the first state is another run's: it is scored and saved before the first step
    )
    training: Training  # the model's graph, the optimizer, shapes and shardings
    loss: Loss  # what the train step differentiates

    def spans(self) -> Sequence[StepSpan]:
        """Return the stretches of the run, one after the other."""

    def finished(self) -> str | None:
        """Return what is said of a run that has taken all its steps; None where something is still made of its end."""
        return None

    def before(self, span: StepSpan) -> None:
        """Do what a span needs before its first step, such as compile its evaluation: later a stop would wait for it."""
        return

    def shapes(self, span: StepSpan) -> Sequence[Mapping[str, jax.ShapeDtypeStruct]]:
        """Return the fields of the batches of a span that are known before its first step; others compile when they come."""
        return []

    def batches(self, span: StepSpan, first: int) -> Generator[Batch]:
        """Return this process's rows of the batches from step `first` to the span's end: functions of (seed, step)."""

    def say_choices(self) -> None:
        """Say what was chosen for this run on these devices."""

    def initial_state(self) -> TrainState:
        """Return the state that the run begins with."""

    def first_lines(self) -> Iterator[JsonObject]:
        """Yield lines of metrics of step 0, what was measured before the first step, and say it."""
        return iter(())

    def shown(self, sums: Mapping[str, float]) -> dict[str, str]:
        """Return what the progress bar shows, from the sums of a step."""

    def line(self, done: int, span: int, interval: MetricsInterval) -> JsonObject:
        """Return the line of metrics for the steps since the last one."""

    def evaluate(self, done: int, params: PyTree) -> Iterator[tuple[JsonObject, str]]:
        """Yield a line of metrics and a sentence for each split that is scored after `done` steps."""


class Session:
    """The steps of a run and what happens between them."""

    def __init__(self, objective: RunObjective, run: RunDirectory, checkpoints: Checkpoints):
        self.objective, self.run, self.checkpoints = objective, run, checkpoints
        self.training, self.config = objective.training, objective.training.config
        self.interval = MetricsInterval()  # since the last line of metrics
        self.seconds = 0.0  # of steps since the run began, without compiling and scoring
        self.last_line: JsonObject = {}  # of metrics
        self.bar: tqdm = tqdm(disable=True)
        self.board: Board | None = None
        self._programs: dict[tuple[tuple[str, tuple[int, ...]], ...], CompiledStep] = {}
        self._compiling = 0.0  # seconds within the current step

    def train(self, stop: StopRequest) -> tuple[TrainState, int]:
        """Train from the newest checkpoint, or from the beginning, to the end or until a stop is asked for.

        Returns:
          The state, and the number of steps done; both are saved.
        """
        state, done, begins = self.restore_or_begin()
        total = self.config.total_steps
        if done >= total:
            return state, done
        eval_every = self.config.eval_every
        schedule = LoopSchedule(total, self.config.save_every or eval_every or total, eval_every)
        hooks = Hooks(self.measured, self.evaluate, self.save, partial(put_on_mesh, self.training.mesh))
        with self._shown(done):
            if begins:
                self._begin(state, done)
            return train(state, done, self.phases(done), schedule, hooks, stop)

    def _begin(self, state: TrainState, done: int) -> None:
        """Log what was measured before the first step; of weights that are trained already how good they are, too."""
        for line in self.objective.first_lines():
            self.log(line)
        if self.objective.begins_trained:
            self.evaluate(done, state)
            self.save(done, state)

    def _shown(self, done: int) -> ExitStack:
        """Open the progress bar and TensorBoard (where events after `done` are taken back), in the main process."""
        interval = 0.1 if sys.stderr.isatty() else 30.0  # seconds; a log file needs few lines
        stack = ExitStack()
        self.bar = stack.enter_context(
            tqdm(
                total=self.config.total_steps,
                initial=done,
                unit="step",
                dynamic_ncols=True,
                smoothing=0.05,
                mininterval=interval,
                disable=not is_main(),
            )
        )
        if is_main():
            self.board = Board(self.run.tensorboard, done)
            stack.callback(self.board.close)
        return stack

    # ---- steps -----------------------------------------------------------------------------------------------------

    def phases(self, done: int) -> list[Phase]:
        """Return the spans that are left after `done` steps, each compiled when the loop comes to it."""
        return [
            Phase(*span, partial(self._compile, span), partial(self.objective.batches, span))
            for span in self.objective.spans()
            if span.end > done
        ]

    def _compile(self, span: StepSpan) -> Step:
        """Compile for the shapes of a span that are known, and return the step for any batch."""
        self.objective.before(span)
        shapes = self.objective.shapes(span)
        if shapes:
            widths = ", ".join(str(shape["input_ids"].shape[1]) for shape in shapes)
            say(f"phase {span.number}: compiling for rows of {widths}")
            begin = time.perf_counter()
            for shape in shapes:
                self._program(shape)
            say(f"phase {span.number}: compiled in {time.perf_counter() - begin:.1f} s")
        self._compiling = 0.0
        self.bar.unpause()  # the bar's rate does not count it
        return lambda state, batch: self._program(batch)(state, batch)

    def _program(self, batch: Fields) -> CompiledStep:
        """Return the program for batches with the fields of this one, which are of a global batch."""
        shape = tuple((name, batch[name].shape) for name in sorted(batch))
        if shape not in self._programs:
            begin = time.perf_counter()
            with jax.transfer_guard("allow"):  # constants of the program
                self._programs[shape] = compile_train_step(self.training, self.objective.loss, batch)
            self._compiling += time.perf_counter() - begin
            self.bar.unpause()
        return self._programs[shape]

    def measured(self, done: int, phase: Phase, sums: dict[str, float], seconds: float) -> None:
        """Take in a step: check it, show it, log it when it is due."""
        check_finite(done, sums, str(self.run.checkpoints), self.objective.remedy)
        seconds, self._compiling = max(seconds - self._compiling, 0.0), 0.0
        self.seconds += seconds
        self.interval.add(sums, seconds)
        self.bar.update(1)
        rate = self.interval.sums["valid_tokens"] / max(self.interval.seconds, 1e-9)
        self.bar.set_postfix(self.objective.shown(sums) | {"tokens/s": f"{rate:,.0f}"}, refresh=False)
        if done % self.config.log_every == 0 or done == self.config.total_steps:
            self.last_line = self.objective.line(done, phase.number, self.interval)
            self.log(self.last_line)
            self.interval = MetricsInterval()

    def log(self, line: JsonObject) -> None:
        """Add a line to metrics.jsonl and to TensorBoard, in the main process."""
        if self.board is None:
            return
        append_metrics(self.run, line)
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        curves = {f"{line['kind']}/{name}": value for name, value in numbers.items() if name not in ("step", "phase")}
        self.board.add(line["step"], curves)

    def evaluate(self, done: int, state: TrainState) -> None:
        """Score what is held out."""
        for line, sentence in self.objective.evaluate(done, state.params):
            self.log(line)
            say(f"step {done:,}: {sentence}")

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, done: int, state: TrainState) -> None:
        """Begin a checkpoint."""
        items: dict[str, PyTree] = {"params": state.params}
        if done < self.config.total_steps or self.objective.keeps_optimizer:
            items["optimizer"] = (state.opt_state, state.step)
        record = {"window": self.interval.as_record(), "seconds": self.seconds, "last_line": self.last_line}
        self.checkpoints.save(done, items, record)

    def restore_or_begin(self) -> tuple[TrainState, int, bool]:
        """Return the state of the newest complete checkpoint, or a new one; the steps done; whether it is a new one.

        Which checkpoint: 1. the newest complete one; 2. an unfinished save is never used, and is named; 3. none: step 0.
        """
        latest, total = self.checkpoints.latest, self.config.total_steps
        done = distributed.of_main(-1 if latest is None else latest)
        if is_main() and self.checkpoints.unfinished:
            basis = "no checkpoint is complete" if done < 0 else f"the last complete checkpoint is of step {done:,}"
            say(f"a save was cut off ({', '.join(self.checkpoints.unfinished)}) and is removed; {basis}")
            self.checkpoints.remove_unfinished()
        dropped = forget_metrics_after(self.run, done) if is_main() else 0
        if done < 0:
            state = self.objective.initial_state()
            return state, int(state.step), True
        if done > total:
            raise UserError(
                f"{self.run.path}: its checkpoint is of step {done:,}, beyond the {total:,} of this configuration: raise"
                " phases.0.steps"
            )
        again = f"; {dropped} lines of metrics after it will be computed again" if dropped else ""
        if done < total:
            say(f"resuming {self.run.path} at step {done:,} of {total:,}{again}")
        return self._restore(done), done, False

    def _restore(self, done: int) -> TrainState:
        abstract = self.training.abstract_state
        if not self.checkpoints.has(done, "optimizer"):
            if done < self.config.total_steps:
                say(
                    f"begins with the weights of {self.run.checkpoints / str(done)}; the optimizer's moments begin at 0"
                )
            restored = self.checkpoints.restore(done, {"params": abstract.params})
            state = self.training.initial_state()._replace(params=restored["params"])
        else:
            items = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)}
            restored = self.checkpoints.restore(done, items)
            state = TrainState(restored["params"], *restored["optimizer"])
        record = restored["record"]
        self.interval = MetricsInterval(**record["window"]) if "window" in record else former_interval(record, done)
        self.seconds = record.get("seconds", 0.0)
        self.last_line = record.get("last_line", {"loss": record.get("last_loss")})
        return state


def former_interval(record: JsonObject, done: int) -> MetricsInterval:
    """Return the metrics interval of a checkpoint that an earlier version of fine-tuning saved."""
    interval = record["interval"]
    names = {"tokens": "valid_tokens", "places": "row_tokens"}
    sums = {names.get(name, f"task_{name}"): value for name, value in interval["sums"].items()}
    last = {name: interval["last"][name] for name in ("learning_rate", "grad_norm") if name in interval["last"]}
    return MetricsInterval(done - record["interval_begin"], interval["seconds"], sums | last)
