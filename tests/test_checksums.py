# SPDX-License-Identifier: Apache-2.0
"""Checksums of arrays."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.runs import checksums

KINDS = [np.float32, np.int32, np.uint8, np.bool_, np.float16, ml_dtypes.bfloat16]


def numbers(shape, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 50).astype(dtype)


def checksum(array):
    return checksums.checksums({"x": array})["x"]


def by_xla(array):
    """What a device that is no CPU computes."""
    rows, columns = checksums._of_global(jnp.asarray(array))
    return f"{int(rows):08x}{int(columns):08x}"


@pytest.mark.parametrize("dtype", KINDS, ids=lambda kind: np.dtype(kind).name)
@pytest.mark.parametrize("shape", [(3, 8, 16)])
def test_numpy_and_xla_agree_bit_for_bit(shape, dtype):
    array = numbers(shape, dtype)
    assert checksum(jnp.asarray(array)) == by_xla(array)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 7), (2, 0), (300, 300)])
def test_numpy_and_xla_agree_on_odd_shapes(shape):
    array = np.asarray(numbers(shape), np.float32)
    assert checksum(array) == checksum(jnp.asarray(array)) == by_xla(array)


@pytest.mark.parametrize("cut", [(), ("a",), (None, "b"), ("b", None, "a"), (("a", "b"),), (None, ("b", "a"))])
def test_the_same_however_an_array_is_cut(cut):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("a", "b"))
    array = numbers((8, 8, 16))
    cut_up = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*cut)))
    assert checksum(cut_up) == checksum(array)
    rows, columns = jax.device_get(checksums._of_global(cut_up))
    assert f"{rows:08x}{columns:08x}" == checksum(array)


def test_every_bit_of_every_element_counts():
    array = numbers((6, 10))
    whole, words = checksum(array), array.view(np.uint32)
    for place in np.ndindex(words.shape):
        for bit in (0, 9, 23, 31):
            words[place] ^= np.uint32(1 << bit)
            assert checksum(array) != whole, (place, bit)
            words[place] ^= np.uint32(1 << bit)
    assert checksum(array) == whole


def sign_of_two(array):
    array[0, 3] *= -1
    array[4, 7] *= -1


def sign_of_three(array):
    array[[0, 2, 5], [1, 1, 3]] *= -1


def sign_of_a_row(array):
    array[2] *= -1


def sign_bits_set(array):
    array[:] = -abs(array)


def two_rows_changed_round(array):
    array[[1, 5]] = array[[5, 1]]


def two_columns_changed_round(array):
    array[:, [0, 9]] = array[:, [9, 0]]


def two_elements_changed_round(array):
    array[0, 0], array[3, 3] = array[3, 3], array[0, 0]


def rows_shifted(array):
    array[:] = np.roll(array, 1, axis=0)


def a_part_of_zeros(array):
    array[2:4] = 0


@pytest.mark.parametrize(
    "change",
    [
        sign_of_two,
        sign_of_three,
        sign_of_a_row,
        sign_bits_set,
        two_rows_changed_round,
        two_columns_changed_round,
        two_elements_changed_round,
        rows_shifted,
        a_part_of_zeros,
    ],
)
def test_changes_of_several_elements_are_seen(change):
    array = numbers((6, 10))
    whole = checksum(array)
    change(array)
    assert checksum(array) != whole


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_is_not_finite_is_named(value, dtype):
    good, bad = numbers((4, 4), dtype), numbers((4, 4), dtype)
    bad[1, 2] = value
    assert checksums.not_finite({"a": good, "n": np.int32(7)}) is None
    assert checksums.not_finite({"a": jnp.asarray(good), "b": {"c": jnp.asarray(bad)}}) == "b/c"
    assert not checksums._all_finite(jnp.asarray(bad))
