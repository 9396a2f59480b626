# SPDX-License-Identifier: Apache-2.0
"""Masked-LM targets."""

import math

import numpy as np
import pytest

from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.masking import (
    mask_seeds,
    mask_tokens,
    pick_units,
    smallest_keys,
    span_lengths,
    span_starts,
    take_what_fits,
    token_keys,
    Tokens,
    unit_starts,
    wanted_counts,
)

MASK, VOCAB = 4, 1_000
WHOLE_WORD, SPAN = ObjectiveConfig(masking="whole_word"), ObjectiveConfig(masking="span")
FEW_IN_A_THOUSAND = {2: 13.8, 9: 27.9, 47: 82.7}  # degrees of freedom -> what chi-square exceeds once in 1,000


def made_up(counts, *, seed: int = 0, epoch: int = 0, run_seed: int = 1, word_share: float = 0.6) -> Tokens:
    """Examples with so many tokens each; four tenths of them are segment A."""
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts)
    total = int(counts.sum())
    seeds = mask_seeds(run_seed, np.full(len(counts), epoch), np.arange(len(counts)))
    ids = rng.integers(5, VOCAB, total).astype(np.uint16)
    return Tokens(ids, counts, np.maximum(1, counts * 4 // 10), seeds, rng.random(total) < word_share)


def mask(tokens: Tokens, objective: ObjectiveConfig | None = None, wanted=None):
    objective = objective or ObjectiveConfig()
    if wanted is None:
        wanted = wanted_counts(tokens.counts + 3, tokens.counts, objective.mlm_probability)
    return mask_tokens(tokens, np.asarray(wanted), objective, mask_id=MASK, vocab_size=VOCAB)


def owners(tokens: Tokens) -> np.ndarray:
    return np.repeat(np.arange(len(tokens.counts)), tokens.counts)


def chi_square(counts, shares) -> float:
    expected = np.asarray(shares) * np.sum(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def different(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random numbers of 31 bits, all different."""
    return rng.permutation(np.unique(rng.integers(0, 2**31, 2 * count, dtype=np.uint32)))[:count]


# ---- replacements ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [ObjectiveConfig(), WHOLE_WORD], ids=["token", "whole_word"])
def test_eighty_ten_ten(objective):
    """80 % [MASK], 10 % random, 10 % as they are, over 120,000 picked tokens: chi-square."""
    tokens = made_up(np.full(6_000, 125))
    masks = mask(tokens, objective)
    labels = tokens.ids[masks.picked]
    counts = [(masks.shown == MASK).sum(), 0, (masks.shown == labels).sum()]
    counts[1] = len(labels) - sum(counts)
    assert len(labels) == 6_000 * 19
    # One random replacement in VOCAB draws the true id, one draws [MASK].
    one = 0.1 / VOCAB
    assert chi_square(counts, [0.8 + one, 0.1 - 2 * one, 0.1 + one]) < FEW_IN_A_THOUSAND[2]


def test_eighty_ten_ten_of_spans():
    """A span is replaced as one (SpanBERT, section 3.1): all [MASK], all random, or all as they are."""
    tokens = made_up(np.full(6_000, 125), word_share=1.0)
    masks = mask(tokens, SPAN)
    begins = np.cumsum(masks.unit_lengths) - masks.unit_lengths
    masked = np.split(masks.shown == MASK, begins[1:])
    kept = np.split(masks.shown == tokens.ids[masks.picked], begins[1:])
    all_masked, all_kept = np.array([part.all() for part in masked]), np.array([part.all() for part in kept])
    mixed = ~all_masked & ~all_kept
    by_accident = sum(part.any() for part, other in zip(masked, mixed, strict=True) if other)
    assert by_accident < 0.01 * mixed.sum()  # a random entry is [MASK] once in VOCAB
    assert len(begins) > 20_000
    counts = [all_masked.sum(), mixed.sum(), all_kept.sum()]
    assert chi_square(counts, [0.8, 0.1, 0.1]) < FEW_IN_A_THOUSAND[2]


@pytest.mark.parametrize("objective", [ObjectiveConfig(), SPAN], ids=["token", "span"])
def test_random_replacements_are_uniform_over_the_vocabulary(objective):
    objective = ObjectiveConfig(masking=objective.masking, mlm_probability=0.5, mask_share=0.0, random_share=1.0)
    shown = mask(made_up(np.full(20_000, 61)), objective).shown
    counts = np.bincount(shown // 100, minlength=10)
    assert chi_square(counts, np.full(10, 0.1)) < FEW_IN_A_THOUSAND[9]
    assert shown.min() == 0
    assert shown.max() == VOCAB - 1


# ---- what is picked: tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "rate", "wanted"), [(128, 0.15, 19), (20, 0.15, 3), (5, 0.15, 1), (128, 0.4, 51)])
def test_number_picked(length, rate, wanted):
    """round(tokens * rate), special tokens counted, at least one, as in the original."""
    tokens = made_up(np.full(10, length - 3))
    counts = wanted_counts(tokens.counts + 3, tokens.counts, rate)
    picked = mask(tokens, wanted=counts).picked
    np.testing.assert_array_equal(np.bincount(owners(tokens)[picked], minlength=10), wanted)


def test_an_example_with_fewer_tokens_than_wanted_gives_all():
    assert wanted_counts(np.array([4]), np.array([1]), 0.9).tolist() == [1]
    assert mask(made_up([1, 2]), wanted=[1, 2]).picked.tolist() == [0, 1, 2]


def test_every_token_is_picked_alike():
    """Counts of positions under drawing without replacement: their variance is that of the hypergeometric
    distribution."""
    tokens = made_up(np.full(20_000, 48))
    picked = mask(tokens, wanted=np.full(20_000, 8)).picked
    counts = np.bincount(picked % 48, minlength=48)
    statistic = chi_square(counts, np.full(48, 1 / 48)) * 47 / (48 - 8)
    assert 20.0 < statistic < FEW_IN_A_THOUSAND[47]  # 99.9 % of the distribution lies above 20.0


def test_tokens_are_picked_independently_of_each_other():
    """How many of 8 picked tokens of 48 lie among the first 16 is hypergeometric."""
    tokens = made_up(np.full(20_000, 48))
    picked = mask(tokens, wanted=np.full(20_000, 8)).picked
    among = np.bincount(owners(tokens)[picked[picked % 48 < 16]], minlength=20_000)
    shares = [math.comb(16, k) * math.comb(32, 8 - k) / math.comb(48, 8) for k in range(9)]
    counts = np.bincount(among, minlength=9)
    counts, shares = [*counts[:6], counts[6:].sum()], [*shares[:6], sum(shares[6:])]
    assert chi_square(counts, shares) < 22.5  # six degrees of freedom


@pytest.mark.parametrize("low", [0, 2**31])
def test_the_smallest_keys_are_found(low):
    """Against sorting each example; with `low`, the first guess of where they lie fails."""
    rng = np.random.default_rng(0)
    counts = np.concatenate([[0, 1, 1, 2], rng.integers(1, 200, 60)])
    wanted = np.concatenate([[0, 0, 1, 1], rng.integers(0, counts[4:] + 1)])
    keys = different(rng, int(counts.sum())) + np.uint32(low)
    expected, begin = [], 0
    for count, number in zip(counts, wanted, strict=True):
        expected += sorted(begin + np.argsort(keys[begin : begin + count])[:number])
        begin += count
    assert smallest_keys(keys, counts, wanted).tolist() == expected


def test_keys_of_an_example_are_all_different():
    """So that there is no tie at the border of what is picked."""
    keys = token_keys(np.array([100_000, 70_000]), np.array([1, 2**32 - 5], np.uint32))
    assert len(np.unique(keys[:100_000])) == 100_000
    assert len(np.unique(keys[100_000:])) == 70_000


@pytest.mark.parametrize("objective", [ObjectiveConfig(), WHOLE_WORD, SPAN], ids=["token", "whole_word", "span"])
def test_masks_follow_example_and_epoch_only(objective):
    """An example's masks depend on (seed, epoch, example), not on what stands beside it."""
    rng = np.random.default_rng(0)
    tokens = made_up(rng.integers(1, 300, 50))
    whole = mask(tokens, objective)
    ends = np.cumsum(tokens.counts)
    for number in range(50):
        own = slice(ends[number] - tokens.counts[number], ends[number])
        one = slice(number, number + 1)
        alone = Tokens(
            tokens.ids[own], tokens.counts[one], tokens.a_lengths[one], tokens.seeds[one], tokens.word_starts[own]
        )
        inside = (whole.picked >= own.start) & (whole.picked < own.stop)
        masks = mask(alone, objective)
        np.testing.assert_array_equal(masks.picked + own.start, whole.picked[inside])
        np.testing.assert_array_equal(masks.shown, whole.shown[inside])
    seeds = [mask_seeds(seed, np.full(50, epoch), np.arange(50)) for seed, epoch in ((2, 0), (1, 1))]
    for other in (mask(tokens._replace(seeds=seed), objective) for seed in (*seeds, np.roll(tokens.seeds, 1))):
        assert len(np.intersect1d(other.picked, whole.picked)) < 0.3 * len(whole.picked)


# ---- what is picked: words and spans ---------------------------------------------------------------------------------


def whole_words_as_the_original(words, order, wanted):
    """google-research/bert, create_masked_lm_predictions, restated: words as lists of positions, in random order."""
    picked = []
    for number in order:
        if len(picked) >= wanted:
            break
        if len(picked) + len(words[number]) <= wanted:
            picked += words[number]
    return sorted(picked)


@pytest.mark.parametrize("word_share", [0.9, 0.5, 0.2])
def test_whole_words_are_picked_as_in_the_original(word_share):
    rng = np.random.default_rng(1)
    tokens = made_up(rng.integers(1, 200, 100), word_share=word_share)
    wanted = np.minimum(rng.integers(0, 40, 100), tokens.counts)
    picked = mask(tokens, WHOLE_WORD, wanted).picked
    keys = token_keys(tokens.counts, tokens.seeds)
    ends = np.cumsum(tokens.counts)
    expected = []
    for number, (end, count, a) in enumerate(zip(ends, tokens.counts, tokens.a_lengths, strict=True)):
        words: list[list[int]] = []
        for place in range(end - count, end):
            if tokens.word_starts[place] or place in (end - count, end - count + a):
                words.append([])
            words[-1].append(place)
        order = sorted(range(len(words)), key=lambda word, words=words: keys[words[word][0]])
        expected += whole_words_as_the_original(words, order, wanted[number])
    assert picked.tolist() == expected


@pytest.mark.parametrize("low", [0, 2**31])
def test_units_are_tried_until_nothing_fits(low):
    """Also where the first guess of which units are needed fails: long units, whose keys are all large."""
    rng = np.random.default_rng(2)
    counts = np.full(40, 90)
    lengths = rng.integers(1, 9, 3_600)
    starts = np.unique(np.concatenate([np.arange(40) * 90, np.cumsum(lengths)[np.cumsum(lengths) < 3_600]]))
    lengths = np.diff(starts, append=3_600)
    keys = different(rng, 3_600) + np.uint32(low)
    wanted = rng.integers(0, 30, 40)
    expected = []
    for number in range(40):
        own = np.flatnonzero(starts // 90 == number)
        left = wanted[number]
        taken = []
        for unit in own[np.argsort(keys[starts[own]])]:
            if lengths[unit] <= left:
                taken.append(unit)
                left -= lengths[unit]
        expected += sorted(taken)
    picked, picked_lengths = pick_units(starts, keys, counts, wanted)
    assert picked.tolist() == expected
    np.testing.assert_array_equal(picked_lengths, lengths[picked])


def test_taking_what_fits_is_the_plain_loop():
    rng = np.random.default_rng(3)
    counts = np.array([0, 1, 5, 0, 30, 30, 0])
    lengths = rng.integers(1, 6, counts.sum())
    budgets = np.array([3, 0, 7, 0, 20, 1_000, 2])
    expected, remaining, begin = [], budgets.copy(), 0
    for number, count in enumerate(counts):
        for unit in range(begin, begin + count):
            if lengths[unit] <= remaining[number]:
                expected.append(unit)
                remaining[number] -= lengths[unit]
        begin += count
    taken, left = take_what_fits(lengths, counts, budgets)
    assert sorted(taken.tolist()) == expected
    np.testing.assert_array_equal(left, remaining)


def test_a_word_that_does_not_fit_is_never_cut():
    tokens = made_up([12])._replace(word_starts=np.zeros(12, bool), a_lengths=np.array([12]))
    assert mask(tokens, WHOLE_WORD, [11]).picked.size == 0
    assert mask(tokens, WHOLE_WORD, [12]).picked.size == 12


def test_a_word_cut_between_segments_is_two_units():
    """Truncation may cut a word at either end of a segment: the rest of it in A and in B are units of their own."""
    tokens = made_up([6, 5])._replace(word_starts=np.zeros(11, bool), a_lengths=np.array([4, 5]))
    keys = token_keys(tokens.counts, tokens.seeds)
    assert unit_starts(tokens, keys, WHOLE_WORD).tolist() == [0, 4, 6]


def test_span_lengths_are_geometric():
    """P(length) ~ 0.8^(length - 1) up to 10 words: chi-square, and the mean of 3.8 that SpanBERT's section 3.1 gives."""
    lengths = span_lengths(np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32), SPAN)
    counts = np.bincount(lengths, minlength=11)[1:]
    shares = 0.8 ** np.arange(10)
    assert len(counts) == 10
    assert chi_square(counts, shares / shares.sum()) < FEW_IN_A_THOUSAND[9]
    assert lengths.mean() == pytest.approx(3.8, abs=0.03)


def test_spans_of_a_text_are_geometric():
    """The spans that a text is really cut into, but for the last of each segment, which ends with it."""
    tokens = made_up(np.full(300, 2_000), word_share=1.0)
    starts = unit_starts(tokens, token_keys(tokens.counts, tokens.seeds), SPAN)
    segments = np.concatenate([np.arange(300) * 2_000, np.arange(300) * 2_000 + 800])
    assert np.isin(segments, starts).all()
    lengths = np.diff(starts, append=600_000)[~np.isin(np.append(starts[1:], 600_000), [*segments, 600_000])]
    shares = 0.8 ** np.arange(10)
    assert chi_square(np.bincount(lengths, minlength=11)[1:], shares / shares.sum()) < FEW_IN_A_THOUSAND[9]


def test_cutting_into_spans_is_the_plain_loop():
    rng = np.random.default_rng(4)
    segments = np.array([0, 1, 20, 21, 300, 318])
    draws = rng.integers(0, 2**32, 319, dtype=np.uint32)
    lengths = span_lengths(draws, SPAN)
    expected = []
    for begin, end in zip(segments, [*segments[1:], 319], strict=True):
        at = begin
        while at < end:
            expected.append(at)
            at += lengths[at]
    assert span_starts(draws, segments, SPAN).tolist() == expected


@pytest.mark.parametrize(("end_probability", "longest"), [(1.0, 10), (0.5, 1)])
def test_spans_of_one_word_are_whole_words(end_probability, longest):
    objective = ObjectiveConfig(masking="span", span_end_probability=end_probability, longest_span=longest)
    tokens = made_up(np.full(20, 100))
    np.testing.assert_array_equal(mask(tokens, objective).picked, mask(tokens, WHOLE_WORD).picked)


@pytest.mark.parametrize("objective", [WHOLE_WORD, SPAN], ids=["whole_word", "span"])
def test_share_picked_by_units_is_the_configured_share(objective):
    """Units that do not fit are passed over, so the count is the wanted one or little less, and never more."""
    tokens = made_up(np.random.default_rng(5).integers(20, 500, 2_000), word_share=0.75)
    wanted = wanted_counts(tokens.counts + 3, tokens.counts, 0.15)
    counts = np.bincount(owners(tokens)[mask(tokens, objective, wanted).picked], minlength=2_000)
    assert (counts <= wanted).all()
    assert counts.sum() > 0.995 * wanted.sum()
