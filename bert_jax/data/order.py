# SPDX-License-Identifier: Apache-2.0
"""The order of examples: a stateless permutation, new in every epoch.

The example at position p of the training stream is a pure function of (seed, p), so going on after a stop costs O(1)
and the examples of a step do not depend on the number of hosts or devices.
"""

import numpy as np

ROUNDS = 6


def examples_at(positions: np.ndarray, num_examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples stand at these positions of the endless training stream.

    Args:
      positions: [N] int64, from 0.
      num_examples: examples in an epoch; each occurs once in every epoch.
      seed: of the run.

    Returns:
      (epochs, indices): [N] int64 each.
    """
    epochs, places = np.divmod(np.asarray(positions, np.int64), num_examples)
    return epochs, permute(places, num_examples, seed, epochs)


def permute(places: np.ndarray, size: int, seed: int, epochs: np.ndarray) -> np.ndarray:
    """A keyed permutation of range(size): a Feistel network on the next power of four, walked until it is in range.

    Args:
      places: [N] int64 from 0 to size - 1.
      size: length of the permuted range, up to 2**62.
      seed, epochs: the key; `epochs` is [N] or a scalar.
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    keys = round_keys(seed, np.broadcast_to(np.asarray(epochs, np.int64), places.shape))  # [ROUNDS, N]
    values = places.astype(np.uint64)
    pending = np.arange(len(values))
    while len(pending):
        values[pending] = _feistel(values[pending], half, keys[:, pending])
        pending = pending[values[pending] >= size]
    return values.astype(np.int64)


def round_keys(seed: int, epochs: np.ndarray) -> np.ndarray:
    """[ROUNDS, N] uint64 keys of the permutation of each epoch."""
    base = mix64(mix64(np.full(epochs.shape, seed, np.uint64)) ^ epochs.astype(np.uint64))
    return np.stack([mix64(base + np.uint64(number + 1)) for number in range(ROUNDS)])


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & low
    for key in keys:
        left, right = right, left ^ (mix64(right ^ key) & low)
    return (left << half) | right


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), with its increment."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
