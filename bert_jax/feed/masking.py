# SPDX-License-Identifier: Apache-2.0
"""Masked-LM targets of a whole batch in vectorised NumPy, keyed by (seed, epoch, example index).

BERT (1810.04805), section 3.1 and appendix A.1; google-research/bert, create_masked_lm_predictions: of the tokens of an
example (its special tokens counted), a share is picked, at least one; 80 % of these become [MASK], 10 % an entry of the
vocabulary drawn at random, 10 % stay. What is picked as one unit: a token, a whole word (google-research/bert's
--do_whole_word_mask), or a span of words with geometric lengths (SpanBERT, 1907.10529, section 3.1).

Nothing here knows of rows: an example's masks are the same whether it stands alone in a row or packed with others.

Shapes: N examples, T tokens of all of them that may be picked (not [CLS], [SEP], padding), one example after the other,
P picked tokens, U units.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.order import MASKS, stream_keys
from bert_jax.tokenization.ranges import counts_of, ranges

# Odd, so that position -> key is one to one within an example.
_STRIDE = np.uint32(0x9E3779B9)
UNBOUNDED = 2**32 - 1  # as a bound of keys
# One stream of random numbers for each use.
_TREATMENT, _ENTRY, _LENGTH = np.uint32(0x85EBCA6B), np.uint32(0x27D4EB2F), np.uint32(0x165667B1)


class Tokens(NamedTuple):
    """The tokens that may be picked, of all examples of a batch."""

    ids: np.ndarray  # [T] integer
    counts: np.ndarray  # [N] int64, tokens of each example; their sum is T
    a_lengths: np.ndarray  # [N] int64, how many of them belong to segment A: no word or span goes on into B
    seeds: np.ndarray  # [N] uint32, see `mask_seeds`
    word_starts: np.ndarray | None = None  # [T] bool, where a word begins; not needed for masking=token


class Masks(NamedTuple):
    """The picked tokens of a batch, in their order."""

    picked: np.ndarray  # [P] int64, ascending indices into the tokens
    labels: np.ndarray  # [P] int32, their true ids
    shown: np.ndarray  # [P] int32, the ids shown instead
    unit_lengths: np.ndarray  # tokens of each picked unit


def no_masks() -> Masks:
    """Return the masks of a batch in which no token is picked."""
    none = np.zeros(0, np.int64)
    return Masks(none, none.astype(np.int32), none.astype(np.int32), none)


def mask_seeds(seed: int, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the seeds that the masks of an example in an epoch are drawn from: [N] int64 each -> [N] uint32."""
    return (stream_keys(seed, MASKS, epochs, indices) >> np.uint64(32)).astype(np.uint32)


def wanted_counts(lengths: np.ndarray, candidates: np.ndarray, probability: float) -> np.ndarray:
    """Return the tokens to pick, [N] int64: max(1, rint(probability * length)), at most all candidates.

    Args:
      lengths: [N] tokens of each example, special tokens counted, as in the original.
      candidates: [N] tokens that may be picked.
      probability: share of tokens to pick.
    """
    wanted = np.maximum(1, np.rint(lengths * probability)).astype(np.int64)
    return np.minimum(wanted, candidates)


def mask_tokens(
    tokens: Tokens, wanted: np.ndarray, objective: ObjectiveConfig, *, mask_id: int, vocab_size: int
) -> Masks:
    """Pick and replace tokens.

    Args:
      tokens: of the batch.
      wanted: [N] int64, how many to pick in each example; units that do not fit are passed over.
      objective: what is a unit, and the shares of the replacements.
      mask_id: of [MASK].
      vocab_size: random replacements are drawn from 0 to vocab_size - 1.
    """
    keys = token_keys(tokens.counts, tokens.seeds)
    if objective.masking == "token":
        picked = smallest_keys(keys, tokens.counts, wanted)
        unit_lengths = np.ones(len(picked), np.int64)
        drawn_by = picked
    else:
        starts = unit_starts(tokens, keys, objective)
        units, unit_lengths = pick_units(starts, keys, tokens.counts, wanted)
        picked = ranges(starts[units], unit_lengths)
        drawn_by = np.repeat(starts[units], unit_lengths) if objective.masking == "span" else picked
    labels = tokens.ids[picked].astype(np.int32)
    entries = keys[picked]
    draws = entries if drawn_by is picked else keys[drawn_by]
    shown = replacements(labels, draws, entries, objective, mask_id, vocab_size)
    return Masks(picked, labels, shown, unit_lengths)


