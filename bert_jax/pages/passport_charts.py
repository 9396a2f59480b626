# SPDX-License-Identifier: Apache-2.0
"""The charts of the passport: how long sentences, documents and examples are. Axes, colours and SVG are the report's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bert_jax.pages.drawing import blank_chart, MUTED, start_at_zero, Steps, svg, TEXT_SIZE, TRAINING
from bert_jax.pages.wording import count
from bert_jax.text.statistics import BIN_STARTS

BIN = 16  # tokens; of the histograms of examples' lengths


def length_chart(histogram: Mapping[str, Any], name: str, thing: str) -> str:
    """Lengths on a logarithmic axis: the area over a stretch is the share of `thing`s in it.

    Args:
      histogram: as `data.statistics.Lengths.as_histogram` makes it.
      name: stands in the SVG's ids.
      thing: sentence or document.
    """
    figure, axes = _chart(f"tokens in a {thing}")
    counts = np.array(histogram["counts"][1:], float)  # nothing has length 0
    begins = np.array(histogram["bins"][1:], float)
    ends = np.array(BIN_STARTS[2 : 2 + len(begins)], float)
    heights = counts / max(counts.sum(), 1) / np.log2(ends / begins)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, max(ends.max(initial=2.0), 2.0))
    axes.xaxis.set_major_locator(FixedLocator(_powers(ends.max(initial=2.0))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    start_at_zero(axes, heights.tolist())
    axes.stairs(heights, np.append(begins, ends[-1:]), fill=True, color=TRAINING, linewidth=0)
    _mark(axes, histogram["mean"], f"mean {histogram['mean']:,.0f}")
    return svg(figure, name, f"Lengths of {thing}s in tokens, logarithmic axis")


def example_chart(histogram: Sequence[int], sequence_length: int, name: str) -> str:
    """How many tokens an example has, special tokens counted, in bins of 16; full rows have a bar of their own."""
    figure, axes = _chart("tokens in an example")
    shares = np.array(histogram, float) / max(sum(histogram), 1)
    ends = np.append(np.arange(len(shares)) * BIN, sequence_length)
    if ends[-1] == ends[-2]:  # the last bin holds full rows only: a bar beyond the axis' last tick
        ends[-1] += max(sequence_length // 24, 1)
    axes.set_xlim(0, ends[-1])
    axes.xaxis.set_major_locator(FixedLocator([sequence_length * part // 4 for part in range(5)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    start_at_zero(axes, shares.tolist())
    axes.stairs(shares, ends, fill=True, color=TRAINING, linewidth=0)
    return svg(figure, name, f"Lengths of examples for rows of {sequence_length} tokens")


def _chart(unit: str) -> tuple[Any, Any]:
    figure, axes = blank_chart(Steps(1), percentages=True, names=False)
    axes.set_xlabel(unit, color=MUTED, fontsize=TEXT_SIZE, labelpad=5)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def _mark(axes: Any, value: float, label: str) -> None:
    """An upright dashed line with its label on top."""
    axes.axvline(value, color=MUTED, linewidth=1.2, dashes=(4, 3))
    low, high = np.log2(axes.get_xlim())
    late = np.log2(max(value, 1)) > (low + high) / 2
    axes.annotate(
        label, (value, 1), xycoords=axes.get_xaxis_transform(), xytext=(-5 if late else 5, -2),
        textcoords="offset points", horizontalalignment="right" if late else "left", verticalalignment="top",
        color=MUTED, fontsize=TEXT_SIZE, parse_math=False,
    )  # fmt: skip


def _powers(longest: float) -> list[int]:
    """Powers of two up to `longest`, at most eight of them."""
    last = int(np.log2(max(longest, 2)))
    return [2**power for power in range(0, last + 1, 1 + last // 8)]
