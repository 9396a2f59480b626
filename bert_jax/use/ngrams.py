# SPDX-License-Identifier: Apache-2.0
"""N-gram models of tokens, of one token to five, forward and backward: what a language model has to be better than.

The chain rule takes the probability of a sentence apart, P(w1 ... wn) = product over t of P(wt | w1 ... wt-1), and an n-gram
model looks back n - 1 tokens: none for the unigram model, one for the bigram model. A backward model looks at the tokens
behind instead: P(w1 ... wn) = product over t of P(wt | wt+1 ... wn). What is looked at beyond the sentence is a mark of its
own, as often as needed, which is not predicted; nor is the end of the sentence, so the probabilities of all sentences of one
length add up to 1.

    unigram      P(w) = (c(w) + k) / (N + k V)                                                          add-k
    n-gram       P(w | h) = max(c(h w) - D, 0) / c(h .) + D n(h .) / c(h .) * P(w | h'),   P(w | h') where c(h .) is 0
    no context   Q(w) = (n(. w) + k) / (n(. .) + k V)

h' is h without its farthest token. c counts occurrences in the longest n-grams; in shorter ones it counts kinds: of how many
different tokens h w was seen behind. n(h .) is how many different tokens were seen after h. This is Kneser-Ney smoothing
(Kneser and Ney, "Improved backing-off for m-gram language modeling", 1995) in the interpolated form with one discount (Chen
and Goodman, "An empirical study of smoothing techniques for language modeling", 1999), its lowest order add-k. The k of
each model and D are those that predict a held-out part of the training text best; no other text decides about them.

Shapes: V vocabulary, T tokens, N sentences, C tokens of a context, U different n-grams.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
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
BYTES_PER_NGRAM = 12  # twice that while more are added
NAMES = {2: "bigram", 3: "trigram", 4: "four_gram", 5: "five_gram"}  # by tokens, as they are named in records

_BLOCK = 2**21  # tokens counted at once


class Order(NamedTuple):
    """Counts of T tokens in their contexts of one length, each [T]."""

    ngram: np.ndarray  # c(h w)
    context: np.ndarray  # c(h .)
    followers: np.ndarray  # n(h .)


class Evidence(NamedTuple):
    """All counts that the probabilities of T tokens are made of."""

    orders: list[Order]  # from the shortest context to the longest
    preceded: np.ndarray  # [T] n(. w)
    bigrams: int  # n(. .)


class ContextCounts(NamedTuple):
    """The n-grams with contexts of one length, and what was counted of each context."""

    keys: np.ndarray  # [U] sorted: number of the context * V + token
    counts: np.ndarray  # [U] c(h w)
    totals: np.ndarray  # [contexts] c(h .)
    followers: np.ndarray  # [contexts] n(h .)


class NgramCounts:
    """How often each token occurs, and how often in each context. Token ids are 0 to V - 1; V stands beyond the sentence.

    A context is a number: of one token its id, of several its place among the sorted (number of the context without the
    farthest token, farthest token).
    """

    def __init__(self, vocab_size: int, reach: int = 1):
        self.vocab_size, self.reach = vocab_size, reach
        self.words = np.zeros(vocab_size, np.int64)  # c(w)
        self.contexts = [
            np.zeros(0, np.int64) for _ in range(reach - 1)
        ]  # of 2, 3 ... tokens: number * (V + 1) + token
        self.keys = np.zeros(0, np.int64)  # [U], sorted: number of the longest context * V + token
        self.counts = np.zeros(0, np.int32)  # [U] c(h w)

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return int(self.words.sum())

    def add(self, contexts: np.ndarray, words: np.ndarray) -> None:
        """Count tokens [T], each in its context [T, C], nearest first."""
        self.__dict__.pop("levels", None)
        self.words += np.bincount(words, minlength=self.vocab_size)
        for begin in range(0, len(words), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            numbers = self._added_contexts(contexts[part])
            self._add_keys(*np.unique(numbers * self.vocab_size + words[part], return_counts=True))

    def _added_contexts(self, contexts: np.ndarray) -> np.ndarray:
        """Return the numbers of contexts, [T] int64; those that are new are entered, which moves those behind them."""
        numbers = contexts[:, 0].astype(np.int64)
        for place in range(self.reach - 1):
            keys = numbers * (self.vocab_size + 1) + contexts[:, place + 1]
            old, new = self.contexts[place], np.unique(keys)
            places, known = _find(old, new)
            self._move(place + 1, np.cumsum(np.bincount(places[~known], minlength=len(old) + 1)))
            self.contexts[place] = np.insert(old, places[~known], new[~known])
            numbers = np.searchsorted(self.contexts[place], keys)
        return numbers

    def _move(self, place: int, shifts: np.ndarray) -> None:
        """Renumber contexts where they stand in longer ones, or in n-grams: number i is i + shifts[i] from now on."""
        longest = place == self.reach - 1
        base = self.vocab_size + (not longest)
        keys = self.keys if longest else self.contexts[place]
        moved = keys + shifts[keys // base] * base
        if longest:
            self.keys = moved
        else:
            self.contexts[place] = moved

    def _add_keys(self, keys: np.ndarray, counts: np.ndarray) -> None:
        places, known = _find(self.keys, keys)
        self.counts[places[known]] += counts[known].astype(np.int32)
        self.keys = np.insert(self.keys, places[~known], keys[~known])
        self.counts = np.insert(self.counts, places[~known], counts[~known])

    @cached_property
    def levels(self) -> list[ContextCounts]:
        """The counts by length of context, from one token to the longest; only the longest ones are of occurrences."""
        size, keys, counts = self.vocab_size, self.keys, self.counts.astype(np.int64)
        levels = []
        for reach in range(self.reach, 0, -1):
            numbers, words = np.divmod(keys, size)
            count = len(self.contexts[reach - 2]) if reach > 1 else size + 1
            totals, followers = (np.bincount(numbers, weights, count).astype(np.int64) for weights in (counts, None))
            levels.append(ContextCounts(keys, counts, totals, followers))
            if reach > 1:
                shorter = self.contexts[reach - 2][numbers] // (size + 1)
                keys, counts = np.unique(shorter * size + words, return_counts=True)
        return levels[::-1]

    def evidence(self, contexts: np.ndarray, words: np.ndarray) -> Evidence:
        """The counts that P(word | context) is made of, of words [T] in contexts [T, C]."""
        numbers, orders = contexts[:, 0].astype(np.int64), []
        for reach, level in enumerate(self.levels, start=1):
            if reach > 1:
                keys = numbers * (self.vocab_size + 1) + contexts[:, reach - 1]
                numbers = _number_of(self.contexts[reach - 2], keys, numbers >= 0)
            places = _number_of(level.keys, numbers * self.vocab_size + words, numbers >= 0)
            of_context = _at(level.totals, numbers), _at(level.followers, numbers)
            orders.append(Order(_at(level.counts, places), *of_context))
        bigrams = self.levels[0].keys % self.vocab_size
        return Evidence(orders, np.bincount(bigrams, minlength=self.vocab_size)[words], len(bigrams))

    def unigram(self, words: np.ndarray, added: float) -> np.ndarray:
        """P(w) of each word, [T]."""
        return (self.words[words] + added) / (self.tokens + added * self.vocab_size)

    def kneser_ney(self, evidence: Evidence, discount: float, added: float) -> np.ndarray:
        """P(w | h) of each word in its context, [T]."""
        probabilities = (evidence.preceded + added) / (evidence.bigrams + added * self.vocab_size)
        for order in evidence.orders:
            context = np.maximum(order.context, 1)  # with c(h .) = 0 there is no n-gram either
            share = np.where(order.context > 0, discount * order.followers / context, 1)
            probabilities = np.maximum(order.ngram - discount, 0) / context + share * probabilities
        return probabilities


def _find(entries: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each key stands or belongs among sorted entries, and whether it is there."""
    places = np.searchsorted(entries, keys)
    known = places < len(entries)
    known[known] = entries[places[known]] == keys[known]
    return places, known


