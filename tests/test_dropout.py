# SPDX-License-Identifier: Apache-2.0
"""Dropout's bits: those of a NumPy restatement bit for bit, statistically sound, the same however rows are cut."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.model.dropout import drop_threshold, dropout, dropout_bits, fold_seeds, keep_mask, row_seeds

RATE = 0.1

# ---- the definition, in NumPy --------------------------------------------------------------------------------------


def u32(number: int) -> np.ndarray:
    return np.array([number], np.uint32)  # arrays wrap around, as is meant; NumPy's scalars warn


def murmur(x: np.ndarray) -> np.ndarray:
    """fmix32 of MurmurHash3."""
    x = (x ^ (x >> u32(16))) * u32(0x85EBCA6B)
    x = (x ^ (x >> u32(13))) * u32(0xC2B2AE35)
    return x ^ (x >> u32(16))


def lowbias(x: np.ndarray) -> np.ndarray:
    """lowbias32."""
    x = (x ^ (x >> u32(16))) * u32(0x7FEB352D)
    x = (x ^ (x >> u32(15))) * u32(0x846CA68B)
    return x ^ (x >> u32(16))


def numpy_fold(seeds: np.ndarray, site: np.ndarray) -> np.ndarray:
    site = np.asarray(site, np.uint32)
    first = murmur(seeds[..., 0] + site * u32(0x9E3779B1))
    second = murmur(seeds[..., 1] ^ (site * u32(0x85EBCA77) + u32(0x165667B1)))
    return np.stack(np.broadcast_arrays(first, second), -1)


def numpy_bits(seeds: np.ndarray, rows: int, columns: int) -> np.ndarray:
    q, k = np.arange(rows, dtype=np.uint32), np.arange(columns, dtype=np.uint32)
    q_hash = murmur(seeds[..., :1] + q * u32(0x9E3779B9))
    k_hash = murmur(seeds[..., 1:] ^ (k * u32(0x85EBCA77) + u32(0x27D4EB2F)))
    return lowbias(q_hash[..., :, None] ^ k_hash[..., None, :])


SEEDS = np.random.default_rng(0).integers(2**32, size=(3, 2), dtype=np.uint32)


def test_the_restatement_is_the_published_hash():
    """MurmurHash3 of an empty text with seed 1 is its finaliser of 1, and its published test value."""
    assert murmur(u32(1)) == 0x514E28B7


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (130, 67)])
def test_bits_equal_numpy(shape):
    found = dropout_bits(jnp.asarray(SEEDS), *shape)
    assert found.dtype == jnp.uint32
    np.testing.assert_array_equal(found, numpy_bits(SEEDS, *shape))


def test_folded_seeds_equal_numpy():
    sites = np.array([0, 1, 2, 15, 2**31 - 1], np.uint32)
    found = fold_seeds(jnp.asarray(SEEDS)[:, None], sites[None])
    np.testing.assert_array_equal(found, numpy_fold(SEEDS[:, None], sites[None]))
    for i, site in enumerate(sites):
        np.testing.assert_array_equal(fold_seeds(jnp.asarray(SEEDS), int(site)), found[:, i])


def test_mask_is_a_threshold_on_the_bits():
    kept = keep_mask(jnp.asarray(SEEDS), 20, 30, 0.25)
    np.testing.assert_array_equal(kept, numpy_bits(SEEDS, 20, 30) >= np.uint32(2**30))


def test_bits_of_a_corner_are_the_corner_of_the_bits():
    """A coordinate's bits do not depend on the size of the mask, so a kernel may work in blocks."""
    np.testing.assert_array_equal(
        numpy_bits(SEEDS, 8, 5), np.asarray(dropout_bits(jnp.asarray(SEEDS), 40, 30))[:, :8, :5]
    )


# ---- statistics ----------------------------------------------------------------------------------------------------

STEPS, ROWS, LAYERS, SITES, SIZE = 4, 4, 4, 6, 96


