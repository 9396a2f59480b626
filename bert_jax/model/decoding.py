# SPDX-License-Identifier: Apache-2.0
"""A left-to-right model one token at a time: keys and values of the tokens before are kept, not computed again.

Shapes: B rows, S tokens that there is room for, D features of the encoder, H heads of size K, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention.reference import MASKED, score
from bert_jax.model.custom_gradients import exact
from bert_jax.model.encoder import Encoder, SelfAttention


class Cache(NamedTuple):
    """Keys and values of the tokens that were read, by layer and place."""

    keys: jax.Array  # [L, B, S, H, K]
    values: jax.Array


def empty_cache(encoder: Encoder, rows: int, size: int) -> Cache:
    """Return a cache with room for `size` tokens in each row."""
    config = encoder.config
    shape = (config.num_hidden_layers, rows, size, config.num_attention_heads, config.head_size)
    return Cache(*(jnp.zeros(shape, encoder.compute.dtype) for _ in range(2)))


def read_token(encoder: Encoder, cache: Cache, ids: jax.Array, place: jax.Array) -> tuple[jax.Array, Cache]:
    """Read the token at a place of every row; those before it have been read. Nothing is dropped.

    Args:
      encoder: of a causal model.
      cache: of the tokens before.
      ids: [B] int32.
      place: [] int32, of the token, from 0.

    Returns:
      The last layer's output at the token, [B, D], and the cache with it.
    """
    assert encoder.embeddings is not None
    places = jnp.full((len(ids), 1), place)
    x = encoder.embeddings(ids[:, None], places, jnp.zeros_like(places), None)  # [B, 1, D]
    if encoder.embeddings_project is not None:
        x = encoder.embeddings_project(x)
    graph, parameters = nnx.split(encoder.layers)

    def read(x: jax.Array, own: tuple[nnx.State, jax.Array, jax.Array]) -> tuple[jax.Array, Cache]:
        layer = nnx.merge(graph, own[0])
        attended, kept = _attend(layer.attention, x, Cache(*own[1:]), place)
        x = layer.attention_norm(x + attended)
        return layer.feed_forward_norm(x + layer.feed_forward(x)), kept

    x, cache = jax.lax.scan(read, x, (parameters, *cache))
    return x[:, 0], cache


def _attend(attention: SelfAttention, x: jax.Array, cache: Cache, place: jax.Array) -> tuple[jax.Array, Cache]:
    """The attention of one layer for one token of each row [B, 1, D]; `cache` [B, S, H, K] is that layer's."""
    config = attention.config
    split = (len(x), 1, config.num_attention_heads, config.head_size)
    query = attention.query(x).reshape(split)
    made = (attention.key(x).reshape(split), attention.value(x).reshape(split))
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(old, new, place, axis=1) for old, new in zip(cache, made, strict=True)
    )
    scores = score(query * jnp.asarray(config.head_size**-0.5, query.dtype), keys)  # [B, H, 1, S]
    is_read = jnp.arange(keys.shape[1]) <= place
    probabilities = jax.nn.softmax(jnp.where(is_read[None, None, None, :], scores, MASKED), axis=-1).astype(
        values.dtype
    )
    context = jnp.einsum("bhqk,bkhd->bqhd", probabilities, values, precision=exact(values.dtype))
    return attention.output(context.reshape(x.shape)), Cache(keys, values)
