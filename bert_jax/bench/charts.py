# SPDX-License-Identifier: Apache-2.0
"""The charts of the page. Axes, colours and SVG are those of a run's report."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
from matplotlib.ticker import MaxNLocator

from bert_jax.bench.tables import seconds, times
from bert_jax.pages.drawing import (
    blank_chart,
    draw,
    draw_reference,
    HEIGHT,
    HELD_OUT,
    INK,
    MUTED,
    Points,
    round_ticks,
    start_at_zero,
    Steps,
    svg,
    TEXT_SIZE,
    TRAINING,
    WIDTH,
)
from bert_jax.pages.panels import Panel
from bert_jax.pages.wording import decimal, percent

Record = Mapping[str, Any]
OURS, THEIRS = TRAINING, HELD_OUT  # the two colours of a report's curves
OUR_STYLE, THEIR_STYLE = "training", "held-out"  # their CSS classes
LABEL_ROOM = 168  # user units left of the bars


class Bar(NamedTuple):
    """A horizontal bar with a label before it and a figure behind."""

    label: str
    value: float
    text: str
    colour: str = OURS


def bar_chart(bars: Sequence[Bar], name: str, description: str) -> markupsafe.Markup:
    """Bars from 0 on, the first on top."""
    figure, axes = blank_chart(Steps(1), names=False)
    room = max(value for _, value, _, _ in bars) * 1.3 or 1.0
    axes.set_position((LABEL_ROOM / WIDTH, 14 / HEIGHT, (WIDTH - LABEL_ROOM - 8) / WIDTH, (HEIGHT - 24) / HEIGHT))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, room)
    axes.set_ylim(max(len(bars), 4) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_xlabel("")
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars], parse_math=False)
    axes.tick_params(axis="y", colors=INK)
    axes.barh(range(len(bars)), [bar.value for bar in bars], height=0.58, color=[bar.colour for bar in bars])
    for place, bar in enumerate(bars):
        axes.annotate(
            bar.text, (bar.value, place), xytext=(6, 0), textcoords="offset points", verticalalignment="center",
            color=MUTED, fontsize=TEXT_SIZE, parse_math=False,
        )  # fmt: skip
    return markupsafe.Markup(svg(figure, name, description))


def panels_of(subject: str, entry: Record) -> list[Panel]:
    """The charts of a subject's records; records that failed are in none."""
    records = [record for record in entry["records"] if "kind" in record and "error" not in record]
    make = {"step": _step_panels, "attention": _attention_panels, "train": _training_panels, "peer": _peer_panels}
    return make[subject](records) if subject in make else []


def _step_panels(records: list[Record]) -> list[Panel]:
    steps = [record for record in records if record["kind"] == "step"]
    if not steps:
        return []
    use = [Bar(record["name"], record["utilisation"], percent(record["utilisation"])) for record in steps]
    shares = [Bar(record["name"], record["update_share"], percent(record["update_share"])) for record in steps]
    return [
        Panel(
            "FLOP utilisation",
            "of the matrix product measured beside it",
            bar_chart(use, "utilisation", "Share of the measured ceiling that each step reaches"),
            note="Model FLOPs of valid tokens by the formula: nothing recomputed, no padding, no optimizer.",
        ),
        Panel(
            "Optimizer and clipping",
            "share of a step",
            bar_chart(shares, "update", "Share of each step that the optimizer takes"),
            note="Measured alone, in turn with the whole step.",
        ),
    ]


def _attention_panels(records: list[Record]) -> list[Panel]:
    panels = []
    for number, record in enumerate(record for record in records if record["kind"] == "attention"):
        bars = []
        for side, found in record["seconds"].items():
            colour = THEIRS if side.endswith("backward") else OURS
            bars.append(Bar(side.replace("forward + backward", "+ backward"), found["median"],
                            seconds(found["median"]), colour))  # fmt: skip
        if bars:
            drawing = bar_chart(bars, f"attention{number}", f"Time of attention, {record['name']}")
            size = f"{record['rows']} x {record['sequence_length']} tokens, dropout {record['dropout']}"
            panels.append(Panel("Attention alone", size, drawing))
    return panels


def _training_panels(records: list[Record]) -> list[Panel]:
    panels = []
    for record in (record for record in records if record["kind"] == "train"):
        curves = {dtype: list(enumerate(losses, 1)) for dtype, losses in record["loss"].items()}
        panels.append(_loss_panel(record, curves))
        panels.append(_difference_panel(record))
    return panels


def _loss_panel(record: Record, curves: Mapping[str, Points]) -> Panel:
    figure, axes = blank_chart(Steps(record["steps"]), names=False)
    entropy = record["unigram_entropy"]
    round_ticks(axes, [0.0, entropy, *(value for points in curves.values() for _, value in points)])
    styles = dict(zip(curves, ((OURS, OUR_STYLE), (THEIRS, THEIR_STYLE)), strict=True))
    for dtype, points in curves.items():
        draw(axes, points, styles[dtype][0])
    draw_reference(axes, entropy, "unigram entropy", list(curves.values()))
    readings = tuple((dtype, decimal(record["final_loss"][dtype]), styles[dtype][1]) for dtype in curves)
    drawing = markupsafe.Markup(svg(figure, "loss", "Loss by step in float32 and bfloat16"))
    note = f"One seed, the same batches. Figures: mean of the last {record['window']} steps."
    return Panel("MLM loss", "nats", drawing, readings, note)


def _difference_panel(record: Record) -> Panel:
    figure, axes = blank_chart(Steps(record["steps"]), names=False)
    first, second = record["loss"].values()
    gaps = [(step, abs(a - b)) for step, (a, b) in enumerate(zip(first, second, strict=True), 1)]
    start_at_zero(axes, [gap for _, gap in gaps])
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    draw(axes, gaps, OURS)
    drawing = markupsafe.Markup(svg(figure, "difference", "Difference of both losses by step"))
    readings = (("largest", decimal(record["largest_difference"], 4), OUR_STYLE),)
    smooth = decimal(record["largest_smoothed_difference"], 4)
    return Panel("Difference of both", "nats", drawing, readings, f"Of means over {record['window']} steps: {smooth}.")


def _peer_panels(records: list[Record]) -> list[Panel]:
    contests = [record for record in records if record["kind"] == "peer"]
    if not contests:
        return []
    ratios = [Bar(record["name"], record["ratio"], times(record["ratio"])) for record in contests]
    return [
        Panel(
            "How many times faster",
            "median over rounds, both in turn",
            bar_chart(ratios, "peer", "How many times faster than the peer a step is"),
        )
    ]
