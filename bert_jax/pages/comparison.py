# SPDX-License-Identifier: Apache-2.0
"""Whether one fine-tuned run is better than another, in words: for the terminal, and a section of a page of several folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bert_jax.base.errors import UserError
from bert_jax.pages.metric_words import figure, metric_name, title_name
from bert_jax.pages.page import Card, Paragraph, Section, Table
from bert_jax.pages.wording import count, counted
from bert_jax.runs.comparison import compare_runs, RunComparison
from bert_jax.tasks.scoring.chance import MOST_SEEDS, ScoreDifference, Spread

RESAMPLES_OF_A_PAGE = 1_999
HEAD = ("Metric", "A", "B", "A − B", "95 % interval", "p, examples", "p, seeds")
NOTE = (
    "The interval is of A − B with other examples of the same kind and, of several seeds, other seeds (bootstrap of the"
    " examples, Student's t over seeds); p: by exchanging the predictions of examples, and by exchanging runs."
)


def comparison_lines(comparison: RunComparison) -> Iterator[str]:
    """Yield what `bert-jax compare` prints: a table, and a verdict for each metric."""
    first = comparison.sides[0].runs[0]
    yield f"{first.title}, {comparison.split}, {count(comparison.examples)} examples"
    for letter, side in zip("AB", comparison.sides, strict=True):
        yield f"  {letter}: {side.path}, {counted(len(side.runs), 'run')}"
    rows = [HEAD, *comparison_rows(comparison)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for name, *cells in rows:
        aligned = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        yield f"{name:<{widths[0]}}  {aligned}".rstrip()
    for name, difference in comparison.differences.items():
        yield f"{title_name(name)}: {verdict(difference)}."


def comparison_rows(comparison: RunComparison) -> list[tuple[str, ...]]:
    """Return a row under `HEAD` for each metric."""
    per_cent = comparison.sides[0].runs[0].per_cent
    return [
        (
            title_name(name),
            *(_side_words(side, per_cent) for side in found.sides),
            _signed(found.difference, per_cent),
            " to ".join(_signed(end, per_cent) for end in found.interval),
            *("–" if p is None else f"{p:.4f}" for p in (found.p_examples, found.p_seeds)),
        )
        for name, found in comparison.differences.items()
    ]


def _side_words(side: Spread, per_cent: bool) -> str:
    deviation = "" if side.deviation is None else f" ± {figure(side.deviation, per_cent)}"
    return f"{figure(side.mean, per_cent)}{deviation}"


def _signed(value: float, per_cent: bool) -> str:
    return f"{value if per_cent else 100 * value:+z.2f}".replace("-", "−")


def verdict(found: ScoreDifference) -> str:
    """Return in words which side is better, or what would decide it."""
    runs = min(side.deviation is not None for side in found.sides)
    if found.decided:
        better = "A" if found.difference > 0 else "B"
        return f"{better} is better" + ("" if runs else ", of these two runs; another seed of each may say otherwise")
    if not runs:
        return "not decided; how far seeds lie apart is not known: fine-tune both with --seeds 5"
    if found.seeds_needed is None:
        return f"not decided, and {count(MOST_SEEDS)} seeds of each would not do with as many examples"
    return f"not decided; with {counted(found.seeds_needed, 'seed')} of each it would be, if the difference stays"


class ScoredRun(NamedTuple):
    """A run, or a folder of seeds, that is compared with others of its task."""

    title: str  # of the task
    path: Path
    value: float  # main score, or their mean


def comparison_sections(candidates: Sequence[ScoredRun]) -> list[Section]:
    """The best candidate of each task that has several, against each of the others."""
    rows: list[tuple[str, ...]] = []
    notes = [NOTE]
    for title in dict.fromkeys(one.title for one in candidates):
        best, *others = sorted((one for one in candidates if one.title == title), key=lambda one: -one.value)
        for other in others:
            names = f"A {best.path.name}, B {other.path.name}"
            try:
                found = compare_runs(best.path, other.path, resamples=RESAMPLES_OF_A_PAGE)
            except UserError as error:
                notes.append(f"{title}, {names}: {error}")
                continue
            main, difference = next(iter(found.differences.items()))
            cells = comparison_rows(found)[0][1:]
            rows.append((f"{title}, {metric_name(main)}: {names}", *cells, verdict(difference)))
    if not rows and len(notes) == 1:
        return []
    table = [Table(["Best and another", *HEAD[1:], "Verdict"], rows, "runs")] if rows else []
    return [
        Section("compared", "Is the best one better?", [Card([*table, *(Paragraph(one, "footnote") for one in notes)])])
    ]
