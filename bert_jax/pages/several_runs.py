# SPDX-License-Identifier: Apache-2.0
"""The page of several runs of one task: seeds, or the settings of a sweep."""

from collections.abc import Sequence

from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, NOTE, PROBLEM
from bert_jax.checks.finetuned import degenerate_finding
from bert_jax.pages.finetune_summary import data_words, weights_words
from bert_jax.pages.glue_table import glue_sections, task_scores
from bert_jax.pages.metric_words import figure, metric_name, score_text, title_name, unit
from bert_jax.pages.page import Card, Grid, link, Page, Section, Table, Tile
from bert_jax.pages.seed_spread import curves_panel, strip_panel
from bert_jax.pages.wording import counted, plain, SPACE
from bert_jax.runs.finetuned import SeedRun, SeveralRuns
from bert_jax.runs.names import REPORT_FILE
from bert_jax.tasks.scoring.chance import Spread, spread_of

SETTING_WORDS = {"learning_rate": "Learning rate", "batch_size": "Batch", "epochs": "Epochs"}


def page_of(several: SeveralRuns) -> Page:
    """The page of several runs."""
    spread = spread_of(several.values)
    name, what = several.directory.resolve().name, things(several)
    panels = Grid([strip_panel(several, spread), curves_panel(several)])
    return Page(
        title=f"{several.record['title']}, {name}: several {what}",
        eyebrow=f"BERT fine-tuned with bert_jax, several {what}, folder {name}",
        name=several.record["title"],
        status=f"{len(several.sound)} of {counted(len(several.runs), 'run')} count",
        state="" if len(several.sound) == len(several.runs) else "open",
        facts=facts(several),
        findings=several_findings(several),
        tiles=spread_tiles(several, spread),
        tiles_note=spread_note(several, spread),
        sections=[Section("runs", "Runs", [panels, Card([run_table(several)])]), *_glue(several)],
        footer="Everything here stands in seeds.json and in the folders of the runs, for programs.",
    )


def things(several: SeveralRuns) -> str:
    """The word for what the runs differ in."""
    return "settings" if several.is_sweep else "seeds"


def facts(several: SeveralRuns) -> list[tuple[str, str]]:
    """Return the facts of one line each, of the first run that can be read: name and words."""
    run = next((one.run for one in several.runs if one.run), None)
    rows = [("Main score", f"{metric_name(several.metric)} of {several.split}")]
    rows.append(("Runs", f"{len(several.runs)}, that differ in {things(several)}"))
    if run is not None:
        rows += [("First weights", weights_words(run)), ("Data", data_words(run))]
        if run.outcome and run.outcome.get("device"):
            rows.append(("Device", str(run.outcome["device"])))
    return rows


def several_findings(several: SeveralRuns) -> list[Finding]:
    """Runs that collapsed, and runs that are not there."""
    found = []
    if several.collapsed:
        are = "is" if len(several.collapsed) == 1 else "are"
        seen = f"{len(several.collapsed)} of {counted(len(several.runs), 'run')} collapsed and {are} not counted"
        found.append(rules.DEGENERATE.found(PROBLEM, seen))
    explained: dict[str, list[str]] = {}
    for one in several.collapsed:
        assert one.degenerate is not None
        explained.setdefault(degenerate_finding(one.degenerate).seen, []).append(run_name(several, one))
    found += [rules.DEGENERATE.found(PROBLEM, f"{', '.join(names)}: {words}") for words, names in explained.items()]
    missing = [run_name(several, one) for one in several.runs if one.value is None and one.degenerate is None]
    if missing:
        seen = f"without a score: {', '.join(missing)}"
        found.append(
            Finding(NOTE, "Progress", seen, "", "the same bert-jax finetune command goes on with what is not finished")
        )
    return found


def run_name(several: SeveralRuns, one: SeedRun) -> str:
    """The name of a run in words."""
    return one.folder if several.is_sweep else f"seed {one.entry.get('seed', one.folder)}"


# ---- figures ---------------------------------------------------------------------------------------------------------


