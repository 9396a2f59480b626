# SPDX-License-Identifier: Apache-2.0
"""One pre-training run, as it is configured: phases, and the model, objective, optimizer and mesh of the other files.

Every field carries its unit or its trap in `help`; `bert-jax pretrain --help` prints these. `settings.py` reads and
writes them.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Self

from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription
from bert_jax.config.distill import PretrainDistillConfig
from bert_jax.config.fields import require_choice, require_not_negative, require_positive, setting
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.training import OptimizerConfig, RunConfig, SchedulePart

PACKINGS = ("padded", "packed", "buckets")
# How fine-tuning calls a setting -> how pre-training does.
FINETUNING_NAMES = {
    "batch_size": "phases.0.batch_size",
    "epochs": "phases.0.steps",
    "evals_per_epoch": "eval_every",
    "max_length": "phases.0.sequence_length",
}


@dataclass(frozen=True)
class PhaseConfig:
    """A stretch of training at one sequence length."""

    sequence_length: int = setting(128, "tokens in a row")
    steps: int = setting(900_000, "optimizer steps")
    batch_size: int = setting(256, "global batch, in sequences; divisible by micro_batches x data x fsdp")
    max_predictions_per_seq: int = setting(
        20,
        "masked positions kept in a row; at least mlm_probability x length; ltr and bilm predict all and read it not",
    )
    learning_rate: float | None = setting(None, "none: the schedule goes on; a number: it starts anew at this peak")
    warmup_steps: int | None = setting(None, "steps of warm-up where the schedule starts anew")

    def __post_init__(self) -> None:
        for name in ("sequence_length", "steps", "batch_size", "max_predictions_per_seq"):
            require_positive("phases", self, name)
        if self.sequence_length < 8:
            raise UserError(f"phases.sequence_length={self.sequence_length} is too short: use at least 8")
        if (self.learning_rate is None) != (self.warmup_steps is None):
            raise UserError("phases.learning_rate and phases.warmup_steps go together: set both or neither")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"phases.learning_rate={self.learning_rate} must be more than 0 and finite")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise UserError(f"phases.warmup_steps={self.warmup_steps} is negative: use 0 or more")


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """One pre-training run. Defaults: BERT-base with the paper's recipe."""

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    phases: tuple[PhaseConfig, ...] = (
        PhaseConfig(sequence_length=128, steps=900_000, max_predictions_per_seq=20),
        PhaseConfig(sequence_length=512, steps=100_000, max_predictions_per_seq=77),
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    distill: PretrainDistillConfig = PretrainDistillConfig()
    packing: str = setting(
        "padded",
        "padded (an example a row), packed (several a row, apart in attention) or buckets (rows of like length)",
    )
    examples_per_row: int = setting(4, "packing=packed: examples in a row at most")
    buckets: int = setting(4, "packing=buckets: row lengths that are compiled for, evenly up to sequence_length")
    eval_every: int = setting(10_000, "steps between two evaluations on held-out data; 0: at the end only")
    eval_batches: int = setting(50, "batches of an evaluation at most")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.phases:
            raise UserError("phases is empty: a run needs at least one phase")
        for name in ("eval_batches", "examples_per_row", "buckets"):
            require_positive("", self, name)
        require_choice("", self, "packing", PACKINGS)
        require_not_negative("", self, "eval_every")
        self._settle_direction()
        for number, phase in enumerate(self.phases):
            self._check_phase(number, phase)
        _ = self.description  # refuses a generator that is no whole number of heads
        for part in self.schedule_parts():
            if part.warmup_steps >= part.steps:
                raise UserError(
                    f"a warm-up of {part.warmup_steps} steps never ends in the {part.steps} steps of its schedule: lower"
                    " optimizer.warmup_steps (or phases.N.warmup_steps)"
                )

    def _settle_direction(self) -> None:
        """The model of objective=ltr is causal, that of objective=bilm is of LSTMs, and no other one's is."""
        objective, model = self.objective, self.model
        if model.causal and not objective.is_causal:
            raise UserError(
                f"model.causal=true is the model of objective=ltr, not of objective.name={objective.name}: leave one out"
            )
        if model.is_recurrent and not objective.is_backward:
            raise UserError(
                f"model.lstm_units={model.lstm_units} is the model of objective=bilm, not of objective.name={objective.name}:"
                " leave one out"
            )
        if objective.is_causal:
            object.__setattr__(self, "model", dataclasses.replace(model, causal=True))
        if objective.is_backward and not model.is_recurrent:
            object.__setattr__(self, "model", dataclasses.replace(model, lstm_units=4 * model.hidden_size))

    def predictions(self, phase: PhaseConfig) -> int:
        """Positions of a row of the phase that have room to be predicted."""
        return phase.max_predictions_per_seq if self.objective.masks else phase.sequence_length

    @classmethod
    def spelling(cls, key: str) -> str | None:
        """Return how pre-training calls a setting of fine-tuning."""
        if key in FINETUNING_NAMES:
            return FINETUNING_NAMES[key]
        names = {field.name for field in dataclasses.fields(OptimizerConfig)}
        return f"optimizer.{key}" if key in names else None

    def schedule_parts(self) -> list[SchedulePart]:
        """Return the stretches that the learning rate rises and falls over: one, or more where phases start it anew."""
        first = list(itertools.takewhile(lambda phase: phase.learning_rate is None, self.phases))
        parts = [self.optimizer.schedule_part(sum(phase.steps for phase in first))] if first else []
        for phase in self.phases[len(first) :]:
            if phase.learning_rate is None:
                parts[-1] = dataclasses.replace(parts[-1], steps=parts[-1].steps + phase.steps)
            else:
                begin = parts[-1].begin + parts[-1].steps if parts else 0
                own = phase.learning_rate, phase.warmup_steps or 0
                parts.append(SchedulePart(begin, phase.steps, *own, self.optimizer.decay_share))
        return parts

    def scaled(self, factor: float) -> Self:
        """Return the run with phases of `factor` times their steps; each warm-up keeps its share.

        Raises:
          UserError: a phase has less than half a step.
        """
        phases = tuple(
            dataclasses.replace(
                phase,
                steps=round(factor * phase.steps),
                warmup_steps=phase.warmup_steps and round(factor * phase.warmup_steps),
            )
            for phase in self.phases
        )
        optimizer = self.optimizer
        if optimizer.warmup_steps is not None and self.phases[0].learning_rate is None:
            share = optimizer.warmup_steps / self.schedule_parts()[0].steps
            optimizer = dataclasses.replace(optimizer, warmup_steps=None, warmup_share=share)
        return dataclasses.replace(self, phases=phases, optimizer=optimizer)

    def _check_phase(self, number: int, phase: PhaseConfig) -> None:
        if phase.sequence_length > self.model.max_position_embeddings:
            raise UserError(
                f"phases.{number}.sequence_length={phase.sequence_length} is beyond the position table of"
                f" model.max_position_embeddings={self.model.max_position_embeddings}: shorten the sequences or"
                f" set model.max_position_embeddings={phase.sequence_length}"
            )
        if phase.batch_size % self.micro_batches:
            raise UserError(
                f"phases.{number}.batch_size={phase.batch_size} is not divisible by"
                f" micro_batches={self.micro_batches}: change one of them"
            )
        if not self.objective.masks:
            return
        share = self.objective.highest_probability
        needed = round(share * phase.sequence_length)
        why = ""
        if self.packing == "packed":
            # Each example's count is rounded by itself, and is at least 1.
            needed = math.ceil(share * phase.sequence_length) + self.examples_per_row
            why = f" in up to {self.examples_per_row} examples"
        if not min(needed, phase.sequence_length) <= phase.max_predictions_per_seq <= phase.sequence_length:
            raise UserError(
                f"phases.{number}.max_predictions_per_seq={phase.max_predictions_per_seq} does not hold the"
                f" {share:.0%} of phases.{number}.sequence_length={phase.sequence_length} that are predicted{why}: set"
                f" phases.{number}.max_predictions_per_seq={min(max(needed, 1), phase.sequence_length)}"
            )

    @property
    def description(self) -> ModelDescription:
        """The network: what no loss reaches, the pooler and the head of pairs without their labels, is no part of it."""
        if self.objective.replaces:
            generator = self.model.narrowed(self.objective.generator_share)
            return ModelDescription(self.model, pooler=False, nsp=False, rtd=True, generator=generator)
        pairs = self.objective.nsp
        return ModelDescription(self.model, pooler=pairs, nsp=pairs, teacher_size=self.distill.hidden_size or 0)

    @property
    def untrained(self) -> list[str]:
        """The terms of the objective that have no part in the loss: a teacher is all that is learned (`distill.labels=0`)."""
        labels, soft = self.distill.labels, self.distill.soft  # a teacher's predictions train the MLM head too
        return [term for term in self.objective.terms if not (labels or (soft and term == "mlm"))]

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[int, int]:
        """The phase that step `step` (from 0) belongs to, and the step that phase begins with."""
        begin = 0
        for number, phase in enumerate(self.phases):
            if step < begin + phase.steps:
                return number, begin
            begin += phase.steps
        raise ValueError(f"step {step} is beyond the last step of the run, {self.total_steps - 1}")
