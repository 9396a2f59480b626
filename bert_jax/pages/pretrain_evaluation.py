# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a pre-training run (evaluation.json) on its page: the table of scores, and sample predictions."""

import re
from collections.abc import Sequence

import markupsafe

from bert_jax.base.errors import listed
from bert_jax.base.files import reading
from bert_jax.config.objective import pair_words, PairWords, TokenWords
from bert_jax.pages.notices import evaluate_command
from bert_jax.pages.page import Card, command, filled, MaskedSlot, Paragraph, Part, Sample, Section, Table
from bert_jax.pages.pretrain_summary import newest_scores
from bert_jax.pages.wording import (
    count,
    counted,
    decimal,
    exponential,
    GUESSING_LOSS,
    interval,
    ngram_names,
    percent,
    perplexity,
    SPACE,
    spoken_ngram,
)
from bert_jax.runs.names import EVALUATION_FILE, EVALUATION_TEXT_FILE
from bert_jax.runs.reading import number, Record, Run

MASK_PARTS = (("[MASK]", "mask"), ("random", "random"), ("kept", "kept"))


def evaluation_section(run: Run) -> Section:
    """The scores on held-out text beside what can be had without a model."""
    return Section("evaluation", "Evaluation", [*_held_out_parts(run), *_text_parts(run)])


def _held_out_parts(run: Run) -> list[Part]:
    scores = run.evaluation
    if scores is None:
        words = "Not evaluated yet. This scores the newest checkpoint on held-out text: {}"
        return [Paragraph(filled(words, command(evaluate_command(run))), "card absent")]
    length, predicted = (count(number(scores, key)) for key in ("sequence_length", run.tokens.counter))
    caption = f"{newest_scores(run)[1]}, sequences of {length} tokens, {predicted} {run.tokens.predicted}"
    rows = [row for words in run.directions for row in _token_rows(scores, words)]
    rows += _replaced_rows(scores) if number(scores, "rtd_loss") is not None else []
    words_of_pairs = pair_words(run.config.objective)
    if words_of_pairs is not None and number(scores, "nsp_accuracy") is not None:
        rows += _pair_rows(scores, words_of_pairs)
    table = Table(["Measure", "Value", "95 % interval", "For comparison"], rows, "scores")
    return [Paragraph(caption, "lede"), Card([table])]


def _text_parts(run: Run) -> list[Part]:
    """The scores on a text that was named, with n-gram models of another text as floors."""
    scores = run.evaluation_text
    if scores is None:
        return []
    with reading(run.directory / EVALUATION_TEXT_FILE, "make it again with bert-jax evaluate"):
        text, pseudo = scores["text"], scores.get("pseudo") or {}
        caption = (
            f"A text of {counted(text['sentences'], 'sentence')}, {listed(file['file'] for file in text['files'])}, at step"
            f" {count(number(scores, 'step'))}"
        )
        if ngrams := scores.get("ngrams"):
            caption += f". What a language model has to be better than: n-gram models of {ngrams['text']}"
        rows = [
            _text_row(f"{words.short}, {count(number(scores, words.counter))} {words.predicted}", scores, words.term)
            for words in run.directions
        ]
        alike = "the same tokens" if run.config.objective.masks else "the same tokens without [SEP]"
        rows += [_text_row(f"{spoken_ngram(name)}, {alike}", scores, name) for name in ngram_names(scores)]
        if "loss" in pseudo:
            rows.append(_text_row(f"pseudo-perplexity, {count(pseudo['tokens'])} tokens, each masked in turn", pseudo))
            rows += [_text_row(f"{spoken_ngram(name)}, the same tokens", pseudo, name) for name in ngram_names(pseudo)]
    return [Paragraph(caption, "lede"), Card([Table(["Any text", "Perplexity", "Loss"], rows, "scores")])]


def _text_row(name: str, scores: Record, term: str = "") -> tuple[str, str, str]:
    own = (number(scores, f"{term}_{of}" if term else of) for of in ("perplexity", "loss"))
    return name, decimal(next(own), 2), decimal(next(own), 4, "nats")


