# SPDX-License-Identifier: Apache-2.0
"""The page of several runs of one task: seeds, or the settings of a sweep."""

from pathlib import Path
from typing import Any

from bert_jax.pages.finetune_summary import data_words, degenerate_words, weights_words
from bert_jax.pages.glue_table import glue_table, GlueTable, task_scores
from bert_jax.pages.metric_words import figure, metric_name, score_text, title_name, unit
from bert_jax.pages.notices import Notice
from bert_jax.pages.several_charts import curves_panel, Spread, spread_of, strip_panel
from bert_jax.pages.template import fill, save_page
from bert_jax.pages.wording import counted, plain, SPACE
from bert_jax.runs.finetuned import load_several, SeedRun, SeveralRuns
from bert_jax.runs.names import REPORT_FILE

SETTING_WORDS = {"learning_rate": "Learning rate", "batch_size": "Batch", "epochs": "Epochs"}


def write_several(directory: Path) -> Path:
    """Write `report.html` into a folder of several runs of one task; returns its path.

    Raises:
      UserError: not such a folder, or one of its files cannot be read.
    """
    return save_page(render_several(load_several(directory)), directory / REPORT_FILE)


def render_several(several: SeveralRuns) -> str:
    """The page as text."""
    spread = spread_of(several.values)
    rows = run_rows(several)
    others = any(row["others"] for row in rows)
    return fill(
        "pages/several_runs.html.jinja",
        title=several.record["title"],
        directory=several.directory.resolve().name,
        what=things(several),
        status=f"{len(several.sound)} of {counted(len(several.runs), 'run')} count",
        clean=len(several.sound) == len(several.runs),
        facts=facts(several),
        notices=several_notices(several),
        tiles=spread_tiles(several, spread),
        panels=[strip_panel(several, spread), curves_panel(several)],
        head=_head(several, others),
        rows=rows,
        others=others,
        glue=_glue(several),
        note=spread_note(several, spread),
    )


def things(several: SeveralRuns) -> str:
    """What the runs differ in."""
    return "settings" if several.is_sweep else "seeds"


def facts(several: SeveralRuns) -> list[tuple[str, str]]:
    """Of the first run that can be read."""
    run = next((one.run for one in several.runs if one.run), None)
    rows = [("Main score", f"{metric_name(several.metric)} of {several.split}")]
    rows.append(("Runs", f"{len(several.runs)}, that differ in {things(several)}"))
    if run is not None:
        rows += [("First weights", weights_words(run)), ("Data", data_words(run))]
        if run.outcome and run.outcome.get("device"):
            rows.append(("Device", str(run.outcome["device"])))
    return rows


def several_notices(several: SeveralRuns) -> list[Notice]:
    """Runs that collapsed, and runs that are not there."""
    found = []
    if several.collapsed:
        are = "is" if len(several.collapsed) == 1 else "are"
        text = f"{len(several.collapsed)} of {counted(len(several.runs), 'run')} collapsed and {are} not counted."
        found.append(Notice("problem", text))
    explained: dict[str, list[str]] = {}
    for one in several.collapsed:
        explained.setdefault(degenerate_words(one.degenerate), []).append(run_name(several, one))
    found += [Notice("problem", f"{', '.join(names)}: {words}") for words, names in explained.items()]
    missing = [run_name(several, one) for one in several.runs if one.value is None and one.degenerate is None]
    if missing:
        text = f"Without a score: {', '.join(missing)}. The same bert-jax finetune command goes on with what is not finished."
        found.append(Notice("note", text))
    return found


def run_name(several: SeveralRuns, one: SeedRun) -> str:
    """A run in words."""
    return one.folder if several.is_sweep else f"seed {one.entry.get('seed', one.folder)}"


# ---- figures ---------------------------------------------------------------------------------------------------------


