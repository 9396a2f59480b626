# SPDX-License-Identifier: Apache-2.0
"""The top of a fine-tuned run's page: status, facts, key figures and findings."""

import shlex
from pathlib import Path

from bert_jax.checks.cost import check_bad_steps, check_cost
from bert_jax.checks.findings import Finding, NOTE, serious
from bert_jax.checks.finetuned import learning_findings
from bert_jax.config.settings import flatten
from bert_jax.config.training import averaged_words
from bert_jax.pages.finetune_curves import commonest_class, metric_words, of_class
from bert_jax.pages.metric_words import figure, score_text, title_name, unit
from bert_jax.pages.notices import torn_lines
from bert_jax.pages.page import Tile
from bert_jax.pages.wording import count, duration, interval, percent, plain, SPACE
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import number

KIND_WORDS = {
    "classification": "classification of texts or pairs",
    "multi_label": "classification of texts or pairs, any number of classes right",
    "regression": "rating of texts or pairs",
    "choice": "multiple choice",
    "span": "questions about a text",
    "tagging": "tags of words",
}
DIRECTION_WORDS = "left to right: a token sees those before it only, and a text is read from its last token"
BILM_WORDS = (
    "forward and backward apart: each half of a token's vector sees one side, and a text's is the mean of its tokens'"
)
MOST_TILES = 6


def status(run: FinetunedRun) -> tuple[str, str]:
    """How far the run is, in words, and the state that colours them."""
    if run.degenerate:
        return f"degenerate: {run.degenerate.get('kind', '')}", "problem"
    if run.finished:
        return f"finished, {count(run.last_step or run.total_steps)} steps", ""
    if run.last_step:
        return f"stopped at step {count(run.last_step)} of {count(run.total_steps)}", "open"
    return "no step logged yet", "open"


def facts(run: FinetunedRun) -> list[tuple[str, str]]:
    """Return the facts of one line each: name and words."""
    source, teacher = run.record.get("source") or {}, run.record.get("teacher")
    direction = DIRECTION_WORDS if source.get("causal") else BILM_WORDS if source.get("bilm") else None
    return [
        ("Task", KIND_WORDS.get(run.kind, run.kind)),
        ("First weights", weights_words(run)),
        *([("Direction", direction)] if direction else []),
        *([("Teacher", f"{Path(teacher['path']).name}, {teacher['summary']}")] if teacher else []),
        ("Data", data_words(run)),
        ("Recipe", recipe_words(run)),
        ("Device and time", time_words(run)),
    ]


def weights_words(run: FinetunedRun) -> str:
    """Say where the weights came from."""
    source = run.record.get("source") or {}
    name = source.get("summary") or source.get("path") or "not recorded"
    return f"drawn anew, not pre-trained; shape of {name}" if source.get("from_scratch") else str(name)


def data_words(run: FinetunedRun) -> str:
    """The data, and the size of each split."""
    sizes = ", ".join(f"{count(size)} {name}" for name, size in (run.record.get("examples") or {}).items())
    return f"{run.record.get('data', 'not recorded')}{f' ({sizes} examples)' if sizes else ''}"


def recipe_words(run: FinetunedRun) -> str:
    """The settings that are most often varied."""
    names = {"optimizer.learning_rate": "learning rate", "batch_size": "batch", "epochs": "epochs", "seed": "seed"}
    settings = dict(flatten(run.settings))
    averaged = averaged_words(settings.get("optimizer.average"))
    words = [f"{words} {plain(settings.get(name))}" for name, words in names.items()]
    return ", ".join([*words, *filter(None, [averaged])])


def time_words(run: FinetunedRun) -> str:
    """Device, time in steps, speed."""
    outcome = run.outcome or {}
    seconds, speed = number(outcome, "seconds"), number(outcome, "examples_per_second")
    parts = [str(outcome.get("device") or "not recorded")]
    if seconds is not None:
        parts.append(f"{duration(seconds)} of steps")
    if speed is not None:
        parts.append(f"{speed:,.4g} examples/s")
    return ", ".join(parts)


# ---- key figures -----------------------------------------------------------------------------------------------------


def tiles(run: FinetunedRun) -> list[Tile]:
    """Every score with its metric and split, the main one first."""
    splits = [run.split, *(split for split in run.scores if split != run.split)]
    found = [
        _score_tile(run, split, name) for split in splits for name in run.metrics if name in run.scores.get(split, {})
    ]
    return found[:MOST_TILES] or [Tile(f"Scores, {run.split}", "–", "", "the run is not finished")]


def _score_tile(run: FinetunedRun, split: str, name: str) -> Tile:
    value = number(run.scores[split], name)
    note = _note(run, name, value) if split == run.split else ""
    label = f"{title_name(name)}{of_class(run, name)}, {split}"
    return Tile(label, figure(value, run.per_cent), "" if value is None else unit(name), note)


def _note(run: FinetunedRun, name: str, value: float | None) -> str:
    """The note that says what a score is to be compared with."""
    if value is None:
        return "a correlation with something constant"
    if name == "mcc":
        return "guessing: 0"
    if name != "accuracy" or run.per_cent or not run.labelled:
        return ""
    ends = share_interval(round(value * len(run.labelled)), len(run.labelled))
    note = f"exact 95{SPACE}% interval {interval(ends, 1)}, of {count(len(run.labelled))} examples"
    word, share = commonest_class(run) or ("", 0.0)
    return f"{note}; always {word}: {percent(share)}"


def share_interval(right: int, total: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv  # here: loading it takes a quarter of a second

    low = float(betaincinv(right, total - right + 1, 0.025)) if right else 0.0
    high = float(betaincinv(right + 1, total - right, 0.975)) if right < total else 1.0
    return low, high


def main_words(run: FinetunedRun) -> str:
    """The main score in words, for a page that lists runs: "accuracy (dev) 91.28 %"."""
    main = (run.outcome or {}).get("main", {})
    if "metric" not in main:
        return "not scored"
    return f"{metric_words(run, main['metric'])} {score_text(main['metric'], number(main, 'value'), run.per_cent)}"


# ---- findings --------------------------------------------------------------------------------------------------------


def findings(run: FinetunedRun) -> list[Finding]:
    """Findings about what is degenerate, missing or torn, with the command that mends it."""
    found = [*learning_findings(run), *serious([*check_bad_steps(run.bad, run.directory), *check_cost(run.cost)])]
    if (run.record.get("source") or {}).get("from_scratch"):
        seen = "the weights were drawn anew: this run shows what the task gives without pre-training"
        found.append(Finding(NOTE, "First weights", seen))
    if not run.finished:
        found.append(
            Finding(NOTE, "Progress", "the run is not finished: the same bert-jax finetune command goes on with it")
        )
    elif not run.scores:
        seen = "there is no dev split, so nothing is scored"
        found.append(Finding(NOTE, "Scores", seen, "", "with labelled data", predict_command(run)))
    elif not run.predictions:
        seen = f"predictions/{run.split}.jsonl is missing, so nothing is known of single examples"
        found.append(Finding(NOTE, "Predictions", seen, "", "this makes it", predict_command(run)))
    return [*found, *torn_lines(run.unreadable)]


def predict_command(run: FinetunedRun) -> str:
    """The command that scores and writes predictions."""
    return f"bert-jax predict {shlex.quote(str(run.directory))} --data DATA --split {run.split}"
