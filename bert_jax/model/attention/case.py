# SPDX-License-Identifier: Apache-2.0
"""The case that an implementation of attention is asked for, and the switch that runs kernels without their hardware."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

# The name, for remat policies, of what a fused backward kernel needs beyond its inputs: output and logsumexp.
RESIDUALS = "attention_residuals"

_INTERPRETED = ContextVar("interpreted", default=False)


class AttentionCase(NamedTuple):
    """The device and shapes that attention runs on; each implementation says whether it can."""

    platform: str  # cpu, gpu, tpu
    device_kind: str  # as `jax.Device.device_kind` says: "TPU v5 lite", "NVIDIA H200"
    sequence_lengths: tuple[int, ...]  # of all rows of the run
    heads: int  # on one device: already divided by the mesh's tensor axis
    head_size: int
    dtype: Any  # as `Compute` has it
    dropout_rate: float
    causal: bool = False  # a token sees the tokens before it and itself only


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Inside, Pallas kernels are traced for Pallas' interpreter: slow, the same bits, on any platform.

    For tests and checks. It acts on tracing: what was compiled inside stays interpreted outside.
    """
    token = _INTERPRETED.set(True)
    try:
        yield
    finally:
        _INTERPRETED.reset(token)


def interpreting() -> bool:
    """Whether `interpreted_kernels` is in force."""
    return _INTERPRETED.get()
