# SPDX-License-Identifier: Apache-2.0
"""One process's work on a run of any kind: resume, progress, metrics, curves, checkpoints. An `RunObjective` says the rest."""

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import NamedTuple, Protocol

import jax
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.files import put_grown
from bert_jax.base.stopping import begun
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.training import averaged_words
from bert_jax.feed.batch import Batch, field_shapes, FieldShapes
from bert_jax.mesh import distributed
from bert_jax.mesh.distributed import is_main, say
from bert_jax.mesh.sharding import put_on_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.cost import BAD, CLOCK
from bert_jax.runs.directory import forget_metrics_after, RunDirectory
from bert_jax.train.bad_steps import BadSteps, RollBack, SKIPPED
from bert_jax.train.capsule import BadStep, layer_norms, stopped, write_capsule
from bert_jax.train.log import RunLog
from bert_jax.train.loop import Arrays, Hooks, LoopSchedule, Phase, Step, StopRequest, train
from bert_jax.train.metrics import MetricsInterval
from bert_jax.train.profile import StepProfiler
from bert_jax.train.progress import Progress, restored
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
    data_place: str  # where the data lies
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

    def examples(self, span: StepSpan, step: int) -> JsonObject:
        """Return what the global batch of a step holds, as numbers of examples: for the capsule of a bad step."""

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
        self.progress = Progress(BadSteps(self.config))
        self.bar: tqdm = tqdm(disable=True)
        self.log = RunLog(run, self.config)
        self.profiler = StepProfiler(self.config.profiled_steps, run)
        self.begun = 0  # steps that were dispatched
        self.newest: TrainState | None = None  # the state after them
        self._saved: int | None = None  # the step of the checkpoint that was begun last
        # Functions that wait: for the program of batches of a shape, and for what a span by its number needs beside.
        self._programs: dict[FieldShapes, Callable[[], CompiledStep]] = {}
        self._prepared: dict[int, Callable[[], None]] = {}
        # Seconds within the current step: for its program, for its batch, for a trace that is written.
        self._compiling = self._waited = self._saving = 0.0

    def train(self, stop: StopRequest) -> tuple[TrainState, int]:
        """Train from the newest checkpoint, or from the beginning, to the end or until a stop is asked for.

        Returns:
          The state, and the number of steps done; both are saved.
        """
        newest = distributed.of_main(self.checkpoints.latest or 0)
        span = next((span for span in self.objective.spans() if span.end > newest), None)
        if span is not None:
            self._begin_programs(span)  # while the state is made or read
        state, done, begins = self.restore_or_begin()
        if done >= self.config.total_steps:
            return state, done
        with self._shown(done):
            if begins:
                self._begin(state, done)
            while True:
                self.begun = done
                try:
                    state, done = train(state, done, self.phases(done), self._schedule(), self._hooks(), stop)
                    break
                except RollBack as bad:
                    back = bad.with_traceback(None)  # it would hold the state
                del state
                state, done = self._roll_back(back)
            with self.progress.clock.timing("save"):
                self.checkpoints.wait()
            self.log_clock(done)
            self.log.saved(done)
        return state, done

    def _schedule(self) -> LoopSchedule:
        total, every = self.config.total_steps, self.config.eval_every
        return LoopSchedule(total, self.config.save_every or every or total, every)

    def _hooks(self) -> Hooks:
        return Hooks(self.measured, self.evaluate, self.save, partial(put_on_mesh, self.training.mesh), self._wait)

    def _begin(self, state: TrainState, done: int) -> None:
        """Log what was measured before the first step; of weights that are trained already how good they are, too."""
        for line in self.objective.first_lines():
            self.log.add(line)
        if self.objective.begins_trained:
            self.evaluate(done, state)
            self.save(done, state)

    def _shown(self, done: int) -> ExitStack:
        """Open the progress bar and the log, in the main process."""
        interval = 0.1 if sys.stderr.isatty() else 30.0  # seconds; a log file needs few lines
        stack = ExitStack()
        stack.callback(lambda: self.profiler.close(self.begun))
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
        stack.callback(self.log.close)
        self.log.open(done)
        return stack

    # ---- steps -----------------------------------------------------------------------------------------------------

    def phases(self, done: int) -> list[Phase]:
        """Return the spans that are left after `done` steps, each compiled when the loop comes to it."""
        return [
            Phase(*span, partial(self._compile, span), partial(self._batches, span))
            for span in self.objective.spans()
            if span.end > done
        ]

    def _batches(self, span: StepSpan, done: int) -> Generator[Batch]:
        """Return the batches of a span after `done` steps, behind those that were passed over."""
        self.begun, moved = done, self.progress.bad_steps.moved
        return self.objective.batches(span._replace(end=span.end + moved), done + moved)

    def _compile(self, span: StepSpan) -> Step:
        """Compile for the shapes of a span that are known, and return the step for any batch."""
        clock = self.progress.clock
        clock.started()
        with clock.timing("compile"):
            self._compile_span(span)
        self.log_clock(self.begun)
        self._compiling = self._waited = 0.0
        self.bar.unpause()  # the bar's rate does not count it
        return self._step

    def _compile_span(self, span: StepSpan) -> None:
        self._begin_programs(span)
        shapes = self.objective.shapes(span)
        if shapes:
            widths = ", ".join(str(shape["input_ids"].shape[1]) for shape in shapes)
            say(f"phase {span.number}: compiling for rows of {widths}")
            begin = time.perf_counter()
            for shape in shapes:
                self._program(shape)
            say(f"phase {span.number}: compiled in {time.perf_counter() - begin:.1f} s")
        self._prepared[span.number]()

    def _begin_programs(self, span: StepSpan) -> None:
        """Begin what a span needs before its first step, in threads beside each other and beside what the main one does."""
        if span.number in self._prepared:
            return
        before = partial(self.objective.before, span)
        if self.training.platform == "gpu":  # it measures its kernels while it compiles: one program at a time
            self._prepared[span.number] = cache(before)
            return
        self._prepared[span.number] = begun(before)
        for shape in self.objective.shapes(span):
            self._begin_program(shape)

    def _begin_program(self, batch: Fields) -> Callable[[], CompiledStep]:
        """Begin to compile for global batches with the fields of this one, and return what waits for the program."""
        shape = field_shapes(batch)
        if shape not in self._programs:
            fields = {name: jax.ShapeDtypeStruct(field.shape, field.dtype) for name, field in batch.items()}
            self._programs[shape] = begun(partial(compile_train_step, self.training, self.objective.loss, fields))
        return self._programs[shape]

    def _program(self, batch: Fields) -> CompiledStep:
        """Return the program for batches with the fields of this one."""
        if (known := self._programs.get(field_shapes(batch))) is not None:
            return known()
        begin = time.perf_counter()
        program = self._begin_program(batch)()
        self._compiling += time.perf_counter() - begin
        self.bar.unpause()
        return program

    def _step(self, state: TrainState, batch: Arrays) -> tuple[TrainState, Arrays]:
        """Begin a step."""
        program = self._program(batch)
        with self.profiler.step(self.begun + 1):
            self.newest, sums = program(state, batch, self.progress.bad_steps.limit(self.begun + 1))
        self.begun += 1
        return self.newest, sums

    def _wait(self, seconds: float) -> None:
        """Take in what the device waited for a batch."""
        self._waited += seconds
        self.progress.clock.add("data_wait", seconds)

    def measured(self, done: int, phase: Phase, sums: dict[str, float], seconds: float) -> None:
        """Take in a step: check it, show it, log it when it is due."""
        progress = self.progress
        why, begin = progress.bad_steps.why(done, sums), time.perf_counter()
        if why is not None:
            self._answer(done, phase, sums, why)
        answered = time.perf_counter() - begin
        seconds = max(seconds - self._compiling - self._saving, 0.0)
        progress.clock.add("compile", self._compiling)
        progress.clock.add("steps", max(seconds - self._waited, 0.0))
        self._compiling = self._waited = 0.0
        progress.seconds += seconds
        self._saving = answered + self._trace(done)
        self.bar.update(1)
        if why is None:
            progress.interval.add({name: value for name, value in sums.items() if name != SKIPPED}, seconds)
            rate = progress.interval.sums["valid_tokens"] / max(progress.interval.seconds, 1e-9)
            self.bar.set_postfix(self.objective.shown(sums) | {"tokens/s": f"{rate:,.0f}"}, refresh=False)
        if done % self.config.log_every == 0 or done == self.config.total_steps:
            if progress.interval.steps:  # else all were skipped, and there is nothing to say
                progress.last_line = self.objective.line(done, phase.number, progress.interval)
                self.log.add(progress.last_line)
            self.log_clock(done)
            progress.interval = MetricsInterval()

    def _trace(self, done: int) -> float:
        """Write the trace where it ends with this step; returns the seconds that this took."""
        begin = time.perf_counter()
        self.profiler.ended(done)
        seconds = time.perf_counter() - begin
        self.progress.clock.add("save", seconds)
        return seconds

    def log_clock(self, done: int) -> None:
        """Log where the time went so far."""
        self.log.add({"kind": CLOCK, "step": done, **self.progress.clock.record()})

    def evaluate(self, done: int, state: TrainState) -> None:
        """Score what is held out."""
        for prepared in self._prepared.values():
            prepared()
        weights = averaged_words(self.config.optimizer.average)
        with self.progress.clock.timing("evaluation"):
            for line, sentence in self.objective.evaluate(done, state.used):
                self.log.add(line)
                say(f"step {done:,}: {sentence}{f'; {weights}' if weights else ''}")

    # ---- bad steps -------------------------------------------------------------------------------------------------

    def _answer(self, step: int, phase: Phase, sums: Mapping[str, float], why: str) -> None:
        """Write the capsule of a bad step, and do what `on_bad_step` says.

        Raises:
          UserError: the run stops here.
          RollBack: it goes on from before.
        """
        action, bad_steps = self.config.on_bad_step, self.progress.bad_steps
        assert self.newest is not None
        with self.progress.clock.timing("save"), jax.transfer_guard("allow"):
            span = StepSpan(phase.number, phase.begin, phase.end)
            examples = self.objective.examples(span, step - 1 + bad_steps.moved)
            bad = BadStep(step, why, sums, bad_steps.moved, examples)
            norms = layer_norms(self.newest.params, self.training.mesh)
            capsule = write_capsule(self.run, bad, self.config.seed, action, norms, self.checkpoints)
        if action == "stop":
            raise stopped(step, why, self.run, self.objective.remedy)
        bad_steps.bounded(step, why)
        if action == "rollback":
            raise RollBack(step, why)
        self._log_bad(step, step, step, f"{why}: its update is left out, and {capsule} holds it")

    def _log_bad(self, place: int, first: int, last: int, words: str) -> None:
        """Log, among the lines of step `place`, that the batches of some steps do not count, and say it."""
        bad, action = self.progress.bad_steps, self.config.on_bad_step
        counts = {"count": bad.count, "moved": bad.moved, "first": first, "last": last}
        self.log.add({"kind": BAD, "step": place, "action": action, **counts})
        say(f"step {last:,}: {words} ({bad.count} of at most {self.config.most_bad_steps})")

    def _roll_back(self, bad: RollBack) -> tuple[TrainState, int]:
        """Return the newest saved state, from which batches behind the bad one are taken, and its steps."""
        self.newest = None
        self.profiler.close(self.begun)
        count, moved = self.progress.bad_steps.count, self.progress.bad_steps.moved
        self.log_clock(bad.step)  # the time of what is taken back
        put_grown()  # what is taken back is read from the run directory
        state, done, _ = self._newest_saved(restarts=0)
        self.log.open(done)
        self.progress.clock.started()
        self.progress.bad_steps.count, self.progress.bad_steps.moved = count, moved + bad.step - done
        words = f"rolled back to step {done:,}: the batches of {bad.step - done:,} steps are passed over"
        self._log_bad(done, done + 1 + moved, bad.step + moved, f"{bad.why}: {words}")
        self.bar.n = done
        self.bar.refresh()
        return state, done

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, done: int, state: TrainState) -> None:
        """Begin a checkpoint."""
        state = state.exchanged()
        with self.progress.clock.timing("save"):
            items: dict[str, PyTree] = {"params": state.params}
            if done < self.config.total_steps or self.objective.keeps_optimizer:
                items["optimizer"] = (state.opt_state, state.step)
            self.checkpoints.save(done, items, self.progress.record())
        if self._saved is not None:
            self.log.saved(self._saved)  # it was waited for
        self._saved = done

    def restore_or_begin(self) -> tuple[TrainState, int, bool]:
        """Return the state of the newest complete checkpoint, or a new one; the steps done; whether it is a new one.

        Which checkpoint: 1. the newest complete one; 2. an unfinished save is never used, and is named; 3. none: step 0.
        """
        latest, total = self.checkpoints.latest, self.config.total_steps
        begins = bool(distributed.of_main(latest is None))
        if is_main() and self.checkpoints.unfinished:
            basis = (
                "no checkpoint is complete" if latest is None else f"the last complete checkpoint is of step {latest:,}"
            )
            say(f"a save was cut off ({', '.join(self.checkpoints.unfinished)}) and is removed; {basis}")
            self.checkpoints.remove_unfinished()
        if (done := distributed.of_main(latest or 0)) > total:
            raise UserError(
                f"{self.run.path}: its checkpoint is of step {done:,}, beyond the {total:,} of this configuration: raise"
                " phases.0.steps"
            )
        state, done, dropped = self._newest_saved()
        if not begins and done < total:
            again = f"; {dropped} lines of metrics after it are computed again" if dropped else ""
            say(f"resuming {self.run.path} at step {done:,} of {total:,}{again}")
        return state, done, begins

    def _newest_saved(self, restarts: int = 1) -> tuple[TrainState, int, int]:
        """Return the newest saved state or that of step 0, its steps, and the number of lines of metrics taken back."""
        latest = self.checkpoints.latest
        done = distributed.of_main(-1 if latest is None else latest)
        first = -1 if restarts else 0  # after a rollback to step 0 the lines of before the first step stay
        dropped = forget_metrics_after(self.run, max(done, first), restarts) if is_main() else 0
        begin = self.progress.clock.begin or time.perf_counter()
        state, record = self._restore(done) if done >= 0 else (self.objective.initial_state(), {})
        self.progress = restored(self.config, record, self.run, done)
        self.progress.clock.begin = begin
        return state, done if done >= 0 else int(state.step), dropped

    def _restore(self, done: int) -> tuple[TrainState, JsonObject]:
        abstract = self.training.abstract_state
        if not self.checkpoints.has(done, "optimizer"):
            if done < self.config.total_steps:
                say(
                    f"begins with the weights of {self.run.checkpoints / str(done)}; the optimizer's moments begin at 0"
                )
            found = self.checkpoints.restore(done, {"params": abstract.params})
            return self.training.initial_state().beginning_with(found["params"]), found["record"]
        items = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)}
        found = self.checkpoints.restore(done, items)
        return TrainState(found["params"], *found["optimizer"]).exchanged(), found["record"]
