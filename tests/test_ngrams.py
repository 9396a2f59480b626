# SPDX-License-Identifier: Apache-2.0
"""N-gram models: a worked example, the chain rule, a restatement in dictionaries, and the figures of another program."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.feed.shards import Shard
from bert_jax.use import ngrams
from bert_jax.use.ngrams import ADDED, contexts_of, DISCOUNTS, fit_ngrams, KneserNey, NgramCounts, NgramModels


def make_shard(documents):
    """A shard of documents, each a list of sentences, each a list of ids."""
    sentences = [sentence for document in documents for sentence in document]
    tokens = np.array([token for sentence in sentences for token in sentence], np.uint16)
    sentence_starts = np.cumsum([0, *map(len, sentences)])
    document_starts = np.cumsum([0, *map(len, documents)])
    return Shard(Path("shard"), tokens, np.zeros(0, np.uint8), sentence_starts, document_starts, {})


def made_up_documents(count, vocab_size, seed):
    """Documents whose next token depends on the token before."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(vocab_size, 0.2), vocab_size)
    documents = []
    for _ in range(count):
        document = []
        for _ in range(rng.integers(1, 5)):
            sentence = [int(rng.integers(vocab_size))]
            for _ in range(rng.integers(0, 9)):
                sentence.append(int(rng.choice(vocab_size, p=table[sentence[-1]])))
            document.append(sentence)
        documents.append(document)
    return documents


# ---- the cat sat on the mat --------------------------------------------------------------------------------

WORDS = ["the", "cat", "sat", "on", "mat"]
BEGIN = len(WORDS)


def counts_of(*sentences, reach=1, backward=False):
    counts = NgramCounts(len(WORDS), reach)
    for sentence in sentences:
        ids = np.array([WORDS.index(word) for word in sentence.split()])
        counts.add(contexts_of(ids, np.array([0, len(ids)]), len(WORDS), reach, backward), ids)
    return counts


def test_the_cat_sat_on_the_mat_by_hand():
    """Six bigrams, all different; "the" follows two of them, so Q(the) = 2/6 and Q of the others 1/6. With D = 1/2:

    P(the | begin) = 1/2 + 1/2 * 2/6 = 2/3     P(cat | the) = (1/2)/2 + 1/2 * 2/2 * 1/6 = 1/3
    P(sat | cat)   = 1/2 + 1/2 * 1/6 = 7/12    P(on | sat)  = 7/12
    P(the | on)    = 2/3                       P(mat | the) = 1/3
    """
    sentence = "the cat sat on the mat"
    counts = counts_of(sentence)
    ids = np.array([WORDS.index(word) for word in sentence.split()])
    contexts = contexts_of(ids, np.array([0, 6]), len(WORDS))
    assert contexts[:, 0].tolist() == [BEGIN, 0, 1, 2, 3, 0]
    conditionals = counts.kneser_ney(counts.evidence(contexts, ids), discount=0.5, added=0.0)
    np.testing.assert_allclose(conditionals, [2 / 3, 1 / 3, 7 / 12, 7 / 12, 2 / 3, 1 / 3])
    np.testing.assert_allclose(counts.unigram(ids, added=0.0), [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 3, 1 / 6])
    np.testing.assert_allclose(counts.unigram(ids, added=1.0), np.array([3, 2, 2, 2, 3, 2]) / 11)
    # The chain rule: the sentence's probability is the product of its conditionals.
    models = NgramModels(0.0, KneserNey(counts, 0.5, 0.0), None, None, 0, 6)
    assert math.exp(models.bigram.log(contexts, ids).sum()) == pytest.approx(49 / 2916)
    assert math.exp(models.unigram(ids).sum()) == pytest.approx(1 / 11664)


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
def test_probabilities_add_up_to_one(discount):
    """After every context, seen or not, over the vocabulary; and over all sentences of three words (the chain rule)."""
    counts = counts_of("the cat sat on the mat", "the cat sat", "on the cat")
    size = len(WORDS)
    contexts, words = np.repeat(np.arange(size + 1), size)[:, None], np.tile(np.arange(size), size + 1)
    table = counts.kneser_ney(counts.evidence(contexts, words), discount, added=0.1).reshape(size + 1, size)
    np.testing.assert_allclose(table.sum(1), 1)
    assert 4 not in counts.keys // size  # nothing was seen after "mat"
    np.testing.assert_allclose(table[4] * (len(counts.keys) + 0.1 * size), [2.1, 1.1, 1.1, 2.1, 1.1])
    assert counts.unigram(np.arange(size), added=0.1).sum() == pytest.approx(1)
    sentences = itertools.product(range(size), repeat=3)
    total = sum(table[BEGIN, a] * table[a, b] * table[b, c] for a, b, c in sentences)
    assert total == pytest.approx(1)


