# SPDX-License-Identifier: Apache-2.0
"""The order of examples: stateless permutations, new in every epoch.

What stands at position p of the training stream is a pure function of (seed, p), so going on after a stop costs O(1)
and the examples of a step do not depend on the number of hosts or devices.
"""

import numpy as np

ROUNDS = 5  # of the Feistel network; a round changes both halves. With 4, pairs of 10 are measurably uneven.

# Arrays without axes: on a batch's few hundred examples an operation takes half the time of one with a scalar.
_HALF = np.array(32, np.uint64)  # bits
_MULTIPLIERS = np.array(0xBF58476D1CE4E5B9, np.uint64), np.array(0x94D049BB133111EB, np.uint64)  # of SplitMix64
_INCREMENT = np.array(0x9E3779B97F4A7C15, np.uint64)
_SHIFTS = tuple(np.array(shift, np.uint64) for shift in (30, 27, 31))
_WORD = 2**64 - 1
_FEW = 8  # values that are handled one by one
_HALF_ROUNDS = np.arange(2 * ROUNDS, dtype=np.uint64)[:, None]

# What a key is for: streams of different purposes share no random numbers.
EXAMPLES, ROWS, SLOTS, BATCHES, BUCKETS, MASKS = range(1, 7)


def examples_at(positions: np.ndarray, num_examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples at these positions of the endless training stream.

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
    sizes = _repeated(sizes, len(values))
    keys = _repeated(keys, len(values))
    a = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    b = (sizes + a - np.uint64(1)) // a
    values = _feistel(values, a, b, keys)
    pending = np.flatnonzero(values >= sizes)
    while len(pending) > _FEW:
        walked = _feistel(values[pending], a[pending], b[pending], keys[pending])
        values[pending] = walked
        pending = pending[walked >= sizes[pending]]
    for place in pending.tolist():
        values[place] = _walked(*(int(of[place]) for of in (values, sizes, a, b, keys)))
    return values.astype(np.int64)


def _repeated(values: int | np.ndarray, count: int) -> np.ndarray:
    """[N] uint64 of one value or of N; np.broadcast_to takes ten times as long for an array of a batch's size."""
    repeated = np.empty(count, np.uint64)
    repeated[:] = values
    return repeated


def _feistel(values: np.ndarray, a: np.ndarray, b: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left = values // b
    right = values - left * b
    rounds = iter(keys + _HALF_ROUNDS)
    for one, other in zip(rounds, rounds, strict=True):
        left += _below(a, right, one)
        np.minimum(left, left - a, out=left)  # left % a of what is below 2 a: left - a wraps where left is below a
        right += _below(b, left, other)
        np.minimum(right, right - b, out=right)
    left *= b
    left += right
    return left


def _below(bounds: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A keyed random function of values below 2**32, into range(bound); bounds up to 2**32. Writes into `keys`."""
    x = values << _HALF
    x ^= keys
    x *= _MULTIPLIERS[0]
    np.right_shift(x, _HALF, out=keys)
    x ^= keys
    x *= _MULTIPLIERS[1]
    x >>= _HALF
    x *= bounds
    x >>= _HALF
    return x


def _walked(value: int, size: int, a: int, b: int, key: int) -> int:
    """`_feistel` of one value until it is in range, in Python's integers: a tenth of the time of arrays of one."""
    while value >= size:
        left, right = divmod(value, b)
        for half in range(0, 2 * ROUNDS, 2):
            left = (left + _below_one(a, right, key + half)) % a
            right = (right + _below_one(b, left, key + half + 1)) % b
        value = left * b + right
    return value


def _below_one(bound: int, value: int, key: int) -> int:
    """`_below` of one value."""
    x = ((key & _WORD) ^ (value << 32)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 32)) * 0x94D049BB133111EB & _WORD
    return (x >> 32) * bound >> 32


def stream_keys(seed: int, purpose: int, *parts: np.ndarray) -> np.ndarray:
    """A key for each combination of `parts` (such as the epoch): [N] int64 each -> [N] uint64."""
    keys = mix64(np.asarray([seed], np.uint64) ^ (np.uint64(purpose) << np.uint64(40)))
    for part in parts:
        keys = mix64(keys ^ np.asarray(part).astype(np.uint64))
    return keys


def mix64(x: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood 2014) of uint64 numbers of any shape, with its increment."""
    x = x + _INCREMENT
    x ^= x >> _SHIFTS[0]
    x *= _MULTIPLIERS[0]
    x ^= x >> _SHIFTS[1]
    x *= _MULTIPLIERS[1]
    x ^= x >> _SHIFTS[2]
    return x
