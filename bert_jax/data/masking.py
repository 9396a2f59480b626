# SPDX-License-Identifier: Apache-2.0
"""Masked-LM targets of a whole batch in one vectorised NumPy function, keyed by (seed, epoch, example index).

BERT (1810.04805), section 3.1 and appendix A.1; google-research/bert, create_masked_lm_predictions: of the tokens of a
row (its special tokens counted), `mlm_probability` are picked, at least one; 80 % of these become [MASK], 10 % an
entry of the vocabulary drawn at random, 10 % stay.

Shapes: B rows, S tokens in a row, M predicted positions in a row.
"""

from typing import NamedTuple

import numpy as np

from bert_jax.config import ObjectiveConfig
from bert_jax.data.order import mix64


class MaskedBatch(NamedTuple):
    """What masking makes of a batch."""

    input_ids: np.ndarray  # [B, S] int32
    positions: np.ndarray  # [B, M] int32, ascending, filler 0
    ids: np.ndarray  # [B, M] int32, filler 0
    weights: np.ndarray  # [B, M] float32, 1 real, 0 filler


def mask_tokens(
    input_ids: np.ndarray,
    candidates: np.ndarray,
    seeds: np.ndarray,
    objective: ObjectiveConfig,
    *,
    lengths: np.ndarray,
    max_predictions: int,
    mask_id: int,
    vocab_size: int,
) -> MaskedBatch:
    """Pick and replace tokens.

    Args:
      input_ids: [B, S] int32; not changed.
      candidates: [B, S] bool, true where a token may be picked (not [CLS], [SEP], padding).
      seeds: [B, 2] uint32, see `mask_seeds`.
      objective: the rates.
      lengths: [B] valid tokens of each row, special tokens counted.
      max_predictions: M.
      mask_id: of [MASK].
      vocab_size: random replacements are drawn from 0 to vocab_size - 1.
    """
    wanted = np.maximum(1, np.rint(lengths * objective.mlm_probability)).astype(np.int64)
    wanted = np.minimum(wanted, np.minimum(max_predictions, candidates.sum(1)))
    positions = pick_positions(candidates, seeds[:, 0], max_predictions)  # [B, M]
    real = np.arange(max_predictions)[None, :] < wanted[:, None]
    positions = np.where(real, positions, input_ids.shape[1])  # filler sorts behind
    positions.sort(axis=1)
    safe = np.where(real, positions, 0)
    labels = np.take_along_axis(input_ids, safe, axis=1)
    shown = replacements(labels, seeds[:, 1], objective, mask_id, vocab_size)
    masked = input_ids.copy()
    rows = np.broadcast_to(np.arange(len(input_ids))[:, None], safe.shape)
    masked[rows[real], safe[real]] = shown[real]
    return MaskedBatch(
        masked, safe.astype(np.int32), np.where(real, labels, 0).astype(np.int32), real.astype(np.float32)
    )


def pick_positions(candidates: np.ndarray, seeds: np.ndarray, count: int) -> np.ndarray:
    """`count` positions of each row in random order, candidates first: [B, S] bool, [B] uint32 -> [B, count] int64.

    Each position gets a random key whose low bits are the position itself; the smallest keys win.
    """
    length = candidates.shape[1]
    position_bits = max(1, (length - 1).bit_length())
    low = np.uint32((1 << position_bits) - 1)
    position = np.arange(length, dtype=np.uint32)
    keys = mix32(seeds[:, None] + (position * np.uint32(0x9E3779B9))[None, :])
    # The highest bit puts positions that are no candidates behind all others.
    keys = np.where(candidates, (keys >> np.uint32(1)) & ~low, np.uint32(1 << 31)) | position[None, :]
    smallest = np.partition(keys, count - 1, axis=1)[:, :count] if count < length else keys
    smallest.sort(axis=1)
    return (smallest & low).astype(np.int64)


def replacements(
    labels: np.ndarray, seeds: np.ndarray, objective: ObjectiveConfig, mask_id: int, vocab_size: int
) -> np.ndarray:
    """What is shown instead of the picked tokens: [B, M] ids, [B] uint32 seeds -> [B, M] int32."""
    slot = np.arange(labels.shape[1], dtype=np.uint32)[None, :] * np.uint32(0x85EBCA6B)
    draw = mix32(seeds[:, None] + slot)
    entry = (mix32(draw ^ np.uint32(0x27D4EB2F)).astype(np.uint64) * np.uint64(vocab_size)) >> np.uint64(32)
    to_mask = int(objective.mask_share * 2**32)
    to_random = int((objective.mask_share + objective.random_share) * 2**32)
    shown = np.where(draw < to_mask, mask_id, np.where(draw < to_random, entry.astype(np.int64), labels))
    return shown.astype(np.int32)


def mask_seeds(seed: int, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Two seeds for each example of an epoch: [B] int64 each -> [B, 2] uint32."""
    # Another starting point than the order's, so that order and masks share no random numbers.
    key = mix64(np.full(indices.shape, seed, np.uint64) ^ np.uint64(0x6D61736B))
    key = mix64(mix64(key ^ epochs.astype(np.uint64)) ^ indices.astype(np.uint64))
    return np.stack([key >> np.uint64(32), key & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def mix32(x: np.ndarray) -> np.ndarray:
    """lowbias32, a finaliser of 32 bits in two multiplications; writes into its argument."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x