def _number_of(entries: np.ndarray, keys: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Return where each key stands among sorted entries, -1 where it does not or cannot be there."""
    places, known = _find(entries, keys)
    return np.where(known & possible, places, -1)


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values at places [T]; 0 where a place is -1."""
    return np.append(values, 0)[places]


class KneserNey(NamedTuple):
    """An n-gram model of two tokens or more."""

    counts: NgramCounts
    discount: float
    added: float

    def log(self, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """log P(w | h) of tokens [T] in their contexts [T, C] (at least as many tokens as the model looks at), [T] nats."""
        return np.log(self.counts.kneser_ney(self.counts.evidence(contexts, words), self.discount, self.added))

    def described(self) -> JsonObject:
        """Return smoothing, settings and size, for a record."""
        ngrams = len(self.counts.keys)
        return {
            "smoothing": "interpolated Kneser-Ney",
            "discount": self.discount,
            "k": self.added,
            "distinct": ngrams,
            "bytes": BYTES_PER_NGRAM * ngrams + 8 * sum(map(len, self.counts.contexts)),
        }


class NgramModels(NamedTuple):
    """The n-gram models of one text: a unigram model, a bigram model, and longer or backward ones where they were asked for."""

    unigram_added: float
    bigram: KneserNey
    forward: KneserNey | None  # None: the bigram model is the longest
    backward: KneserNey | None
    held_out: int  # tokens that decided about the settings
    available: int  # tokens of the training text; counted are `counts.tokens` of them

    @property
    def counts(self) -> NgramCounts:
        """The counts of tokens and of bigrams."""
        return self.bigram.counts

    def unigram(self, words: np.ndarray) -> np.ndarray:
        """log P(w) of tokens, [T] nats."""
        return np.log(self.counts.unigram(words, self.unigram_added))

    def losses(self, tokens: np.ndarray, starts: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
        """The mean loss of each model in nats, by its name.

        Args:
          tokens: [T] of a text.
          starts: [N + 1] of its sentences; the last is T.
          chosen: [K] places of the tokens that count.
        """
        words = tokens[chosen]
        losses = {"unigram": -float(self.unigram(words).mean())}
        for name, model in self.named().items():
            contexts = contexts_of(tokens, starts, self.counts.vocab_size, model.counts.reach, name.startswith("back"))
            losses[name] = -float(model.log(contexts[chosen], words).mean())
        return losses

    def named(self) -> dict[str, KneserNey]:
        """The models with contexts by their names."""
        found = {"bigram": self.bigram}
        if self.forward is not None:
            found[NAMES[self.forward.counts.reach + 1]] = self.forward
        if self.backward is not None:
            found[f"backward_{NAMES[self.backward.counts.reach + 1]}"] = self.backward
        return found

    def described(self) -> JsonObject:
        """Return kinds, settings and sizes of the models, for a record."""
        return {
            "unigram": {"smoothing": "add-k", "k": self.unigram_added},
            **{name: model.described() for name, model in self.named().items()},
            "counted_tokens": self.counts.tokens,
            "available_tokens": self.available,
            "held_out_tokens": self.held_out,
        }


def contexts_of(
    tokens: np.ndarray, sentence_starts: np.ndarray, vocab_size: int, reach: int = 1, backward: bool = False
) -> np.ndarray:
    """The tokens before each token, nearest first, [T, reach] int32; `vocab_size` beyond its sentence.

    Args:
      tokens: [T] ids.
      sentence_starts: [N + 1], the last is T.
      vocab_size: V.
      reach: C.
      backward: the tokens behind each token.
    """
    lengths = np.diff(sentence_starts)
    inside = np.arange(len(tokens)) - np.repeat(sentence_starts[:-1], lengths)  # tokens of the sentence before each
    if backward:
        inside = np.repeat(lengths, lengths) - 1 - inside
    contexts = np.full((len(tokens), reach), vocab_size, np.int32)
    for place in range(reach):
        there = np.flatnonzero(inside > place)
        contexts[there, place] = tokens[there + place + 1 if backward else there - place - 1]
    return contexts


# ---- training -------------------------------------------------------------------------------------------------------


def fit_ngrams(
    shards: Sequence[Shard], vocab_size: int, name: str, order: int | None = None, *, backward: bool = True
) -> NgramModels:
    """Models of the tokens of shards.

    Memory: `BYTES_PER_NGRAM` for each different n-gram, twice that for a moment: 100 MB of English Wikipedia have three
    million bigrams, 36 MB. At most `MOST_TOKENS` are counted, so a bigram model is 0.8 GB at the very most, and one of five
    tokens 1.6 GB.

    Args:
      shards: the training text.
      vocab_size: entries of the vocabulary.
      name: of the training text, for messages.
      order: tokens of the longest n-grams; None: bigrams, forward alone.
      backward: a backward model of these n-grams too.

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
    chosen, by_document = _evenly_chosen(shards), documents >= HELD_OUT_EVERY

    def fitted(reach: int, backward: bool) -> tuple[KneserNey, float, int]:
        title = f"count {'backward ' * backward}{NAMES[reach + 1].replace('_', '-')}s"
        return _fitted(NgramCounts(vocab_size, reach), _parts(chosen, by_document, vocab_size, reach, backward, title))

    bigram, unigram_added, held_out = fitted(1, backward=False)
    forward = fitted(order - 1, backward=False)[0] if order is not None and order > 2 else None
    behind = fitted(order - 1, backward=True)[0] if order is not None and backward else None
    available = sum(len(shard.tokens) for shard in shards)
    return NgramModels(unigram_added, bigram, forward, behind, held_out, available)


Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # contexts [T, C], tokens [T], and which of them are held out [T]


def _fitted(counts: NgramCounts, parts: Iterable[Part]) -> tuple[KneserNey, float, int]:
    """Return the model of all parts, k of the unigram model, and the tokens that decided about the settings."""
    held_out = []
    for contexts, words, held in parts:
        counts.add(contexts[~held], words[~held])
        held_out.append((contexts[held], words[held]))
    contexts, words = (np.concatenate(some) for some in zip(*held_out, strict=True))
    stride = max(1, -(-len(words) // MOST_HELD_OUT))
    unigram_added, discount, added = _best_settings(counts, contexts[::stride], words[::stride])
    counts.add(contexts, words)
    return KneserNey(counts, discount, added), unigram_added, len(words[::stride])


def _evenly_chosen(shards: Sequence[Shard]) -> Sequence[Shard]:
    """All shards, or every second, third ... of them, so that they have about `MOST_TOKENS` together."""
    return shards[:: -(-sum(len(shard.tokens) for shard in shards) // MOST_TOKENS)]


def _parts(
    shards: Sequence[Shard], by_document: bool, vocab_size: int, reach: int, backward: bool, title: str
) -> Iterator[Part]:
    """A shard's tokens in their contexts, until there are `MOST_TOKENS`."""
    left, units = MOST_TOKENS, 0
    total = min(left, sum(len(shard.tokens) for shard in shards))
    with tqdm(total=total, unit="token", unit_scale=True, desc=title, disable=None) as bar:
        for shard in shards:
            starts = np.asarray(shard.sentence_starts)
            unit_starts = starts[shard.document_starts] if by_document else starts
            held = (units + np.arange(len(unit_starts) - 1)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            units += len(held)
            of_tokens = np.repeat(held, np.diff(unit_starts))
            contexts = contexts_of(shard.tokens, starts, vocab_size, reach, backward)
            yield contexts[:left], shard.tokens[:left], of_tokens[:left]
            bar.update(min(left, len(contexts)))
            left -= len(contexts)
            if left <= 0:
                return


def _best_settings(counts: NgramCounts, contexts: np.ndarray, words: np.ndarray) -> tuple[float, float, float]:
    """k of the unigram model, D and k of the n-gram model: those under which these tokens are likeliest."""
    evidence = counts.evidence(contexts, words)
    unigram = _likeliest((counts.unigram(words, added), added) for added in ADDED)
    discount, added = _likeliest((counts.kneser_ney(evidence, *pair), pair) for pair in product(DISCOUNTS, ADDED))
    return unigram, discount, added


def _likeliest[Setting](candidates: Iterable[tuple[np.ndarray, Setting]]) -> Setting:
    """The setting whose probabilities have the largest product; the first of equals."""
    scored = ((float(np.log(probabilities).sum()), setting) for probabilities, setting in candidates)
    return max(scored, key=lambda pair: pair[0])[1]
