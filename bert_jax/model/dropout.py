# SPDX-License-Identifier: Apache-2.0
"""Dropout whose bits are a pure integer function of (row's seeds, site, position, feature).

A row of the batch brings two 32-bit seeds; every place in the network where something is dropped folds its own number
into them. So the bits of a row do not depend on how the batch is cut into micro-batches, on the mesh, on the layout a
kernel works in, or on the platform: the same seeds give the same mask everywhere, bit for bit.

The finaliser is lowbias32 (two multiplications, https://nullprogram.com/blog/2018/07/31/), over the murmur3 finaliser
of each coordinate.

Shapes: B rows, H heads, Q and K the two coordinates of the mask.
"""

from functools import partial

import jax
import jax.numpy as jnp


def row_seeds(key: jax.Array, step: jax.Array | int, rows: int) -> jax.Array:
    """The seeds of every row of the global batch at one step: [B, 2] uint32."""
    return jax.random.bits(jax.random.fold_in(key, step), (rows, 2), jnp.uint32)


def fold_seeds(seeds: jax.Array, site: jax.Array | int) -> jax.Array:
    """Seeds of one site, or of several.

    Args:
      seeds: [..., 2] uint32.
      site: non-negative integers that broadcast against `seeds[..., 0]`.

    Returns:
      [..., 2] uint32.
    """
    site = jnp.asarray(site, jnp.uint32)
    first = _murmur(seeds[..., 0] + site * jnp.uint32(0x9E3779B1))
    second = _murmur(seeds[..., 1] ^ (site * jnp.uint32(0x85EBCA77) + jnp.uint32(0x165667B1)))
    return jnp.stack(jnp.broadcast_arrays(first, second), axis=-1)


def dropout_bits(seeds: jax.Array, rows: int, columns: int) -> jax.Array:
    """Uniform 32-bit integers: [..., 2] uint32 -> [..., Q, K] uint32."""
    ones = (1,) * (seeds.ndim - 1)
    q = jnp.arange(rows, dtype=jnp.uint32).reshape(*ones, rows)
    k = jnp.arange(columns, dtype=jnp.uint32).reshape(*ones, columns)
    return join_hashes(hash_row(seeds[..., 0:1], q)[..., :, None], hash_column(seeds[..., 1:2], k)[..., None, :])


# The three parts of `dropout_bits`, for kernels that work on a block of the mask at a time.


def hash_row(seed: jax.Array, q: jax.Array) -> jax.Array:
    """The row's part of the bits: first seed and row number, uint32 that broadcast."""
    return _murmur(seed + q * jnp.uint32(0x9E3779B9))


def hash_column(seed: jax.Array, k: jax.Array) -> jax.Array:
    """The column's part of the bits: second seed and column number, uint32 that broadcast."""
    return _murmur(seed ^ (k * jnp.uint32(0x85EBCA77) + jnp.uint32(0x27D4EB2F)))


def join_hashes(row_hash: jax.Array, column_hash: jax.Array) -> jax.Array:
    """The bits of elements from the hashes of their rows and columns, which broadcast."""
    return _lowbias(row_hash ^ column_hash)


def drop_threshold(rate: float) -> int:
    """Bits below this are dropped: rate as a share of 2^32; 32 bits at most, also of a rate that is nearly 1."""
    return min(round(rate * 2**32), 2**32 - 1)


def keep_mask(seeds: jax.Array, rows: int, columns: int, rate: float) -> jax.Array:
    """True where a value is kept, with probability 1 - rate: [..., 2] uint32 -> [..., Q, K] bool."""
    return dropout_bits(seeds, rows, columns) >= jnp.uint32(drop_threshold(rate))


def dropout(x: jax.Array, rate: float, seeds: jax.Array | None) -> jax.Array:
    """Zero each value with probability `rate` and scale the others by 1 / (1 - rate).

    The backward pass computes the mask again from the seeds: it is not stored.

    Args:
      x: [..., Q, K].
      rate: from 0 to less than 1.
      seeds: [..., 2] uint32, or None: nothing is dropped (evaluation).
    """
    return x if seeds is None or rate == 0 else _dropout(x, rate, seeds)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dropout(x: jax.Array, rate: float, seeds: jax.Array) -> jax.Array:
    return _dropout_forward(x, rate, seeds)[0]


def _dropout_forward(x: jax.Array, rate: float, seeds: jax.Array) -> tuple[jax.Array, jax.Array]:
    keep = keep_mask(seeds, x.shape[-2], x.shape[-1], rate)
    # Scaled in float32: 1 / (1 - rate) rounded to bfloat16 would change the mean.
    scaled = (x.astype(jnp.float32) * (1 / (1 - rate))).astype(x.dtype)
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype)), seeds


def _dropout_backward(rate: float, seeds: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    return _dropout_forward(gradient, rate, seeds)[0], None


_dropout.defvjp(_dropout_forward, _dropout_backward)


def _murmur(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3 (32 bits)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _lowbias(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
