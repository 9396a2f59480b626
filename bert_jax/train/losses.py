# SPDX-License-Identifier: Apache-2.0
"""Losses as (sum, weight) pairs in float32: summed over devices and micro-batches, divided once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.config.training import TrainingConfig

# How much the mean of a term counts in the loss that is minimised, where that is not 1 and no setting (`distill`) says it.
# ELECTRA (2003.10555), section 3.2, for `rtd`; two of its terms are only counted.
TERM_WEIGHTS = {"rtd": 50.0, "replaced": 0.0, "flagged": 0.0}


class Scores(NamedTuple):
    """Sums over the examples that count; divide by `weight`."""

    loss: jax.Array  # [] float32, nats
    correct: jax.Array  # [] float32
    weight: jax.Array  # [] float32


def term_weight(term: str, config: TrainingConfig) -> float:
    """Return how much the mean of a term counts in the loss of a run."""
    return config.distill.weights.get(term, TERM_WEIGHTS.get(term, 1.0))


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


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Scores:
    """Weighted sums of the logistic cross-entropy and of right decisions (above 0: yes).

    Args:
      logits, labels, weights: [...] float32; labels are 0 or 1, a weight of 0 leaves an entry out.
    """
    loss = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    right = ((logits > 0) == (labels > 0)).astype(jnp.float32)
    return Scores((loss * weights).sum(), (right * weights).sum(), weights.sum())
