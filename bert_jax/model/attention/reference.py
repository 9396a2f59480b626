# SPDX-License-Identifier: Apache-2.0
"""Attention in plain jax.numpy: runs anywhere, and is what every other implementation is compared with.

Shapes: B rows, S tokens (Q of queries, K of keys), H heads, D head size.
"""

import jax
import jax.numpy as jnp

from bert_jax.model.custom_gradients import exact
from bert_jax.model.dropout import dropout

MASKED = -1e30  # finite, so that differences of masked scores are 0 and not NaN


def reference_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sequence_ids: jax.Array,
    *,
    dropout_rate: float,
    dropout_seeds: jax.Array | None,
    causal: bool,
) -> jax.Array:
    """See `bert_jax.model.attention.attention`. Scores and softmax are float32 whatever the inputs are."""
    scores = score(query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype), key)
    probabilities = jax.nn.softmax(jnp.where(visible(sequence_ids, causal), scores, MASKED), axis=-1)
    probabilities = dropout(probabilities, dropout_rate, dropout_seeds).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probabilities, value, precision=exact(value.dtype))  # [B, Q, H, D]


def visible(sequence_ids: jax.Array, causal: bool) -> jax.Array:
    """Return which keys a query sees, those of its own id and, where `causal`, none behind it: [B, S] -> [B, 1, Q, K] bool."""
    same = sequence_ids[:, None, :, None] == sequence_ids[:, None, None, :]
    if not causal:
        return same
    places = jnp.arange(sequence_ids.shape[1])
    return same & (places[None, None, :, None] >= places[None, None, None, :])


@jax.custom_vjp
def score(query: jax.Array, key: jax.Array) -> jax.Array:
    """Products of all queries with all keys: [B, H, Q, K] float32. Those of its gradient are in the dtype of `query`."""
    return jnp.einsum("bqhd,bkhd->bhqk", query, key, precision=exact(query.dtype), preferred_element_type=jnp.float32)


def _score_forward(query: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return score(query, key), (query, key)


def _score_backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    query, key = residuals
    gradient, precision = gradient.astype(query.dtype), exact(query.dtype)
    d_query = jnp.einsum("bhqk,bkhd->bqhd", gradient, key, precision=precision)
    return d_query, jnp.einsum("bhqk,bqhd->bkhd", gradient, query, precision=precision)


score.defvjp(_score_forward, _score_backward)
