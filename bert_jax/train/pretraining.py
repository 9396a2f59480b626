# SPDX-License-Identifier: Apache-2.0
"""Pre-training: configuration + data -> run directory. Everything that can be refused is refused before it compiles."""

import itertools
import json
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import jax
from jax.sharding import Mesh

from bert_jax.base.errors import UserError
from bert_jax.base.host import has_tensorflow
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.checks import first_batches
from bert_jax.config.objective import OBJECTIVES, pair_words, token_words
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import make_examples
from bert_jax.feed.feed import feed, import_ahead, uses_tf_data
from bert_jax.feed.kinds import require_segments
from bert_jax.feed.packing import Arrangement, make_arrangement
from bert_jax.feed.shards import DataDirectory, open_data, TRAIN, VALIDATION
from bert_jax.feed.widths import row_lengths
from bert_jax.mesh.distributed import all_or_none, is_main, say
from bert_jax.mesh.sharding import check_batch, check_heads, make_mesh, own_rows
from bert_jax.model.attention import AttentionCase, resolve_implementation
from bert_jax.runs.directory import further, RunDirectory, start_or_resume
from bert_jax.runs.trackers import require_installed
from bert_jax.tokenization import Tokenizer
from bert_jax.train.both_directions import BothDirectionsLoss
from bert_jax.train.distillation import DistillationLoss, require_teacher, Teacher
from bert_jax.train.evaluation import evaluation_rows, ScorePass
from bert_jax.train.masked_lm import batch_fields, MaskedLmLoss
from bert_jax.train.metrics import mean_scores, metrics_line, MetricsInterval, taught_scores
from bert_jax.train.next_token import NextTokenLoss
from bert_jax.train.replaced_tokens import ReplacedTokenLoss
from bert_jax.train.run import locked_by_main, open_shared, train_run
from bert_jax.train.session import RunObjective, StepSpan
from bert_jax.train.state import resolve_compute_dtype, Training, TrainState
from bert_jax.train.step import Loss


class Beginning(Protocol):
    """Another model's weights, with which a run begins: `conversion.further.StartingModel`."""

    @property
    def record(self) -> JsonObject:
        """Return what the run directory keeps of where they came from."""

    def state(self, training: Training[PretrainConfig], tokenizer: Tokenizer) -> TrainState:
        """Return the first state: the model's weights, and drawn ones where it has none."""


def pretrain(
    config: PretrainConfig,
    data_path: Path,
    output: Path,
    *,
    resume_command: str,
    beginning: Beginning | None = None,
    teacher: Teacher | None = None,
) -> RunDirectory:
    """Pre-train to the end of the configured steps, from the run's newest checkpoint if there is one.

    Of several processes (`distributed.initialize`) each calls this with the same arguments; `output` is a folder that all
    of them share.

    Args:
      config: the run.
      data_path: made by `bert-jax prepare`.
      output: the run directory.
      resume_command: printed when the run is interrupted.
      beginning: the weights that a new run begins with; None: they are drawn.
      teacher: a model that it learns from beside the data, as `config.distill` says; None: it has none.

    Raises:
      UserError: bad input, named; a loss that is not finite; another process writes into `output`.
      Interrupted: asked to stop; the state is saved.
    """
    with locked_by_main(output, "pretrain"):
        with all_or_none():
            require_installed(config.tracker)  # before data on a bucket is copied
            data = open_data(data_path)
            training = prepare_training(config, data)
            tokenizer = data.load_tokenizer()
            require_teacher(training, teacher, tokenizer)
        config = training.config
        run = open_run_directory(output, config, data, tokenizer, beginning, teacher)
        training = replace(training, described=run.stored())
        objective = Pretraining(training, data, tokenizer, run, beginning, teacher)
        train_run(objective, run, attention_case(training), resume_command=resume_command)
        return run


# A new objective with a loss of its own has it here.
LOSSES: Mapping[str, type[MaskedLmLoss]] = {
    **dict.fromkeys(OBJECTIVES, MaskedLmLoss),
    "ltr": NextTokenLoss,
    "bilm": BothDirectionsLoss,
    "rtd": ReplacedTokenLoss,
}


