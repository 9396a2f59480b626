# SPDX-License-Identifier: Apache-2.0
"""The page of fine-tuned runs of several tasks: a folder of folders -> report.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.config.settings import flatten
from bert_jax.pages.finetune_summary import degenerate_words, main_words, weights_words
from bert_jax.pages.glue_table import glue_table, task_scores
from bert_jax.pages.metric_words import figure, metric_name, score_text
from bert_jax.pages.notices import Notice
from bert_jax.pages.several_charts import spread_of
from bert_jax.pages.template import fill, save_page
from bert_jax.pages.wording import counted, plain
from bert_jax.runs.finetuned import FinetunedRun, load_finetuned, load_several, SeveralRuns
from bert_jax.runs.names import REPORT_FILE, SEEDS_FILE
from bert_jax.tasks.scoring.glue import TaskScores


def write_tasks(directory: Path, parts: Sequence[Path]) -> Path:
    """Write `report.html` into a folder of fine-tuned runs of several tasks; returns its path.

    Args:
      directory: the folder.
      parts: the folders in it that hold a run, or several of one task.

    Raises:
      UserError: one of their files cannot be read.
    """
    return save_page(render_tasks(directory, parts), directory / REPORT_FILE)


def render_tasks(directory: Path, parts: Sequence[Path]) -> str:
    """The page as text."""
    rows, notices = [], []
    scores: dict[str, Mapping[str, float | None]] = {}
    twice: set[str] = set()
    shown: list[FinetunedRun | None] = []
    for part in parts:
        row, found = _several_part(part) if (part / SEEDS_FILE).is_file() else _single_part(part)
        rows.append(row)
        shown.append(row["run"])
        if row["problem"]:
            notices.append(Notice("problem", f"{row['folder']}: {row['problem']}"))
        twice |= scores.keys() & found.keys()
        scores |= found
    for row, words in zip(rows, differing_words(shown), strict=True):
        row["differs"] = words
    if twice:  # it is not known which to take
        notices.append(
            Notice("note", f"Several folders are of {', '.join(sorted(twice))}: left out of the row of GLUE.")
        )
    ours = {task: metrics for task, metrics in scores.items() if task not in twice}
    name = directory.resolve().name
    glue = glue_table(name, ours, "of the folders above")
    return fill("pages/several_tasks.html.jinja", name=name, notices=notices, rows=rows, glue=glue)


def differing_words(runs: Sequence[FinetunedRun | None]) -> list[str]:
    """Return for each run what sets it apart from the others of its task: settings, weights and data that differ."""
    told = [{} if run is None else _told_apart_by(run) for run in runs]
    words = []
    for run, own in zip(runs, told, strict=True):
        peers = [other for one, other in zip(runs, told, strict=True) if run and one and one.title == run.title]
        names = [name for name in own if any(name in other and other[name][0] != own[name][0] for other in peers)]
        words.append(", ".join(f"{name} {own[name][1]}" for name in names))
    return words


def _told_apart_by(run: FinetunedRun) -> dict[str, tuple[Any, str]]:
    """Name -> what is compared, and how it is written; weights and data by what they hold, where that is recorded."""
    source, data = run.record.get("source") or {}, run.record.get("data")
    path, digest = source.get("path"), source.get("digest")
    told = {name: (value, plain(value)) for name, value in flatten(run.settings)}
    told["weights"] = (digest or path, f"{path} ({digest})" if digest else str(path))
    return told | {"data": (run.record.get("content") or data, str(data))}


def _single_part(directory: Path) -> tuple[dict[str, Any], TaskScores]:
    run = load_finetuned(directory)
    problem = degenerate_words(run.degenerate) if run.degenerate else ""
    row = _part_row(directory, run.title, "one run", main_words(run), weights_words(run), problem) | {"run": run}
    return row, {} if run.degenerate else task_scores([run])


def _several_part(directory: Path) -> tuple[dict[str, Any], TaskScores]:
    several = load_several(directory)
    runs = [one.run for one in several.sound if one.run is not None]
    if several.is_sweep and several.best is not None:
        runs = [several.best.run] if several.best.run else []
    weights = weights_words(runs[0]) if runs else ""
    row = _part_row(directory, several.record["title"], _runs_words(several), _score_words(several), weights, "")
    row["run"] = runs[0] if runs else None
    return row, task_scores(runs)


def _runs_words(several: SeveralRuns) -> str:
    runs = len(several.runs)
    words = f"{counted(runs, 'run')} of a sweep" if several.is_sweep else counted(runs, "seed")
    return f"{words}, {len(several.collapsed)} collapsed" if several.collapsed else words


def _score_words(several: SeveralRuns) -> str:
    name = f"{metric_name(several.metric)} ({several.split})"
    spread = spread_of(several.values)
    if spread is None:
        return f"{name}: no score that counts"
    if several.is_sweep:
        return f"{name} best {score_text(several.metric, max(several.values), several.per_cent)}"
    deviation = "" if spread.deviation is None else f" ± {figure(spread.deviation, several.per_cent)}"
    return f"{name} {score_text(several.metric, spread.mean, several.per_cent)}{deviation}"


def _part_row(directory: Path, title: str, what: str, score: str, weights: str, problem: str) -> dict[str, Any]:
    return {
        "folder": directory.name,
        "link": f"{directory.name}/report.html",
        "title": title,
        "what": what,
        "score": score,
        "weights": weights,
        "problem": problem,
    }