@cache
def masks() -> np.ndarray:
    """What is dropped in the first steps of a run: [steps, rows, layers, sites, SIZE, SIZE] bool."""

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        seeds = jnp.stack([row_seeds(key, step, ROWS) for step in range(STEPS)])
        seeds = fold_seeds(seeds[:, :, None], 1 + jnp.arange(LAYERS)[None, None])
        seeds = fold_seeds(seeds[:, :, :, None], jnp.arange(SITES)[None, None, None])
        return ~keep_mask(seeds, SIZE, SIZE, RATE)

    return np.asarray(draw(jax.random.key(3)))


def standardised(counts: np.ndarray, trials: int) -> np.ndarray:
    """Deviation of binomial counts from their mean, in standard deviations."""
    return (counts - trials * RATE) / math.sqrt(trials * RATE * (1 - RATE))


def assert_standard_normal(z: np.ndarray) -> None:
    """Mean 0, variance 1, no outlier; bounds are 5 of their own standard deviations."""
    z = z.ravel()
    assert abs(z.mean()) < 5 / math.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * math.sqrt(2.2 / z.size)  # 2.2: these binomials' kurtosis is a little above 3
    assert np.abs(z).max() < 6.5


def test_rate_is_within_its_binomial_error():
    dropped = masks()
    assert abs(standardised(dropped.sum(), dropped.size)) < 4
    assert_standard_normal(standardised(dropped.sum((-2, -1)), SIZE * SIZE))


@pytest.mark.parametrize("axis", [-1, -2], ids=["rows", "columns"])
def test_no_row_or_column_is_dropped_more_than_others(axis):
    """Bits that hung together within a row or column would spread these counts."""
    assert_standard_normal(standardised(masks().sum(axis), SIZE))


@pytest.mark.parametrize("axis", range(6), ids=["steps", "batch", "layers", "sites and heads", "queries", "keys"])
@pytest.mark.parametrize("distance", [1, 2])
def test_neighbours_are_uncorrelated(axis, distance):
    centred = masks().astype(np.float32) - RATE
    length = centred.shape[axis]
    one = np.take(centred, range(length - distance), axis)
    other = np.take(centred, range(distance, length), axis)
    correlation = (one * other).mean(dtype=np.float64) / (RATE * (1 - RATE))
    assert abs(correlation) < 5 / math.sqrt(one.size)


def test_the_corners_of_a_rectangle_are_uncorrelated():
    """Bits are a hash of q ^ k, so the inputs of four corners cancel; their outputs must not show it."""
    x = masks().astype(np.float32) - RATE
    for dq, dk in ((1, 1), (1, 2), (7, 1), (32, 64)):
        product = x[..., :-dq, :-dk] * x[..., dq:, :-dk] * x[..., :-dq, dk:] * x[..., dq:, dk:]
        correlation = product.mean(dtype=np.float64) / (RATE * (1 - RATE)) ** 2
        assert abs(correlation) < 5 / math.sqrt(product.size), (dq, dk)


def test_each_bit_is_one_half_of_the_time():
    """So that every rate holds, not only the one above."""
    bits = numpy_bits(numpy_fold(SEEDS[:, None], np.arange(8)[None]), 128, 128)
    for place in range(32):
        ones = ((bits >> np.uint32(place)) & np.uint32(1)).sum()
        assert abs(ones - bits.size / 2) < 5 * math.sqrt(bits.size / 4), place


def test_no_two_places_of_large_share_seeds():
    """24 layers of 3 + 16 sites and the embeddings, in two steps of a batch of 64."""
    rows = np.concatenate([row_seeds(jax.random.key(0), step, 64) for step in range(2)])
    layers = numpy_fold(numpy_fold(rows[:, None], np.arange(1, 25)[None])[:, :, None], np.arange(19)[None, None])
    every = np.concatenate([layers.reshape(-1, 2), numpy_fold(rows, np.array([0]))])
    assert len(np.unique(every, axis=0)) == len(every) == 2 * 64 * (24 * 19 + 1)


