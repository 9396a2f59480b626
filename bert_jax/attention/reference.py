# SPDX-License-Identifier: Apache-2.0
"""Attention in plain jax.numpy: runs anywhere, and is what every other implementation is compared with.

Shapes: B rows, S tokens (Q of queries, K of keys), H heads, D head size.
"""

import jax
import jax.numpy as jnp

from bert_jax.dropout import dropout

MASKED = -1e30  # finite, so that differences of masked scores are 0 and not NaN


def reference_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sequence_ids: jax.Array,
    *,
    dropout_rate: float,
    dropout_seeds: jax.Array | None,
) -> jax.Array:
    """See `bert_jax.attention.attention`. Scores and softmax are float32 whatever the inputs are."""
    precision = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else None
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum(
        "bqhd,bkhd->bhqk", query, key, precision=precision, preferred_element_type=jnp.float32
    )  # [B, H, Q, K]
    same = sequence_ids[:, None, :, None] == sequence_ids[:, None, None, :]  # [B, 1, Q, K]
    probabilities = jax.nn.softmax(jnp.where(same, scores, MASKED), axis=-1)
    probabilities = dropout(probabilities, dropout_rate, dropout_seeds).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probabilities, value, precision=precision)  # [B, Q, H, D]
