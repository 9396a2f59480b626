# SPDX-License-Identifier: Apache-2.0
"""The charts of the passport: how long sentences, documents and examples are."""

import math
from collections.abc import Sequence

from bert_jax.pages.chart import Axis, Chart, from_zero, percent_text, Upright
from bert_jax.pages.wording import count
from bert_jax.runs.reading import Record
from bert_jax.text.statistics import BIN_STARTS

BIN = 16  # tokens; of the histograms of examples' lengths


def length_chart(histogram: Record, thing: str) -> Chart:
    """Lengths on a logarithmic axis: the area over a stretch is the share of `thing`s (sentences, documents) in it."""
    counts, begins = histogram["counts"][1:], histogram["bins"][1:]  # nothing has length 0
    ends = BIN_STARTS[2 : 2 + len(begins)]
    total = max(sum(counts), 1)
    boxes = [
        (begin, end, number / total / math.log2(end / begin))
        for begin, end, number in zip(begins, ends, counts, strict=True)
    ]
    last = max([2, *ends])
    powers = range(0, int(math.log2(last)) + 1, 1 + int(math.log2(last)) // 8)
    ticks = [(2.0**power, count(2**power)) for power in powers]
    return Chart(
        f"Lengths of {thing}s in tokens, logarithmic axis",
        x=Axis(1, last, ticks, f"tokens in a {thing}", logarithmic=True),
        y=_shares([height for _, _, height in boxes]),
        uprights=[Upright(histogram["mean"], f"mean {histogram['mean']:,.0f}", inside=True)],
        boxes=boxes,
    )


def example_chart(histogram: Sequence[int], sequence_length: int) -> Chart:
    """How many tokens an example has, special tokens counted, in bins of 16; full rows have a bar of their own."""
    total = max(sum(histogram), 1)
    ends = [*(place * BIN for place in range(1, len(histogram))), sequence_length]
    if len(ends) > 1 and ends[-1] == ends[-2]:  # the last bin holds full rows only: a bar beyond the axis' last tick
        ends[-1] += max(sequence_length // 24, 1)
    boxes = [
        (place * BIN, end, number / total) for place, (end, number) in enumerate(zip(ends, histogram, strict=True))
    ]
    quarters = [sequence_length * part // 4 for part in range(5)]
    return Chart(
        f"Lengths of examples for rows of {sequence_length} tokens",
        x=Axis(0, ends[-1], [(tick, count(tick)) for tick in quarters], "tokens in an example"),
        y=_shares([share for _, _, share in boxes]),
        boxes=boxes,
    )


def _shares(heights: Sequence[float]) -> Axis:
    return from_zero(heights, percent_text)
