# SPDX-License-Identifier: Apache-2.0
"""Masked examples by index: one vectorised NumPy function of (example indices, epochs, seed) makes a batch of them.

Which examples share a row, and which rows a batch, is arranged in packing.py; where their tokens stand in the row is laid
out in layout.py.

Shapes: B rows, S tokens in a row, E examples in a row at most, K examples of a shard, N examples of a batch, T tokens of
these without special tokens.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from operator import getitem, sub
from typing import NamedTuple

import numpy as np

from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.feed.batch import Batch, BatchShape
from bert_jax.feed.kinds import PAIRS, special_tokens
from bert_jax.feed.layout import (
    example_fields,
    fit_predictions,
    lay_out,
    Layout,
    place_tokens,
    places_before_another,
    places_of,
    prediction_fields,
    SpecialIds,
    token_fields,
)
from bert_jax.feed.masking import mask_seeds, mask_tokens, Masks, no_masks, Tokens, wanted_counts
from bert_jax.feed.order import examples_at
from bert_jax.feed.shards import Split, TRAIN
from bert_jax.tokenization import Tokenizer
from bert_jax.tokenization.ranges import counts_of

EVALUATION_SEED = 0  # of masks of held-out data: the same in every run, so that scores can be compared
TRAINING_SPLIT_SEED = (
    2**32
)  # of those of the training split: of no run, whose seeds are smaller, so that none has learned them
EMPTY = -1  # index of a place in a row that holds no example


class Runs(NamedTuple):
    """Neighbouring tokens of shards, those of run i from begins[i] to ends[i] - 1."""

    shards: list[int]
    begins: list[int]
    ends: list[int]


@dataclass(frozen=True)
class Examples:
    """Examples of one split at one sequence length, by index, masked where the objective predicts masked tokens."""

    split: Split
    shape: BatchShape  # of batches with one example a row; see `bert_jax.feed.packing` for others
    objective: ObjectiveConfig
    special: SpecialIds
    vocab_size: int  # entries of the vocabulary, which random replacements are drawn from

    @property
    def kind(self) -> str:
        """The kind of examples of the prepared data; see `bert_jax.feed.kinds`."""
        return self.objective.examples

    @cached_property
    def tables(self) -> list[np.ndarray]:
        """The table of each shard, [K, 5] int32: a_start, a_length, b_start, b_length, label."""
        return [shard.table(self.kind, self.shape.sequence_length) for shard in self.split.shards]

    @cached_property
    def ends(self) -> np.ndarray:
        """The index of the example after the last one of each shard: [shards] int64."""
        return np.cumsum([len(table) for table in self.tables], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def lengths(self, shard: int) -> np.ndarray:
        """Tokens of each example of a shard, special tokens counted: [K] int32."""
        table = self.tables[shard]
        return table[:, 1] + table[:, 3] + np.int32(special_tokens(self.kind))

    @cached_property
    def length_histogram(self) -> np.ndarray:
        """[S + 1] int64: examples of each length, special tokens counted."""
        histogram = np.zeros(self.shape.sequence_length + 1, np.int64)
        for shard in range(len(self.tables)):
            histogram += np.bincount(self.lengths(shard), minlength=len(histogram))
        return histogram

    def batch(
        self,
        indices: np.ndarray,
        epochs: np.ndarray,
        seed: int,
        shape: BatchShape | None = None,
        probability: float | None = None,
    ) -> Batch:
        """The batch of these examples, masked for these epochs.

        The masks of an example follow from (seed, epoch, index, probability), whatever stands beside it.

        Args:
          indices: [B, E] int64; EMPTY where a row holds fewer examples, behind those it holds.
          epochs: [B] int64.
          seed: of the masks.
          shape: sequence length and predictions of the rows; None: those of these examples.
          probability: share of tokens to pick; None: the objective's.

        Returns:
          See `bert_jax.feed.batch.batch_spec`. `next_sentence_weights` is 0 also where examples are no pairs.
        """
        return self.masked_batch(indices, epochs, seed, shape, probability)[0]

    def masked_batch(
        self,
        indices: np.ndarray,
        epochs: np.ndarray,
        seed: int,
        shape: BatchShape | None = None,
        probability: float | None = None,
    ) -> tuple[Batch, Masks]:
        """Return a batch, and the tokens that were picked in it: left to right none, every next token is predicted."""
        shape = replace(shape or self.shape, rows=indices.shape[0], examples_per_row=indices.shape[1])
        rows, slots = np.nonzero(indices != EMPTY)
        chosen = indices[rows, slots]
        shards, records = self._records(chosen)
        layout = lay_out(shape, rows, slots, records[:, 1], records[:, 3], special_tokens(self.kind))
        tokens = self._tokens(shards, records, mask_seeds(seed, epochs[rows], chosen))
        fields = token_fields(layout)
        input_ids = place_tokens(layout, fields["sequence_ids"], tokens.ids, self.special)
        if not self.objective.masks:
            masks, places = no_masks(), places_before_another(layout)
            labels = input_ids[places + 1]
        else:
            share = self.objective.mlm_probability if probability is None else probability
            masks = self._masks(layout, tokens, share)
            places, labels = places_of(layout, masks.picked), masks.labels
            input_ids[places] = masks.shown
        batch = {
            "input_ids": input_ids.reshape(shape.rows, shape.sequence_length),
            **fields,
            **prediction_fields(layout, places, labels),
            **example_fields(layout, records[:, 4], float(self.kind in PAIRS)),
        }
        return batch, masks

    def _masks(self, layout: Layout, tokens: Tokens, share: float) -> Masks:
        wanted = fit_predictions(layout, wanted_counts(layout.lengths, layout.counts, share))
        return mask_tokens(tokens, wanted, self.objective, mask_id=self.special.mask, vocab_size=self.vocab_size)

    def _records(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and table row of each example: [N] -> ([N], [N, 5] int64)."""
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        ends = np.searchsorted(ordered, self.ends)
        found, begin, first = [], 0, 0
        for shard, (end, last) in enumerate(zip(ends.tolist(), self.ends.tolist(), strict=True)):
            if begin < end:
                found.append(self.tables[shard].take(ordered[begin:end] - first, axis=0))
            begin, first = end, last
        shards, records = np.empty(len(indices), np.int64), np.empty((len(indices), 5), np.int64)
        shards[order] = np.repeat(np.arange(len(ends)), counts_of(ends))
        records[order] = np.concatenate(found) if found else records
        return shards, records

    def _tokens(self, shards: np.ndarray, records: np.ndarray, seeds: np.ndarray) -> Tokens:
        """The tokens of segments A and B of each example, as the shards hold them."""
        a_lengths, b_lengths = records[:, 1], records[:, 3]
        begins = records[:, 0:4:2].ravel()
        ends = begins + records[:, 1:4:2].ravel()
        # A B that follows its A, as every second does, or that is empty needs no run of its own.
        alone = np.ones(len(begins), bool)
        alone[1::2] = (begins[1::2] != ends[::2]) & (b_lengths > 0)
        ends[::2] += np.where(alone[1::2], 0, b_lengths)
        begins, ends = begins[alone], ends[alone]
        runs = Runs(np.repeat(shards, 2)[alone].tolist(), begins.tolist(), ends.tolist())
        sources = [memoryview(shard.tokens) for shard in self.split.shards]
        ids = _join(_slices(sources, runs), self.split.shards[0].tokens.dtype)
        word_starts = None if self.objective.masking == "token" else self._word_starts(runs, begins)
        return Tokens(ids, a_lengths + b_lengths, a_lengths, seeds, word_starts)

    def _word_starts(self, runs: Runs, begins: np.ndarray) -> np.ndarray:
        """Bits of the tokens of `runs`, which begin at `begins`: [T] bool."""
        sources = [memoryview(shard.word_starts) for shard in self.split.shards]
        octets = Runs(runs.shards, (begins >> 3).tolist(), [(end + 7) >> 3 for end in runs.ends])
        packed = _slices(sources, octets)
        bits = memoryview(np.unpackbits(_join(packed, np.dtype(np.uint8)), bitorder="little"))
        firsts = (8 * np.cumsum([0, *map(len, packed)])[:-1] + (begins & 7)).tolist()
        lengths = map(sub, runs.ends, runs.begins)
        return _join(
            [bits[first : first + length] for first, length in zip(firsts, lengths, strict=True)], np.dtype(bool)
        )