def spread_tiles(several: SeveralRuns, spread: Spread | None) -> list[Tile]:
    """Tiles with mean, standard deviation, interval, best, collapsed; of a sweep, whose runs are no sample, best and range."""
    runs = f"of {counted(len(several.runs), 'run')}"
    collapsed = Tile("Collapsed", str(len(several.collapsed)), runs, "not counted")
    where = f"{metric_name(several.metric)}, {several.split}"
    if spread is None:
        return [Tile(f"Mean {where}", "–", "", "no run has a score that counts"), collapsed]
    best = _best_tile(several, where)
    if several.is_sweep:
        ends = _ends((min(several.values), max(several.values)), several)
        return [best, Tile("Lowest to highest", ends, unit(several.metric), where), collapsed]
    of = f"of {counted(len(several.values), 'seed')}"
    deviation = "–" if spread.deviation is None else figure(spread.deviation, several.per_cent)
    freedom = f"Student's t, {counted(len(several.values) - 1, 'degree')} of freedom" if spread.interval else ""
    of_interval = unit(several.metric) if spread.interval else ""
    return [
        Tile(f"Mean {where}", figure(spread.mean, several.per_cent), unit(several.metric), of),
        Tile("Standard deviation", deviation, "points" if spread.interval else "", f"{of}, of the sample (n − 1)"),
        Tile(f"95{SPACE}% interval of the mean", _ends(spread.interval, several), of_interval, freedom),
        best,
        collapsed,
    ]


def _ends(interval: tuple[float, float] | None, several: SeveralRuns) -> str:
    return "–" if interval is None else " to ".join(figure(end, several.per_cent) for end in interval)


def _best_tile(several: SeveralRuns, where: str) -> Tile:
    best = several.best
    assert best is not None
    note = f"{run_name(several, best)}; chosen on {several.split}, so better there than elsewhere"
    return Tile(f"Best {where}", figure(best.value, several.per_cent), unit(several.metric), note)


def spread_note(several: SeveralRuns, spread: Spread | None) -> str:
    """How the figures are to be read."""
    if several.is_sweep:
        return "The runs differ in settings, so they are no sample: there is no interval."
    if spread is None or spread.interval is None:
        return "An interval needs two runs that count."
    return (
        f"The interval is of the mean over seeds: it says how sure the mean is, for this {several.split} split."
        f" That the split itself is a sample of {several.record['title']} is not in it."
    )


def _setting_names(several: SeveralRuns) -> list[str]:
    if not several.is_sweep:
        return []
    return list(dict.fromkeys(name for one in several.runs for name in one.entry.get("settings", {})))


def run_table(several: SeveralRuns) -> Table:
    """A row for each run, of a sweep the best first; collapsed runs are marked."""
    runs = list(several.runs)
    if several.is_sweep:
        runs.sort(key=lambda one: (one.degenerate is None, one.value or 0.0), reverse=True)
    names = _setting_names(several)
    others = any(_other_scores(several, one) for one in runs)
    score = f"{title_name(several.metric)}, {several.split}"
    settings = (SETTING_WORDS.get(name, name) for name in names)
    head = ["Run", *settings, score, *(["Other scores"] if others else []), "State"]
    rows = [_run_row(several, one, names, others) for one in runs]
    marked = {place: "collapsed" for place, one in enumerate(runs) if one.degenerate is not None}
    return Table(head, rows, "runs", marked)


def _run_row(several: SeveralRuns, one: SeedRun, names: Sequence[str], others: bool) -> list[str]:
    state = "best" if one is several.best else ""
    if one.entry.get("undecided"):
        state = f"{state}{', ' if state else ''}not decided whether it learned"
    if one.degenerate:
        state = f"collapsed: {one.degenerate.get('kind', '')}"
    name = run_name(several, one)
    return [
        link(f"{one.folder}/{REPORT_FILE}", name) if one.run else name,
        *(plain(one.entry.get("settings", {}).get(setting)) for setting in names),
        "no score" if one.value is None else score_text(several.metric, one.value, several.per_cent),
        *([_other_scores(several, one)] if others else []),
        state,
    ]


def _other_scores(several: SeveralRuns, one: SeedRun) -> str:
    if one.run is None:
        return ""
    scores = one.run.scores.get(several.split, {})
    names = [name for name in one.run.metrics if name != several.metric and name in scores]
    return ", ".join(f"{metric_name(name)} {score_text(name, scores[name], several.per_cent)}" for name in names)


def _glue(several: SeveralRuns) -> list[Section]:
    name = several.directory.resolve().name
    if several.is_sweep:
        best = several.best
        return glue_sections(name, task_scores([best.run] if best and best.run else []), "best of a sweep")
    runs = [one.run for one in several.sound if one.run is not None]
    return glue_sections(name, task_scores(runs), f"mean of {counted(len(runs), 'seed')}")
