# SPDX-License-Identifier: Apache-2.0
"""The fields of a batch: names, shapes and types. The names are those of google-research/bert.

A row may hold several packed examples; a row with one example is the case E = 1.

Shapes: B rows, S tokens in a row, M predicted positions in a row, E packed examples in a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Batch = Mapping[str, np.ndarray]
type FieldShapes = tuple[tuple[str, tuple[int, ...]], ...]


class HasShape(Protocol):
    """An array, or the shape and type of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


def field_shapes(batch: Mapping[str, HasShape]) -> FieldShapes:
    """Return the shape of each field of a batch, by name: compiled programs are kept by it."""
    return tuple((name, batch[name].shape) for name in sorted(batch))


@dataclass(frozen=True)
class BatchShape:
    """The sizes of a batch."""

    rows: int  # B
    sequence_length: int  # S
    max_predictions: int  # M
    examples_per_row: int = 1  # E


def batch_spec(shape: BatchShape) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name -> (shape, dtype) of every field.

    input_ids               [B, S] int32    word pieces, with the picked tokens replaced
    segment_ids             [B, S] int32    0 in sentence A, 1 in sentence B (token type)
    sequence_ids            [B, S] int32    which packed example a token belongs to, from 1; 0 = padding
    position_ids            [B, S] int32    restart at 0 in each packed example
    masked_lm_positions     [B, M] int32    predicted positions; left to right: all that are predicted from
    masked_lm_ids           [B, M] int32    their true ids; left to right: of the token behind each
    masked_lm_weights       [B, M] float32  1 real, 0 filler
    cls_positions           [B, E] int32    where each packed example's [CLS] stands
    next_sentence_labels    [B, E] int32    0 = IsNext, 1 = NotNext; SOP: 0 = in order, 1 = swapped
    next_sentence_weights   [B, E] float32  1 real, 0 no example
    """
    tokens = (shape.rows, shape.sequence_length)
    predictions = (shape.rows, shape.max_predictions)
    examples = (shape.rows, shape.examples_per_row)
    int32, float32 = np.dtype(np.int32), np.dtype(np.float32)
    return {
        "input_ids": (tokens, int32),
        "segment_ids": (tokens, int32),
        "sequence_ids": (tokens, int32),
        "position_ids": (tokens, int32),
        "masked_lm_positions": (predictions, int32),
        "masked_lm_ids": (predictions, int32),
        "masked_lm_weights": (predictions, float32),
        "cls_positions": (examples, int32),
        "next_sentence_labels": (examples, int32),
        "next_sentence_weights": (examples, float32),
    }


Ids = Sequence[int] | np.ndarray


def batch_of_rows(rows: Sequence[tuple[Ids, Ids]], count: int, width: int) -> dict[str, np.ndarray]:
    """Return the model's inputs for texts that stand in a row each; nothing is masked, one position is predicted.

    Args:
      rows: ids and segments of each text, [CLS] and [SEP] among them, `width` tokens at most.
      count: B; rows beyond those given are padding, so that shapes repeat.
      width: S.
    """
    numbers = np.arange(count)[:, None]
    return batch_of_packed_rows(rows, np.where(numbers < len(rows), numbers, -1), width)


def batch_of_packed_rows(texts: Sequence[tuple[Ids, Ids]], held: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """Return the model's inputs for texts several of which stand in a row; see `batch_of_rows`.

    Args:
      texts: ids and segments of each.
      held: [B, E] the texts of each row by their numbers, below 0 behind its last.
      width: S; a row's texts have no more tokens.
    """
    names = ("input_ids", "segment_ids", "sequence_ids", "position_ids")
    batch = {name: np.zeros((len(held), width), np.int32) for name in names}
    batch["cls_positions"] = np.zeros(held.shape, np.int32)
    batch["masked_lm_positions"] = np.zeros((len(held), 1), np.int32)
    for row, numbers in enumerate(held.tolist()):
        begin = 0
        for slot, number in enumerate(numbers):
            if number >= 0:
                ids, segments = texts[number]
                own = (row, slice(begin, begin + len(ids)))
                batch["input_ids"][own], batch["segment_ids"][own] = ids, segments
                batch["sequence_ids"][own], batch["position_ids"][own] = 1 + slot, np.arange(len(ids))
                batch["cls_positions"][row, slot], begin = begin, begin + len(ids)
    return batch


def power_of_two(count: int) -> int:
    """Return the least power of two that is not below `count`: rows of a small batch, so that shapes are few."""
    return 1 << max(0, count - 1).bit_length()
