# SPDX-License-Identifier: Apache-2.0
"""Checks of a run's first batches, measured before the first step.

A wrong collator costs weeks and shows in no loss curve (huggingface/transformers#11768: whole-word masking that masked
tokens). So nothing here trusts the code that picks and replaces: treatments are read from the arrays that the model
gets, and words from the shards.

Shapes: B rows, S tokens in a row, M predicted positions in a row, E examples in a row at most.
"""

from collections.abc import Iterator

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, OK, PROBLEM, WARNING
from bert_jax.config.objective import ObjectiveConfig, pair_words
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import EMPTY, Examples
from bert_jax.feed.mask_statistics import mask_report, next_token_report, TREATMENTS
from bert_jax.feed.masking import Masks
from bert_jax.feed.packing import Arrangement
from bert_jax.runs.reading import Record

ENOUGH_PICKED = 20_000  # tokens; a split of 80/10/10 is then known to a percentage point
MOST_BATCHES = 100


def measure(
    arrangement: Arrangement, seed: int, probability: float, *, steps: int, seen: int, mask_id: int, vocab_size: int
) -> JsonObject:
    """Statistics of the first batches of a phase, as JSON can hold them.

    Args:
      arrangement: of the phase.
      seed: of the run.
      probability: share of tokens that is picked at the phase's first step.
      steps: of the phase; no more batches are made.
      seen: rows that earlier phases used, as `Arrangement.batch` takes it.
      mask_id, vocab_size: of the tokenizer.

    Returns:
      What `mask_report` gives; and `batches`; `whole_word_share`, of the picked tokens those whose whole word is picked;
      `long_word_share`, of the words those of several tokens; `mean_unit_words`, words picked as one. Left to right: what
      `next_token_report` gives, and `batches`.
    """
    if not arrangement.examples.objective.masks:
        return _measure_next_tokens(arrangement, seed, min(steps, MOST_BATCHES), seen)
    made: list[tuple[Batch, Masks]] = []
    words = np.zeros(4, np.int64)
    picked = 0
    for step in range(min(steps, MOST_BATCHES)):
        batch, masks = arrangement.masked_batch(seed, step, seen=seen, probability=probability)
        found = arrangement.packing.rows(seed, step, slice(None), seen)
        words += word_counts(batch, word_numbers(arrangement.examples, found.indices, found.shape.sequence_length))
        made.append((batch, masks._replace(shown=shown_tokens(batch))))
        picked += len(masks.picked)
        if picked >= ENOUGH_PICKED:
            break
    report = mask_report(made, arrangement.examples.objective, mask_id, vocab_size)
    in_whole_words, picked_words, long_words, all_words = words.tolist()
    return {
        "batches": len(made),
        **report,
        "whole_word_share": in_whole_words / max(picked, 1),
        "long_word_share": long_words / max(all_words, 1),
        "mean_unit_words": picked_words / report["units"] if report["units"] else None,
    }


def _measure_next_tokens(arrangement: Arrangement, seed: int, most: int, seen: int) -> JsonObject:
    made: list[Batch] = []
    predicted = 0
    while len(made) < most and predicted < ENOUGH_PICKED:
        made.append(arrangement.batch(seed, len(made), seen=seen))
        predicted += int(np.count_nonzero(made[-1]["masked_lm_weights"]))
    return {"batches": len(made), **next_token_report(made)}


def shown_tokens(batch: Batch) -> np.ndarray:
    """The tokens that the model sees at the predicted positions, in the order of the text: [P]."""
    shown = np.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)
    return shown[batch["masked_lm_weights"] > 0]


def word_numbers(examples: Examples, indices: np.ndarray, sequence_length: int) -> np.ndarray:
    """Number the words of a batch: [B, E] indices -> [B, S] int64, a token's word from 1; 0: special or padding.

    A word ends with its segment.
    """
    numbers = np.zeros((len(indices), sequence_length), np.int64)
    last = 0
    for row, own in enumerate(indices):
        begin = 0
        for index in own[own != EMPTY]:
            shard = int(np.searchsorted(examples.ends, index, side="right"))
            table = examples.tables[shard]
            a_start, a_length, b_start, b_length, _ = table[index - examples.ends[shard] + len(table)].tolist()
            for start, length in ((a_start, a_length), (b_start, b_length)):
                if length:
                    starts = word_start_bits(examples.split.shards[shard].word_starts, start, start + length)
                    numbers[row, begin + 1 : begin + 1 + length] = last + np.cumsum(starts)
                    last = int(numbers[row, begin + length])
                    begin += length + 1  # [CLS] or [SEP] before it
            begin += 1  # the last [SEP]
    return numbers


