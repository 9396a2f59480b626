# SPDX-License-Identifier: Apache-2.0
"""The order of examples: stateless permutations, new in every epoch.

What stands at position p of the training stream is a pure function of (seed, p), so going on after a stop costs O(1)
and the examples of a step do not depend on the number of hosts or devices.
"""

import numpy as np

ROUNDS = 5  # of the Feistel network; a round changes both halves. With 4, pairs of 10 are measurably uneven.

_HALF = np.uint64(32)  # bits
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # of SplitMix64
_HALF_ROUNDS = np.arange(2 * ROUNDS, dtype=np.uint64).reshape(ROUNDS, 2)

# What a key is for: streams of different purposes share no random numbers.
EXAMPLES, ROWS, SLOTS, BATCHES, BUCKETS, MASKS = range(1, 7)


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
    return epochs, permute(places, num_examples, stream_keys(seed, EXAMPLES, epochs))


def permute(places: np.ndarray, sizes: int | np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Keyed permutations of range(size), one for each key.

    A Feistel network over pairs (x, y) of Z_a x Z_b, where a * b is the size or a little more (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002), walked until it is in range: seldom more than one step further.

    Args:
      places: [N] int64, from 0 to size - 1.
      sizes: length of the permuted range, up to 2**62; [N] or one for all.
      keys: [N] uint64, see `stream_keys`; or one for all.

    Returns:
      [N] int64: where each place goes.
    """
    values = np.asarray(places).astype(np.uint64)
    sizes = np.broadcast_to(np.asarray(sizes, np.uint64), values.shape)
    keys = np.broadcast_to(keys, values.shape)
    a = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    b = (sizes + a - np.uint64(1)) // a
    pending = np.arange(len(values))
    while len(pending):
        values[pending] = _feistel(values[pending], a[pending], b[pending], keys[pending])
        pending = pending[values[pending] >= sizes[pending]]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, a: np.ndarray, b: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left, right = values // b, values % b
    for one, other in _HALF_ROUNDS:
        left = (left + _below(a, right, keys + one)) % a
        right = (right + _below(b, left, keys + other)) % b
    return left * b + right


def _below(bounds: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A keyed random function of values below 2**32, into range(bound); bounds up to 2**32."""
    x = (keys ^ (values << _HALF)) * _MULTIPLIERS[0]
    x ^= x >> _HALF
    x *= _MULTIPLIERS[1]
    x >>= _HALF
    x *= bounds
    x >>= _HALF
    return x


def stream_keys(seed: int, purpose: int, *parts: np.ndarray) -> np.ndarray:
    """A key for each combination of `parts` (such as the epoch): [N] int64 each -> [N] uint64."""
    keys = mix64(np.asarray([seed], np.uint64) ^ (np.uint64(purpose) << np.uint64(40)))
    for part in parts:
        keys = mix64(keys ^ np.asarray(part).astype(np.uint64))
    return keys


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), with its increment."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLIERS[0]
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLIERS[1]
    return x ^ (x >> np.uint64(31))