def spread_tiles(several: SeveralRuns, spread: Spread | None) -> list[dict[str, str]]:
    """Mean, standard deviation, interval, best, collapsed; of a sweep, whose runs are no sample, best and range."""
    runs = f"of {counted(len(several.runs), 'run')}"
    collapsed = _tile("Collapsed", str(len(several.collapsed)), runs, "not counted")
    where = f"{metric_name(several.metric)}, {several.split}"
    if spread is None:
        return [_tile(f"Mean {where}", "–", "", "no run has a score that counts"), collapsed]
    best = _best_tile(several, where)
    if several.is_sweep:
        ends = _ends((min(several.values), max(several.values)), several)
        return [best, _tile("Lowest to highest", ends, unit(several.metric), where), collapsed]
    of = f"of {counted(len(several.values), 'seed')}"
    deviation = "–" if spread.deviation is None else figure(spread.deviation, several.per_cent)
    freedom = f"Student's t, {counted(len(several.values) - 1, 'degree')} of freedom" if spread.interval else ""
    return [
        _tile(f"Mean {where}", figure(spread.mean, several.per_cent), unit(several.metric), of),
        _tile("Standard deviation", deviation, "points", f"{of}, of the sample (n − 1)"),
        _tile(f"95{SPACE}% interval of the mean", _ends(spread.interval, several), unit(several.metric), freedom),
        best,
        collapsed,
    ]


def _ends(interval: tuple[float, float] | None, several: SeveralRuns) -> str:
    return "–" if interval is None else " to ".join(figure(end, several.per_cent) for end in interval)


def _tile(label: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": "" if value == "–" else unit, "note": note}


def _best_tile(several: SeveralRuns, where: str) -> dict[str, str]:
    best = several.best
    assert best is not None
    note = f"{run_name(several, best)}; chosen on {several.split}, so better there than elsewhere"
    return _tile(f"Best {where}", figure(best.value, several.per_cent), unit(several.metric), note)


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


def _head(several: SeveralRuns, others: bool) -> list[str]:
    settings = [SETTING_WORDS.get(name, name) for name in _setting_names(several)]
    score = f"{title_name(several.metric)}, {several.split}"
    return ["Run", *settings, score, *(["Other scores"] if others else []), "State"]


def _setting_names(several: SeveralRuns) -> list[str]:
    if not several.is_sweep:
        return []
    return list(dict.fromkeys(name for one in several.runs for name in one.entry.get("settings", {})))


def run_rows(several: SeveralRuns) -> list[dict[str, Any]]:
    """A row for each run, of a sweep the best first."""
    runs = list(several.runs)
    if several.is_sweep:
        runs.sort(key=lambda one: (one.degenerate is None, one.value or 0.0), reverse=True)
    return [_run_row(several, one) for one in runs]


def _run_row(several: SeveralRuns, one: SeedRun) -> dict[str, Any]:
    state = "best" if one is several.best else ""
    if one.entry.get("undecided"):
        state = f"{state}{', ' if state else ''}not decided whether it learned"
    return {
        "name": run_name(several, one),
        "link": f"{one.folder}/report.html" if one.run else "",
        "settings": [plain(one.entry.get("settings", {}).get(name)) for name in _setting_names(several)],
        "value": "no score" if one.value is None else score_text(several.metric, one.value, several.per_cent),
        "others": _other_scores(several, one),
        "state": f"collapsed: {one.degenerate.get('kind', '')}" if one.degenerate else state,
        "collapsed": one.degenerate is not None,
    }


def _other_scores(several: SeveralRuns, one: SeedRun) -> str:
    if one.run is None:
        return ""
    scores = one.run.scores.get(several.split, {})
    names = [name for name in one.run.metrics if name != several.metric and name in scores]
    return ", ".join(f"{metric_name(name)} {score_text(name, scores[name], several.per_cent)}" for name in names)


def _glue(several: SeveralRuns) -> GlueTable | None:
    name = several.directory.resolve().name
    if several.is_sweep:
        best = several.best
        return glue_table(name, task_scores([best.run] if best and best.run else []), "best of a sweep")
    runs = [one.run for one in several.sound if one.run is not None]
    return glue_table(name, task_scores(runs), f"mean of {counted(len(runs), 'seed')}")
