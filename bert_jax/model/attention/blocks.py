# SPDX-License-Identifier: Apache-2.0
"""The dropout mask of a block of probabilities, for kernels: `bert_jax.model.dropout.keep_mask`, in half the operations.

Two identities make it cheaper and change no bit:

- lowbias32 begins with x ^ (x >> 16), which is linear over xor, so it is applied to the hashes of rows and columns once
  each and not to every element;
- it ends with x ^ (x >> 16), and only a comparison follows. The upper 16 bits of that are those of x. Only where they
  equal the threshold's do the lower ones matter, and there x >> 16 is known: so (x ^ (x >> 16)) >= t is
  (x ^ (t >> 16)) >= t.
"""

import jax
import jax.numpy as jnp

from bert_jax.model.dropout import drop_threshold, hash_column, hash_row


def row_part(seed: jax.Array, q: jax.Array) -> jax.Array:
    """The part of queries: the head's first seed and the numbers of queries, uint32 that broadcast."""
    return _fold(hash_row(seed, q))


def column_part(seed: jax.Array, k: jax.Array) -> jax.Array:
    """The part of keys: the head's second seed and the numbers of keys, uint32 that broadcast."""
    return _fold(hash_column(seed, k))


def kept(row: jax.Array, column: jax.Array, rate: float) -> jax.Array:
    """True where a probability is kept, from the two parts, which broadcast."""
    threshold = drop_threshold(rate)
    x = (row ^ column) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ jnp.uint32(threshold >> 16) >= jnp.uint32(threshold)


def _fold(x: jax.Array) -> jax.Array:
    return x ^ (x >> 16)
