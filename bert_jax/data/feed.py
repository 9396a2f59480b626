# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation batches: one vectorised NumPy function of (example indices, epochs, seed).

tf.data calls that function once per batch where TensorFlow is installed (tf_feed.py); else a plain iterator does. Both
give the same batches, bit for bit.

Shapes: B rows, S tokens in a row, M predicted positions in a row.
"""

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bert_jax.batch import Batch, BatchShape
from bert_jax.config import ObjectiveConfig
from bert_jax.data.masking import mask_seeds, mask_tokens
from bert_jax.data.order import examples_at
from bert_jax.data.shards import Split
from bert_jax.errors import UserError

EVALUATION_SEED = 0  # of masks of held-out data: the same in every run, so that scores can be compared
EMPTY = -1  # index of a row without example, which fills up the last batch of an evaluation


@dataclass(frozen=True)
class SpecialIds:
    """Ids that the layout of a row needs."""

    cls: int
    sep: int
    mask: int
    pad: int


@dataclass(frozen=True)
class Examples:
    """Masked examples of one split at one sequence length, by index."""

    split: Split
    shape: BatchShape  # `rows` is not used here
    objective: ObjectiveConfig
    special: SpecialIds
    vocab_size: int  # entries of the vocabulary, which random replacements are drawn from

    @cached_property
    def tables(self) -> list[np.ndarray]:
        """Of each shard, [K, 5] int32: a_start, a_length, b_start, b_length, label (0 IsNext, 1 NotNext)."""
        return [shard.examples(self.shape.sequence_length) for shard in self.split.shards]

    @cached_property
    def ends(self) -> np.ndarray:
        """Index of the example after the last one of each shard."""
        return np.cumsum([len(table) for table in self.tables])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batch(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> Batch:
        """The batch of these examples, masked for these epochs.

        Args:
          indices: [B] int64, or EMPTY for a row without example.
          epochs: [B] int64.
          seed: of the masks.

        Returns:
          See `bert_jax.batch.batch_spec`.
        """
        size = self.shape.sequence_length
        input_ids, records = self.gather(indices)
        a_length, b_length = records[:, 1], records[:, 3]
        present = indices != EMPTY
        lengths = np.where(present, a_length + b_length + 3, 0)
        place = np.arange(size)[None, :]
        first_sep, last_sep = (a_length + 1)[:, None], (a_length + b_length + 2)[:, None]
        valid = place < lengths[:, None]
        candidates = valid & (place > 0) & (place != first_sep) & (place != last_sep)
        masked = mask_tokens(
            input_ids,
            candidates,
            mask_seeds(seed, epochs, indices),
            self.objective,
            lengths=lengths,
            max_predictions=self.shape.max_predictions,
            mask_id=self.special.mask,
            vocab_size=self.vocab_size,
        )
        return {
            "input_ids": masked.input_ids,
            "segment_ids": ((place > first_sep) & valid).astype(np.int32),
            "sequence_ids": valid.astype(np.int32),
            "position_ids": np.broadcast_to(place, valid.shape).astype(np.int32),
            "masked_lm_positions": masked.positions,
            "masked_lm_ids": masked.ids,
            "masked_lm_weights": masked.weights,
            "cls_positions": np.zeros((len(indices), 1), np.int32),
            "next_sentence_labels": records[:, 4:5].astype(np.int32),
            "next_sentence_weights": present[:, None].astype(np.float32),
        }

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] A [SEP] B [SEP] of each example, not masked: ([B, S] int32, records [B, 5] int64)."""
        size = self.shape.sequence_length
        records = np.zeros((len(indices), 5), np.int64)
        ids = np.full((len(indices), size), self.special.pad, np.int32)
        place = np.arange(size)[None, :]
        shard_of = np.where(indices == EMPTY, EMPTY, np.searchsorted(self.ends, indices, side="right"))
        for number in np.unique(shard_of[shard_of != EMPTY]):
            rows = np.flatnonzero(shard_of == number)
            begin = self.ends[number] - len(self.tables[number])
            record = records[rows] = self.tables[number][indices[rows] - begin]
            a_start, a_length, b_start, b_length = (record[:, column, None] for column in range(4))
            ids[rows] = self._lay_out(number, place, a_start, a_length, b_start, b_length)
        return ids, records

    def _lay_out(
        self,
        number: int,
        place: np.ndarray,
        a_start: np.ndarray,
        a_length: np.ndarray,
        b_start: np.ndarray,
        b_length: np.ndarray,
    ) -> np.ndarray:
        """Rows of one shard, from its flat array of tokens: [R, 1] each -> [R, S] int32."""
        tokens = self.split.shards[number].tokens
        source = np.where(place <= a_length, a_start + place - 1, b_start + place - a_length - 2)
        ids = tokens[np.clip(source, 0, len(tokens) - 1)].astype(np.int32)
        last_sep = a_length + b_length + 2
        ids[:, 0] = self.special.cls
        ids[(place == a_length + 1) | (place == last_sep)] = self.special.sep
        ids[place > last_sep] = self.special.pad
        return ids


