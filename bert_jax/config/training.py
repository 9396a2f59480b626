# SPDX-License-Identifier: Apache-2.0
"""How a run of any kind is computed: optimizers and schedules (two tables), mesh, and what else the run core asks for."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription
from bert_jax.config.distill import DistillConfig
from bert_jax.config.fields import (
    require_choice,
    require_not_negative,
    require_positive,
    require_share,
    setting,
)
from bert_jax.config.model import ModelConfig

COMPUTE_DTYPES = ("auto", "float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "full")
ATTENTIONS = ("auto", "reference", "xla", "pallas_tpu", "pallas_gpu", "cudnn")
FREEZES = ("none", "embeddings", "encoder")
TRACKERS = ("wandb", "mlflow", "trackio")
ON_BAD_STEP = ("stop", "skip", "rollback")
UNROLLED_ON_CPU = 6  # layers: 4 of 128 train 1.2 to 1.5 times as fast as in a loop, and compile as long


class OptimizerKind(NamedTuple):
    """A row of the table of optimizers."""

    help: str
    family: str  # whose state it can go on with
    corrects_bias: bool  # of its moments
    keeps_moments: bool = True  # Adam's two, as `train.optimizer.MomentsState`: a conversion can take them over
    adam_rates: bool = True  # whether the learning rates of Adam suit it, and no other does better


# The formula of each stands under the same name in `UPDATES` of bert_jax/train/optimizer.py: this room knows no JAX.
OPTIMIZERS: Mapping[str, OptimizerKind] = {
    "adamw_bert": OptimizerKind("no bias correction, as the original", "adam", corrects_bias=False),
    "adamw": OptimizerKind("with bias correction, as published", "adam", corrects_bias=True),
    "lamb": OptimizerKind("for very large batches", "lamb", corrects_bias=True, adam_rates=False),
    "muon": OptimizerKind(
        "orthogonal updates for the layers' matrices, adamw for the rest: for all of a biLM's LSTMs",
        "muon",
        corrects_bias=True,
        keeps_moments=False,
        adam_rates=False,
    ),
}

# What follows the warm-up. The formula of each stands under the same name in `DECAYS` of bert_jax/train/optimizer.py.
SCHEDULES: Mapping[str, str] = {
    "linear": "to 0 at the last step, as the original",
    "cosine": "to 0 at the last step, along half a cosine",
    "constant": "stays at the peak",
    "inverse_sqrt": "with the root of the step",
    "wsd": "stays at the peak, then in a line to 0 over decay_share of the steps",
}


def _listed(table: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({words})" for name, words in table.items())


def averaged_words(average: float | None) -> str | None:
    """Return what to say of weights that are an average over the steps; None where they are those that are trained."""
    return None if average is None else f"weights averaged over the steps (optimizer.average={average:g})"


@dataclass(frozen=True)
class SchedulePart:
    """A warm-up from 0 to `learning_rate`, and what follows it."""

    begin: int  # first step
    steps: int
    learning_rate: float  # peak
    warmup_steps: int
    decay_share: float = 0.1  # of the steps, at their end: schedule=wsd


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer and its schedule, under the same names for every kind of run."""

    name: str = setting("adamw_bert", _listed({name: kind.help for name, kind in OPTIMIZERS.items()}))
    schedule: str = setting("linear", f"after the warm-up: {_listed(SCHEDULES)}")
    learning_rate: float | None = setting(1e-4, "peak (fine-tuning, none: the task's)")
    warmup_steps: int | None = setting(10_000, "steps in which the rate rises from 0 (none: warmup_share of all)")
    warmup_share: float | None = setting(None, "the same as a share of all steps (none: warmup_steps)")
    decay_share: float = setting(0.1, "schedule=wsd: share of the steps in which the rate falls, at their end")
    weight_decay: float = setting(0.01, "decoupled; not applied to LayerNorm and biases")
    b1: float = setting(0.9, "decay of the first moment")
    b2: float = setting(0.999, "decay of the second moment")
    eps: float = setting(1e-6, "added to the square root of the second moment")
    clip_norm: float = setting(1.0, "largest global norm of the gradient; 0: no clipping")
    layer_decay: float = setting(
        1.0, "what the rate of a layer is multiplied by for each layer above it; 1: all learn alike"
    )
    freeze: str = setting(
        "none",
        "none, embeddings, encoder (features alone), or a number: the embeddings and as many of the lowest layers",
    )
    average: float | None = setting(
        None,
        "decay of a moving average of the weights, which is then what is evaluated and exported (none: no average)",
    )

    def __post_init__(self) -> None:
        require_choice("optimizer", self, "name", tuple(OPTIMIZERS))
        require_choice("optimizer", self, "schedule", tuple(SCHEDULES))
        for name in ("eps",) if self.learning_rate is None else ("learning_rate", "eps"):
            require_positive("optimizer", self, name)
        for name in ("b1", "b2"):
            require_share("optimizer", self, name, below_one=True)
        for name in ("weight_decay", "clip_norm"):
            require_not_negative("optimizer", self, name)
        self._check_warm_up()
        require_share("optimizer", self, "decay_share")
        require_positive("optimizer", self, "decay_share")
        if self.average is not None:
            require_share("optimizer", self, "average", below_one=True)
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"optimizer.layer_decay={self.layer_decay} must be more than 0 and at most 1")
        if self.freeze not in FREEZES and not self.freeze.isdecimal():
            raise UserError(
                f"optimizer.freeze={self.freeze} is not known: use {', '.join(FREEZES)} or a number of layers"
            )

    def _check_warm_up(self) -> None:
        if (self.warmup_steps is None) == (self.warmup_share is None):
            steps, share = (str(value).lower() for value in (self.warmup_steps, self.warmup_share))
            raise UserError(
                f"optimizer.warmup_steps={steps} and optimizer.warmup_share={share}: set one of them, the other to none"
            )
        if self.warmup_steps is not None:
            require_not_negative("optimizer", self, "warmup_steps")
        else:
            require_share("optimizer", self, "warmup_share", below_one=True)

    def require_layers(self, model: ModelConfig) -> None:
        """Refuse to freeze more layers than a model has.

        Raises:
          UserError: naming both settings.
        """
        if self.freeze.isdecimal() and int(self.freeze) > model.num_hidden_layers:
            raise UserError(
                f"optimizer.freeze={self.freeze} is more layers than model.num_hidden_layers={model.num_hidden_layers}:"
                " use as many at most, or encoder"
            )

    @property
    def kind(self) -> OptimizerKind:
        """The optimizer's row of the table."""
        return OPTIMIZERS[self.name]

    def schedule_part(self, steps: int) -> SchedulePart:
        """Return the schedule over the first `steps` steps; a share of them is rounded down, as in run_classifier.py."""
        assert self.learning_rate is not None, "the task's rate is not known yet"
        warmup = int(steps * self.warmup_share) if self.warmup_share is not None else self.warmup_steps
        return SchedulePart(0, steps, self.learning_rate, warmup or 0, self.decay_share)


