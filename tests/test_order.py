# SPDX-License-Identifier: Apache-2.0
"""The stateless order of examples."""

import itertools

import numpy as np
import pytest

from bert_jax.feed.order import examples_at, permute, stream_keys


def keys_of(seed: int, epochs: np.ndarray) -> np.ndarray:
    return stream_keys(seed, 1, epochs)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1_023, 4_097])
def test_every_epoch_is_a_permutation(size):
    for epoch in range(3):
        places = permute(np.arange(size), size, keys_of(7, np.full(size, epoch)))
        np.testing.assert_array_equal(np.sort(places), np.arange(size))


def test_ranges_of_different_sizes_are_permuted_at_once():
    sizes = np.repeat([1, 2, 7, 30, 1_000], [1, 2, 7, 30, 1_000])
    places = np.concatenate([np.arange(size) for size in (1, 2, 7, 30, 1_000)])
    together = permute(places, sizes, keys_of(0, sizes))
    for size in (1, 2, 7, 30, 1_000):
        alone = permute(np.arange(size), size, keys_of(0, np.full(size, size)))
        np.testing.assert_array_equal(together[sizes == size], alone)


def test_order_depends_on_seed_epoch_and_purpose():
    places = np.arange(1_000)
    keys = [
        stream_keys(seed, purpose, np.full(1_000, epoch)) for seed in (0, 1) for purpose in (1, 2) for epoch in (0, 1)
    ]
    orders = [permute(places, 1_000, key) for key in keys]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.01


def test_positions_are_independent_of_how_they_are_asked_for():
    """Any slice of the stream, across an epoch's end, is the stream's slice: resume is exact and costs O(1)."""
    epochs, indices = examples_at(np.arange(250), 100, 3)
    for begin, end in ((0, 1), (95, 130), (199, 201), (249, 250)):
        part = examples_at(np.arange(begin, end), 100, 3)
        np.testing.assert_array_equal(part[0], epochs[begin:end])
        np.testing.assert_array_equal(part[1], indices[begin:end])
    np.testing.assert_array_equal(epochs, np.arange(250) // 100)


@pytest.mark.parametrize(("size", "limit", "pair_limit"), [(10, 27.9, 135.0), (30, 58.3, 1_002.0)])
def test_places_are_uniform(size, limit, pair_limit):
    """Where examples go, alone and two together, over 40,000 epochs: chi-square, 0.1 % lies above the limits."""
    keys = keys_of(0, np.arange(40_000))
    first, last = (permute(np.full(40_000, place), size, keys) for place in (0, size - 1))
    for places in (first, last):
        counts = np.bincount(places, minlength=size)
        assert ((counts - 40_000 / size) ** 2 / (40_000 / size)).sum() < limit
    pairs = np.bincount(first * size + last, minlength=size**2).reshape(size, size)
    assert np.diag(pairs).sum() == 0
    pairs = pairs[~np.eye(size, dtype=bool)]
    assert ((pairs - 40_000 / len(pairs)) ** 2 / (40_000 / len(pairs))).sum() < pair_limit


@pytest.mark.parametrize(("size", "limit"), [(2, 10.8), (3, 20.5), (4, 49.7)])
def test_short_ranges_take_every_order_alike(size, limit):
    """All size! orders over 24,000 epochs: chi-square; 0.1 % of the distribution lies above `limit`."""
    epochs = np.repeat(np.arange(24_000), size)
    orders = permute(np.tile(np.arange(size), 24_000), size, keys_of(3, epochs)).reshape(-1, size)
    numbers = orders @ (10 ** np.arange(size))
    _, counts = np.unique(numbers, return_counts=True)
    expected = 24_000 / len(list(itertools.permutations(range(size))))
    assert len(counts) * expected == 24_000
    assert ((counts - expected) ** 2 / expected).sum() < limit


def test_neighbours_do_not_stay_neighbours():
    order = permute(np.arange(10_000), 10_000, keys_of(0, np.zeros(10_000, np.int64)))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.002
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04


def test_a_large_range():
    """Indices beyond 32 bits stay in range and distinct."""
    size = 5_000_000_000
    places = permute(np.arange(size - 1_000, size), size, keys_of(0, np.zeros(1_000, np.int64)))
    assert places.min() >= 0
    assert places.max() < size
    assert len(np.unique(places)) == 1_000


@pytest.mark.parametrize("size", [3, 30, 1_000, 2**31 + 7, 2**61 + 1])
def test_a_place_alone_goes_where_it_goes_among_many(size):
    """Few values are walked in Python's integers, many in arrays."""
    places = np.unique(np.linspace(0, size - 1, 300).astype(np.int64))
    keys = keys_of(5, places)
    together = permute(places, size, keys)
    assert ((together >= 0) & (together < size)).all()
    alone = [permute(places[[i]], size, keys[[i]])[0] for i in range(len(places))]
    np.testing.assert_array_equal(together, alone)


def test_the_order_is_that_of_earlier_versions():
    """A run that goes on under another version sees the examples that it would have seen."""
    assert examples_at(np.arange(8), 10, 3)[1].tolist() == [0, 5, 9, 7, 6, 4, 1, 3]