def _slices(sources: list[memoryview], runs: Runs) -> list[memoryview]:
    """The runs of their sources; a loop without a step in Python takes two thirds of the time."""
    spans = map(slice, runs.begins, runs.ends)
    return list(map(getitem, map(sources.__getitem__, runs.shards), spans))  # type: ignore[arg-type]  # overloads


def _join(parts: list[memoryview], dtype: np.dtype) -> np.ndarray:
    """The parts one after the other, read-only: for many short ones far faster than slices and np.concatenate."""
    return np.frombuffer(b"".join(parts), dtype)


def evaluation_batch(examples: Examples, batch_size: int, step: int, rows: slice | np.ndarray = slice(None)) -> Batch:
    """Return batch `step` of one pass over examples to score, one a row [B, S]; the last is filled up with empty rows."""
    seed = scoring_seed(examples.split)
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)[rows]
    inside = positions < len(examples)
    _, indices = examples_at(np.where(inside, positions, 0), len(examples), seed)
    indices = np.where(inside, indices, EMPTY)
    return examples.batch(indices[:, None], np.zeros_like(indices), seed)


def scoring_seed(split: Split) -> int:
    """Return the seed of order and masks where a split is scored."""
    return TRAINING_SPLIT_SEED if split.name == TRAIN else EVALUATION_SEED


def make_examples(
    split: Split, tokenizer: Tokenizer, config: PretrainConfig, phase: PhaseConfig, rows: int | None = None
) -> Examples:
    """The masked examples of a split, as a phase of the run asks for them; `rows`: of a batch, if not the phase's."""
    return Examples(
        split=split,
        shape=BatchShape(rows or phase.batch_size, phase.sequence_length, config.predictions(phase)),
        objective=config.objective,
        special=SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id),
        vocab_size=tokenizer.vocab_size,
    )
