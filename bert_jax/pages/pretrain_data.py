# SPDX-License-Identifier: Apache-2.0
"""The data section of a pre-training run: the passport, what the first batches held, shares over the run, epochs."""

import math
from collections.abc import Callable, Sequence

from bert_jax.config.objective import pair_words
from bert_jax.pages.page import Bar, Bars, beside, Card, Fold, Grid, Paragraph, Part, Section, Table
from bert_jax.pages.passport_tables import split_table
from bert_jax.pages.pretrain_summary import input_files
from bert_jax.pages.wording import count, decimal, percent, picked_words, SPACE
from bert_jax.runs.reading import mean_share, number, Record, Run


def data_section(run: Run) -> Section:
    """The section about the data of a run, as the passport tells of it and as it was measured."""
    missing = Paragraph("passport.json is missing from the run directory.", "card absent")
    parts: list[Part] = [missing if run.data is None else _passport_grid(run, run.data)]
    if run.first_batches:
        small = "measured on the first batches of each phase"
        parts.append(Card([first_batches(run)], "Before the first step", small))
    parts.append(Card([passes(run)], "Epochs", "passes over the training examples"))
    return Section("data", "Data", parts)


def _passport_grid(run: Run, data: Record) -> Grid:
    inputs = input_files(data)
    size = count(sum(number(entry, "bytes") or 0 for entry in inputs))
    files = Table(["File", "Bytes"], [(entry.get("file", ""), count(number(entry, "bytes"))) for entry in inputs])
    fold = Fold("Input files", f"{len(inputs)}, {size} bytes", [files], open=len(inputs) <= 6)
    bars = shares(run)
    measured: Part = Bars(bars) if bars else Paragraph("Nothing measured yet: no step is logged.", "muted")
    masks = [Paragraph("The upright mark is the configured share.", "footnote"), measured]
    cards = [
        Card(masks, "Masks and pairs" if run.config.objective.masks else "Rows", "measured, over all logged steps"),
        Card([fold, Paragraph(_prepared(data), "footnote")]),
    ]
    return Grid([Card([splits(run, data)]), Grid(cards, "stack")])


def splits(run: Run, data: Record) -> Table:
    """The counts that the passport has of each split, and of the examples that the run's objective trains on."""
    rows: list[Sequence[str]] = []
    for length in data.get("sequence_lengths", []):
        rows += _length_rows([run.examples(split, length) for split in data.get("splits", {}).values()], length)
    return split_table(data, run.token, rows)


def _length_rows(tables: Sequence[Record], length: int) -> list[Sequence[str]]:
    """Rows about the examples that the run's objective trains on; `tables` has the passport's entry of each split."""

    def each(key: str, text: Callable[[float | None], str]) -> list[str]:
        return [text(number(table, key)) for table in tables]

    def labels(share: float | None) -> str:
        return "none" if share is None else f"{100 * share:.1f} / {percent(1 - share)}"

    rows = [(f"Examples of {length} tokens", *each("examples", count))]
    for key, words in (("is_next_share", "IsNext / NotNext"), ("in_order_share", "In order / swapped")):
        if any(number(table, key) is not None for table in tables):
            rows.append((f"{words}, {length} tokens", *each(key, labels)))
    return [*rows, (f"Not padding if padded, {length} tokens", *each("valid_token_share", percent))]


def _prepared(data: Record) -> str:
    return (
        f"Vocabulary of {count(number(data, 'vocab_size'))} entries,"
        f" tokenizer {str(data.get('tokenizer', 'not recorded'))[:12]};"
        f" {percent(number(data, 'held_out'))} held out; random next sentence with probability"
        f" {data.get('random_next_prob', 'not recorded')}; shorter examples with probability"
        f" {data.get('short_seq_prob', 'not recorded')}; examples for {', '.join(data.get('kinds', []))};"
        f" seed {data.get('seed', 'not recorded')}; licence of the text: {data.get('licence') or 'not recorded'}."
    )


def passes(run: Run) -> Table:
    """How often each phase passes over the training examples, and all phases together."""
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
    head = ["", "Epochs", "Steps", "Tokens in a row", "Batch", "Rows seen", "Examples a row", "Examples"]
    return Table(head, rows)


def _examples_per_row(run: Run, phase: int) -> float | None:
    """Mean over a phase's logged steps; 1 where every row holds an example, None where nothing is logged yet."""
    if run.config.packing == "padded":
        return 1.0
    logged = [number(record, "examples_per_row") for record in run.train if record.get("phase") == phase]
    known = [value for value in logged if value is not None]
    return math.fsum(known) / len(known) if known else None


def shares(run: Run) -> list[Bar]:
    """Measured shares beside the configured ones, over all logged steps; what was not measured is left out."""
    objective, words = run.config.objective, pair_words(run.config.objective)
    constant = objective.mlm_probability if objective.mlm_probability_end is None else None
    kept = 1 - objective.mask_share - objective.random_share
    wanted = (
        []
        if not objective.masks
        else [
            ("Picked and predicted, of all tokens", "picked_share", constant),
            ("Picked: replaced by [MASK]", "mask_share", objective.mask_share),
            ("Picked: replaced by a random token", "random_share", objective.random_share),
            ("Picked: kept as it is", "kept_share", kept),
        ]
    )
    wanted.append(("Not padding, of the tokens of all rows", "valid_token_share", None))
    if words is not None:
        random_next = number(run.data, "random_next_prob") if words.short == "NSP" else 0.5
        expected = None if random_next is None else 1 - random_next
        wanted.append((f"Pairs: {words.labels[0]}, the rest {words.labels[1]}", "is_next_share", expected))
    bars = []
    for label, key, configured in wanted:
        measured = mean_share(run.train, key)
        text = picked_words(objective) if key == "picked_share" else "" if configured is None else percent(configured)
        if measured is not None:
            words_of = beside(percent(measured, 2), f"of {text} configured" if text else "")
            bars.append(Bar(label, measured, words_of, configured))
    return bars


def first_batches(run: Run) -> Table:
    """The table of what was measured before the first step, phase by phase."""
    records = run.first_batches

    def each(key: str, text: Callable[[float | None], str]) -> list[str]:
        return [text(number(record, key)) for record in records]

    head = ["", *(f"Phase{SPACE}{count(number(record, 'phase'))}" for record in records)]
    rows = [
        ("Tokens in a row", *each("sequence_length", count)),
        ("Batches that were measured", *each("batches", count)),
        ("Not padding", *each("valid_token_share", percent)),
        ("Examples a row", *each("examples_per_row", lambda value: decimal(value, 2))),
    ]
    if not run.config.objective.masks:
        rows.append(("Next tokens to predict", *each("predicted", count)))
        rows.append(("Labels that are the token behind", *each("next_share", percent)))
        return Table(head, rows)
    rows += [
        ("Picked tokens", *each("picked", count)),
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
    return Table(head, rows)


def _treatment(record: Record) -> str:
    counts = list((record.get("treatment") or {}).values())
    total = sum(counts)
    return " / ".join(f"{100 * part / total:.1f}" for part in counts) + f"{SPACE}%" if total else "not recorded"
