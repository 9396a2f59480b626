# SPDX-License-Identifier: Apache-2.0
"""The vectors of tokens -> a vector of each text.

Shapes: B rows, S tokens, E texts packed in a row, D features, K layers.
"""

import jax
import jax.numpy as jnp

from bert_jax.model.encoder import last_positions
from bert_jax.model.forward import Inputs


def scaled(vectors: jax.Array, normalize: bool) -> jax.Array:
    """Return [B, width], each of length 1 where that is asked; one of zeros stays."""
    if not normalize:
        return vectors
    lengths = jnp.linalg.norm(vectors.astype(jnp.float32), axis=-1, keepdims=True)
    return vectors / jnp.maximum(lengths, 1e-12)


def pooled_texts(x: jax.Array, batch: Inputs, pooling: str) -> jax.Array:
    """[K, B, S, D] of tokens -> [K, B * E, D], each text's by itself; see `pooled_tokens`."""
    numbers, cls_positions = jnp.asarray(batch["sequence_ids"]), jnp.asarray(batch["cls_positions"])
    texts = cls_positions.shape[1]
    if texts == 1:
        return pooled_tokens(x, numbers, pooling)
    own = numbers[:, None, :] == 1 + jnp.arange(texts)[None, :, None]  # [B, E, S]
    if pooling in ("cls", "last"):
        places = cls_positions if pooling == "cls" else last_positions(numbers, texts)
        found = jnp.take_along_axis(x, places[None, :, :, None], axis=2)
    elif pooling == "max":
        found = jnp.where(own[None, :, :, :, None], x[:, :, None], -jnp.inf).max(3)
    else:
        found = jnp.einsum("bes,kbsd->kbed", own.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST)
        found = found / jnp.maximum(own.sum(2), 1)[None, :, :, None]
    return found.reshape(x.shape[0], -1, x.shape[-1])


def pooled_tokens(x: jax.Array, mask: jax.Array, pooling: str) -> jax.Array:
    """[..., B, S, D] of tokens -> [..., B, D]: their mean or max with [CLS] and [SEP], the first ("cls") or the last one.

    Args:
      mask: [B, S], 0 at padding.
    """
    if pooling == "cls":
        return x[..., 0, :]
    if pooling == "last":
        last = jnp.maximum((mask > 0).sum(1) - 1, 0)  # [B]
        return jnp.take_along_axis(x, last.reshape((1,) * (x.ndim - 3) + (-1, 1, 1)), axis=-2)[..., 0, :]
    valid = (mask > 0).reshape((1,) * (x.ndim - 3) + (*mask.shape, 1))
    if pooling == "max":
        return jnp.where(valid, x, -jnp.inf).max(-2)
    return (x * valid).sum(-2) / jnp.maximum(valid.sum(-2), 1)
