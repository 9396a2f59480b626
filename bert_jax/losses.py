# SPDX-License-Identifier: Apache-2.0
"""Losses as (sum, weight) pairs in float32: summed over devices and micro-batches, divided once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scores(NamedTuple):
    """Sums over the examples that count; divide by `weight`."""

    loss: jax.Array  # [] float32, nats
    correct: jax.Array  # [] float32
    weight: jax.Array  # [] float32


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Scores:
    """Weighted sums of the softmax cross-entropy and of right predictions.

    Args:
      logits: [..., C] float32.
      labels: [...] int32.
      weights: [...] float32; 0 leaves an entry out.
    """
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    true_logit = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return Scores(((normaliser - true_logit) * weights).sum(), (correct * weights).sum(), weights.sum())
