# SPDX-License-Identifier: Apache-2.0
"""Unigram and bigram models of tokens: what a masked LM has to be better than.

The chain rule takes the probability of a sentence apart, P(w1 ... wn) = product over t of P(wt | w1 ... wt-1), and a
Markov model of order k looks back k tokens: none for the unigram model, one for the bigram model. The first token of a
sentence has a mark of its own before it, which is not predicted; nor is the end of the sentence, so the probabilities of
all sentences of one length add up to 1.

    unigram   P(w) = (c(w) + k) / (N + k V)                                                   add-k
    bigram    P(w | h) = max(c(h w) - D, 0) / c(h) + D n(h .) / c(h) * Q(w),   Q(w) where c(h) is 0
              Q(w) = (n(. w) + k) / (n(. .) + k V)

c counts occurrences, n different bigrams: n(. w) is how many tokens w was seen after. This is Kneser-Ney smoothing (Kneser
and Ney, "Improved backing-off for m-gram language modeling", 1995) in the interpolated form with one discount (Chen and
Goodman, "An empirical study of smoothing techniques for language modeling", 1999), its lowest order add-k. The k of either
model and D are those that predict a held-out part of the training text best; no other text decides about them.

Shapes: V vocabulary, T tokens, N sentences, U different bigrams.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.feed.shards import Shard

MOST_TOKENS = 2**25  # that are counted; more of the training text (over about 150 MB of English) is left out
HELD_OUT_EVERY = 20  # of so many documents (sentences where they are few) one is held out
MOST_HELD_OUT = 500_000  # tokens that the settings are tried on
ADDED = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # k
DISCOUNTS = tuple(tenth / 10 for tenth in range(1, 10))  # D
BYTES_PER_BIGRAM = 12  # twice that while more are added

_BLOCK = 2**21  # tokens counted at once


class Evidence(NamedTuple):
    """Counts of T tokens in their contexts, each [T]."""

    pair: np.ndarray  # c(h w)
    context: np.ndarray  # c(h)
    followers: np.ndarray  # n(h .)
    preceded: np.ndarray  # n(. w)


class NgramCounts:
    """How often each token occurs, and how often after each other. Token ids are 0 to V - 1, V begins a sentence."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.words = np.zeros(vocab_size, np.int64)  # c(w)
        self.keys = np.zeros(0, np.int64)  # [U], sorted: context * V + word
        self.pairs = np.zeros(0, np.int32)  # [U] c(h w)

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return int(self.words.sum())

    def add(self, contexts: np.ndarray, words: np.ndarray) -> None:
        """Count tokens [T], each after its context [T]."""
        self.words += np.bincount(words, minlength=self.vocab_size)
        for begin in range(0, len(words), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            self._add_keys(*np.unique(self._key(contexts[part], words[part]), return_counts=True))

    def _add_keys(self, keys: np.ndarray, counts: np.ndarray) -> None:
        places, known = self._find(keys)
        self.pairs[places[known]] += counts[known].astype(np.int32)
        self.keys = np.insert(self.keys, places[~known], keys[~known])
        self.pairs = np.insert(self.pairs, places[~known], counts[~known])

    def _key(self, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        return contexts.astype(np.int64) * self.vocab_size + words

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each key stands or belongs, and whether it is there."""
        places = np.searchsorted(self.keys, keys)
        known = places < len(self.keys)
        known[known] = self.keys[places[known]] == keys[known]
        return places, known

    def evidence(self, contexts: np.ndarray, words: np.ndarray) -> Evidence:
        """The counts that P(word | context) is made of."""
        places, known = self._find(self._key(contexts, words))
        pair = np.zeros(len(words), np.int64)
        pair[known] = self.pairs[places[known]]
        of_contexts, of_words = np.divmod(self.keys, self.vocab_size)
        size = self.vocab_size + 1
        totals = np.bincount(of_contexts, self.pairs, minlength=size)
        followers = np.bincount(of_contexts, minlength=size)
        preceded = np.bincount(of_words, minlength=self.vocab_size)
        return Evidence(pair, totals[contexts], followers[contexts], preceded[words])

    def unigram(self, words: np.ndarray, added: float) -> np.ndarray:
        """P(w) of each word, [T]."""
        return (self.words[words] + added) / (self.tokens + added * self.vocab_size)

    def bigram(self, evidence: Evidence, discount: float, added: float) -> np.ndarray:
        """P(w | h) of each word after its context, [T]."""
        lower = (evidence.preceded + added) / (len(self.keys) + added * self.vocab_size)
        context = np.maximum(evidence.context, 1)  # with c(h) = 0 there is no pair either
        share = np.where(evidence.context > 0, discount * evidence.followers / context, 1)
        return np.maximum(evidence.pair - discount, 0) / context + share * lower


class NgramModels(NamedTuple):
    """A unigram and a bigram model of one text."""

    counts: NgramCounts
    unigram_added: float
    bigram_discount: float
    bigram_added: float
    held_out: int  # tokens that decided about the three
    available: int  # tokens of the training text; counted are `counts.tokens` of them

    def unigram(self, words: np.ndarray) -> np.ndarray:
        """log P(w) of tokens, [T] nats."""
        return np.log(self.counts.unigram(words, self.unigram_added))

    def bigram(self, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """log P(w | h) of tokens after their contexts, [T] nats."""
        evidence = self.counts.evidence(contexts, words)
        return np.log(self.counts.bigram(evidence, self.bigram_discount, self.bigram_added))

    def described(self) -> JsonObject:
        """Return kinds, settings and sizes of the models, for a record."""
        return {
            "unigram": {"smoothing": "add-k", "k": self.unigram_added},
            "bigram": {
                "smoothing": "interpolated Kneser-Ney",
                "discount": self.bigram_discount,
                "k": self.bigram_added,
            },
            "counted_tokens": self.counts.tokens,
            "available_tokens": self.available,
            "held_out_tokens": self.held_out,
            "distinct_bigrams": len(self.counts.keys),
            "bytes": BYTES_PER_BIGRAM * len(self.counts.keys),
        }


def contexts_of(tokens: np.ndarray, sentence_starts: np.ndarray, vocab_size: int) -> np.ndarray:
    """The token before each token, [T] int32; `vocab_size` where a sentence begins.

    Args:
      tokens: [T] ids.
      sentence_starts: [N + 1], the last is T.
    """
    contexts = np.empty(len(tokens), np.int32)
    contexts[1:] = tokens[:-1]
    contexts[sentence_starts[:-1]] = vocab_size
    return contexts


# ---- training -------------------------------------------------------------------------------------------------------


def fit_ngrams(shards: Sequence[Shard], vocab_size: int, name: str) -> NgramModels:
    """Models of the tokens of shards.

    Memory: `BYTES_PER_BIGRAM` for each different bigram, twice that for a moment: 100 MB of English Wikipedia have three
    million, 36 MB. At most `MOST_TOKENS` are counted, so it is 0.8 GB at the very most.

    Args:
      shards: the training text.
      vocab_size: entries of the vocabulary.
      name: of the training text, for messages.

    Raises:
      UserError: too few sentences to hold some out.
    """
    documents = sum(len(shard.document_starts) - 1 for shard in shards)
    sentences = sum(len(shard.sentence_starts) - 1 for shard in shards)
    if sentences < HELD_OUT_EVERY:
        raise UserError(
            f"{name}: has {sentences} sentences, and n-gram models need {HELD_OUT_EVERY}, of which one is held out: give a"
            " longer text"
        )
    counts, held_out = NgramCounts(vocab_size), []
    for contexts, words, held in _parts(_evenly_chosen(shards), documents >= HELD_OUT_EVERY, vocab_size):
        counts.add(contexts[~held], words[~held])
        held_out.append((contexts[held], words[held]))
    contexts, words = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
    stride = max(1, -(-len(words) // MOST_HELD_OUT))
    chosen = _best_settings(counts, contexts[::stride], words[::stride])
    counts.add(contexts, words)
    available = sum(len(shard.tokens) for shard in shards)
    return NgramModels(counts, *chosen, len(words[::stride]), available)


def _evenly_chosen(shards: Sequence[Shard]) -> Sequence[Shard]:
    """All shards, or every second, third ... of them, so that they have about `MOST_TOKENS` together."""
    return shards[:: -(-sum(len(shard.tokens) for shard in shards) // MOST_TOKENS)]


def _parts(
    shards: Sequence[Shard], by_document: bool, vocab_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Contexts, tokens, and which of them are held out, each [T]: a shard's, until there are `MOST_TOKENS`."""
    left, units = MOST_TOKENS, 0
    total = min(left, sum(len(shard.tokens) for shard in shards))
    with tqdm(total=total, unit="token", unit_scale=True, desc="count n-grams", disable=None) as bar:
        for shard in shards:
            starts = np.asarray(shard.sentence_starts)
            unit_starts = starts[shard.document_starts] if by_document else starts
            held = (units + np.arange(len(unit_starts) - 1)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            units += len(held)
            of_tokens = np.repeat(held, np.diff(unit_starts))
            contexts = contexts_of(shard.tokens, starts, vocab_size)
            yield contexts[:left], shard.tokens[:left], of_tokens[:left]
            bar.update(min(left, len(contexts)))
            left -= len(contexts)
            if left <= 0:
                return


def _best_settings(counts: NgramCounts, contexts: np.ndarray, words: np.ndarray) -> tuple[float, float, float]:
    """k of the unigram model, D and k of the bigram model: those under which these tokens are likeliest."""
    evidence = counts.evidence(contexts, words)
    unigram = _likeliest((counts.unigram(words, added), added) for added in ADDED)
    discount, added = _likeliest((counts.bigram(evidence, *pair), pair) for pair in product(DISCOUNTS, ADDED))
    return unigram, discount, added


def _likeliest[Setting](candidates: Iterable[tuple[np.ndarray, Setting]]) -> Setting:
    """The setting whose probabilities have the largest product; the first of equals."""
    scored = ((float(np.log(probabilities).sum()), setting) for probabilities, setting in candidates)
    return max(scored, key=lambda pair: pair[0])[1]
