# SPDX-License-Identifier: Apache-2.0
"""Pre-training, put together: configuration + data -> run directory. Checks everything before it compiles."""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, UTC
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from bert_jax import __version__, first_batches
from bert_jax.accounting import device_peak
from bert_jax.attention import resolve_implementation
from bert_jax.batch import Batch, pair_words
from bert_jax.checkpoint import Checkpoints
from bert_jax.config import PhaseConfig, PretrainConfig
from bert_jax.data.feed import feed, has_tensorflow, host_rows
from bert_jax.data.packing import Arrangement, make_arrangement
from bert_jax.data.shards import DataDirectory, open_data
from bert_jax.errors import Interrupted, UserError
from bert_jax.evaluation import evaluation_rows, make_examples, put_on_mesh, ScorePass
from bert_jax.files import write_json
from bert_jax.metrics import check_finite, mean_scores, Window
from bert_jax.run_directory import append_metrics, forget_metrics_after, RunDirectory, start_or_resume
from bert_jax.sharding import check_batch, make_mesh
from bert_jax.tensorboard import Board
from bert_jax.tokenization import Tokenizer
from bert_jax.train_loop import Hooks, listen_for_stop, Phase, Schedule, train
from bert_jax.train_state import resolve_compute_dtype, Training, TrainState
from bert_jax.train_step import compile_train_step

TRAIN, VALIDATION = "train", "validation"  # splits of prepared data


def pretrain(config: PretrainConfig, data_path: Path, output: Path, *, resume_command: str) -> RunDirectory:
    """Pre-train to the end of the configured steps, from the run's newest checkpoint if there is one.

    Args:
      config: the run.
      data_path: made by `bert-jax prepare`.
      output: the run directory.
      resume_command: printed when the run is interrupted.

    Raises:
      UserError: bad input, named; a loss that is not finite.
      Interrupted: asked to stop; the state is saved.
    """
    data = open_data(data_path)
    mesh = make_mesh(config.mesh)
    check_inputs(config, data, mesh)
    tokenizer = data.load_tokenizer()
    # The run records the dtype it was computed in, so that resuming it on another platform does not change it.
    dtype = resolve_compute_dtype(config.compute_dtype, mesh.devices.flat[0].platform)
    training = Training(config := replace(config, compute_dtype=dtype), mesh)
    check_mesh(training)
    run = start_or_resume(output, config, data.manifest, tokenizer)
    # Stops are listened for until the last save is complete.
    with listen_for_stop() as stop, closing(Checkpoints(run.checkpoints, config.keep_checkpoints)) as checkpoints:
        if checkpoints.latest == config.total_steps:
            say(f"{run.path} has finished its {config.total_steps:,} steps; a longer run is a new run")
            return run
        state, done, window = restore_or_begin(training, run, checkpoints)
        record_environment(run, mesh)
        session = Session(training, data, tokenizer, run, checkpoints, window)
        with session.progress(done):
            if done == 0:
                session.measure_data()
            done = train(state, done, session.phases(done), session.schedule(), session.hooks(), stop)
    if stop.signal_number is not None and done < config.total_steps:
        raise Interrupted(
            f"saved at step {done:,} of {config.total_steps:,}; go on with: {resume_command}", stop.signal_number
        )
    return run


def say(line: str) -> None:
    """A line for the person who watches, above any progress bar."""
    tqdm.write(line, file=sys.stderr)


