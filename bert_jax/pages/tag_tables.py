# SPDX-License-Identifier: Apache-2.0
"""Scores of each type of phrase as conlleval counts them, and what is taken for what."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bert_jax.pages.class_tables import class_parts, Classes
from bert_jax.pages.page import Card, Paragraph, Part, Table
from bert_jax.pages.wording import count, percent, SPACE
from bert_jax.runs.finetuned import FinetunedRun, prediction_fields
from bert_jax.runs.reading import Record
from bert_jax.tasks.schemes import in_scheme, OUTSIDE, parse, Span, spans_of
from bert_jax.tasks.scoring import conll

MOST_CONFUSIONS = 12
HEAD = ["Type", "Precision", "Recall", "F1", "In the file", "Found", "Correct"]
NOTHING = "nothing"


class Confusion(NamedTuple):
    """A phrase of the truth and what became of it, or a predicted phrase and what it was made of."""

    truth: str
    predicted: str


def is_phrases(records: Sequence[Record]) -> bool:
    """Whether tags mark phrases (a scheme such as IOB2), and are no classes of words."""
    tags = {tag for record in records for tag in [*record["label"], *record["predicted"]]}
    return all(parse(tag) is not None for tag in tags) and any("-" in tag or "_" in tag for tag in tags)


def tag_parts(run: FinetunedRun) -> list[Part]:
    """Scores and confusions of phrases, where tags mark phrases, and words by class."""
    phrases = is_phrases(run.labelled)
    of_words = [_scored_words(record, run.scored_words(record)) for record in run.labelled]
    right = f"Without a mistake: {share_right(of_words)} sentences."
    classes = word_classes(of_words, phrases, run.record["labels"])
    words = class_parts(classes, "Words by true and predicted type", confusions=not phrases)
    if not phrases:
        return [Paragraph(f"Words of {run.split}. {right}", "lede"), *words]
    lede = f"Phrases of {run.split} as conlleval counts them: right where words and type are those of the file. {right}"
    records = [_scored_phrases(record, run.scored_words(record)) for record in run.labelled]
    parts: list[Part] = [Paragraph(lede, "lede"), Card([Table(HEAD, type_rows(records))], "Scores of each type")]
    if confusions := confusion_rows(records):
        note = "“Other words”: another beginning or end. “nothing”: a phrase that was missed, or made up."
        table = Table(["Truth", "Predicted", "Times", "For example"], confusions, "words")
        parts.append(Card([Paragraph(note, "footnote"), table], "Commonest confusions"))
    return [*parts, Paragraph("Words by type", "subtitle"), *words]


def _scored_words(record: Record, counts: Sequence[bool]) -> Record:
    """A sentence without the words that are not scored."""
    tags = {
        name: [tag for tag, one in zip(record[name], counts, strict=True) if one] for name in ("label", "predicted")
    }
    return {**record, **tags}


def _scored_phrases(record: Record, counts: Sequence[bool]) -> Record:
    """A sentence with no phrase in words that are not scored; one that is predicted and reaches into them does not count."""
    label = [tag if one else OUTSIDE for tag, one in zip(record["label"], counts, strict=True)]
    predicted = list(record["predicted"])
    for span in spans_of(predicted):
        if not all(counts[span.begin : span.end]):
            predicted[span.begin : span.end] = [OUTSIDE] * (span.end - span.begin)
    return {**record, "label": label, "predicted": predicted}


def type_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row of `HEAD` for each type, and for all."""
    gold, predicted = ([in_scheme(tags, "IOB2") for tags in field] for field in prediction_fields(records))
    found = conll.scores(gold, predicted)
    return [_type_row(name, row) for name, row in [*found["types"].items(), ("all", found)]]


def _type_row(name: str, row: Record) -> tuple[str, ...]:
    rates = (f"{row[key]:.2f}{SPACE}%" for key in ("precision", "recall", "FB1"))
    return (name or "(no type)", *rates, *(count(row[key]) for key in ("phrases", "found", "correct")))


# ---- what is taken for what ------------------------------------------------------------------------------------------


def confusion_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """The commonest mistakes on phrases: (truth, predicted, how often, an example)."""
    counts: Counter[Confusion] = Counter()
    examples: dict[Confusion, str] = {}
    for record in records:
        words = record["text"].split(" ")
        for confusion, span in phrase_confusions(record["label"], record["predicted"]):
            counts[confusion] += 1
            examples.setdefault(confusion, " ".join(words[span.begin : span.end]))
    return [(*confusion, count(times), examples[confusion]) for confusion, times in counts.most_common(MOST_CONFUSIONS)]


def phrase_confusions(gold: Sequence[str], predicted: Sequence[str]) -> Iterator[tuple[Confusion, Span]]:
    """Every mistake of a sentence: gold phrases that are not found, then predicted phrases where there is nothing."""
    wanted, found = spans_of(gold), spans_of(predicted)
    for span in wanted:
        if span not in found:
            yield Confusion(span.type, _taken_for(span, found)), span
    for span in found:
        if not any(_overlap(span, other) for other in wanted):
            yield Confusion(NOTHING, span.type), span


def _taken_for(span: Span, found: Sequence[Span]) -> str:
    """The prediction in the place of a phrase: the phrase that shares the most words with it."""
    best = max(found, key=lambda other: _overlap(span, other), default=None)
    if best is None or not _overlap(span, best):
        return NOTHING
    same_place = best[:2] == span[:2]
    return best.type if same_place else f"{best.type}, other words"


def _overlap(one: Span, other: Span) -> int:
    return max(0, min(one.end, other.end) - max(one.begin, other.begin))


def word_classes(records: Sequence[Record], phrases: bool, tags: Sequence[str]) -> Classes:
    """Every word by its tag (`tags`: of the task), of phrases by their type; O is first, the others by name."""

    def kind(tag: str) -> str:
        parsed = parse(tag) if phrases else None
        return tag if parsed is None or tag == OUTSIDE else parsed.type or "(no type)"

    gold, predicted = ([kind(tag) for tags in field for tag in tags] for field in prediction_fields(records))
    names = sorted({*gold, *predicted, *map(kind, tags)}, key=lambda name: (name != OUTSIDE, name))
    places = {name: place for place, name in enumerate(names)}
    return Classes([places[name] for name in gold], [places[name] for name in predicted], names.__getitem__, len(names))


def share_right(records: Sequence[Record]) -> str:
    """Sentences without a mistake."""
    right = sum(record["label"] == record["predicted"] for record in records)
    return f"{count(right)} of {count(len(records))} ({percent(right / len(records))})" if records else "–"
