# SPDX-License-Identifier: Apache-2.0
"""The stateless order of examples."""

import numpy as np
import pytest

from bert_jax.data.order import examples_at, permute


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1_023, 4_097])
def test_every_epoch_is_a_permutation(size):
    for epoch in range(3):
        places = permute(np.arange(size), size, 7, np.full(size, epoch))
        np.testing.assert_array_equal(np.sort(places), np.arange(size))


def test_order_depends_on_seed_and_epoch():
    places = np.arange(1_000)
    orders = [permute(places, 1_000, seed, np.full(1_000, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[i + 1 :]:
            assert (one == other).mean() < 0.01


def test_positions_are_independent_of_how_they_are_asked_for():
    """Any slice of the stream, across an epoch's end, is the stream's slice: resume is exact and costs O(1)."""
    epochs, indices = examples_at(np.arange(250), 100, 3)
    for begin, end in ((0, 1), (95, 130), (199, 201), (249, 250)):
        part = examples_at(np.arange(begin, end), 100, 3)
        np.testing.assert_array_equal(part[0], epochs[begin:end])
        np.testing.assert_array_equal(part[1], indices[begin:end])
    np.testing.assert_array_equal(epochs, np.arange(250) // 100)


def test_places_are_uniform():
    """Where example 0 of ten goes, over 5,000 epochs: chi-square with nine degrees of freedom."""
    epochs = np.arange(5_000)
    for place in (0, 9):
        counts = np.bincount(permute(np.full(5_000, place), 10, 0, epochs), minlength=10)
        assert ((counts - 500) ** 2 / 500).sum() < 27.9  # 0.1 % of the distribution lies above


def test_neighbours_do_not_stay_neighbours():
    order = permute(np.arange(10_000), 10_000, 0, np.zeros(10_000, np.int64))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.002
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04


def test_a_large_range():
    """Indices beyond 32 bits stay in range and distinct."""
    size = 5_000_000_000
    places = permute(np.arange(size - 1_000, size), size, 0, np.zeros(1_000, np.int64))
    assert places.min() >= 0
    assert places.max() < size
    assert len(np.unique(places)) == 1_000