# ---- what is done with the bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kept_values_are_scaled_so_that_the_mean_stays(dtype):
    x = jnp.full((3, 400, 500), 2, dtype)
    y = dropout(x, RATE, jnp.asarray(SEEDS))
    kept = np.asarray(keep_mask(jnp.asarray(SEEDS), 400, 500, RATE))
    assert y.dtype == dtype
    precision = 1e-6 if dtype == jnp.float32 else 2**-8  # of 1 / (1 - rate) in that type
    np.testing.assert_allclose(np.asarray(y, np.float32), np.where(kept, 2 / (1 - RATE), 0), rtol=precision)
    error = 2 * math.sqrt(RATE / (1 - RATE) / x.size)
    assert abs(np.asarray(y, np.float64).mean() - 2) < 5 * error + 2 * precision


def test_gradient_passes_where_values_are_kept():
    x = jnp.ones((3, 20, 30))
    gradient = jax.grad(lambda x: dropout(x, 0.5, jnp.asarray(SEEDS)).sum())(x)
    np.testing.assert_array_equal(gradient, 2.0 * np.asarray(keep_mask(jnp.asarray(SEEDS), 20, 30, 0.5)))


@pytest.mark.parametrize(("rate", "seeds"), [(0.0, SEEDS), (0.5, None)], ids=["rate 0", "no seeds"])
def test_nothing_is_dropped(rate, seeds):
    x = jnp.ones((3, 20, 30))
    assert dropout(x, rate, seeds) is x


def test_a_rate_that_is_nearly_1_drops():
    rate = 1 - 2**-40
    assert drop_threshold(rate) == 2**32 - 1
    np.testing.assert_array_equal(dropout(jnp.ones((3, 20, 30)), rate, jnp.asarray(SEEDS)), 0)


# ---- rows, however they are cut ------------------------------------------------------------------------------------


def test_row_seeds_depend_on_seed_step_and_row():
    drawn = [row_seeds(jax.random.key(seed), step, 16) for seed in (0, 1) for step in (0, 1, 2)]
    assert all(seeds.shape == (16, 2) and seeds.dtype == jnp.uint32 for seeds in drawn)
    numbers = np.concatenate(drawn)
    assert len(np.unique(numbers)) == numbers.size
    np.testing.assert_array_equal(drawn[4], row_seeds(jax.random.key(1), jnp.int32(1), 16))


def test_rows_drop_alike_in_any_split_of_the_batch():
    seeds = row_seeds(jax.random.key(0), 5, 8)
    x = jnp.ones((8, 12, 10))
    whole = dropout(x, 0.5, seeds)
    parts = [dropout(x[rows], 0.5, seeds[rows]) for rows in (slice(0, 2), slice(2, 7), slice(7, 8))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(np.asarray(whole).reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("cut", [P("x"), P("x", "y"), P(None, ("x", "y"))], ids=["8 x 1", "4 x 2", "queries"])
def test_rows_drop_alike_under_any_sharding(cut):
    """Eight devices: the seeds are drawn and the values dropped inside one sharded program."""
    devices = np.array(jax.devices())
    assert devices.size == 8, "tests/conftest.py makes eight"
    mesh = Mesh(devices.reshape((8, 1) if cut == P("x") else (4, 2)), ("x", "y"))

    def step(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        seeds = row_seeds(jax.random.key(0), 5, 8)
        return seeds, dropout(x, 0.5, fold_seeds(seeds, 3))

    x = jnp.ones((8, 16, 10))
    shardings = NamedSharding(mesh, P(cut[0])), NamedSharding(mesh, cut)
    sharded_seeds, sharded = jax.jit(step, in_shardings=shardings[1], out_shardings=shardings)(x)
    seeds, whole = step(x)
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_array_equal(sharded_seeds, seeds)
    np.testing.assert_array_equal(sharded, whole)
