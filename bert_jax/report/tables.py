# SPDX-License-Identifier: Apache-2.0
"""The tables of the page: evaluation, data, epochs, shares, settings, environment."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from bert_jax.config import flatten, PretrainConfig, to_dict
from bert_jax.report.run_files import mean_share, number, Record, Run
from bert_jax.report.summary import newest_scores
from bert_jax.report.wording import (
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

MASK_PARTS = (("[MASK]", "mask"), ("random", "random"), ("kept", "kept"))


def evaluation_table(run: Run) -> dict[str, Any] | None:
    """Rows of (measure, value, 95 % interval, for comparison); None where nothing is evaluated."""
    scores = run.evaluation
    if scores is None:
        return None
    rows = _mlm_rows(scores)
    if number(scores, "nsp_accuracy") is not None:
        rows += _nsp_rows(scores)
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


def _nsp_rows(scores: Record) -> list[tuple[str, str, str, str]]:
    share = number(scores, "is_next_share")
    commoner = f"always the commoner label {percent(max(share, 1 - share), 2)}" if share is not None else ""
    labels = f"IsNext {percent(share)}, NotNext {percent(1 - share)}" if share is not None else ""
    loss, accuracy = decimal(number(scores, "nsp_loss"), 4, "nats"), percent(number(scores, "nsp_accuracy"), 2)
    return [
        ("NSP loss", loss, "", f"guessing {decimal(GUESSING_LOSS, 4)}"),
        ("NSP accuracy", accuracy, _interval(scores, "nsp_accuracy_95"), commoner),
        ("Sentence pairs", count(number(scores, "pairs")), "", labels),
    ]


# ---- data -----------------------------------------------------------------------------------------------------------


def data_tables(run: Run) -> dict[str, Any] | None:
    """What data.json says: rows of (measure, value in each split), input files, how it was prepared."""
    if run.data is None:
        return None
    names = {"train": "Training", "validation": "Held-out"}
    splits = {names.get(name, name): split for name, split in run.data.get("splits", {}).items()}
    rows = _split_rows(run, list(splits.values()))
    for length in run.data.get("sequence_lengths", []):
        rows += _length_rows(list(splits.values()), str(length))
    inputs = run.data.get("inputs", [])
    return {
        "head": ["", *splits],
        "rows": rows,
        "inputs": [(entry.get("file", ""), count(number(entry, "bytes"))) for entry in inputs],
        "bytes": count(sum(number(entry, "bytes") or 0 for entry in inputs)),
        "prepared": _prepared(run.data),
    }


def _split_rows(run: Run, splits: Sequence[Record]) -> list[tuple[str, ...]]:
    names = ("documents", "sentences", "tokens")
    return [
        *((name.capitalize(), *(count(number(split, name)) for split in splits)) for name in names),
        ("Unknown tokens", *(_unknown(split) for split in splits)),
        ("Unigram entropy", *(decimal(number(split, "unigram_entropy"), 3, "nats") for split in splits)),
        ("Commonest token", *(_commonest(run, split) for split in splits)),
    ]


def _unknown(split: Record) -> str:
    unknown, tokens = number(split, "unknown_tokens"), number(split, "tokens")
    share = f" ({percent(unknown / tokens, 2)})" if unknown is not None and tokens else ""
    return count(unknown) + share


def _commonest(run: Run, split: Record) -> str:
    place = split.get("commonest_token")
    token = run.token(place)
    words = f"id {place}" if token is None else f"“{token}”"
    return f"{words} ({percent(number(split, 'commonest_token_share'), 2)})"


def _length_rows(splits: Sequence[Record], length: str) -> list[tuple[str, ...]]:
    def each(key: str, text: Callable[[float | None], str]) -> list[str]:
        return [text(number(split.get(key, {}), length)) for split in splits]

    def labels(share: float | None) -> str:
        return "not recorded" if share is None else f"{100 * share:.1f} / {percent(1 - share)}"

    return [
        (f"Examples of {length} tokens", *each("examples", count)),
        (f"IsNext / NotNext, {length} tokens", *each("is_next_share", labels)),
        (f"Not padding, {length} tokens", *each("valid_token_share", percent)),
    ]


def _prepared(data: Record) -> str:
    return (
        f"Vocabulary of {count(number(data, 'vocab_size'))} entries,"
        f" tokenizer {str(data.get('tokenizer', 'not recorded'))[:12]};"
        f" {percent(number(data, 'held_out'))} held out; random next sentence with probability"
        f" {data.get('random_next_prob', 'not recorded')}; shorter examples with probability"
        f" {data.get('short_seq_prob', 'not recorded')}; seed {data.get('seed', 'not recorded')}."
    )


def passes(run: Run) -> list[tuple[str, ...]]:
    """Rows of (phase, epochs, steps, tokens in a row, batch, rows seen, examples), and their sum."""
    examples_of, left, rows, total = run.train_split.get("examples", {}), run.last_step, [], 0.0
    for place, phase in enumerate(run.config.phases):
        done = min(left, phase.steps)
        left -= done
        examples = number(examples_of, str(phase.sequence_length))
        epochs = done * phase.batch_size / examples if examples else None
        total += math.nan if epochs is None else epochs
        steps = f"{count(done)} of {count(phase.steps)}"
        sizes = (phase.sequence_length, phase.batch_size, done * phase.batch_size, examples)
        rows.append((f"Phase{SPACE}{place}", decimal(epochs, 2), steps, *map(count, sizes)))
    if len(rows) > 1:
        steps = f"{count(run.last_step)} of {count(run.config.total_steps)}"
        rows.append(("All", decimal(None if math.isnan(total) else total, 2), steps, "", "", "", ""))
    return rows


def shares(run: Run) -> list[dict[str, Any]]:
    """Measured shares beside the configured ones, over all logged steps."""
    objective, random_next = run.config.objective, number(run.data, "random_next_prob")
    wanted: list[tuple[str, str, float | None]] = [
        ("Picked and predicted, of all tokens", "picked_share", objective.mlm_probability),
        ("Picked: replaced by [MASK]", "mask_share", objective.mask_share),
        ("Picked: replaced by a random token", "random_share", objective.random_share),
        ("Picked: kept as it is", "kept_share", 1 - objective.mask_share - objective.random_share),
        ("Pairs: IsNext, the rest NotNext", "is_next_share", None if random_next is None else 1 - random_next),
    ]
    rows = []
    for label, key, configured in wanted:
        measured = mean_share(run.train, key)
        if measured is not None:
            words = {"measured_text": percent(measured, 2), "configured_text": percent(configured)}
            rows.append({"label": label, "measured": measured, "configured": configured, **words})
    return rows


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
