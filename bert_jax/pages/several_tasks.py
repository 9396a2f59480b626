# SPDX-License-Identifier: Apache-2.0
"""The pages of a folder of runs that have folders of their own: fine-tuned ones of several tasks, or pre-training runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_jax.checks.examination import run_findings
from bert_jax.checks.findings import Finding, NOTE, PROBLEM
from bert_jax.checks.finetuned import learning_findings
from bert_jax.config.settings import to_dict
from bert_jax.pages.comparison import comparison_sections, ScoredRun
from bert_jax.pages.finetune_summary import main_words, weights_words
from bert_jax.pages.glue_table import glue_sections, task_scores
from bert_jax.pages.metric_words import figure, metric_name, score_text
from bert_jax.pages.page import Card, link, Page, Paragraph, Section, Table
from bert_jax.pages.pretrain_summary import model_words, newest_scores, status_words
from bert_jax.pages.settings import differences, setting_traits, Trait
from bert_jax.pages.wording import counted, decimal, percent
from bert_jax.runs.finetuned import FinetunedRun, load_finetuned, load_several, SeveralRuns
from bert_jax.runs.names import REPORT_FILE, SEEDS_FILE
from bert_jax.runs.reading import number, Run
from bert_jax.tasks.scoring.chance import spread_of
from bert_jax.tasks.scoring.glue import TaskScores


@dataclass(frozen=True)
class TaskFolder:
    """A folder of the page: its row, and what goes into the comparison with others of its task."""

    folder: str
    title: str  # of the task
    score: str
    what: str  # one run, several seeds, a sweep
    run: FinetunedRun | None  # the first that counts
    findings: Sequence[Finding]
    scores: TaskScores
    candidate: ScoredRun | None  # for the comparison with others of its task


def tasks_page(directory: Path, folders: Sequence[Path]) -> Page:
    """The page of fine-tuned runs of several tasks: of the folders in a directory that hold a run, or several of one task."""
    parts = [_several_part(one) if (one / SEEDS_FILE).is_file() else _single_part(one) for one in folders]
    findings = [finding for part in parts for finding in part.findings]
    scores: dict[str, Mapping[str, float | None]] = {}
    twice: set[str] = set()
    for part in parts:
        twice |= scores.keys() & part.scores.keys()
        scores |= part.scores
    if twice:  # it is not known which to take
        seen = f"several folders are of {', '.join(sorted(twice))}: left out of the row of GLUE"
        findings.append(Finding(NOTE, "GLUE", seen))
    name = directory.resolve().name
    ours = {task: metrics for task, metrics in scores.items() if task not in twice}
    note = "Of several seeds: mean ± standard deviation of the runs that count. Differs in: what sets it apart from the others"
    tasks = Card([_task_table(parts), Paragraph(f"{note} of its task.", "footnote")])
    return Page(
        title=f"{name}: fine-tuned tasks",
        eyebrow="BERT fine-tuned with bert_jax on several tasks",
        name=name,
        findings=findings,
        sections=[
            Section("tasks", "Tasks", [tasks]),
            *comparison_sections([part.candidate for part in parts if part.candidate]),
            *glue_sections(name, ours, "of the folders above"),
        ],
        footer="Collapsed runs are in no mean.",
    )


def _task_table(parts: Sequence[TaskFolder]) -> Table:
    differs = differing_words([part.run for part in parts])
    rows = [
        (
            link(f"{part.folder}/{REPORT_FILE}", part.title, part.folder),
            part.score,
            part.what,
            weights_words(part.run) if part.run else "",
            words,
        )
        for part, words in zip(parts, differs, strict=True)
    ]
    marked = {place: "collapsed" for place, part in enumerate(parts) if part.findings}
    return Table(["Task", "Score", "Runs", "First weights", "Differs in"], rows, "runs", marked)


def differing_words(runs: Sequence[FinetunedRun | None]) -> list[str]:
    """Return for each run what sets it apart from the others of its task: settings, weights and data that differ."""
    words = [""] * len(runs)
    for title in {run.title for run in runs if run}:
        peers = {place: run for place, run in enumerate(runs) if run and run.title == title}
        for place, differs in zip(peers, differences([_traits(run) for run in peers.values()]), strict=True):
            words[place] = differs
    return words


def _traits(run: FinetunedRun) -> dict[str, Trait]:
    """The settings of a run, and its weights and data by their content where that is recorded."""
    source, data = run.record.get("source") or {}, run.record.get("data")
    path, digest = source.get("path"), source.get("digest")
    weights = Trait(digest or path, f"{path} ({digest})" if digest else str(path))
    return {
        **setting_traits(run.settings),
        "weights": weights,
        "data": Trait(run.record.get("content") or data, str(data)),
    }


def _single_part(folder: Path) -> TaskFolder:
    run = load_finetuned(folder)
    found = [finding.at(folder.name) for finding in learning_findings(run) if finding.severity == PROBLEM]
    value = number((run.outcome or {}).get("main"), "value")
    candidate = None if found or value is None else ScoredRun(run.title, folder, value)
    scores = {} if found else task_scores([run])
    return TaskFolder(folder.name, run.title, main_words(run), "one run", run, found, scores, candidate)


def _several_part(folder: Path) -> TaskFolder:
    several = load_several(folder)
    runs = [one.run for one in several.sound if one.run is not None]
    path, spread = folder, spread_of(several.values)
    if several.is_sweep and several.best is not None:
        runs = [several.best.run] if several.best.run else []
        path, spread = folder / several.best.folder, spread_of([max(several.values)])
    title, first = several.record["title"], runs[0] if runs else None
    candidate = ScoredRun(title, path, spread.mean) if spread and runs else None
    words = _score_words(several), _runs_words(several)
    return TaskFolder(folder.name, title, *words, first, [], task_scores(runs), candidate)


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


# ---- pre-training ----------------------------------------------------------------------------------------------------


def pretrained_page(directory: Path, runs: Sequence[Run]) -> Page:
    """The page of several pre-training runs."""
    name = directory.resolve().name
    differs = differences([setting_traits(to_dict(run.config)) | _data_trait(run) for run in runs])
    rows = [(*_pretrained_row(run), words) for run, words in zip(runs, differs, strict=True)]
    problems = [[finding for finding in run_findings(run) if finding.severity == PROBLEM] for run in runs]
    found = [finding.at(run.directory.name) for run, own in zip(runs, problems, strict=True) for finding in own]
    bad = {place: "collapsed" for place, own in enumerate(problems) if own}
    head = ["Run", "Model", "State", "Loss", "Accuracy", "Scores are of", "Differs in"]
    return Page(
        title=f"{name}: pre-training runs",
        eyebrow="BERT pre-training with bert_jax, several runs",
        name=name,
        findings=found,
        sections=[Section("runs", "Runs", [Card([Table(head, rows, "runs", bad)])])],
        footer="Losses are in nats for each predicted token. Differs in: settings and data that are not the same in all runs.",
    )


def _pretrained_row(run: Run) -> tuple[str, ...]:
    scores, where = newest_scores(run)
    loss, accuracy = decimal(number(scores, run.token_loss)), percent(number(scores, f"{run.tokens.term}_accuracy"))
    if not run.config.objective.masks:
        where = f"{run.tokens.predicted}, {where}"
    folder = run.directory.name
    return (
        link(f"{folder}/{REPORT_FILE}", folder),
        model_words(run.config.description),
        status_words(run),
        loss,
        accuracy,
        where,
    )


def _data_trait(run: Run) -> dict[str, Trait]:
    """The data of a run, by the hashes of its shards."""
    shards = [shard.get("sha256") for shard in run.train_split.get("shards", [])]
    tokens = number(run.train_split, "tokens")
    return {"data": Trait(" ".join(map(str, shards)), f"of {decimal(tokens, 0)} tokens")} if shards else {}
