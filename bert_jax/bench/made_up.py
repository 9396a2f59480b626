# SPDX-License-Identifier: Apache-2.0
"""A made-up language and its examples, kept in memory, for benchmarks of the real data path.

Documents have a topic; a topic has sixteen words of its own, and each word a few that like to follow it. So a masked word
can be guessed from its neighbours' topic, better from the word before it, and whether B goes on A's topic is a question
with an answer. Masks, packing and batches are those of `bert_jax.feed`.

Shapes: B rows, D documents, E examples in a row, K examples, T tokens of all documents.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.config.description import ModelDescription
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.feed.batch import Batch, BatchShape
from bert_jax.feed.examples import Examples
from bert_jax.feed.kinds import PAIRS, special_tokens
from bert_jax.feed.layout import SpecialIds
from bert_jax.feed.packing import Arrangement, make_arrangement
from bert_jax.feed.shards import Shard, Split, table_name, token_dtype
from bert_jax.model.accounting import pretraining_flops

SPECIAL = SpecialIds(pad=0, cls=1, sep=2, mask=3)
FIRST_WORD = 4
TOPIC_WORDS = 16
FOLLOWERS = (0.55, 0.25, 0.15, 0.05)  # how likely each of a word's followers is
SHORTEST = 5  # tokens of an example: a word in A, one in B, three special ones


class MadeUpLengths(NamedTuple):
    """How long examples are: `full` of them fill a row, the others are evenly up to `short_end` of it."""

    full: float
    short_end: float


# By the shortest row it holds for. Short rows: google-research/bert's short_seq_prob of 0.1. Long ones: mean 254 and mean
# square 9.5e4 at 512, as the Wikipedia of MLPerf (its README of packed data gives the mean).
LENGTHS = {0: MadeUpLengths(0.9, 1.0), 384: MadeUpLengths(0.27, 0.61)}


def draw_lengths(rng: np.random.Generator, count: int, sequence_length: int) -> np.ndarray:
    """Tokens of examples, special ones counted: [K] int64."""
    kind = LENGTHS[max(begin for begin in LENGTHS if begin <= sequence_length)]
    longest = max(round(kind.short_end * sequence_length), SHORTEST)
    short = rng.integers(SHORTEST, longest + 1, count)
    return np.where(rng.random(count) < kind.full, sequence_length, short)


def draw_documents(rng: np.random.Generator, count: int, length: int, vocab_size: int) -> np.ndarray:
    """Token ids of documents: [D, length] int32, each on one topic."""
    topics = max(1, (vocab_size - FIRST_WORD) // TOPIC_WORDS)
    words = min(TOPIC_WORDS, vocab_size - FIRST_WORD)
    follows = rng.integers(0, words, (topics, words, len(FOLLOWERS)))
    topic = rng.integers(0, topics, count)
    choice = rng.choice(len(FOLLOWERS), (length, count), p=FOLLOWERS)
    word = rng.integers(0, words, count)
    documents = np.empty((count, length), np.int32)
    for place in range(length):
        documents[:, place] = FIRST_WORD + topic * words + word
        word = follows[topic, word, choice[place]]
    return documents


def make_table(rng: np.random.Generator, kind: str, lengths: np.ndarray, document_length: int) -> np.ndarray:
    """An example of each document: [K, 5] int32.

    A is the beginning of the document; in pairs B goes on there (0) or begins another document (1).
    """
    numbers = np.arange(len(lengths))
    words = lengths - special_tokens(kind)
    if kind not in PAIRS:
        nothing = np.zeros_like(numbers)
        return np.stack([numbers * document_length, words, nothing, nothing, nothing], axis=1).astype(np.int32)
    a_length = np.clip(np.rint(words * rng.uniform(0.2, 0.8, len(words))).astype(int), 1, words - 1)
    elsewhere = rng.integers(0, 2, len(words))
    other = (numbers + rng.integers(1, max(len(words), 2), len(words))) % len(words)
    b_start = np.where(elsewhere == 1, other * document_length, numbers * document_length + a_length)
    columns = [numbers * document_length, a_length, b_start, words - a_length, elsewhere]
    return np.stack(columns, axis=1).astype(np.int32)


def made_up_examples(config: PretrainConfig, count: int, seed: int = 0) -> Examples:
    """Examples for the first phase of a configuration."""
    rng, kind = np.random.default_rng(seed), config.objective.examples
    size, vocab_size = config.phases[0].sequence_length, config.model.vocab_size
    documents = draw_documents(rng, count, size, vocab_size)
    tables = {table_name(kind, size): make_table(rng, kind, draw_lengths(rng, count, size), size)}
    tokens = documents.reshape(-1).astype(token_dtype(vocab_size))  # [T]
    starts = np.arange(0, tokens.size + 1, size)
    words = np.packbits(np.ones(tokens.size, bool), bitorder="little")
    shard = Shard(Path("made-up"), tokens, words, starts, np.arange(count + 1), tables)
    split = Split("train", Path("made-up"), (shard,), {})
    phase = config.phases[0]
    shape = BatchShape(phase.batch_size, size, config.predictions(phase))
    return Examples(split, shape, config.objective, SPECIAL, vocab_size)


def made_up_arrangement(config: PretrainConfig, batches: int, seed: int = 0) -> Arrangement:
    """The stream of batches of a configuration's first phase, with examples for about `batches` of them."""
    per_row = config.examples_per_row if config.packing == "packed" else 1
    examples = made_up_examples(config, max(batches * config.phases[0].batch_size * per_row, 2), seed)
    rows = config.phases[0].batch_size
    return make_arrangement(examples, config.packing, rows, config.examples_per_row, config.buckets)


def unigram_entropy(examples: Examples) -> float:
    """Nats: the loss of guessing masked words by how often they occur."""
    counts = np.bincount(examples.split.shards[0].tokens).astype(float)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


class BatchWork(NamedTuple):
    """The counts of a batch: rows, examples, tokens, predictions."""

    rows: int
    sequences: int  # examples
    slots: int  # tokens with padding
    valid_tokens: int
    squared_lengths: int
    predictions: int

    def flops(self, description: ModelDescription) -> float:
        """Model FLOPs of a training step on it, see `accounting.pretraining_flops`."""
        return pretraining_flops(description, self.valid_tokens, self.squared_lengths, self.predictions)


def work_of(batch: Batch) -> BatchWork:
    """Count a batch."""
    numbers = batch["sequence_ids"]
    most = batch["cls_positions"].shape[1]
    lengths = np.stack([(numbers == 1 + place).sum(1) for place in range(most)], axis=1)  # [B, E]
    return BatchWork(
        rows=len(numbers),
        sequences=int((lengths > 0).sum()),
        slots=numbers.size,
        valid_tokens=int(lengths.sum()),
        squared_lengths=int(np.square(lengths).sum()),
        predictions=int(batch["masked_lm_weights"].sum()),
    )
