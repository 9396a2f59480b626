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


@jax.named_scope("loss")
def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Scores:
    """Weighted sums of the softmax cross-entropy and of right predictions.

    Args:
      logits: [..., C] float32.
      labels: [...] int32.
      weights: [...] float32; 0 leaves an entry out.
    """
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    # Compared and summed rather than gathered: no scatter in the gradient, no slow argmax; XLA fuses it all.
    entry = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    label = labels[..., None]
    true_logit = jnp.where(entry == label, logits, 0).sum(-1)
    true = jax.lax.stop_gradient(true_logit)[..., None]
    # Right as argmax has it: all others are smaller, or equal and later. A NaN is neither, so it is never right.
    others_behind = (logits < true) | ((logits == true) & (entry >= label))
    correct = others_behind.all(-1).astype(jnp.float32)
    return Scores(((normaliser - true_logit) * weights).sum(), (correct * weights).sum(), weights.sum())
