# SPDX-License-Identifier: Apache-2.0
"""The page of a duel: held-out loss over the time of training, ours beside Hugging Face's Trainer."""

from collections.abc import Iterator
from dataclasses import replace

from bert_jax.base.types import JsonObject
from bert_jax.checks.findings import Finding, WARNING
from bert_jax.pages.chart import around, between, Chart, curve_of, Level, tick_text
from bert_jax.pages.page import below, Card, command, Grid, Page, Panel, Paragraph, Section, Table, Tile
from bert_jax.pages.wording import count, counted, decimal, duration, moment

VERSIONS = ("bert_jax", "jax", "torch", "transformers")
OFF_PACE = 0.95  # a side with a smaller share of its time or of its steps has another schedule than was meant
FAIR = (
    "Both sides have the same training documents, entries of the vocabulary, shape of model, number type (float32) and cores,"
    " and the same time. The network of the peer is BertForMaskedLM.",
    "Trainer ran twice: by its own recipe (TrainingArguments and first weights as they are: AdamW, 5e-5, no warm-up, batches"
    " of 8), and by ours (peak rate and share of warm-up of our first schedule, batch of our longest rows, weight decay,"
    " moments, clipping, deviation of first weights). It has AdamW: where ours is Muon, it gets half of the rate, a tenth of"
    " the steps or more to warm up, and first weights as large as our positions. The better run is the opponent. Each has a"
    " schedule that is to end with the time, Trainer a linear one: the number of steps follows from the pace of a few steps"
    " before, which do not count, and the clock stops what takes longer.",
    "The peer's rows are full, made of whole documents as run_mlm.py makes them, and as long as our longest, which are what is"
    " scored. Held-out rows are pairs where our objective has pairs; the peer never saw a segment B, so that it gets the vector"
    " of segment A. Masks of held-out rows are the same for all models.",
    "Ours counts from its start-up on: checks, compilation (never from an earlier run), waiting for batches, steps. Trainer"
    " counts from the call that trains. Saving a model and scoring it count on neither side. Between two scores a curve is"
    " taken as a line; one that flattens lies below it, so that ours was there a little earlier than is said.",
)


def duel_words(record: JsonObject) -> str:
    """Say in a sentence who reached what, and when."""
    ours, theirs = _two(record)
    end = f"the {decimal(record['target_loss'])} nats that Trainer ends with after {decimal(theirs['seconds'], 0)} s"
    if "ratio" not in record:
        return f"Ours never reached {end}: it ends at {decimal(ours['loss'])}"
    most = "at most " if record["at_least"] else ""
    return f"Ours reached {end} in {most}{decimal(ours['seconds_to_the_loss'], 0)} s: {_times(record)} as fast"


def _times(record: JsonObject) -> str:
    return f"{'at least ' if record['at_least'] else ''}{record['ratio']:.1f} times"


def _two(record: JsonObject) -> tuple[JsonObject, JsonObject]:
    """Our side, which stands between the peer's, and the opponent."""
    ours = next(one for side, one in record["sides"].items() if "Trainer" not in side)
    return ours, record["sides"][record["opponent"]]


def off_pace(record: JsonObject) -> Iterator[Finding]:
    """Yield what to say of each side whose schedule did not end with its time."""
    for side, one in record["sides"].items():
        if min(one["seconds"] / record["seconds"], one["steps"] / one["planned_steps"]) < OFF_PACE:
            steps = f"{count(one['steps'])} of {count(one['planned_steps'])} steps"
            seen = f"{steps} in {one['seconds']:.0f} of {record['seconds']:g} s, as the pace changed after it was taken"
            yield Finding(WARNING, side, seen, remedy="run it again on a machine that does nothing else")


def duel_page(record: JsonObject, conditions: JsonObject, again: str) -> Page:
    """The page of the record of a duel, beside the conditions and the command of its report."""
    ours, theirs = _two(record)
    won, fair = "ratio" in record, [Paragraph(one, "footnote") for one in FAIR]
    used = record["peer_versions"] | conditions["versions"]
    return Page(
        title=f"Duel of {record['name']}",
        eyebrow="Pre-training for the same time, bert_jax beside Hugging Face's Trainer",
        name=f"Duel of {record['name']}",
        status=f"{_times(record)} as fast" if won else "ours never reached the peer's loss",
        state="" if won else "problem",
        facts=[
            ("Machine", f"{conditions['cpu']}, {counted(conditions['cores'], 'core')}"),
            ("Measured", moment(conditions["date"])),
            ("Model", f"{record['layers']} layers of {record['hidden']}, {count(record['vocabulary'])} entries"),
            ("Text", f"{count(record['documents'])} documents to train on"),
            ("Versions", ", ".join(f"{name} {used[name]}" for name in VERSIONS if name in used)),
        ],
        findings=list(off_pace(record)),
        tiles=[
            Tile(
                "Times as fast", f"{record['ratio']:.1f}" if won else "never", note="to the loss that Trainer ends with"
            ),
            Tile("Held-out loss, ours", decimal(ours["loss"]), "nats", f"after {duration(ours['seconds'])}"),
            Tile("Held-out loss, Trainer", decimal(theirs["loss"]), "nats", f"after {duration(theirs['seconds'])}"),
        ],
        tiles_note=f"{duel_words(record)}.",
        sections=[
            Section("loss", "Loss by time, and what counts", [Grid([_panel(record), Card(fair)])]),
            Section("sides", "Sides", [Card([_table(record)])]),
            Section("again", "Once more", [Card([Paragraph(command(again))])]),
        ],
        footer="Everything here stands in bench.json, for programs.",
    )


def _panel(record: JsonObject) -> Panel:
    """The curve of each side; the opponent's last loss across."""
    ours, opponent = _two(record)
    other = next(one for one in record["sides"].values() if one is not ours and one is not opponent)
    drawn = {
        "bert-jax": (ours, "held-out"),
        "Trainer": (opponent, "training"),
        "2nd recipe": (other, "training dashed"),
    }
    losses = [loss for one, _ in drawn.values() for _, loss in one["curve"]]
    chart = Chart(
        "held-out loss of each side by seconds of training",
        replace(between(0, max(one["seconds"] for one, _ in drawn.values()), tick_text), label="seconds of training"),
        around(losses),
        curves=[curve_of(one["curve"], style, name) for name, (one, style) in drawn.items()],
        level=Level(record["target_loss"], "Trainer's last loss"),
    )
    note = (
        f"{count(record['masked_tokens'])} masked tokens in rows of {record['sequence_length']}; the entropy of word"
        f" frequencies alone is {decimal(record['unigram_entropy'])}."
    )
    readings = [(name, decimal(one["loss"]), style) for name, (one, style) in drawn.items()]
    return Panel("Held-out loss", "nats a masked token", chart, readings, note)


def _table(record: JsonObject) -> Table:
    head = ["", "Recipe", "Text prepared in", "Trained for", "Steps", "Held-out loss", "To the opponent's"]
    rows = []
    for side, one in record["sides"].items():
        reached = one.get("seconds_to_the_loss", "")
        seconds = [one["preparation_seconds"], one["seconds"]]
        rows.append(
            [
                below(side, "the opponent" if side == record["opponent"] else ""),
                one["recipe"],
                *(decimal(value, 1, "s") for value in seconds),
                f"{count(one['steps'])} of {count(one['planned_steps'])}",
                decimal(one["loss"]),
                reached if isinstance(reached, str) else decimal(reached, 1, "s"),
            ]
        )
    return Table(head, rows, "runs")
