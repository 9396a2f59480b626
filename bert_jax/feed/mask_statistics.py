# SPDX-License-Identifier: Apache-2.0
"""Statistics of masking, measured on batches: shares, a chi-square test against the configured split, unit lengths.

The first batch of a run and the passport of prepared data show it, so that 80/10/10 is a measurement and not a belief.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.batch import Batch
from bert_jax.feed.masking import Masks

TREATMENTS = ("mask", "random", "kept")
LONGEST_COUNTED = 16  # tokens of a unit; longer ones share the last place of the histogram


def mask_report(
    batches: Iterable[tuple[Batch, Masks]], objective: ObjectiveConfig, mask_id: int, vocab_size: int
) -> JsonObject:
    """Measure batches, as `Arrangement.masked_batch` or `Examples.masked_batch` gives them.

    Args:
      batches: at least one row with an example.
      objective: what they should follow.
      mask_id: of [MASK].
      vocab_size: entries that random replacements are drawn from.

    Returns:
      What JSON can hold:
        rows, examples, examples_per_row; valid_tokens and their share of all places, valid_token_share
        picked, picked_share: tokens, and their share of the valid ones
        treatment: {mask, random, kept} -> count, of tokens or, for spans, which are drawn for as one, of spans
        expected: {mask, random, kept} -> share; a random entry may happen to be [MASK] or the token itself
        chi_square, p_value: of `treatment` against `expected`; a p_value below 0.001 is no accident. chi_square is
          None where something was counted that is expected never
        units, mean_unit_length: picked units and their tokens
        unit_length_histogram: units of 1, 2, ... 15 tokens, and of 16 or more
        pairs, is_next_share: examples with a label, and the share of label 0 (IsNext; SOP: in order), or None
    """
    totals = dict.fromkeys(("rows", "examples", "places", "valid_tokens", "picked", "pairs", "zero_labels"), 0)
    treatment = np.zeros(len(TREATMENTS), np.int64)
    histogram = np.zeros(LONGEST_COUNTED + 1, np.int64)
    for batch, masks in batches:
        for name, count in _batch_counts(batch).items():
            totals[name] += count
        treatment += _treatment(batch, masks, objective, mask_id)
        histogram += np.bincount(np.minimum(masks.unit_lengths, LONGEST_COUNTED), minlength=LONGEST_COUNTED + 1)
    expected = expected_shares(objective, vocab_size)
    chi_square, p_value = chi_square_test(treatment.tolist(), list(expected.values()))
    places, zero_labels, pairs = totals.pop("places"), totals.pop("zero_labels"), totals["pairs"]
    units = int(histogram.sum())
    return {
        **totals,
        "examples_per_row": totals["examples"] / totals["rows"],
        "valid_token_share": totals["valid_tokens"] / places,
        "picked_share": totals["picked"] / totals["valid_tokens"],
        "treatment": dict(zip(TREATMENTS, treatment.tolist(), strict=True)),
        "expected": expected,
        "chi_square": chi_square,
        "p_value": p_value,
        "units": units,
        "mean_unit_length": totals["picked"] / units if units else None,
        "unit_length_histogram": histogram[1:].tolist(),
        "is_next_share": zero_labels / pairs if pairs else None,
    }


def next_token_report(batches: Iterable[Batch]) -> JsonObject:
    """Measure batches of a left-to-right model.

    Returns:
      What JSON can hold: rows, examples, examples_per_row, valid_tokens, valid_token_share as in `mask_report`; `predicted`
      tokens; `next_share`, of these the share whose label is the token behind it in the same example, as the model sees it.
    """
    totals = dict.fromkeys(("rows", "examples", "places", "valid_tokens", "picked", "pairs", "zero_labels", "next"), 0)
    for batch in batches:
        for name, count in {**_batch_counts(batch), "next": _right_next_tokens(batch)}.items():
            totals[name] += count
    return {
        **{name: totals[name] for name in ("rows", "examples", "valid_tokens")},
        "examples_per_row": totals["examples"] / totals["rows"],
        "valid_token_share": totals["valid_tokens"] / totals["places"],
        "predicted": totals["picked"],
        "next_share": totals["next"] / max(totals["picked"], 1),
    }


def _right_next_tokens(batch: Batch) -> int:
    real, positions = batch["masked_lm_weights"] > 0, batch["masked_lm_positions"]
    behind = np.minimum(positions + 1, batch["input_ids"].shape[1] - 1)

    def at(name: str, places: np.ndarray) -> np.ndarray:
        return np.take_along_axis(batch[name], places, axis=1)

    one_example = at("sequence_ids", positions) == at("sequence_ids", behind)
    return int(np.count_nonzero(real & one_example & (at("input_ids", behind) == batch["masked_lm_ids"])))


def _batch_counts(batch: Batch) -> dict[str, int]:
    real = batch["next_sentence_weights"] > 0
    return {
        "rows": len(batch["input_ids"]),
        "examples": int(batch["sequence_ids"].max(axis=1).sum()),
        "places": batch["input_ids"].size,
        "valid_tokens": int(np.count_nonzero(batch["sequence_ids"])),
        "picked": int(np.count_nonzero(batch["masked_lm_weights"])),
        "pairs": int(np.count_nonzero(real)),
        "zero_labels": int(np.count_nonzero(real & (batch["next_sentence_labels"] == 0))),
    }


def _treatment(batch: Batch, masks: Masks, objective: ObjectiveConfig, mask_id: int) -> np.ndarray:
    """[3] counts of what one draw each decided, in the order of TREATMENTS, from what the model will see."""
    real = batch["masked_lm_weights"] > 0
    shown = np.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)[real]
    masked, kept = shown == mask_id, shown == batch["masked_lm_ids"][real]
    if objective.masking == "span" and len(shown):
        begins = np.cumsum(masks.unit_lengths) - masks.unit_lengths
        masked, kept = np.logical_and.reduceat(masked, begins), np.logical_and.reduceat(kept, begins)
    return np.array([masked.sum(), (~masked & ~kept).sum(), kept.sum()])


def expected_shares(objective: ObjectiveConfig, vocab_size: int) -> dict[str, float]:
    """How often a picked token should be seen as [MASK], as another entry, and as itself."""
    by_accident = objective.random_share / vocab_size
    shares = (
        objective.mask_share + by_accident,
        objective.random_share - 2 * by_accident,
        max(0.0, 1 - objective.mask_share - objective.random_share) + by_accident,
    )
    return dict(zip(TREATMENTS, shares, strict=True))


def chi_square_test(counts: Sequence[int], shares: Sequence[float]) -> tuple[float | None, float]:
    """Pearson's statistic of up to three counts against their expected shares, and the chance of one as large.

    With two degrees of freedom that chance is exp(-x / 2), with one it is erfc(sqrt(x / 2)); good where each expected
    count is 5 or more.
    """
    possible = [(count, share) for count, share in zip(counts, shares, strict=True) if share > 0]
    total = sum(counts)
    if sum(count for count, _ in possible) < total:
        return None, 0.0
    if total == 0 or len(possible) < 2:
        return 0.0, 1.0
    statistic = sum((count - total * share) ** 2 / (total * share) for count, share in possible)
    return statistic, math.exp(-statistic / 2) if len(possible) == 3 else math.erfc(math.sqrt(statistic / 2))