def _token_rows(scores: Record, tokens: TokenWords) -> list[tuple[str, str, str, str]]:
    term, short = tokens.term, tokens.short
    loss, unigram, entropy = (number(scores, key) for key in (f"{term}_loss", "unigram_loss", "unigram_entropy"))
    frequencies = f"unigram model, same tokens {decimal(unigram)}; entropy of the training text {decimal(entropy)}"
    words = f"unigram model {perplexity(exponential(unigram))}"
    accuracy, guess = number(scores, f"{term}_accuracy"), number(scores, "commonest_token_accuracy")
    always = f"always “{scores.get('commonest_token', 'commonest token')}” {percent(guess, 2)}"
    rows = [
        (f"{short} loss", decimal(loss, 4, "nats"), "", frequencies),
        (f"{short} perplexity", decimal(number(scores, f"{term}_perplexity"), 2), "", words),
        (f"{short} accuracy", percent(accuracy, 2), _interval(scores, f"{term}_accuracy_95"), always),
    ]
    if "mask_histogram" in scores:
        rows.append(("Picked tokens", percent(number(scores, "picked_share"), 2), "", _mask_parts(scores)))
    return rows


def _interval(scores: Record, key: str) -> str:
    ends = interval(scores.get(key), 2)
    return f"{ends}{SPACE}%" if ends else ""


def _mask_parts(scores: Record) -> str:
    histogram = scores.get("mask_histogram") or {}
    picked = sum(histogram.values())
    return ", ".join(f"{name} {percent(histogram.get(key, 0) / picked)}" for name, key in MASK_PARTS if picked)


def _replaced_rows(scores: Record) -> list[tuple[str, str, str, str]]:
    share, always = (percent(number(scores, key), 2) for key in ("replaced_share", "rtd_always_original"))
    flagged = f"of the tokens called replaced {percent(number(scores, 'rtd_precision'), 2)} were"
    level = f"the same probability for all {decimal(number(scores, 'rtd_share_loss'), 4)}; {share} of all tokens were replaced"
    return [
        ("Replaced tokens found", percent(number(scores, "rtd_recall"), 2), "", flagged),
        ("RTD accuracy", percent(number(scores, "rtd_accuracy"), 2), "", f"always “original” {always}"),
        ("RTD loss", decimal(number(scores, "rtd_loss"), 4, "nats"), "", level),
    ]


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


# ---- samples ---------------------------------------------------------------------------------------------------------


def samples_section(run: Run) -> Section:
    """Texts with slots for some of their words, and what the model predicts there."""
    evaluation = run.evaluation or {}
    with reading(run.directory / EVALUATION_FILE, "make it again with bert-jax evaluate"):
        parts: list[Part] = [Card([sample(one)], style="sample") for one in evaluation.get("samples", [])]
    if parts:
        right, wrong = (markupsafe.Markup(f'<span class="mask {style}">{{}}</span>') for style in ("right", ""))
        lede = (
            f"Text of the {evaluation.get('split', 'validation')} split. The true words stand in the slots: {{}} where"
            " the model ranks them first, {} where it does not. "
        )
        lede += (
            "The model saw the words before the slot, the true ones, and nothing behind it."
            if not run.config.objective.masks
            else "The model saw [MASK] there; a few of the other words may be random ones, put in place of picked tokens."
        )
        parts.insert(0, Paragraph(filled(lede, right.format("green"), wrong.format("amber")), "lede"))
    else:
        words = filled("No samples yet. The evaluation makes them: {}", command(evaluate_command(run)))
        parts.append(Paragraph(words, "card absent"))
    return Section("samples", "Sample predictions", parts)


def sample(record: Record) -> Sample:
    """A sample text in pieces, with the predictions of each masked slot and of the pair."""
    answers, predictions = record.get("answers", []), record.get("predictions", [])
    slots = [
        MaskedSlot(place, answer, [(str(token), float(share)) for token, share in ranked])
        for place, (answer, ranked) in enumerate(zip(answers, predictions, strict=False), 1)
    ]
    return Sample(_pieces(record.get("text", ""), slots), _pair_words(record.get("pair")))


def _pieces(text: str, slots: Sequence[MaskedSlot]) -> list[str | MaskedSlot | None]:
    """The text cut at [MASK] and [SEP]."""
    pieces: list[str | MaskedSlot | None] = []
    left = iter(slots)
    for piece in re.split(r"(\[MASK\]|\[SEP\])", text):
        slot = next(left, None) if piece == "[MASK]" else None
        if slot is not None:
            pieces.append(slot)
        elif piece == "[SEP]":
            pieces.append(None)
        elif piece:
            pieces.append(piece)
    return pieces


def _pair_words(pair: Record | None) -> str:
    if not pair:
        return ""
    style = "right" if pair["prediction"] == pair["label"] else ""
    predicted = markupsafe.Markup('<b class="{}">{}</b>').format(style, pair["prediction"])
    words = f"The pair: predicted {{}} with probability {pair['probability']:.2f}; in truth {{}}."
    return filled(words, predicted, pair["label"])
