# SPDX-License-Identifier: Apache-2.0
"""The checkpointed reference: the same numbers, and nothing of size S x S between the passes."""

import jax
import numpy as np
import pytest
from attention_samples import assert_near, assert_only_own_gradients, make_sample, numpy_attention, run

from bert_jax.model.attention import attention


@pytest.mark.parametrize(("length", "rate"), [(48, 0.0), (256, 0.1)])
def test_equals_numpy(length, rate):
    sample = make_sample(length)
    assert_near(run("xla", sample, rate), numpy_attention(sample, rate), 1e-5)


def test_its_output_is_that_of_the_reference_bit_for_bit():
    sample = make_sample(48)
    np.testing.assert_array_equal(run("xla", sample, 0.1)[0], run("reference", sample, 0.1)[0])


def test_gradients_stay_inside_a_packed_example():
    assert_only_own_gradients("xla")


def kept_sizes(name: str) -> list[int]:
    """Elements of every array that the forward pass hands to the backward pass."""
    query, key, value, _, ids, seeds = make_sample(64, head_size=16)

    @jax.jit
    def forward(*inputs: jax.Array) -> object:
        options = {"dropout_rate": 0.1, "dropout_seeds": seeds, "implementation": name}
        return jax.vjp(lambda *x: attention(*x, ids, **options), *inputs)[1]

    return [x.size for x in jax.tree.leaves(forward(query, key, value))]


def test_nothing_of_size_s_times_s_is_kept_for_the_backward_pass():
    rows, length, heads, head_size = make_sample(64, head_size=16).query.shape
    assert max(kept_sizes("xla")) == rows * length * heads * head_size
    assert max(kept_sizes("reference")) == rows * heads * length * length  # what the test would see