def token_keys(counts: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """A random number for each token: [N], [N] -> [T] uint32; those of an example are all different."""
    begins = (np.cumsum(counts) - counts).astype(np.uint32)
    keys = np.repeat(seeds - begins * _STRIDE, counts)
    keys += _strides(1 << (len(keys) - 1).bit_length())[: len(keys)]
    return mix32(keys)


@cache
def _strides(count: int) -> np.ndarray:
    """0, 1, ... times the stride, the same for every batch."""
    return np.arange(count, dtype=np.uint32) * _STRIDE


def smallest_keys(keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where the `wanted` smallest keys of each example are: ascending indices into `keys`, [P] int64.

    Only keys below a bound are sorted: nearly always enough of them are, and else there is no bound for that example.
    """
    bounds = likely_bounds(counts, wanted, counts)
    while True:
        near, near_keys, found = below_bounds(keys, counts, bounds)
        short = found < wanted
        if not short.any():
            break
        bounds[short] = UNBOUNDED
    order = np.sort(owner_and_key(near_keys, found))
    some = wanted > 0
    last = (np.cumsum(found) - found + wanted - 1)[some]
    limits = np.zeros(len(counts), np.uint64)  # above the last key of each that is picked
    limits[some] = order[last].astype(np.uint32) + np.uint64(1)  # as 32 bits: the key without its example
    return near.compress(near_keys < np.repeat(limits, found))


def likely_bounds(counts: np.ndarray, wanted: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Keys below which an example has units of `wanted` tokens together, but for one case in ten thousand.

    Args:
      counts: [N] tokens.
      wanted: [N] tokens to pick.
      units: [N] units that these tokens belong to.

    Returns:
      [N] uint32.
    """
    share = wanted / np.maximum(counts, 1)
    units = np.maximum(units, 1)
    margin = 4 * np.sqrt(share * (1 - share) / units) + 4 / units
    return (np.minimum(share + margin, 1) * UNBOUNDED).astype(np.uint32)


def below_bounds(keys: np.ndarray, counts: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The keys up to their example's bound: (ascending indices, those keys, how many of each example [N])."""
    near = np.flatnonzero(keys <= np.repeat(bounds, counts))
    return near, keys[near], counts_of(np.searchsorted(near, np.cumsum(counts)))


def owner_and_key(keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return uint64 numbers [T] that sort by example, then by key: keys [T] of examples with counts [N]."""
    return np.repeat(np.arange(len(counts), dtype=np.uint64) << np.uint64(32), counts) | keys


def unit_starts(tokens: Tokens, keys: np.ndarray, objective: ObjectiveConfig) -> np.ndarray:
    """Return where units begin: [U] int64 indices into the tokens. Segments begin units even inside a word that was cut."""
    assert tokens.word_starts is not None, "masking by words needs word_starts"
    starts = tokens.word_starts.copy()
    begins = np.cumsum(tokens.counts) - tokens.counts
    segments = np.concatenate([begins, begins + tokens.a_lengths])
    segments = np.unique(segments[segments < len(starts)])
    starts[segments] = True
    words = np.flatnonzero(starts)
    if objective.masking == "whole_word":
        return words
    return words[span_starts(mix32(keys[words] ^ _LENGTH), np.searchsorted(words, segments), objective)]


def span_starts(draws: np.ndarray, segments: np.ndarray, objective: ObjectiveConfig) -> np.ndarray:
    """Cut the words of each segment into spans of random lengths: P(length) ~ (1 - p)^(length - 1), up to the longest.

    The last span of a segment ends with it.

    Args:
      draws: [W] uint32, random, one for each word.
      segments: [G] ascending, the first word of each segment.
      objective: p and the longest.

    Returns:
      Ascending indices of the words that spans begin with.
    """
    lengths = span_lengths(draws, objective)
    ends = np.append(segments[1:], len(draws))
    begun = np.zeros(len(draws), bool)
    at = segments
    while len(at):
        begun[at] = True
        at = at + lengths[at]
        inside = at < ends
        at, ends = at[inside], ends[inside]
    return np.flatnonzero(begun)


def span_lengths(draws: np.ndarray, objective: ObjectiveConfig) -> np.ndarray:
    """Turn random 32 bits [U] into words of a span, [U] int32; mean 3.8 for p = 0.2 and at most 10 (SpanBERT, 3.1)."""
    length = np.arange(1, objective.longest_span + 1)
    shares = objective.span_end_probability * (1 - objective.span_end_probability) ** (length - 1)
    limits = (np.cumsum(shares / shares.sum())[:-1] * (2**32 - 1)).astype(np.uint32)
    lengths = np.ones(len(draws), np.int32)
    for limit in limits:  # few, and many times faster than a binary search
        lengths += draws > limit
    return lengths


def pick_units(
    starts: np.ndarray, keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pick units in random order; one that is longer than what is still wanted is passed over.

    Args:
      starts: [U] first token of each unit, ascending.
      keys: [T] random, of which that of its first token is a unit's.
      counts: [N] tokens of each example.
      wanted: [N] tokens to pick at most.

    Returns:
      The picked units, ascending, and their lengths in tokens.
    """
    ends = np.cumsum(counts)
    lengths = np.diff(starts, append=ends[-1:])
    units = counts_of(np.searchsorted(starts, ends))
    unit_keys = keys[starts]
    bounds = likely_bounds(counts, wanted, units)
    while True:
        near, near_keys, found = below_bounds(unit_keys, units, bounds)
        order = near[np.argsort(owner_and_key(near_keys, found))]
        taken, left = take_what_fits(lengths[order], found, wanted)
        short = (left > 0) & (found < units)
        if not short.any():
            break
        bounds[short] = UNBOUNDED
    picked = np.sort(order[taken])
    return picked, lengths[picked]


def take_what_fits(lengths: np.ndarray, counts: np.ndarray, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One after the other, take each unit that fits into what is left of its example's budget.

    Args:
      lengths: [U] of units, in the order they are tried, one example after the other.
      counts: [N] units of each example.
      budgets: [N] tokens.

    Returns:
      (indices of the taken units, what is left of the budgets [N]).
    """
    ends = np.cumsum(counts)
    begins = ends - counts
    sums = np.concatenate([[0], np.cumsum(lengths)])
    at_once = sums[1:] <= np.repeat(sums[begins] + budgets, counts)  # all before the first that does not fit
    at = begins + np.diff(np.concatenate([[0], np.cumsum(at_once)])[np.append(0, ends)])
    left = budgets - (sums[at] - sums[begins])
    taken = [np.flatnonzero(at_once)]
    trying = np.flatnonzero((left > 0) & (at < ends))  # the examples that are not done
    while len(trying):
        unit = at[trying]
        fits = lengths[unit] <= left[trying]
        taken.append(unit[fits])
        left[trying] -= np.where(fits, lengths[unit], 0)
        at[trying] += 1
        trying = trying[(left[trying] > 0) & (at[trying] < ends[trying])]
    return np.concatenate(taken), left


def replacements(
    labels: np.ndarray,
    draws: np.ndarray,
    entries: np.ndarray,
    objective: ObjectiveConfig,
    mask_id: int,
    vocab_size: int,
) -> np.ndarray:
    """Return the ids that are shown in place of the picked tokens.

    Args:
      labels: [P] true ids.
      draws: [P] uint32 that decide which replacement; equal within a span.
      entries: [P] uint32 that decide the random entry.
      objective: the shares.
      mask_id: of [MASK].
      vocab_size: entries to draw from.
    """
    draws = mix32(draws ^ _TREATMENT)
    entry = (mix32(entries ^ _ENTRY) * np.uint64(vocab_size)) >> np.uint64(32)
    to_mask = int(objective.mask_share * 2**32)
    to_random = int((objective.mask_share + objective.random_share) * 2**32)
    shown = labels.copy()
    np.putmask(shown, draws < to_random, entry.astype(np.int32))
    np.putmask(shown, draws < to_mask, mask_id)
    return shown


def mix32(x: np.ndarray) -> np.ndarray:
    """Return lowbias32 of uint32 numbers of any shape, in two multiplications; it writes into its argument."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x