def check_inputs(config: PretrainConfig, data: DataDirectory, mesh: Mesh) -> None:
    """Everything that can be refused before compiling.

    Raises:
      UserError: naming the setting and the data.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"{jax.process_count()} processes: a run over several hosts is not supported yet: start it on one host"
        )
    vocab_size = data.vocab_size
    if vocab_size > config.model.vocab_size:
        raise UserError(
            f"{data.directory}: its vocabulary has {vocab_size} entries and model.vocab_size={config.model.vocab_size} is"
            f" smaller: set model.vocab_size={vocab_size}"
        )
    for number, phase in enumerate(config.phases):
        check_batch(phase.batch_size, config.micro_batches, mesh, f"phases.{number}.batch_size")
        check_examples(config, data, number)
    resolve_implementation(config.attention)


def check_examples(config: PretrainConfig, data: DataDirectory, number: int) -> None:
    """Refuse data without the examples of a phase: of the run's objective and the phase's sequence length."""
    phase, kind = config.phases[number], config.objective.examples
    count = data.split(TRAIN).num_examples(kind, phase.sequence_length)
    if count == 0:
        raise UserError(
            f"{data.directory}: has no training examples of {phase.sequence_length} tokens for {config.objective.name}:"
            " prepare more text"
        )
    if config.packing == "buckets" and count < phase.batch_size:
        raise UserError(
            f"packing=buckets needs at least a batch of examples: {data.directory} has {count} of"
            f" {phase.sequence_length} tokens, phases.{number}.batch_size={phase.batch_size}: set"
            f" phases.{number}.batch_size={count} or less, or packing=padded"
        )


def check_mesh(training: Training) -> None:
    """Refuse a mesh that cannot cut the parameters, before anything is written."""
    _ = training.abstract_state


def restore_or_begin(training: Training, run: RunDirectory, checkpoints: Checkpoints) -> tuple[TrainState, int, Window]:
    """The newest complete checkpoint, or a new state: (state, steps done, sums since the last line of metrics).

    Which checkpoint: 1. the newest complete one; 2. an unfinished save is never used, and is named; 3. none: step 0.
    """
    done = checkpoints.latest
    if checkpoints.unfinished:
        basis = "no checkpoint is complete" if done is None else f"the last complete checkpoint is of step {done:,}"
        say(f"a save was cut off ({', '.join(checkpoints.unfinished)}) and is removed; {basis}")
        checkpoints.remove_unfinished()
    if done is None:
        forget_metrics_after(run, -1)
        return training.initial_state(), 0, Window()
    abstract = training.abstract_state
    restored = checkpoints.restore(done, {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)})
    (opt_state, step), record = restored.pop("optimizer"), restored.pop("record")
    state = TrainState(restored["params"], opt_state, step)
    dropped = forget_metrics_after(run, done)
    again = f"; {dropped} lines of metrics after it will be computed again" if dropped else ""
    say(f"resuming {run.path} at step {done:,} of {training.config.total_steps:,}{again}")
    return state, done, Window(**record["window"])


def record_environment(run: RunDirectory, mesh: Mesh) -> None:
    """Write versions, the mesh's devices and their peak to environment.json."""
    devices = list(mesh.devices.flat)
    peak, source = device_peak(devices[0])
    write_json(
        run.environment_file,
        {
            "bert_jax": __version__,
            "jax": jax.__version__,
            "devices": f"{len(devices)} x {devices[0].device_kind}",
            "platform": devices[0].platform,
            "device_count": mesh.size,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_flops_per_device": peak,
            "peak_source": source,
        },
    )


