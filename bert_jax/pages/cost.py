# SPDX-License-Identifier: Apache-2.0
"""The part of a run's page that says where its time went."""

from bert_jax.checks.cost import check_cost, WORDS
from bert_jax.pages.page import Bar, Bars, Card, Paragraph, Part, Section
from bert_jax.pages.wording import duration, percent
from bert_jax.runs.cost import Cost, PARTS


def cost_section(cost: Cost | None) -> list[Section]:
    """Return the section on the seconds of a run since it began; none where its metrics have no clock."""
    if cost is None or not cost.total:
        return []
    (finding,) = check_cost(cost)
    bars = [
        Bar(WORDS[part].capitalize(), cost.share(part), f"{duration(cost.seconds[part])}, {percent(cost.share(part))}")
        for part in PARTS
    ]
    note = (
        "On the clock of the main process, since the run began and over all its restarts. Steps are those that count;"
        " waiting for data is the time in which the device had nothing to compute; what a kill threw away is lost work."
    )
    verdict = finding.sentence()
    parts: list[Part] = [
        Paragraph(f"{verdict[:1].upper()}{verdict[1:]}", "lede"),
        Card([Bars(bars)]),
        Paragraph(note, "footnote"),
    ]
    return [Section("cost", "Where the time went", parts)]
