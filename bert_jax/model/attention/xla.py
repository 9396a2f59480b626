# SPDX-License-Identifier: Apache-2.0
"""The reference under `jax.checkpoint`: runs anywhere, and keeps nothing of size S x S for the backward pass.

The compiler still writes scores and probabilities to memory, one layer's at a time.
"""

from functools import partial

import jax

from bert_jax.model.attention.reference import reference_attention


def xla_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sequence_ids: jax.Array,
    *,
    dropout_rate: float,
    dropout_seeds: jax.Array | None,
    causal: bool,
) -> jax.Array:
    """See `bert_jax.model.attention.attention`. The backward pass computes scores, softmax and dropout bits again."""
    attend = partial(reference_attention, dropout_rate=dropout_rate, causal=causal)
    return jax.checkpoint(lambda q, k, v, ids, seeds: attend(q, k, v, ids, dropout_seeds=seeds))(
        query, key, value, sequence_ids, dropout_seeds
    )
