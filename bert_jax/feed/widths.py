# SPDX-License-Identifier: Apache-2.0
"""How wide the rows of a phase are: one width, or those of its buckets."""

from bert_jax.config.pretrain import PhaseConfig, PretrainConfig

WIDTH_MULTIPLE = 8  # the widths of buckets, in tokens


def bucket_widths(sequence_length: int, buckets: int) -> list[int]:
    """Row widths, evenly up to the sequence length and rounded up to multiples of 8, ascending."""
    even = (-(-sequence_length * number // buckets) for number in range(1, buckets + 1))
    return sorted({min(-(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE, sequence_length) for width in even})


def row_lengths(config: PretrainConfig, phase: PhaseConfig) -> list[int]:
    """The lengths of rows, in tokens, that a phase has."""
    if config.packing == "buckets":
        return bucket_widths(phase.sequence_length, config.buckets)
    return [phase.sequence_length]