def word_start_bits(packed: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Whether each of the tokens `begin` to `end` - 1 begins a word; the first does, even in the middle of one."""
    bits = np.unpackbits(packed[begin >> 3 : (end + 7) >> 3], bitorder="little")
    starts = bits[begin & 7 : (begin & 7) + end - begin].astype(bool)
    starts[0] = True
    return starts


def word_counts(batch: Batch, numbers: np.ndarray) -> np.ndarray:
    """[4] counts: picked tokens whose whole word is picked, words with a picked token, words of several tokens, words."""
    slots = np.take_along_axis(numbers, batch["masked_lm_positions"], axis=1)
    slots = slots[batch["masked_lm_weights"] > 0]
    lengths = np.bincount(numbers.ravel())[1:]  # by word
    picked = np.bincount(slots, minlength=len(lengths) + 1)[1:]
    whole = picked[picked == lengths].sum()
    return np.array([whole, np.count_nonzero(picked), np.count_nonzero(lengths > 1), len(lengths)])


# ---- for the person who starts a run --------------------------------------------------------------------------------


def described(report: Record, objective: ObjectiveConfig, probability: float) -> list[str]:
    """The figures in a few lines."""
    if not objective.masks:
        return _described_next_tokens(report)
    total = max(sum(report["treatment"].values()), 1)
    shown, expected = (
        ", ".join(f"{name} {value:.1%}" for name, value in zip(("[MASK]", "random", "kept"), shares, strict=True))
        for shares in ([report["treatment"][name] / total for name in TREATMENTS], report["expected"].values())
    )
    lines = [
        f"measured on the first {report['batches']} batches: {report['rows']:,} rows, {report['examples']:,} examples,"
        f" {report['picked']:,} picked tokens",
        f"  rows      {report['valid_token_share']:.1%} of their tokens are not padding;"
        f" {report['examples_per_row']:.2f} examples a row",
        f"  picked    {report['picked_share']:.2%} of the tokens ({probability:.2%} configured), by"
        f" {objective.masking.replace('_', ' ')}",
        f"  shown as  {shown} (expected {expected}; chi-square p = {report['p_value']:.2g})",
        f"  words     {report['long_word_share']:.1%} of them have several tokens; {report['whole_word_share']:.1%} of the"
        " picked tokens are in words picked whole",
    ]
    if objective.masking != "token" and report["units"]:
        tokens, words_in = report["mean_unit_length"], report["mean_unit_words"]
        lines.append(f"  units     {tokens:.2f} tokens, {words_in:.2f} words picked as one")
    words = pair_words(objective)
    if words is not None and report["is_next_share"] is not None:
        lines.append(f"  pairs     {report['is_next_share']:.1%} {words.labels[0]}, the rest {words.labels[1]}")
    return lines


def _described_next_tokens(report: Record) -> list[str]:
    return [
        f"measured on the first {report['batches']} batches: {report['rows']:,} rows, {report['examples']:,} examples,"
        f" {report['predicted']:,} next tokens to predict",
        f"  rows      {report['valid_token_share']:.1%} of their tokens are not padding;"
        f" {report['examples_per_row']:.2f} examples a row",
        f"  labels    {report['next_share']:.1%} of them are the token behind in the same example",
    ]


def doubts(report: Record, objective: ObjectiveConfig, probability: float) -> list[Finding]:
    """Findings about what is not as configured."""
    if not objective.masks:
        return list(_next_token_doubts(report))
    return [
        *_mask_doubts(report, probability),
        *_unit_doubts(report, objective),
        *_pair_doubts(report, objective),
    ]


def _next_token_doubts(report: Record) -> Iterator[Finding]:
    share = report["next_share"]
    if share < 1:
        seen = f"{1 - share:.1%} of the labels are not the token behind in their example: the labels are broken"
        yield rules.FIRST_MASKS.found(PROBLEM, seen, value=share, threshold=1.0)


def _mask_doubts(report: Record, probability: float) -> Iterator[Finding]:
    counts, chance = report["treatment"], report["p_value"]
    counted = sum(counts.values())
    expected = report["expected"].values()
    enough = all(counted * share >= rules.FEWEST_EXPECTED for share in expected if share > 0)
    if rules.FIRST_MASKS.passed(chance)[0] == PROBLEM and (enough or report["chi_square"] is None):
        seen = "/".join(f"{100 * counts[name] / counted:.1f}" for name in TREATMENTS)
        wanted = "/".join(f"{100 * share:.1f}" for share in expected)
        shown = (
            f"picked tokens are shown as [MASK]/random/kept {seen} %, not {wanted} % as configured (p = {chance:.1g})"
        )
        yield rules.FIRST_MASKS.judge(chance, shown, ": masking is broken")
    share = report["picked_share"]
    if rules.PICKED.passed(abs(share - probability) / probability)[0] != OK:
        seen = f"{share:.1%} of the tokens are picked, {probability:.1%} are configured"
        causes = "rows may be too short for that share, or units longer than what a row may pick"
        yield _doubt(seen, causes)


def _doubt(seen: str, causes: str = "", remedy: str = "") -> Finding:
    return Finding(WARNING, rules.FIRST_MASKS.subject, seen, causes, remedy)


def _unit_doubts(report: Record, objective: ObjectiveConfig) -> Iterator[Finding]:
    if objective.masking == "token":
        return
    if report["picked"] and report["units"] == report["picked"]:
        seen = f"objective.masking={objective.masking} picks single tokens only: no unit has several"
        causes = "words that are all in the vocabulary, or Chinese, have one token each"
        yield _doubt(
            f"{seen}, so it masks as masking=token would",
            causes,
            "Chinese needs bert-jax prepare --segmenter jieba",
        )
    share = report["whole_word_share"]
    if objective.masking == "whole_word" and share < 1:
        partly = f"{1 - share:.1%} of the picked tokens belong to words that are picked in part: masking is broken"
        seen = f"objective.masking=whole_word, but {partly}"
        yield rules.FIRST_MASKS.found(PROBLEM, seen, value=share, threshold=1.0)


def _pair_doubts(report: Record, objective: ObjectiveConfig) -> Iterator[Finding]:
    words, share = pair_words(objective), report["is_next_share"]
    if words is None:
        return
    if share is None:
        yield _doubt(f"{words.short}: no pair has a label: the head for {words.task} would learn nothing")
        return
    low, high = rules.PAIR_SHARES
    if not low <= share <= high:
        first, second = words.labels
        uneven = f"{share:.1%} of the pairs are {first}, {1 - share:.1%} {second}"
        remedy = "bert-jax doctor says more of the data"
        yield _doubt(f"{uneven}: {words.short} is hard to learn from so uneven labels", "", remedy)