class Pretraining(RunObjective):
    """Pre-training as the session sees it."""

    keeps_optimizer = True
    remedy = "lower optimizer.learning_rate or lengthen optimizer.warmup_steps"

    def __init__(
        self,
        training: Training,
        data: DataDirectory,
        tokenizer: Tokenizer,
        run: RunDirectory,
        beginning: Beginning | None = None,
        teacher: Teacher | None = None,
    ):
        self.beginning, self.begins_trained = beginning, beginning is not None
        self.teacher = teacher
        self.training, self.config = training, training.config
        self.data, self.tokenizer, self.run = data, tokenizer, run
        self.data_place = str(data.directory.absolute())
        objective = self.config.objective
        self.held_out_loss = LOSSES[objective.name](objective.nsp, tokenizer.mask_id)
        self.loss: Loss = self.held_out_loss
        if teacher is not None:
            fixed = teacher.on_mesh(training)
            entries = tokenizer.vocab_size
            self.loss = DistillationLoss(self.held_out_loss, teacher, self.config.distill, entries, fixed)
        self.score_passes: dict[int, ScorePass] = {}
        self.arrangements: dict[int, Arrangement] = {}
        self.use_tf_data = uses_tf_data(training.platform)

    def say_choices(self) -> None:
        """Say what was chosen for this run on these devices."""
        mesh, config = self.training.mesh, self.config
        axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        where = f"on {mesh.size} of {jax.device_count()} {jax.devices()[0].device_kind} devices"
        hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        say(f"mesh: {axes}, {where}{hosts}")
        say(f"computing in {config.compute_dtype}, parameters in float32")
        if self.teacher is not None:
            say(self.teacher.words(config.distill))
        plain = "plain iterator" + ("" if has_tensorflow() else " (tensorflow is not installed)")
        say(f"feed: {'tf.data' if self.use_tf_data else plain}")

    def initial_state(self) -> TrainState:
        """Draw the first weights, or take those of the model that the run begins with."""
        if self.beginning is not None:
            return self.beginning.state(self.training, self.tokenizer)
        return self.training.initial_state()

    def finished(self) -> str:
        """Return how to train on."""
        return f"{self.run.path} has finished its {self.config.total_steps:,} steps; {further(self.run.path)}"

    def before(self, span: StepSpan) -> None:
        """Compile the evaluation of a phase that comes to one, while what the feed needs is imported."""
        if self.use_tf_data:
            import_ahead()
        every = self.config.eval_every
        if span.end == self.config.total_steps or (every and span.end // every > span.begin // every):
            self.score_pass(span.number)

    # ---- batches ---------------------------------------------------------------------------------------------------

    def spans(self) -> list[StepSpan]:
        """Return the phases."""
        ends = itertools.accumulate(phase.steps for phase in self.config.phases)
        return [
            StepSpan(number, end - phase.steps, end)
            for number, (phase, end) in enumerate(zip(self.config.phases, ends, strict=True))
        ]

    def shapes(self, span: StepSpan) -> Sequence[Mapping[str, jax.ShapeDtypeStruct]]:
        """Return the fields of a phase's batches: of several widths with packing=buckets."""
        return [batch_fields(shape) for shape in self.arrangement(span.number).shapes]

    def batches(self, span: StepSpan, first: int) -> Generator[Batch]:
        """Yield this process's rows of the batches from step `first` to the phase's end."""
        rows = own_rows(self.config.phases[span.number].batch_size, self.training.mesh)
        seen = self.rows_seen(span.number)

        def batch(step: int) -> Batch:
            probability = self.config.objective.probability_at(span.begin + step, self.config.total_steps)
            return self.arrangement(span.number).batch(self.config.seed, step, rows, seen, probability)

        return feed(batch, first - span.begin, span.end - span.begin, use_tf_data=self.use_tf_data)

    def examples(self, span: StepSpan, step: int) -> JsonObject:
        """Return the examples in each row of a step's global batch, -1 where there is none, and their epochs."""
        packing, seen = self.arrangement(span.number).packing, self.rows_seen(span.number)
        rows = packing.rows(self.config.seed, step - span.begin, slice(None), seen)
        return {"indices": rows.indices.tolist(), "epochs": rows.epochs.tolist()}

    def rows_seen(self, number: int) -> int:
        """Return the rows that the phases before this one used of the same examples; the stream goes on after them."""
        length = self.config.phases[number].sequence_length
        earlier = [phase for phase in self.config.phases[:number] if phase.sequence_length == length]
        return sum(phase.steps * phase.batch_size for phase in earlier)

    def arrangement(self, number: int) -> Arrangement:
        """Return how the training examples of a phase share rows and batches."""
        if number not in self.arrangements:
            config, phase = self.config, self.config.phases[number]
            examples = make_examples(self.data.split(TRAIN), self.tokenizer, config, phase)
            self.arrangements[number] = make_arrangement(
                examples, config.packing, phase.batch_size, config.examples_per_row, config.buckets
            )
        return self.arrangements[number]

    # ---- what is measured ------------------------------------------------------------------------------------------

    def first_lines(self) -> Iterator[JsonObject]:
        """Say and yield what the first batches hold, once for all phases whose rows are alike; the main process does."""
        if not is_main():
            return
        objective = self.config.objective
        for span, *others in self._spans_alike():
            phase = self.config.phases[span.number]
            probability = objective.probability_at(span.begin, self.config.total_steps)
            report = first_batches.measure(
                self.arrangement(span.number),
                self.config.seed,
                probability,
                steps=phase.steps,
                seen=self.rows_seen(span.number),
                mask_id=self.tokenizer.mask_id,
                vocab_size=self.tokenizer.vocab_size,
            )
            lines = first_batches.described(report, objective, probability)
            doubts = [finding.line() for finding in first_batches.doubts(report, objective, probability)]
            numbers = ", ".join(str(one.number) for one in (span, *others))
            phases = f"phase{'s' if others else ''} {numbers}"
            say(f"data of {phases}, rows of {phase.sequence_length} tokens, {lines[0]}")
            for line in [*lines[1:], *(f"  WARNING   {doubt}" for doubt in doubts)]:
                say(line)
            place = {"kind": "data", "step": 0, "phase": span.number, "sequence_length": phase.sequence_length}
            yield {**place, **report, "warnings": doubts}

    def _spans_alike(self) -> Collection[list[StepSpan]]:
        """Return the phases, those together whose rows have one shape and one share of picked tokens."""
        alike: dict[tuple[float, ...], list[StepSpan]] = {}
        for span in self.spans():
            phase = self.config.phases[span.number]
            probability = self.config.objective.probability_at(span.begin, self.config.total_steps)
            rows = phase.sequence_length, phase.batch_size, phase.max_predictions_per_seq, probability
            alike.setdefault(rows, []).append(span)
        return alike.values()

    def shown(self, sums: Mapping[str, float]) -> dict[str, str]:
        """Return losses and accuracies of a step, of what is trained."""
        trained = [term for term in self.config.objective.terms if term not in self.config.untrained]
        scores = mean_scores(sums, trained) | taught_scores(sums)
        return {self.spoken(name).replace("accuracy", "acc"): f"{value:.3f}" for name, value in scores.items()}

    def spoken(self, name: str) -> str:
        """Return the name of a score for people: that of sentence order is not called NSP."""
        words = pair_words(self.config.objective)
        return name if words is None else name.replace("nsp", words.short.lower())

    def line(self, done: int, span: int, interval: MetricsInterval) -> JsonObject:
        """Return the line of metrics.jsonl for the steps up to `done`."""
        return metrics_line(done, span, interval, self.config)

    def evaluate(self, done: int, params: PyTree) -> Iterator[tuple[JsonObject, str]]:
        """Score the held-out examples of the phase, if there are any."""
        number, _ = self.config.phase_at(done - 1)
        scoring = self.score_pass(number)
        if scoring is None:
            return
        totals = scoring.total(params, self.config.eval_batches)
        objective = self.config.objective
        scores, tokens = mean_scores(totals, objective.terms), token_words(objective)
        counts = {tokens.counter: int(totals[f"{tokens.term}_weight"])}
        counts |= {"pairs": int(totals["nsp_weight"])} if objective.nsp else {}
        words = ", ".join(f"{self.spoken(name).replace('_', ' ')} {value:.4f}" for name, value in scores.items())
        if untrained := self.config.untrained:
            words += f" (not trained: {', '.join(map(self.spoken, untrained))})"
        yield {"kind": "eval", "step": done, **scores, **counts}, f"held-out {words}"

    def score_pass(self, number: int) -> ScorePass | None:
        """Return the pass over the held-out examples of a phase; None where there are none."""
        if VALIDATION not in self.data.splits:
            return None
        if number not in self.score_passes:
            phase = self.config.phases[number]
            rows = evaluation_rows(phase, self.training.mesh)
            examples = make_examples(self.data.split(VALIDATION), self.tokenizer, self.config, phase, rows)
            if not len(examples):
                return None
            with jax.transfer_guard("allow"):  # constants of the program
                self.score_passes[number] = ScorePass(self.training, self.held_out_loss, examples)
        return self.score_passes[number]


def prepare_training(config: PretrainConfig, data: DataDirectory) -> Training:
    """The run on this machine's mesh, with everything refused that can be before compiling.

    Raises:
      UserError: naming the setting.
    """
    mesh = make_mesh(config.mesh)
    check_inputs(config, data, mesh)
    # The run records the dtype it was computed in, so that resuming it on another platform does not change it.
    dtype = resolve_compute_dtype(config.compute_dtype, mesh.devices.flat[0].platform)
    training = Training(replace(config, compute_dtype=dtype), mesh)
    resolve_implementation(config.attention, attention_case(training))  # refuses one that cannot do this
    _ = training.abstract_state  # refuses a mesh that cannot cut the parameters
    return training


def open_run_directory(
    output: Path,
    config: PretrainConfig,
    data: DataDirectory,
    tokenizer: Tokenizer,
    beginning: Beginning | None = None,
    teacher: Teacher | None = None,
) -> RunDirectory:
    """The run directory, made or recognised by the main process and seen by all.

    Raises:
      UserError: see `start_or_resume`; processes that were started differently or share no folder.
    """
    run = RunDirectory(output)
    source, learned_from = (None if model is None else model.record for model in (beginning, teacher))
    return open_shared(
        output,
        {
            "configuration": json.dumps(to_dict(config)),
            "--data": json.dumps(data.manifest),
            "--from": json.dumps(source),
            "--teacher": json.dumps(learned_from),
        },
        lambda: start_or_resume(output, config, dict(data.manifest), tokenizer, source, learned_from),
        lambda: run if run.config_file.is_file() and run.config() == config else None,
    )


def check_inputs(config: PretrainConfig, data: DataDirectory, mesh: Mesh) -> None:
    """Everything that can be refused before compiling.

    Raises:
      UserError: naming the setting and the data.
    """
    check_mesh(config, mesh)
    vocab_size = data.vocab_size
    if vocab_size > config.model.vocab_size:
        raise UserError(
            f"{data.directory}: its vocabulary has {vocab_size} entries and model.vocab_size={config.model.vocab_size} is"
            f" smaller: set model.vocab_size={vocab_size}"
        )
    one_segment = "set objective=mlm_full_sentences or mlm_document, whose rows have one"
    require_segments(config, f"{one_segment}, or model.type_vocab_size=2 for a new model")
    for number in range(len(config.phases)):
        check_examples(config, data, number)


def check_mesh(config: PretrainConfig, mesh: Mesh) -> None:
    """Refuse settings that do not fit each other or the mesh; no data are needed."""
    config.optimizer.require_layers(config.model)
    for number, phase in enumerate(config.phases):
        check_batch(phase.batch_size, config.micro_batches, mesh, f"phases.{number}.batch_size")
    for model in filter(None, (config.model, config.description.generator)):
        check_heads(model, mesh)


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


def attention_case(training: Training[PretrainConfig]) -> AttentionCase | None:
    """Return what a run asks of attention on one of its devices; None where its model has none."""
    config = training.config
    return training.attention_case(size for phase in config.phases for size in row_lengths(config, phase))