# ---- longer n-grams, and backward ones ------------------------------------------------------------------------------

TEXT = ("the cat sat on the mat", "the cat sat", "on the cat", "the mat sat on the cat", "sat on the mat the cat")
# Probabilities of each word by nltk 3.10.4: KneserNeyInterpolated(order, discount=0.5), fitted on the n-grams that end in
# each word of TEXT with order - 1 marks <s> before each sentence; of a backward model sentences are turned round.
SCORED = ("the mat sat", "on the mat the cat sat", "cat cat on")
NLTK = {
    (2, False): [[0.59, 0.325, 0.4], [0.16, 0.9125, 0.325, 0.4, 0.575, 0.825], [0.03, 0.025, 0.05]],
    (3, False): [
        [0.595, 0.2733333333, 0.45], [0.18, 0.9125, 0.455, 0.45, 0.76, 0.9125], [0.015, 0.05, 0.1],
    ],
    (5, False): [
        [0.59875, 0.3183333333, 0.8625], [0.195, 0.978125, 0.0683333333, 0.725, 0.94, 0.825], [0.00375, 0.05, 0.1],
    ],
    (3, True): [
        [0.9333333333, 0.1333333333, 0.18], [0.8833333333, 0.9333333333, 0.2555555556, 0.95, 0.7833333333, 0.18],
        [0.05, 0.1, 0.015],
    ],
}  # fmt: skip


@pytest.mark.parametrize(("order", "backward"), NLTK)
def test_probabilities_are_those_of_nltk(order, backward):
    counts = counts_of(*TEXT, reach=order - 1, backward=backward)
    for sentence, expected in zip(SCORED, NLTK[order, backward], strict=True):
        ids = np.array([WORDS.index(word) for word in sentence.split()])
        contexts = contexts_of(ids, np.array([0, len(ids)]), len(WORDS), order - 1, backward)
        found = counts.kneser_ney(counts.evidence(contexts, ids), discount=0.5, added=0.0)
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("order", [3, 5])
def test_probabilities_of_longer_ones_add_up_to_one(order, backward):
    """After every context of three words and marks, most of which were never seen."""
    counts, size = counts_of(*TEXT, reach=order - 1, backward=backward), len(WORDS)
    nearest = list(itertools.product(range(size + 1), repeat=min(order - 1, 3)))
    contexts = np.array([[*context, *[size] * (order - 1 - len(context))] for context in nearest])
    table = [
        counts.kneser_ney(counts.evidence(contexts, np.full(len(contexts), word)), 0.7, 0.1) for word in range(size)
    ]
    np.testing.assert_allclose(np.sum(table, axis=0), 1)
    assert np.min(table) > 0


