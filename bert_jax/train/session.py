# SPDX-License-Identifier: Apache-2.0
"""One process's work on a run: what the hooks of the training loop do and share."""

import itertools
import sys
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import jax
from tqdm import tqdm

from bert_jax.checks import first_batches
from bert_jax.config.objective import pair_words
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import make_examples
from bert_jax.feed.feed import feed
from bert_jax.feed.packing import Arrangement, make_arrangement
from bert_jax.feed.shards import DataDirectory, TRAIN, VALIDATION
from bert_jax.host import has_tensorflow
from bert_jax.mesh.distributed import is_main, say
from bert_jax.mesh.sharding import own_rows, put_on_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import append_metrics, RunDirectory
from bert_jax.runs.tensorboard import Board
from bert_jax.tokenization import Tokenizer
from bert_jax.train.evaluation import evaluation_rows, ScorePass
from bert_jax.train.loop import Hooks, LoopSchedule, Phase
from bert_jax.train.metrics import check_finite, mean_scores, MetricsWindow
from bert_jax.train.state import Training, TrainState
from bert_jax.train.step import compile_train_step


class Session:
    """One process's work on a run: what the loop's hooks share."""

    def __init__(
        self,
        training: Training,
        data: DataDirectory,
        tokenizer: Tokenizer,
        run: RunDirectory,
        checkpoints: Checkpoints,
        window: MetricsWindow,
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
        """Open the progress bar and TensorBoard (where events after `done` are taken back), in the main process."""
        interval = 0.1 if sys.stderr.isatty() else 30.0  # seconds; a log file needs few lines
        self.bar = tqdm(
            total=self.config.total_steps,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=interval,
            disable=not is_main(),
        )
        self.board = Board(self.run.tensorboard, done) if is_main() else None
        return self

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.bar is not None
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def say_choices(self) -> None:
        """What was chosen for this run on these devices."""
        mesh, config = self.training.mesh, self.config
        axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        where = f"on {mesh.size} of {jax.device_count()} {jax.devices()[0].device_kind} devices"
        hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        say(f"mesh: {axes}, {where}{hosts}")
        say(f"computing in {config.compute_dtype}, parameters in float32")
        say(f"feed: {'tf.data' if has_tensorflow() else 'plain iterator (tensorflow is not installed)'}")

    def schedule(self) -> LoopSchedule:
        """When to save and to evaluate."""
        return LoopSchedule(self.config.total_steps, self.config.save_every, self.config.eval_every)

    def hooks(self) -> Hooks:
        """What the loop calls."""
        return Hooks(self.measured, self.evaluate, self.save, partial(put_on_mesh, self.training.mesh))

    def measure_data(self) -> None:
        """Show and log what the first batches of each phase hold, before the first step; the main process does."""
        if not is_main():
            return
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
        rows = own_rows(phase.batch_size, self.training.mesh)
        seen = self.rows_seen(number)

        def batch(step: int) -> Batch:
            probability = self.config.objective.probability_at(begin + step, self.config.total_steps)
            return self.arrangement(number).batch(self.config.seed, step, rows, seen, probability)

        def batches(first: int) -> Generator[Batch]:
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
        begin = time.perf_counter()
        steps = {
            shape.sequence_length: compile_train_step(self.training, shape, self.tokenizer.mask_id) for shape in shapes
        }
        if self._evaluates(number):
            self.scoring(number)  # its program too: within the steps, a stop would have to wait for it
        say(f"phase {number}: compiled in {time.perf_counter() - begin:.1f} s")
        assert self.bar is not None
        self.bar.unpause()  # the bar's rate does not count it

        def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
            return steps[batch["input_ids"].shape[1]](state, batch)

        return step

    def _evaluates(self, number: int) -> bool:
        """Whether a phase comes to an evaluation."""
        end, every = self.phase_ends()[number], self.config.eval_every
        begin = end - self.config.phases[number].steps
        return end == self.config.total_steps or (bool(every) and end // every > begin // every)

    def measured(self, done: int, phase: Phase, sums: dict[str, float], seconds: float) -> None:
        """Take in a step: check it, show it, log it when it is due."""
        remedy = "lower optimizer.learning_rate or lengthen optimizer.warmup_steps"
        check_finite(done, sums, str(self.run.checkpoints), remedy)
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
            self.window = MetricsWindow()

    def spoken(self, name: str) -> str:
        """The name of a score for people: that of sentence order is not called NSP."""
        words = pair_words(self.config.objective)
        return name if words is None else name.replace("nsp", words.short.lower())

    def log(self, line: dict[str, Any]) -> None:
        """One line to metrics.jsonl and to TensorBoard, by the main process."""
        if self.board is None:
            return
        append_metrics(self.run, line)
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
