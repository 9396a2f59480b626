# SPDX-License-Identifier: Apache-2.0
"""The hardest examples of a fine-tuned run, which it gets wrong while it is surest."""

from collections.abc import Iterator, Sequence

from bert_jax.pages.answer_tables import scored
from bert_jax.pages.page import Card, Hard, Paragraph, Part
from bert_jax.pages.wording import decimal, percent
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import Record

MOST = 12
LONGEST, LONGEST_ANSWER, LONGEST_WORD = 320, 160, 60  # characters of a text that are shown
AROUND = 14  # words shown on each side of a wrong tag
NO_ANSWER = "no answer"

type Ranked = Iterator[tuple[float, Hard]]  # how hard an example is, and the example


def hardest_parts(run: FinetunedRun) -> list[Part]:
    """The examples of the run's main split that are predicted wrong, the hardest first; none where all are right."""
    make, things, order = {
        "regression": (_ratings, "", ""),
        "span": (_answers, "questions", "the surest first"),
        "tagging": (_tags, "sentences", "the word that is surest first"),
        "multi_label": (_sets_of_classes, "examples", "the surest decision first"),
    }.get(run.kind, (_classes, "examples", "the surest first"))
    ranked = sorted(make(run), key=lambda found: found[0], reverse=True)
    if not ranked:
        return []
    lede = f"The examples of {run.split} that are farthest from their rating."
    if order:
        total = len(scored(run)) if run.kind == "span" else len(run.labelled)
        lede = f"{len(ranked):,} of {total:,} {things} are wrong; here are {min(len(ranked), MOST)}, {order}."
    return [Paragraph(lede, "lede"), Card([example for _, example in ranked[:MOST]])]


def shown(text: str, most: int = LONGEST) -> str:
    """A text without its end where it is long; white space made single."""
    whole = " ".join(str(text).split())
    return whole if len(whole) <= most else f"{whole[:most].rstrip()} …"


def _hard(record: Record, truth: str, predicted: str, confidence: str) -> Hard:
    """An example with its whole text."""
    return Hard(str(record.get("name", "")), (shown(record.get("text", "")), "", ""), truth, predicted, confidence)


def _wrong(run: FinetunedRun) -> Iterator[Record]:
    return (record for record in run.labelled if record["label"] != record["predicted"])


def _share(record: Record, place: int) -> float:
    """The probability at a place; 0 where it is not told."""
    shares = record.get("probabilities") or []
    return float(shares[place]) if place < len(shares) else 0.0


def _classes(run: FinetunedRun) -> Ranked:
    for record in _wrong(run):
        truth, predicted = run.class_words(record["label"]), run.class_words(record["predicted"])
        confidence = _share(record, record["predicted"])
        yield confidence, _hard(record, truth, predicted, f"with {percent(confidence)}")


def _sets_of_classes(run: FinetunedRun) -> Ranked:
    """Examples with any number of classes, each as hard as its surest wrong decision."""
    for record in _wrong(run):
        places = set(record["label"]) ^ set(record["predicted"])
        shares = [_share(record, place) for place in places if place < len(record.get("probabilities") or [])]
        surest = max((max(share, 1 - share) for share in shares), default=0.0)
        truth, predicted = _listed(run, record["label"]), _listed(run, record["predicted"])
        yield surest, _hard(record, truth, predicted, f"where the surest wrong decision has {percent(surest)}")


def _listed(run: FinetunedRun, places: Sequence[int]) -> str:
    return ", ".join(run.class_words(place) for place in places) or "none"


def _ratings(run: FinetunedRun) -> Ranked:
    for record in run.labelled:
        truth, predicted = record["label"], record["predicted"]
        away = abs(predicted - truth)
        yield away, _hard(record, f"{truth:.4g}", decimal(predicted, 2), f"which is {decimal(away, 2)} away")


def _answers(run: FinetunedRun) -> Ranked:
    for one in sorted(scored(run), key=lambda one: one.f1):
        if not one.exact:
            record, confidence = one.record, _answer_confidence(one.record)
            truth = " / ".join(dict.fromkeys(record["label"])) or NO_ANSWER
            sure = f"with {percent(confidence)}" if confidence else "by the threshold"
            answers = shown(truth, LONGEST_ANSWER), shown(record["predicted"] or NO_ANSWER, LONGEST_ANSWER)
            yield confidence, _hard(record, *answers, f"{sure}, F1 {percent(one.f1, 0)}")


def _answer_confidence(record: Record) -> float:
    """The probability of what was answered; 0 where it is not among the best: "no answer" by the threshold."""
    candidates: Sequence[str] = record.get("candidates") or []
    shares = record.get("probabilities") or []
    known = dict(reversed(list(zip(candidates, shares, strict=False))))  # the first of equal texts
    return float(known.get(record["predicted"], 0.0))


def _tags(run: FinetunedRun) -> Ranked:
    """Sentences, each with the word that is wrong with the highest probability."""
    for record in run.labelled:
        words = enumerate(zip(record["label"], record["predicted"], run.scored_words(record), strict=True))
        wrong = [
            (_share(record, place), -place) for place, (truth, found, counts) in words if counts and truth != found
        ]
        if wrong:
            confidence, place = max(wrong)
            yield confidence, _hard_tag(record, -place)


def _hard_tag(record: Record, place: int) -> Hard:
    words = record["text"].split(" ")
    before, after = words[max(place - AROUND, 0) : place], words[place + 1 : place + 1 + AROUND]
    begin = "… " if place > AROUND else ""
    end = " …" if place + 1 + AROUND < len(words) else ""
    text = (f"{begin}{' '.join(before)} ".lstrip(), shown(words[place], LONGEST_WORD), f" {' '.join(after)}{end}")
    confidence = f"with {percent(_share(record, place))}"
    return Hard(str(record.get("name", "")), text, record["label"][place], record["predicted"][place], confidence)
