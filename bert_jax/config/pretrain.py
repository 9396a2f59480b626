# SPDX-License-Identifier: Apache-2.0
"""One pre-training run, as it is configured: phases, and the model, objective, optimizer and mesh of the other files.

Every field carries its unit or its trap in `help`; `bert-jax pretrain --help` prints these. `settings.py` reads and
writes them.
"""

import dataclasses
import math
from dataclasses import dataclass

from bert_jax.config.fields import require_choice, require_positive, setting
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.training import (
    ATTENTIONS,
    COMPUTE_DTYPES,
    MeshConfig,
    OptimizerConfig,
    REMAT_POLICIES,
    SchedulePart,
)
from bert_jax.errors import UserError

PACKINGS = ("padded", "packed", "buckets")


@dataclass(frozen=True)
class PhaseConfig:
    """A stretch of training at one sequence length."""

    sequence_length: int = setting(128, "tokens in a row")
    steps: int = setting(900_000, "optimizer steps")
    batch_size: int = setting(256, "global batch, in sequences; divisible by micro_batches x data x fsdp")
    max_predictions_per_seq: int = setting(20, "masked positions kept in a row; at least mlm_probability x length")
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
class PretrainConfig:
    """One pre-training run. Defaults: BERT-base with the paper's recipe."""

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    phases: tuple[PhaseConfig, ...] = (
        PhaseConfig(sequence_length=128, steps=900_000, max_predictions_per_seq=20),
        PhaseConfig(sequence_length=512, steps=100_000, max_predictions_per_seq=77),
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = setting(0, "of initial weights, order of examples, masks and dropout")
    packing: str = setting(
        "padded",
        "padded (an example a row), packed (several a row, apart in attention) or buckets (rows of like length)",
    )
    examples_per_row: int = setting(4, "packing=packed: examples in a row at most")
    buckets: int = setting(4, "packing=buckets: row lengths that are compiled for, evenly up to sequence_length")
    micro_batches: int = setting(1, "parts a batch is computed in, one after the other, to save memory")
    compute_dtype: str = setting(
        "auto",
        "float32, bfloat16, or auto: bfloat16 on TPU and GPU; parameters, softmax, LayerNorm and loss stay float32",
    )
    remat: str = setting("none", "recompute in the backward pass: none, dots (all but matrix products), full (a layer)")
    scan_layers: bool = setting(True, "compile one layer and loop (false: unroll, slower to compile)")
    attention: str = setting("auto", f"implementation of attention: {', '.join(ATTENTIONS)}")
    log_every: int = setting(100, "steps between two lines of metrics.jsonl")
    eval_every: int = setting(10_000, "steps between two evaluations on held-out data; 0: at the end only")
    eval_batches: int = setting(50, "batches of an evaluation at most")
    save_every: int = setting(1_000, "steps between two checkpoints; the last step is always saved")
    keep_checkpoints: int = setting(3, "newest checkpoints that are kept")

    def __post_init__(self) -> None:
        if not self.phases:
            raise UserError("phases is empty: a run needs at least one phase")
        for name in ("micro_batches", "log_every", "eval_batches", "save_every", "keep_checkpoints"):
            require_positive("", self, name)
        for name in ("examples_per_row", "buckets"):
            require_positive("", self, name)
        require_choice("", self, "packing", PACKINGS)
        require_choice("", self, "compute_dtype", COMPUTE_DTYPES)
        require_choice("", self, "remat", REMAT_POLICIES)
        require_choice("", self, "attention", ATTENTIONS)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} is out of range: use 0 to 4294967295")
        if self.eval_every < 0:
            raise UserError(f"eval_every={self.eval_every} is negative: use 0 or more")
        for number, phase in enumerate(self.phases):
            self._check_phase(number, phase)
        for part in self.schedule_parts():
            if part.warmup_steps >= part.steps:
                raise UserError(
                    f"a warm-up of {part.warmup_steps} steps never ends in the {part.steps} steps of its schedule: lower"
                    " optimizer.warmup_steps (or phases.N.warmup_steps)"
                )

    def schedule_parts(self) -> list["SchedulePart"]:
        """The stretches that the learning rate rises and falls over: one, or more where phases start it anew."""
        optimizer = self.optimizer
        parts = [SchedulePart(0, 0, optimizer.learning_rate, optimizer.warmup_steps)]
        for phase in self.phases:
            last = parts[-1]
            if phase.learning_rate is not None:
                last = SchedulePart(last.begin + last.steps, 0, phase.learning_rate, phase.warmup_steps or 0)
                parts.append(last)
            parts[-1] = dataclasses.replace(last, steps=last.steps + phase.steps)
        return [part for part in parts if part.steps]

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