class Session:
    """One process's work on a run: what the loop's hooks share."""

    def __init__(
        self,
        training: Training,
        data: DataDirectory,
        tokenizer: Tokenizer,
        run: RunDirectory,
        checkpoints: Checkpoints,
        window: Window,
    ):
        self.training = training
        self.config = training.config
        self.data = data
        self.tokenizer = tokenizer
        self.run = run
        self.checkpoints = checkpoints
        self.window = window
        self.bar: tqdm | None = None
        self.board: Board | None = None
        self.evaluations: dict[int, ScorePass] = {}
        self.arrangements: dict[int, Arrangement] = {}

    def progress(self, done: int) -> "Session":
        """Say what was chosen, open the progress bar and TensorBoard (where events after `done` are taken back)."""
        mesh = self.training.mesh
        axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        say(f"mesh: {axes}, on {mesh.size} of {jax.device_count()} {jax.devices()[0].device_kind} devices")
        say(f"attention: {resolve_implementation(self.config.attention)}")
        say(f"feed: {'tf.data' if has_tensorflow() else 'plain iterator (tensorflow is not installed)'}")
        interval = 0.1 if sys.stderr.isatty() else 30.0  # seconds; a log file needs few lines
        total = self.config.total_steps
        self.bar = tqdm(
            total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05, mininterval=interval
        )
        self.board = Board(self.run.tensorboard, done)
        return self

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.bar is not None and self.board is not None
        self.bar.close()
        self.board.close()

    def schedule(self) -> Schedule:
        """When to save and to evaluate."""
        return Schedule(self.config.total_steps, self.config.save_every, self.config.eval_every)

    def hooks(self) -> Hooks:
        """What the loop calls."""
        return Hooks(self.measured, self.evaluate, self.save, partial(put_on_mesh, self.training.mesh))

    def measure_data(self) -> None:
        """Show and log what the first batches of each phase hold, before the first step."""
        objective, ends = self.config.objective, self.phase_ends()
        for number, phase in enumerate(self.config.phases):
            probability = objective.probability_at(ends[number] - phase.steps, self.config.total_steps)
            report = first_batches.measure(
                self.arrangement(number),
                self.config.seed,
                probability,
                steps=phase.steps,
                seen=self.rows_seen(number),
                mask_id=self.tokenizer.mask_id,
                vocab_size=self.tokenizer.vocab_size,
            )
            lines = first_batches.described(report, objective, probability)
            doubts = first_batches.doubts(report, objective, probability)
            say(f"data of phase {number}, rows of {phase.sequence_length} tokens, {lines[0]}")
            for line in [*lines[1:], *(f"  WARNING   {doubt}" for doubt in doubts)]:
                say(line)
            place = {"kind": "data", "step": 0, "phase": number, "sequence_length": phase.sequence_length}
            append_metrics(self.run, {**place, **report, "warnings": doubts})

    def phase_ends(self) -> list[int]:
        """The step after the last of each phase."""
        return list(itertools.accumulate(phase.steps for phase in self.config.phases))

    def rows_seen(self, number: int) -> int:
        """Rows that the phases before this one used of the same examples; the stream goes on after them."""
        length = self.config.phases[number].sequence_length
        earlier = [phase for phase in self.config.phases[:number] if phase.sequence_length == length]
        return sum(phase.steps * phase.batch_size for phase in earlier)

    def phases(self, done: int) -> list[Phase]:
        """The phases that are left, each compiled when the loop comes to it."""
        return [
            self._phase(number, phase, end - phase.steps, end)
            for number, (phase, end) in enumerate(zip(self.config.phases, self.phase_ends(), strict=True))
            if end > done
        ]

    def _phase(self, number: int, phase: PhaseConfig, begin: int, end: int) -> Phase:
        rows = host_rows(phase.batch_size, jax.process_index(), jax.process_count())
        seen = self.rows_seen(number)

        def batch(step: int) -> Batch:
            probability = self.config.objective.probability_at(begin + step, self.config.total_steps)
            return self.arrangement(number).batch(self.config.seed, step, rows, seen, probability)

        def batches(first: int) -> Iterator[Batch]:
            return feed(batch, first - begin, end - begin)

        return Phase(number, begin, end, partial(self._compile, number), batches)

    def arrangement(self, number: int) -> Arrangement:
        """How the training examples of a phase share rows and batches."""
        if number not in self.arrangements:
            config, phase = self.config, self.config.phases[number]
            examples = make_examples(self.data.split(TRAIN), self.tokenizer, config, phase)
            self.arrangements[number] = make_arrangement(
                examples, config.packing, phase.batch_size, config.examples_per_row, config.buckets
            )
        return self.arrangements[number]

    def _compile(self, number: int) -> Callable[..., Any]:
        """The train step of a phase: one program for each shape that its batches have."""
        shapes = self.arrangement(number).shapes
        widths = ", ".join(str(shape.sequence_length) for shape in shapes)
        say(f"phase {number}: compiling for rows of {widths}")
        steps = {
            shape.sequence_length: compile_train_step(self.training, shape, self.tokenizer.mask_id) for shape in shapes
        }
        assert self.bar is not None
        self.bar.unpause()  # the bar's rate does not count it

        def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
            return steps[batch["input_ids"].shape[1]](state, batch)

        return step

    def measured(self, done: int, phase: Phase, sums: dict[str, float], seconds: float) -> None:
        """Take in a step: check it, show it, log it when it is due."""
        check_finite(done, sums, str(self.run.checkpoints))
        self.window.add(sums, seconds)
        assert self.bar is not None
        self.bar.update(1)
        scores = mean_scores(sums, self.config.objective.nsp)
        shown = {self.spoken(name).replace("accuracy", "acc"): f"{value:.3f}" for name, value in scores.items()}
        rate = self.window.sums["valid_tokens"] / max(self.window.seconds, 1e-9)
        self.bar.set_postfix(shown | {"tokens/s": f"{rate:,.0f}"}, refresh=False)
        if done % self.config.log_every == 0 or done == self.config.total_steps:
            line = self.window.line(done, phase.number, self.config.model, self.config.objective.nsp)
            self.log(line)
            self.window = Window()

    def spoken(self, name: str) -> str:
        """The name of a score for people: that of sentence order is not called NSP."""
        words = pair_words(self.config.objective)
        return name if words is None else name.replace("nsp", words.short.lower())

    def log(self, line: dict[str, Any]) -> None:
        """One line to metrics.jsonl and to TensorBoard."""
        append_metrics(self.run, line)
        assert self.board is not None
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        curves = {f"{line['kind']}/{name}": value for name, value in numbers.items() if name not in ("step", "phase")}
        self.board.add(line["step"], curves)

    def evaluate(self, done: int, state: TrainState) -> None:
        """Score the held-out data, if there is any."""
        number, _ = self.config.phase_at(done - 1)
        scoring = self.scoring(number)
        if scoring is None:
            return
        totals = scoring.total(state.params, self.config.eval_batches)
        nsp = self.config.objective.nsp
        scores = mean_scores(totals, nsp)
        counts = {"masked_tokens": int(totals["mlm_weight"])} | ({"pairs": int(totals["nsp_weight"])} if nsp else {})
        self.log({"kind": "eval", "step": done, **scores, **counts})
        words = ", ".join(f"{self.spoken(name).replace('_', ' ')} {value:.4f}" for name, value in scores.items())
        say(f"step {done:,}: held-out {words}")

    def scoring(self, number: int) -> ScorePass | None:
        """The pass over the held-out examples of a phase; None where there are none."""
        if VALIDATION not in self.data.splits:
            return None
        if number not in self.evaluations:
            phase = self.config.phases[number]
            rows = evaluation_rows(phase, self.training.mesh)
            examples = make_examples(self.data.split(VALIDATION), self.tokenizer, self.config, phase, rows)
            if not len(examples):
                return None
            with jax.transfer_guard("allow"):  # constants of the program
                self.evaluations[number] = ScorePass(self.training, examples)
        return self.evaluations[number]

    def save(self, done: int, state: TrainState) -> None:
        """Begin a checkpoint."""
        items = {"params": state.params, "optimizer": (state.opt_state, state.step)}
        self.checkpoints.save(done, items, {"window": self.window.as_record()})
