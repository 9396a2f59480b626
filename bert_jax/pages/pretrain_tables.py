# SPDX-License-Identifier: Apache-2.0
"""The tables of the page: evaluation, settings, environment."""

import dataclasses
from typing import Any

from bert_jax.config.objective import pair_words, PairWords
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import flatten, to_dict
from bert_jax.pages.pretrain_summary import newest_scores
from bert_jax.pages.wording import (
    count,
    decimal,
    exponential,
    GUESSING_LOSS,
    interval,
    moment,
    percent,
    perplexity,
    plain,
    SPACE,
    teraflops,
)
from bert_jax.runs.reading import number, Record, Run

MASK_PARTS = (("[MASK]", "mask"), ("random", "random"), ("kept", "kept"))


def evaluation_table(run: Run) -> dict[str, Any] | None:
    """Rows of (measure, value, 95 % interval, for comparison); None where nothing is evaluated."""
    scores = run.evaluation
    if scores is None:
        return None
    rows = _mlm_rows(scores)
    words = pair_words(run.config.objective)
    if words is not None and number(scores, "nsp_accuracy") is not None:
        rows += _pair_rows(scores, words)
    length, masked = (count(number(scores, key)) for key in ("sequence_length", "masked_tokens"))
    caption = f"{newest_scores(run)[1]}, sequences of {length} tokens, {masked} masked tokens"
    return {"rows": rows, "caption": caption}


def _mlm_rows(scores: Record) -> list[tuple[str, str, str, str]]:
    loss, unigram, entropy = (number(scores, key) for key in ("mlm_loss", "unigram_loss", "unigram_entropy"))
    frequencies = f"unigram model, same tokens {decimal(unigram)}; entropy of the training text {decimal(entropy)}"
    words = f"unigram model {perplexity(exponential(unigram))}"
    accuracy, guess = number(scores, "mlm_accuracy"), number(scores, "commonest_token_accuracy")
    always = f"always “{scores.get('commonest_token', 'commonest token')}” {percent(guess, 2)}"
    return [
        ("MLM loss", decimal(loss, 4, "nats"), "", frequencies),
        ("MLM perplexity", decimal(number(scores, "mlm_perplexity"), 2), "", words),
        ("MLM accuracy", percent(accuracy, 2), _interval(scores, "mlm_accuracy_95"), always),
        ("Picked tokens", percent(number(scores, "picked_share"), 2), "", _mask_parts(scores)),
    ]


def _interval(scores: Record, key: str) -> str:
    ends = interval(scores.get(key), 2)
    return f"{ends}{SPACE}%" if ends else ""


def _mask_parts(scores: Record) -> str:
    histogram = scores.get("mask_histogram") or {}
    picked = sum(histogram.values())
    return ", ".join(f"{name} {percent(histogram.get(key, 0) / picked)}" for name, key in MASK_PARTS if picked)


def _pair_rows(scores: Record, words: PairWords) -> list[tuple[str, str, str, str]]:
    share = number(scores, "is_next_share")
    commoner = f"always the commoner label {percent(max(share, 1 - share), 2)}" if share is not None else ""
    first, second = words.labels
    labels = f"{first} {percent(share)}, {second} {percent(1 - share)}" if share is not None else ""
    loss, accuracy = decimal(number(scores, "nsp_loss"), 4, "nats"), percent(number(scores, "nsp_accuracy"), 2)
    return [
        (f"{words.short} loss", loss, "", f"guessing {decimal(GUESSING_LOSS, 4)}"),
        (f"{words.short} accuracy", accuracy, _interval(scores, "nsp_accuracy_95"), commoner),
        ("Sentence pairs", count(number(scores, "pairs")), "", labels),
    ]


# ---- configuration and environment ----------------------------------------------------------------------------------


def settings(config: PretrainConfig) -> dict[str, Any]:
    """Every setting by section, marked where it is not the default."""
    defaults = dict(flatten(to_dict(PretrainConfig())))
    sections: dict[str, list[dict[str, Any]]] = {}
    for key, value in flatten(to_dict(config)):
        section, _, name = key.rpartition(".")
        changed = key not in defaults or defaults[key] != value
        row = {
            "name": name,
            "value": plain(value),
            "changed": changed,
            "default": plain(defaults[key]) if key in defaults else "no such phase",
            "help": setting_help(key),
        }
        sections.setdefault(section or "run", []).append(row)
    rows = [row for section in sections.values() for row in section]
    return {"sections": sections, "count": len(rows), "changed": sum(row["changed"] for row in rows)}


def setting_help(key: str) -> str:
    """What a dotted setting means, as its field says."""
    kind: Any = PretrainConfig
    help = ""
    for part in key.split("."):
        if part.isdigit():
            continue
        place = next(field for field in dataclasses.fields(kind) if field.name == part)
        help = place.metadata.get("help", "")
        kind = type(place.default[0] if isinstance(place.default, tuple) else place.default)
    return help


def machine(run: Run) -> list[tuple[str, str]]:
    """Rows of environment.json."""
    names = {
        "bert_jax": "bert_jax",
        "jax": "JAX",
        "started": "Last started",
        "peak_flops_per_device": "Peak of a device",
        "peak_source": "Source of the peak",
    }
    rows = []
    for key, value in (run.environment or {}).items():
        text = moment(value) if key == "started" else plain(value)
        if key == "peak_flops_per_device":
            text = teraflops(value) if value else "not known"
        rows.append((names.get(key, key.replace("_", " ").capitalize()), text))
    return rows
