# SPDX-License-Identifier: Apache-2.0
"""The top of a fine-tuned run's page, its notices, and its settings."""

import shlex
from typing import Any

from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.settings import documented, flatten
from bert_jax.pages.finetune_panels import commonest_class, metric_words, of_class
from bert_jax.pages.metric_words import figure, score_text, title_name, unit
from bert_jax.pages.notices import Notice
from bert_jax.pages.wording import count, decimal, duration, interval, percent, plain, SPACE
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
MOST_TILES = 6


def headline(run: FinetunedRun) -> dict[str, Any]:
    """Name, status, and the facts of one line each."""
    if run.degenerate:
        status = f"degenerate: {run.degenerate.get('kind', '')}"
    elif run.finished:
        status = f"finished, {count(run.last_step or run.total_steps)} steps"
    else:
        status = (
            f"stopped at step {count(run.last_step)} of {count(run.total_steps)}"
            if run.last_step
            else "no step logged yet"
        )
    return {
        "name": run.title,
        "directory": run.directory.resolve().name,
        "status": status,
        "state": "problem" if run.degenerate else "" if run.finished else "open",
        "facts": [
            ("Task", KIND_WORDS.get(run.kind, run.kind)),
            ("First weights", weights_words(run)),
            ("Data", data_words(run)),
            ("Recipe", recipe_words(run)),
            ("Device and time", time_words(run)),
        ],
    }


def weights_words(run: FinetunedRun) -> str:
    """Where the weights came from."""
    source = run.record.get("source") or {}
    name = source.get("summary") or source.get("path") or "not recorded"
    return f"drawn anew, not pre-trained; shape of {name}" if source.get("from_scratch") else str(name)


def data_words(run: FinetunedRun) -> str:
    """The data, and the size of each split."""
    sizes = ", ".join(f"{count(size)} {name}" for name, size in (run.record.get("examples") or {}).items())
    return f"{run.record.get('data', 'not recorded')}{f' ({sizes} examples)' if sizes else ''}"


def recipe_words(run: FinetunedRun) -> str:
    """What is most often varied."""
    names = {"optimizer.learning_rate": "learning rate", "batch_size": "batch", "epochs": "epochs", "seed": "seed"}
    settings = dict(flatten(run.settings))
    return ", ".join(f"{words} {plain(settings.get(name))}" for name, words in names.items())


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


def tiles(run: FinetunedRun) -> list[dict[str, str]]:
    """Every score with its metric and split, the main one first."""
    splits = [run.split, *(split for split in run.scores if split != run.split)]
    found = []
    for split in splits:
        for name in run.metrics:
            if name in run.scores.get(split, {}):
                value = number(run.scores[split], name)
                note = _note(run, name, value) if split == run.split else ""
                found.append(
                    _tile(
                        f"{title_name(name)}{of_class(run, name)}, {split}",
                        figure(value, run.per_cent),
                        unit(name),
                        note,
                    )
                )
    if not found:
        found.append(_tile(f"Scores, {run.split}", "–", "", "the run is not finished"))
    return found[:MOST_TILES]


def _tile(label: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": "" if value in ("–", "not defined") else unit, "note": note}


def _note(run: FinetunedRun, name: str, value: float | None) -> str:
    """What a score is to be compared with."""
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
    from scipy.special import betaincinv  # type: ignore[import-untyped]  # here: loading it takes a quarter of a second

    low = float(betaincinv(right, total - right + 1, 0.025)) if right else 0.0
    high = float(betaincinv(right + 1, total - right, 0.975)) if right < total else 1.0
    return low, high


# ---- notices ---------------------------------------------------------------------------------------------------------


def notices(run: FinetunedRun) -> list[Notice]:
    """What is degenerate, missing or torn, and the command that mends it."""
    found = []
    if run.degenerate:
        found.append(Notice("problem", degenerate_words(run.degenerate)))
    if run.undecided:
        found.append(Notice("note", f"Whether anything was learned is not decided: {run.undecided}."))
    if (run.record.get("source") or {}).get("from_scratch"):
        found.append(
            Notice("note", "The weights were drawn anew: this run shows what the task gives without pre-training.")
        )
    if not run.finished:
        found.append(Notice("note", "The run is not finished: the same bert-jax finetune command goes on with it."))
    elif not run.scores:
        found.append(
            Notice("note", "There is no dev split, so nothing is scored. With labelled data:", predict_command(run))
        )
    elif not run.predictions:
        text = f"predictions/{run.split}.jsonl is missing, so nothing is known of single examples. This makes it:"
        found.append(Notice("note", text, predict_command(run)))
    if run.unreadable:
        lines = ", ".join(map(str, run.unreadable[:5])) + (" ..." if len(run.unreadable) > 5 else "")
        found.append(
            Notice("note", f"metrics.jsonl: cannot read line {lines}, as a kill leaves behind; left out here.")
        )
    return found


def degenerate_words(degenerate: Any) -> str:
    """A degenerate run explained, as sentences."""
    explanation = str(degenerate.get("explanation", "")).strip()
    text = f"{explanation[:1].upper()}{explanation[1:]}"
    return f"Nothing was learned ({degenerate.get('kind', 'not said')}). {text}{'' if text.endswith('.') else '.'}"


def predict_command(run: FinetunedRun) -> str:
    """The command that scores and writes predictions."""
    return f"bert-jax predict {shlex.quote(str(run.directory))} --data DIR --split {run.split}"


# ---- what the network saw, and settings ------------------------------------------------------------------------------


def count_rows(run: FinetunedRun) -> list[tuple[str, str, str]]:
    """What became of the examples: (split, what, how many)."""
    splits = run.record.get("counts") or {}
    return [
        (split, str(what), count(times) if isinstance(times, int | float) else str(times))
        for split, counts in splits.items()
        for what, times in counts.items()
    ]


def setting_rows(run: FinetunedRun) -> list[dict[str, Any]]:
    """Every setting, marked where it is not the default. `none` stands for the task's own value: never marked."""
    known = {key: (default, text) for key, default, text in documented(FinetuneConfig())}
    rows = []
    for key, value in flatten(run.settings):
        default, text = known.get(key, (None, ""))
        rows.append(
            {
                "name": key,
                "value": plain(value),
                "changed": default is not None and default != value,
                "default": plain(default),
                "help": text,
            }
        )
    return rows


def main_words(run: FinetunedRun) -> str:
    """The main score in words, for a page that lists runs: "accuracy (dev) 91.28 %"."""
    main = (run.outcome or {}).get("main", {})
    if "metric" not in main:
        return "not scored"
    return f"{metric_words(run, main['metric'])} {score_text(main['metric'], number(main, 'value'), run.per_cent)}"


def threshold_words(run: FinetunedRun) -> str:
    """What was tuned on dev and is kept with the model."""
    return ", ".join(
        f"{name.replace('_', ' ')} {decimal(value)}" for name, value in (run.record.get("found") or {}).items()
    )
