# SPDX-License-Identifier: Apache-2.0
"""Ranges of neighbouring entries, many at once, as flat arrays."""

import numpy as np


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[i], starts[i] + 1, ... lengths[i] of them, one range after the other."""
    return np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())


def counts_of(ends: np.ndarray) -> np.ndarray:
    """Return the lengths [R] of ranges that follow each other from 0, from their ends [R]: a fast np.diff with prepend=0."""
    counts = ends.copy()
    counts[1:] -= ends[:-1]
    return counts
