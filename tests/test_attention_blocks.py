# SPDX-License-Identifier: Apache-2.0
"""The kernels' way to the dropout mask against the mask itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model.attention.blocks import column_part, kept, row_part
from bert_jax.model.dropout import dropout_bits, keep_mask

SEEDS = jax.random.bits(jax.random.key(0), (8, 2), jnp.uint32)


def blockwise(rate: float, size: int) -> jax.Array:
    """[8, size, size] bool"""
    place = jnp.arange(size, dtype=jnp.uint32)[None]
    row, column = row_part(SEEDS[:, :1], place.repeat(8, 0)), column_part(SEEDS[:, 1:], place.repeat(8, 0))
    return kept(row[:, :, None], column[:, None, :], rate)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1e-5])
def test_it_is_the_shared_mask_bit_for_bit(rate):
    np.testing.assert_array_equal(blockwise(rate, 256), keep_mask(SEEDS, 256, 256, rate))


def test_bits_that_equal_the_threshold_in_their_upper_half_are_compared_right():
    """Rates made of bits that occur: there the lower half decides, and one less or more changes the answer."""
    bits = np.asarray(dropout_bits(SEEDS, 16, 16)).astype(np.float64)
    for threshold in bits[:, 3, 5]:
        for near in (threshold - 1, threshold, threshold + 1, threshold - threshold % 2**16):
            np.testing.assert_array_equal(blockwise(near / 2**32, 16), bits >= near)
