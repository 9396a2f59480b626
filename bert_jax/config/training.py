# SPDX-License-Identifier: Apache-2.0
"""How a run is computed, whatever it trains on: optimizer, schedule, mesh."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from bert_jax.config.fields import (
    dotted,
    require_choice,
    require_not_negative,
    require_positive,
    require_share,
    setting,
)
from bert_jax.errors import UserError

OPTIMIZERS = ("adamw_bert", "adamw", "lamb")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "full")
ATTENTIONS = ("auto", "reference", "xla", "pallas_tpu", "pallas_gpu", "cudnn")
FREEZES = ("none", "embeddings", "encoder")


def require_update(section: str, config: Any) -> None:
    """Refuse what no update of the parameters can be made with; pre-training and fine-tuning have these settings both.

    Args:
      section: that they stand in, so that they are named as the user gave them.
      config: has weight_decay, clip_norm, layer_decay and freeze.
    """
    for name in ("weight_decay", "clip_norm"):
        require_not_negative(section, config, name)
    if not 0 < config.layer_decay <= 1:
        raise UserError(f"{dotted(section, 'layer_decay')}={config.layer_decay} must be more than 0 and at most 1")
    if config.freeze not in FREEZES and not config.freeze.isdecimal():
        raise UserError(
            f"{dotted(section, 'freeze')}={config.freeze} is not known: use {', '.join(FREEZES)} or a number of layers"
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule: linear warm-up from 0, then linear decay to 0 at the last step."""

    name: str = setting(
        "adamw_bert", "adamw_bert (no bias correction, as the original), adamw (with bias correction) or lamb"
    )
    learning_rate: float = setting(1e-4, "peak")
    warmup_steps: int = setting(10_000, "steps")
    weight_decay: float = setting(0.01, "decoupled; not applied to LayerNorm and biases")
    b1: float = setting(0.9, "decay of the first moment")
    b2: float = setting(0.999, "decay of the second moment")
    eps: float = setting(1e-6, "added to the square root of the second moment")
    clip_norm: float = setting(1.0, "largest global norm of the gradient; 0: no clipping")
    layer_decay: float = setting(
        1.0, "what the rate of a layer is multiplied by for each layer above it; 1: all learn alike"
    )
    freeze: str = setting(
        "none", "none, embeddings, encoder, or a number: the embeddings and as many of the lowest layers"
    )

    def __post_init__(self) -> None:
        require_choice("optimizer", self, "name", OPTIMIZERS)
        for name in ("learning_rate", "eps"):
            require_positive("optimizer", self, name)
        for name in ("b1", "b2"):
            require_share("optimizer", self, name, below_one=True)
        require_not_negative("optimizer", self, "warmup_steps")
        require_update("optimizer", self)


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1: all devices that are left."""

    data: int = setting(-1, "copies of the parameters, each on its own rows of the batch")
    fsdp: int = setting(1, "parameters, optimizer state and rows cut over this many devices")
    tensor: int = setting(1, "heads, feed-forward features and vocabulary cut over this many devices")
    dcn: int = setting(1, "slices or nodes joined by a slower network: as `data`, and the outermost axis")

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise UserError(f"mesh sizes {self} are not possible: use numbers from 1, and -1 at most once")

    def __str__(self) -> str:
        """As on the command line; `dcn` where it is used."""
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        if self.dcn != 1:
            sizes = {"dcn": self.dcn, **sizes}
        return ", ".join(f"{axis}={size}" for axis, size in sizes.items())


@dataclass(frozen=True)
class SchedulePart:
    """A warm-up to `learning_rate` and the decay after it."""

    begin: int  # first step
    steps: int
    learning_rate: float  # peak
    warmup_steps: int
