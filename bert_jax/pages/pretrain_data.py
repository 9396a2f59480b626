# SPDX-License-Identifier: Apache-2.0
"""The data section of the page: the passport, what the first batches held, shares over the run, epochs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bert_jax.config.objective import pair_words
from bert_jax.pages.pretrain_summary import input_files
from bert_jax.pages.wording import count, decimal, percent, picked_words, SPACE
from bert_jax.runs.reading import mean_share, number, Record, Run


def data_tables(run: Run) -> dict[str, Any] | None:
    """What the passport says: rows of (measure, value in each split), input files, how it was prepared."""
    if run.data is None:
        return None
    names = {"train": "Training", "validation": "Held-out"}
    splits = {names.get(name, name): split for name, split in run.data.get("splits", {}).items()}
    rows = _split_rows(run, list(splits.values()))
    for length in run.data.get("sequence_lengths", []):
        rows += _length_rows([run.examples(split, length) for split in splits.values()], length)
    inputs = input_files(run.data)
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


def _length_rows(tables: Sequence[Record], length: int) -> list[tuple[str, ...]]:
    """Of the examples that the run's objective trains on; `tables` are what the passport says of each split's."""

    def each(key: str, text: Callable[[float | None], str]) -> list[str]:
        return [text(number(table, key)) for table in tables]

    def labels(share: float | None) -> str:
        return "none" if share is None else f"{100 * share:.1f} / {percent(1 - share)}"

    rows = [
        (f"Examples of {length} tokens", *each("examples", count)),
        (f"Not padding if padded, {length} tokens", *each("valid_token_share", percent)),
    ]
    for key, words in (("is_next_share", "IsNext / NotNext"), ("in_order_share", "In order / swapped")):
        if any(number(table, key) is not None for table in tables):
            rows.insert(1, (f"{words}, {length} tokens", *each(key, labels)))
    return rows


def _prepared(data: Record) -> str:
    return (
        f"Vocabulary of {count(number(data, 'vocab_size'))} entries,"
        f" tokenizer {str(data.get('tokenizer', 'not recorded'))[:12]};"
        f" {percent(number(data, 'held_out'))} held out; random next sentence with probability"
        f" {data.get('random_next_prob', 'not recorded')}; shorter examples with probability"
        f" {data.get('short_seq_prob', 'not recorded')}; examples for {', '.join(data.get('kinds', []))};"
        f" seed {data.get('seed', 'not recorded')}; licence of the text: {data.get('licence') or 'not recorded'}."
    )


def passes(run: Run) -> list[tuple[str, ...]]:
    """Rows of (phase, epochs, steps, tokens in a row, batch, rows seen, examples a row, examples), and their sum."""
    left, rows, total = run.last_step, [], 0.0
    for place, phase in enumerate(run.config.phases):
        done = min(left, phase.steps)
        left -= done
        examples = number(run.examples(run.train_split, phase.sequence_length), "examples")
        per_row = _examples_per_row(run, place)
        epochs = done * phase.batch_size * per_row / examples if examples and per_row is not None else None
        total += math.nan if epochs is None else epochs
        steps = f"{count(done)} of {count(phase.steps)}"
        sizes = map(count, (phase.sequence_length, phase.batch_size, done * phase.batch_size))
        rows.append((f"Phase{SPACE}{place}", decimal(epochs, 2), steps, *sizes, decimal(per_row, 2), count(examples)))
    if len(rows) > 1:
        steps = f"{count(run.last_step)} of {count(run.config.total_steps)}"
        rows.append(("All", decimal(None if math.isnan(total) else total, 2), steps, "", "", "", "", ""))
    return rows


def _examples_per_row(run: Run, phase: int) -> float | None:
    """Mean over a phase's logged steps; 1 where every row holds an example, None where nothing is logged yet."""
    if run.config.packing == "padded":
        return 1.0
    logged = [number(record, "examples_per_row") for record in run.train if record.get("phase") == phase]
    known = [value for value in logged if value is not None]
    return math.fsum(known) / len(known) if known else None


def shares(run: Run) -> list[dict[str, Any]]:
    """Measured shares beside the configured ones, over all logged steps."""
    objective, words = run.config.objective, pair_words(run.config.objective)
    constant = objective.mlm_probability if objective.mlm_probability_end is None else None
    wanted: list[tuple[str, str, float | None, str]] = [
        ("Picked and predicted, of all tokens", "picked_share", constant, picked_words(objective)),
        _wanted("Picked: replaced by [MASK]", "mask_share", objective.mask_share),
        _wanted("Picked: replaced by a random token", "random_share", objective.random_share),
        _wanted("Picked: kept as it is", "kept_share", 1 - objective.mask_share - objective.random_share),
        _wanted("Not padding, of the tokens of all rows", "valid_token_share", None),
    ]
    if words is not None:
        random_next = number(run.data, "random_next_prob") if words.short == "NSP" else 0.5
        expected = None if random_next is None else 1 - random_next
        wanted.append(_wanted(f"Pairs: {words.labels[0]}, the rest {words.labels[1]}", "is_next_share", expected))
    rows = []
    for label, key, configured, text in wanted:
        measured = mean_share(run.train, key)
        if measured is not None:
            words_of = {"measured_text": percent(measured, 2), "configured_text": text}
            rows.append({"label": label, "measured": measured, "configured": configured, **words_of})
    return rows


def _wanted(label: str, key: str, configured: float | None) -> tuple[str, str, float | None, str]:
    """A share to show: how it is called, its name in metrics.jsonl, what is configured and that in words."""
    return label, key, configured, "" if configured is None else percent(configured)


def first_batches(run: Run) -> dict[str, Any] | None:
    """What was measured before the first step: rows of (measure, value in each phase); None where it is not logged."""
    if not run.first_batches:
        return None
    records = run.first_batches

    def each(key: str, text: Callable[[float | None], str]) -> list[str]:
        return [text(number(record, key)) for record in records]

    rows = [
        ("Tokens in a row", *each("sequence_length", count)),
        ("Batches that were measured", *each("batches", count)),
        ("Picked tokens", *each("picked", count)),
        ("Not padding", *each("valid_token_share", percent)),
        ("Examples a row", *each("examples_per_row", lambda value: decimal(value, 2))),
        ("Picked, of all tokens", *each("picked_share", lambda value: percent(value, 2))),
        ("Shown as [MASK] / random / kept", *map(_treatment, records)),
        ("Chi-square p of these", *each("p_value", lambda value: "not recorded" if value is None else f"{value:.2g}")),
        ("Tokens picked as one", *each("mean_unit_length", lambda value: decimal(value, 2))),
        ("Words picked as one", *each("mean_unit_words", lambda value: decimal(value, 2))),
        ("Picked tokens in whole words", *each("whole_word_share", percent)),
    ]
    words = pair_words(run.config.objective)
    if words is not None:
        rows.append((f"{words.labels[0]}, of all pairs", *each("is_next_share", percent)))
    return {"head": ["", *(f"Phase{SPACE}{count(number(record, 'phase'))}" for record in records)], "rows": rows}


def _treatment(record: Record) -> str:
    counts = list((record.get("treatment") or {}).values())
    total = sum(counts)
    return " / ".join(f"{100 * part / total:.1f}" for part in counts) + f"{SPACE}%" if total else "not recorded"
