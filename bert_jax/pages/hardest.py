# SPDX-License-Identifier: Apache-2.0
"""The hardest examples of a fine-tuned run, which it gets wrong while it is surest."""

from collections.abc import Sequence
from dataclasses import dataclass

from bert_jax.pages.answer_tables import Scored, scored
from bert_jax.pages.page import Hard
from bert_jax.pages.wording import decimal, percent
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import Record

MOST = 12
LONGEST = 320  # characters of a text that are shown
AROUND = 14  # words shown on each side of a wrong tag
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Hardest:
    """The hardest examples of a split, and how many are wrong in words."""

    examples: list[Hard]
    lede: str


def hardest(run: FinetunedRun) -> Hardest:
    """The examples of the run's main split, the hardest first."""
    make = {"regression": _ratings, "span": _answers, "tagging": _tags, "multi_label": _sets_of_classes}
    return make.get(run.kind, _classes)(run)


def shown(text: str, most: int = LONGEST) -> str:
    """A text without its end where it is long; white space made single."""
    whole = " ".join(str(text).split())
    return whole if len(whole) <= most else f"{whole[:most].rstrip()} …"


def _hard(record: Record, truth: str, predicted: str, confidence: str) -> Hard:
    """An example with its whole text."""
    return Hard(str(record.get("name", "")), (shown(record.get("text", "")), "", ""), truth, predicted, confidence)


def _classes(run: FinetunedRun) -> Hardest:
    wrong = [record for record in run.labelled if record["label"] != record["predicted"]]
    wrong.sort(key=_confidence, reverse=True)
    examples = [
        _hard(
            record,
            run.class_words(record["label"]),
            run.class_words(record["predicted"]),
            f"with {percent(_confidence(record))}",
        )
        for record in wrong[:MOST]
    ]
    return Hardest(examples, _lede(len(wrong), len(run.labelled), "examples", "the surest first"))


def _sets_of_classes(run: FinetunedRun) -> Hardest:
    """Any number of classes is right: an example is as hard as its surest wrong decision."""
    wrong = [record for record in run.labelled if record["label"] != record["predicted"]]
    wrong.sort(key=_surest_decision, reverse=True)
    examples = [
        _hard(
            record,
            _listed(run, record["label"]),
            _listed(run, record["predicted"]),
            f"a wrong decision with {percent(_surest_decision(record))}",
        )
        for record in wrong[:MOST]
    ]
    return Hardest(examples, _lede(len(wrong), len(run.labelled), "examples", "the surest decision first"))


def _surest_decision(record: Record) -> float:
    """The highest probability of a decision about a class that is wrong; 0 where probabilities are not told."""
    wrong = set(record["label"]) ^ set(record["predicted"])
    shares = record.get("probabilities") or []
    return max((max(shares[place], 1 - shares[place]) for place in wrong if place < len(shares)), default=0.0)


def _listed(run: FinetunedRun, places: Sequence[int]) -> str:
    return ", ".join(run.class_words(place) for place in places) or "none"


def _confidence(record: Record) -> float:
    """The probability of the predicted class; 0 where it is not told."""
    shares = record.get("probabilities") or []
    return float(shares[record["predicted"]]) if record["predicted"] < len(shares) else 0.0


def _ratings(run: FinetunedRun) -> Hardest:
    worst = sorted(run.labelled, key=lambda record: abs(record["predicted"] - record["label"]), reverse=True)
    examples = [
        _hard(
            record,
            f"{record['label']:.4g}",
            decimal(record["predicted"], 2),
            f"which is {decimal(abs(record['predicted'] - record['label']), 2)} away",
        )
        for record in worst[:MOST]
    ]
    return Hardest(examples, f"The examples of {run.split} that are farthest from their rating.")


def _answers(run: FinetunedRun) -> Hardest:
    questions = scored(run)
    wrong = [one for one in questions if not one.exact]
    wrong.sort(key=lambda one: (_answer_confidence(one.record), -one.f1), reverse=True)
    examples = [_hard_answer(one) for one in wrong[:MOST]]
    return Hardest(examples, _lede(len(wrong), len(questions), "questions", "the surest first"))


def _hard_answer(one: Scored) -> Hard:
    record, confidence = one.record, _answer_confidence(one.record)
    truth = " / ".join(dict.fromkeys(record["label"])) or NO_ANSWER
    sure = f"with {percent(confidence)}" if confidence else "by the threshold"
    words = f"{sure}, F1 {percent(one.f1, 0)}"
    return _hard(record, shown(truth, 160), shown(record["predicted"] or NO_ANSWER, 160), words)


def _answer_confidence(record: Record) -> float:
    """The probability of what was answered; 0 where it is not among the best: "no answer" by the threshold."""
    candidates: Sequence[str] = record.get("candidates") or []
    shares = record.get("probabilities") or []
    known = dict(reversed(list(zip(candidates, shares, strict=False))))  # the first of equal texts
    return float(known.get(record["predicted"], 0.0))


def _tags(run: FinetunedRun) -> Hardest:
    """One word of a sentence, the one that is wrong with the highest probability."""
    wrong = [(place, record) for record in run.labelled if (place := _surest_mistake(record)) is not None]
    wrong.sort(key=lambda found: _share(found[1], found[0]), reverse=True)
    examples = [_hard_tag(record, place) for place, record in wrong[:MOST]]
    return Hardest(examples, _lede(len(wrong), len(run.labelled), "sentences", "the word that is surest first"))


def _surest_mistake(record: Record) -> int | None:
    pairs = enumerate(zip(record["label"], record["predicted"], strict=True))
    wrong = [place for place, (truth, predicted) in pairs if truth != predicted]
    return max(wrong, key=lambda place: _share(record, place), default=None)


def _share(record: Record, place: int) -> float:
    shares = record.get("probabilities") or []
    return float(shares[place]) if place < len(shares) else 0.0


def _hard_tag(record: Record, place: int) -> Hard:
    words = record["text"].split(" ")
    before, after = words[max(place - AROUND, 0) : place], words[place + 1 : place + 1 + AROUND]
    begin = "… " if place > AROUND else ""
    end = " …" if place + 1 + AROUND < len(words) else ""
    text = (f"{begin}{' '.join(before)} ".lstrip(), shown(words[place], 60), f" {' '.join(after)}{end}")
    confidence = f"with {percent(_share(record, place))}"
    return Hard(str(record.get("name", "")), text, record["label"][place], record["predicted"][place], confidence)


def _lede(wrong: int, of: int, things: str, order: str) -> str:
    return f"{wrong:,} of {of:,} {things} are wrong; here are {min(wrong, MOST)}, {order}." if wrong else ""
