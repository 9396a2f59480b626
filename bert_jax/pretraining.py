# SPDX-License-Identifier: Apache-2.0
"""Pre-training, put together: configuration + data -> run directory. Checks everything before it compiles."""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, UTC
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tensorboardX import SummaryWriter
from tqdm import tqdm

from bert_jax import __version__
from bert_jax.accounting import device_peak
from bert_jax.attention import resolve_implementation
from bert_jax.batch import Batch
from bert_jax.checkpoint import Checkpoints
from bert_jax.config import PhaseConfig, PretrainConfig
from bert_jax.data.feed import feed, has_tensorflow, host_rows, training_batch
from bert_jax.data.shards import DataDirectory, open_data
from bert_jax.errors import Interrupted, UserError
from bert_jax.evaluation import evaluation_rows, make_examples, put_on_mesh, ScorePass
from bert_jax.metrics import check_finite, mean_scores, Window
from bert_jax.run_directory import append_metrics, forget_metrics_after, RunDirectory, start_or_resume, write_json
from bert_jax.sharding import check_batch, make_mesh
from bert_jax.tokenization import Tokenizer
from bert_jax.train_loop import Hooks, listen_for_stop, Phase, Schedule, train
from bert_jax.train_state import Training, TrainState
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
    training = Training(config, mesh)
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
        count = data.split(TRAIN).num_examples(phase.sequence_length)
        if count == 0:
            raise UserError(
                f"{data.directory}: has no training examples of length {phase.sequence_length}: prepare more text"
            )
    resolve_implementation(config.attention)


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
        forget_metrics_after(run, 0)
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
        self.board: SummaryWriter | None = None
        self.evaluations: dict[int, ScorePass] = {}

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
        self.board = SummaryWriter(str(self.run.tensorboard), purge_step=done + 1)
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

    def phases(self, done: int) -> list[Phase]:
        """The phases that are left, each compiled when the loop comes to it."""
        ends = list(itertools.accumulate(phase.steps for phase in self.config.phases))
        return [
            self._phase(number, phase, end - phase.steps, end)
            for number, (phase, end) in enumerate(zip(self.config.phases, ends, strict=True))
            if end > done
        ]

    def _phase(self, number: int, phase: PhaseConfig, begin: int, end: int) -> Phase:
        examples = make_examples(self.data.split(TRAIN), self.tokenizer, self.config, phase)
        rows = host_rows(phase.batch_size, jax.process_index(), jax.process_count())
        earlier = [other for other in self.config.phases[:number] if other.sequence_length == phase.sequence_length]
        seen = sum(other.steps * other.batch_size for other in earlier)  # their examples are not repeated

        def batches(first: int) -> Iterator[Batch]:
            make = partial(training_batch, examples, self.config.seed, phase.batch_size, rows=rows, seen=seen)
            return feed(make, first - begin, end - begin)

        def compile_step() -> Callable[..., Any]:
            say(f"phase {number}: compiling for rows of {phase.sequence_length}")
            step = compile_train_step(self.training, examples.shape, self.tokenizer.mask_id)
            assert self.bar is not None
            self.bar.unpause()  # the bar's rate does not count it
            return step

        return Phase(number, begin, end, phase.batch_size, compile_step, batches)

    def measured(self, done: int, phase: Phase, sums: dict[str, float], seconds: float) -> None:
        """Take in a step: check it, show it, log it when it is due."""
        check_finite(done, sums, str(self.run.checkpoints))
        self.window.add(sums, phase.batch_size, seconds)
        assert self.bar is not None
        self.bar.update(1)
        scores = mean_scores(sums, self.config.objective.nsp)
        shown = {name.replace("accuracy", "acc"): f"{value:.3f}" for name, value in scores.items()}
        rate = self.window.sums["valid_tokens"] / max(self.window.seconds, 1e-9)
        self.bar.set_postfix(shown | {"tokens/s": f"{rate:,.0f}"}, refresh=False)
        if done % self.config.log_every == 0 or done == self.config.total_steps:
            line = self.window.line(done, phase.number, self.config.model, self.config.objective.nsp)
            self.log(line)
            self.window = Window()

    def log(self, line: dict[str, Any]) -> None:
        """One line to metrics.jsonl and to TensorBoard."""
        append_metrics(self.run, line)
        assert self.board is not None
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "phase"):
                self.board.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def evaluate(self, done: int, state: TrainState) -> None:
        """Score the held-out data, if there is any."""
        if VALIDATION not in self.data.splits:
            return
        number, _ = self.config.phase_at(done - 1)
        if number not in self.evaluations:
            phase = self.config.phases[number]
            rows = evaluation_rows(phase, self.training.mesh)
            examples = make_examples(self.data.split(VALIDATION), self.tokenizer, self.config, phase, rows)
            with jax.transfer_guard("allow"):  # constants of the program
                self.evaluations[number] = ScorePass(self.training, examples)
        evaluation = self.evaluations[number]
        scores = evaluation.total(state.params, self.config.eval_batches)
        nsp = self.config.objective.nsp
        line = {"kind": "eval", "step": done, **mean_scores(scores, nsp)}
        line |= {"masked_tokens": int(scores["mlm_weight"])} | ({"pairs": int(scores["nsp_weight"])} if nsp else {})
        self.log(line)
        text = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in mean_scores(scores, nsp).items())
        say(f"step {done:,}: held-out {text}")

    def save(self, done: int, state: TrainState) -> None:
        """Begin a checkpoint."""
        items = {"params": state.params, "optimizer": (state.opt_state, state.step)}
        self.checkpoints.save(done, items, {"window": self.window.as_record()})