@dataclass(frozen=True)
class OptimizerConfig(OptimizerSettings):
    """The optimizer of a run whose learning rate is known. Defaults: pre-training's, the paper's recipe."""

    learning_rate: float = setting(1e-4, "peak")

    @classmethod
    def of(cls, settings: OptimizerSettings) -> Self:
        """Return these settings, the rate of which is known by now."""
        return cls(**vars(settings))


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1: all devices that are left."""

    data: int = setting(-1, "copies of the parameters, each on its own rows of the batch")
    fsdp: int = setting(1, "optimizer state, rows and, between steps, parameters cut over this many devices")
    tensor: int = setting(1, "heads, feed-forward features and vocabulary cut over this many devices")
    dcn: int = setting(1, "slices or nodes joined by a slower network: as `data`, and the outermost axis")

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise UserError(f"mesh sizes {self} are not possible: use numbers from 1, and -1 at most once")

    def __str__(self) -> str:
        """Return the sizes as the command line has them; `dcn` where it is used."""
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        if self.dcn != 1:
            sizes = {"dcn": self.dcn, **sizes}
        return ", ".join(f"{axis}={size}" for axis, size in sizes.items())


@dataclass(frozen=True)
class TrainingConfig:
    """The configuration that every kind of run has: what the run core reads."""

    optimizer: OptimizerSettings = OptimizerSettings()
    mesh: MeshConfig = MeshConfig()
    distill: DistillConfig = DistillConfig()
    seed: int = setting(0, "of first weights, order of examples, masks and dropout")
    micro_batches: int = setting(1, "parts a batch is computed in, one after the other, to save memory")
    compute_dtype: str = setting(
        "auto",
        "float32, bfloat16, or auto: bfloat16 on TPU and GPU; parameters, softmax, LayerNorm and loss stay float32",
    )
    remat: str = setting("none", "recompute in the backward pass: none, dots (all but matrix products), full (a layer)")
    scan_layers: bool | None = setting(
        True,
        "compile one layer and loop; false: unroll, slower to compile"
        f" (none: false for up to {UNROLLED_ON_CPU} layers on a CPU)",
    )
    attention: str = setting("auto", f"implementation of attention: {', '.join(ATTENTIONS)}")
    log_every: int = setting(100, "steps between two lines of metrics.jsonl")
    save_every: int | None = setting(
        1_000, "steps between two checkpoints (none: one at each evaluation); the last step is always saved"
    )
    keep_checkpoints: int = setting(3, "newest checkpoints that are kept")
    on_bad_step: str = setting(
        "stop",
        "a loss or gradient that is not finite: stop, skip (its update), rollback (to the newest checkpoint, past its batches)",
    )
    most_bad_steps: int = setting(
        10, "steps that are skipped or rolled back for at most, with on_bad_step=skip or rollback"
    )
    spike: float = setting(
        0.0, "robust standard deviations above the median loss of 100 steps, beyond which a step is bad too; 0: none is"
    )
    tracker: str | None = setting(
        None,
        f"curves beside TensorBoard's: {', '.join(TRACKERS)}; a line is there once a checkpoint of its step is complete",
    )
    profile: str | None = setting(
        None, "FIRST:LAST, steps whose trace is written to the run directory, such as 101:105"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} is out of range: use 0 to 4294967295")
        for name in ("micro_batches", "log_every", "keep_checkpoints"):
            require_positive("", self, name)
        if self.save_every is not None:
            require_positive("", self, "save_every")
        require_choice("", self, "compute_dtype", COMPUTE_DTYPES)
        require_choice("", self, "remat", REMAT_POLICIES)
        require_choice("", self, "attention", ATTENTIONS)
        require_choice("", self, "on_bad_step", ON_BAD_STEP)
        require_choice("", self, "tracker", (*TRACKERS, None))
        require_positive("", self, "most_bad_steps")
        require_not_negative("", self, "spike")
        _ = self.profiled_steps  # refuses what names no steps

    @property
    def profiled_steps(self) -> tuple[int, int] | None:
        """The first and the last step that are traced, from 1; None: none.

        Raises:
          UserError: `profile` does not name two of them.
        """
        if self.profile is None:
            return None
        first, _, last = self.profile.partition(":")
        longest = max(len(first), len(last))
        if not (first.isdecimal() and last.isdecimal() and longest < 20 and 1 <= int(first) <= int(last)):
            raise UserError(f"profile={self.profile} names no steps: write FIRST:LAST, such as 101:105")
        return int(first), int(last)

    @classmethod
    def spelling(cls, key: str) -> str | None:
        """Return what to write for a key that earlier versions or another stage know; None where nothing is known of it."""
        return None


@dataclass(frozen=True)
class RunConfig(TrainingConfig, ABC):
    """A configuration in which nothing is left to a task or to data: what the run core asks of every kind of run."""

    @property
    @abstractmethod
    def model(self) -> ModelConfig:
        """The shape of the encoder."""

    @property
    def description(self) -> ModelDescription:
        """The encoder with the heads that the run trains."""
        return ModelDescription(self.model)

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Optimizer steps of the run."""

    @property
    @abstractmethod
    def eval_every(self) -> int:
        """Steps between two evaluations; 0: at the end only."""

    def schedule_parts(self) -> list[SchedulePart]:
        """Return the stretches that the learning rate rises and falls over, one after the other."""
        return [self.optimizer.schedule_part(self.total_steps)]