def training_batch(
    examples: Examples, seed: int, batch_size: int, step: int, rows: slice = slice(None), seen: int = 0
) -> Batch:
    """The rows `rows` of the global batch of step `step` of a phase (from 0), a pure function of its arguments.

    `seen` examples of the stream were used by earlier phases of the same sequence length.
    """
    positions = seen + step * batch_size + np.arange(batch_size, dtype=np.int64)[rows]
    epochs, indices = examples_at(positions, len(examples), seed)
    return examples.batch(indices, epochs, seed)


def evaluation_batch(examples: Examples, batch_size: int, step: int, rows: slice = slice(None)) -> Batch:
    """Batch `step` of one pass over held-out examples; the last batch is filled up with empty rows."""
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)[rows]
    inside = positions < len(examples)
    _, indices = examples_at(np.where(inside, positions, 0), len(examples), EVALUATION_SEED)
    indices = np.where(inside, indices, EMPTY)
    return examples.batch(indices, np.zeros_like(indices), EVALUATION_SEED)


def host_rows(batch_size: int, host: int, hosts: int) -> slice:
    """The rows of the global batch that one of several hosts makes.

    Raises:
      UserError: the batch does not divide over the hosts.
    """
    if batch_size % hosts:
        raise UserError(f"the batch of {batch_size} is not divisible by {hosts} hosts: use a multiple of {hosts}")
    share = batch_size // hosts
    return slice(host * share, (host + 1) * share)


def has_tensorflow() -> bool:
    """Whether TensorFlow can be imported; it is not imported here."""
    try:
        return importlib.util.find_spec("tensorflow") is not None
    except (ImportError, ValueError):  # blocked or half removed
        return False


def feed(
    make_batch: Callable[[int], Batch], begin: int, end: int, *, use_tf_data: bool | None = None
) -> Iterator[Batch]:
    """Batches of the steps `begin` to `end` - 1, made ahead of their use.

    Args:
      make_batch: step -> batch, such as `training_batch` with its first arguments bound.
      use_tf_data: None: tf.data where TensorFlow is installed, else the plain iterator.
    """
    if has_tensorflow() if use_tf_data is None else use_tf_data:
        from bert_jax.data.tf_feed import tf_feed

        return tf_feed(make_batch, begin, end)
    return plain_feed(make_batch, begin, end)


def plain_feed(make_batch: Callable[[int], Batch], begin: int, end: int, ahead: int = 2) -> Iterator[Batch]:
    """The feed without TensorFlow: one thread makes up to `ahead` batches beforehand."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as pool:
        waiting: list[Future[Batch]] = []
        try:
            for step in range(begin, end):
                waiting.append(pool.submit(make_batch, step))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()
