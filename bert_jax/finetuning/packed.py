# SPDX-License-Identifier: Apache-2.0
"""Several examples in a row: each sees itself alone, so its outputs and gradients are those that it has in a row of its own.

A step still has N examples. Each epoch deals the examples out by length, so that all batches have about the same number of
tokens and one compiled shape holds them.

Shapes: U units, each a row of the table; N examples of a step, B rows of a batch, S tokens in a row, E examples in it at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bert_jax.config.description import TaskHead
from bert_jax.config.finetune import PACKED
from bert_jax.feed.batch import power_of_two
from bert_jax.feed.order import BATCHES, EXAMPLES, permute, stream_keys
from bert_jax.feed.packing import fill_rows, in_batches, plan_rows
from bert_jax.finetuning.batches import ByEpoch, Draw, NOBODY, Shape, Units

MOST_IN_A_ROW = 16
WIDTH_STEP = 2  # widths are multiples of it: where a batch has few rows, coarser steps leave more padding
WIDEST = 3  # times the longest example
ATTENTION = 8  # times as dear with softmax and dropout as its products alone, of heads of 64 on a CPU (docs/results.md)
SAMPLED_BATCHES = 32  # of the first epoch, which rows are fitted to


def shares_rows(packing: str | None, head: TaskHead, units: Units) -> bool:
    """Whether rows hold several examples: each is a row by itself, and the head reads its tokens or a vector at its place."""
    if packing == "buckets" or head.kind not in PACKED:
        return False
    return head.kind == "tagging" or not (head.lstm or units.is_grouped)


class RowSize(NamedTuple):
    """The sizes of the rows that examples share."""

    width: int  # S
    slots: int  # E
    rows: int  # B, of a batch


def choose_row_size(batches: list[np.ndarray], hidden_size: int, longest: int) -> RowSize:
    """Choose the rows in which batches take the least work: few places for padding, and attention over few tokens.

    Which examples share a row goes into their dropout, so the devices do not count here; that rows can be cut for several,
    there are an even number, from 4 on a multiple of 4, and from 8 on of 8.

    Args:
      batches: lengths of the examples of some batches, [K] each, at least one of them with an example.
      hidden_size: of the model. A layer's products take 24 H^2 + 4 S H operations for each place (2001.08361, section 2.1).
      longest: tokens of the longest example of all, which may be in none of the batches.
    """
    shortest = min(int(lengths.min(initial=longest)) for lengths in batches)
    narrowest = -(-longest // WIDTH_STEP) * WIDTH_STEP

    most = max(int(lengths.sum()) for lengths in batches)
    histograms = [np.bincount(lengths) for lengths in batches]

    def size(width: int, least: int = 0) -> RowSize:
        """The rows that the batches take, or the `least` that they could."""
        slots = min(MOST_IN_A_ROW, width // shortest)
        rows = least or max(int(plan_rows(histogram, width, slots).counts.sum()) for histogram in histograms)
        return RowSize(width, slots, _rounded(rows, min(8, 1 << (rows.bit_length() - 1))))

    def work(size: RowSize) -> int:
        return size.rows * size.width * (6 * hidden_size + ATTENTION * size.width)

    def bound(width: int) -> int:
        return work(size(width, least=-(-most // width)))

    best: RowSize | None = None
    for width in sorted(range(narrowest, WIDEST * narrowest + 1, WIDTH_STEP), key=bound):
        if best is not None and bound(width) > work(best):
            break  # and so are the others'
        best = min(filter(None, (best, size(width))), key=lambda one: (work(one), one.width))
    assert best is not None
    return best


def _rounded(rows: int, multiple: int) -> int:
    return -(-rows // multiple) * multiple


@dataclass(frozen=True)
class PackedOrder(ByEpoch):
    """Batches of N examples, in rows that they share.

    Attributes:
      units: what is drawn, each a row by itself.
      batch_size: N.
      seed: of the run.
      hidden_size: of the model.
      row_multiple: empty rows are added until a batch's are a multiple of it (the mesh's and the micro-batches').
    """

    units: Units
    batch_size: int
    seed: int
    hidden_size: int
    row_multiple: int = 1

    @cached_property
    def row_size(self) -> RowSize:
        """The rows of nearly every batch; one that needs more has more, and its step is compiled when it comes."""
        sampled = np.unique(np.linspace(0, self.steps_per_epoch - 1, SAMPLED_BATCHES).astype(np.int64))
        batches = [self.units.lengths[self._examples(number)] for number in sampled.tolist()]
        return choose_row_size(batches, self.hidden_size, int(self.units.lengths.max()))

    @property
    def widths(self) -> list[int]:
        """The one width of all rows."""
        return [self.row_size.width]

    def draw(self, step: int) -> Draw:
        """The batch of a step, from 0."""
        examples, size = self._examples(step), self.row_size
        filled = fill_rows(self.units.lengths[examples], size.width, size.slots)
        rows = np.full((_rounded(max(size.rows, len(filled)), self.row_multiple), size.slots), NOBODY, np.int64)
        rows[: len(filled)] = np.where(filled == NOBODY, NOBODY, examples[filled])
        return packed_draw(rows, size.width)

    def _examples(self, step: int) -> np.ndarray:
        """The numbers of the units in a batch: [N], or one less."""
        drawn = self.order(step)
        return drawn[drawn != NOBODY]

    def make_order(self, epoch: int) -> np.ndarray:
        """Return the batches of an epoch: shuffled, then dealt out, the longest first, each to one with the fewest tokens.

        Where the examples do not fill the last batch, as many batches have one example less as are missing.
        """
        count, steps = len(self.units), self.steps_per_epoch
        order = permute(np.arange(count), count, stream_keys(self.seed, EXAMPLES, np.array([epoch])))
        order = order[np.argsort(-self.units.lengths[order], kind="stable")]
        dealt, tokens = np.full((self.batch_size, steps), NOBODY, np.int64), np.zeros(steps, np.int64)
        for round_, first in enumerate(range(0, count, steps)):
            hand = order[first : first + steps]
            batches = np.argsort(tokens, kind="stable")[: len(hand)]
            dealt[round_, batches] = hand
            tokens[batches] += self.units.lengths[hand]
        return dealt.T[permute(np.arange(steps), steps, stream_keys(self.seed, BATCHES, np.array([epoch])))]


def packed_draw(rows: np.ndarray, width: int) -> Draw:
    """The batch of rows [B, E] that hold units by their numbers."""
    return Draw(rows, rows, np.arange(len(rows)), Shape(rows.size, len(rows), width))


def packed_passes(units: Units, hidden_size: int, row_multiple: int, tokens_at_once: int) -> Iterator[Draw]:
    """Every unit once, in rows of one size; batches hold as many rows as `tokens_at_once` gives.

    Where there are few rows, batches are of a power of two.
    """
    width, slots, _ = choose_row_size([units.lengths], hidden_size, int(units.lengths.max(initial=1)))
    filled = fill_rows(units.lengths, width, slots)
    size = _rounded(max(1, min(power_of_two(len(filled)), tokens_at_once // width)), row_multiple)
    yield from (packed_draw(rows, width) for rows in in_batches(filled, size))