def test_counting_in_pieces_is_counting_at_once(monkeypatch):
    """Contexts are numbered anew as more are seen: all that was counted moves with them."""
    sentences = sentences_in(made_up_documents(60, 20, seed=3))
    tokens = np.concatenate(sentences)
    starts = np.cumsum([0, *map(len, sentences)])
    contexts = contexts_of(tokens, starts, 20, 3)
    whole, pieces = NgramCounts(20, 3), NgramCounts(20, 3)
    whole.add(contexts, tokens)
    monkeypatch.setattr(ngrams, "_BLOCK", 7)
    for part in np.array_split(np.random.default_rng(0).permutation(len(tokens)), 9):
        pieces.add(contexts[part], tokens[part])
    np.testing.assert_array_equal(pieces.keys, whole.keys)
    np.testing.assert_array_equal(pieces.counts, whole.counts)
    for one, other in zip(pieces.contexts, whole.contexts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(whole.keys) == len(set(zip(map(tuple, contexts.tolist()), tokens.tolist(), strict=True)))


# ---- counts and settings --------------------------------------------------------------------------------------------


class Restated:
    """The formulas of the module's docstring, with dictionaries."""

    def __init__(self, sentences, vocab_size):
        self.size = vocab_size
        self.words = Counter(word for sentence in sentences for word in sentence)
        self.pairs = Counter(pair for sentence in sentences for pair in itertools.pairwise([vocab_size, *sentence]))
        self.contexts: Counter[int] = Counter()
        for (context, _), count in self.pairs.items():
            self.contexts[context] += count
        self.followers = Counter(context for context, _ in self.pairs)
        self.preceded = Counter(word for _, word in self.pairs)

    def unigram(self, word, added):
        return (self.words[word] + added) / (self.words.total() + added * self.size)

    def bigram(self, context, word, discount, added):
        lower = (self.preceded[word] + added) / (len(self.pairs) + added * self.size)
        if not self.contexts[context]:
            return lower
        own = max(self.pairs[context, word] - discount, 0) / self.contexts[context]
        return own + discount * self.followers[context] / self.contexts[context] * lower


def sentences_in(documents):
    return [sentence for document in documents for sentence in document]


def pairs_in(sentences, vocab_size):
    return [pair for sentence in sentences for pair in itertools.pairwise([vocab_size, *sentence])]


def test_models_are_those_of_a_plain_restatement(monkeypatch):
    """Of two shards, counted in small blocks: all text is in the counts, the settings are those of every 20th document."""
    monkeypatch.setattr(ngrams, "_BLOCK", 50)
    size, documents = 30, made_up_documents(90, 29, seed=1)  # token 29 never occurs
    models = fit_ngrams([make_shard(documents[:37]), make_shard(documents[37:])], size, "text")
    held = sentences_in(documents[19::20])
    rest = Restated(sentences_in(document for n, document in enumerate(documents) if n % 20 != 19), size)
    tried = {added: sum(math.log(rest.unigram(w, added)) for s in held for w in s) for added in ADDED}
    assert models.unigram_added == max(tried, key=tried.__getitem__)
    scores = {
        (discount, added): sum(math.log(rest.bigram(h, w, discount, added)) for h, w in pairs_in(held, size))
        for discount, added in itertools.product(DISCOUNTS, ADDED)
    }
    best = (models.bigram.discount, models.bigram.added)
    assert best == max(scores, key=scores.__getitem__)
    everything = Restated(sentences_in(documents), size)
    contexts, words = (grid.ravel() for grid in np.meshgrid(np.arange(size + 1), np.arange(size), indexing="ij"))
    expected = [everything.bigram(h, w, *best) for h, w in zip(contexts.tolist(), words.tolist(), strict=True)]
    np.testing.assert_allclose(np.exp(models.bigram.log(contexts[:, None], words)), expected)
    expected = [everything.unigram(word, models.unigram_added) for word in range(size)]
    np.testing.assert_allclose(np.exp(models.unigram(np.arange(size))), expected)
    described = models.described()
    assert described["counted_tokens"] == described["available_tokens"] == everything.words.total()
    assert described["held_out_tokens"] == sum(map(len, held))
    assert described["bigram"]["distinct"] == len(everything.pairs)


def test_a_bigram_model_is_better_where_the_token_before_tells_something():
    size, documents = 20, made_up_documents(400, 20, seed=2)
    models = fit_ngrams([make_shard(documents[:300])], size, "text")
    test = sentences_in(documents[300:])
    contexts, words = np.array(pairs_in(test, size)).T
    assert models.bigram.log(contexts[:, None], words).mean() > models.unigram(words).mean() + 0.3


def test_longer_models_are_asked_for():
    size, documents = 20, made_up_documents(100, 20, seed=2)
    names = [[*fit_ngrams([make_shard(documents)], size, "text", order).named()] for order in (None, 2, 4)]
    assert names == [["bigram"], ["bigram", "backward_bigram"], ["bigram", "four_gram", "backward_four_gram"]]
    forward = fit_ngrams([make_shard(documents)], size, "text", 4, backward=False)
    assert [*forward.named()] == ["bigram", "four_gram"]


def test_few_documents_are_held_out_by_sentence():
    documents = [[[0, 1, 2, number % 3] for number in range(40)]]
    models = fit_ngrams([make_shard(documents)], 3, "text")
    assert models.held_out == 8
    with pytest.raises(UserError, match=r"^notes.txt: has 19 sentences, and n-gram models need 20, .* a longer text$"):
        fit_ngrams([make_shard([documents[0][:19]])], 3, "notes.txt")


def test_no_more_than_the_bound_is_counted(monkeypatch):
    """Every second shard, where all together are more; and the beginning of a single one that is too long."""
    documents = [[[0, 1], [1, 2, 0]]] * 30  # 150 tokens
    monkeypatch.setattr(ngrams, "MOST_TOKENS", 300)
    shards = [make_shard(documents), make_shard([[[3]] * 150] * 1), make_shard(documents)]
    models = fit_ngrams(shards, 4, "text")
    assert (models.counts.tokens, models.available) == (300, 450)
    assert models.counts.words[3] == 0
    monkeypatch.setattr(ngrams, "MOST_TOKENS", 120)
    assert fit_ngrams(shards[:1], 4, "text").counts.tokens == 120
