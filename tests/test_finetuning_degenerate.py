# SPDX-License-Identifier: Apache-2.0
"""Runs that have learned nothing are recognised, runs that have are not, and the explanation's numbers are right."""

import math
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.settings import override
from bert_jax.finetuning.degenerate import advice, Degenerate, judge, Judgement, step_ratio
from bert_jax.finetuning.split import Outcome
from bert_jax.tasks.scoring import glue

CONFIG = FinetuneConfig()
RNG = np.random.default_rng(0)


def outcome(
    gold: list | np.ndarray | None, predicted: list | np.ndarray | None, records: list | None = None
) -> Outcome:
    def write(folder: Path) -> list[Path]:
        return []

    arrays = [None if values is None else np.asarray(values) for values in (gold, predicted)]
    return Outcome({}, arrays[0], arrays[1], records or [], write)


def judged(
    kind: str, found: Outcome, last_loss: float | None = 0.01, trained_on: np.ndarray | None = None
) -> Judgement:
    """Trained on the same classes as it is scored on, unless they are given."""
    return judge(kind, found, CONFIG, 100, last_loss, found.gold if trained_on is None else trained_on)


def kind_of(
    kind: str, found: Outcome, last_loss: float | None = 0.01, trained_on: np.ndarray | None = None
) -> str | None:
    judgement = judged(kind, found, last_loss, trained_on)
    if judgement.undecided is not None:
        return "undecided"
    return None if judgement.degenerate is None else judgement.degenerate.kind


def degenerate(found: Outcome, last_loss: float) -> Degenerate:
    judgement = judged("classification", found, last_loss)
    assert judgement.degenerate is not None
    return judgement.degenerate


HALVES = np.arange(200) % 2


def test_one_class_for_everything():
    assert kind_of("classification", outcome(HALVES, np.zeros(200))) == "one class"
    assert kind_of("classification", outcome(HALVES, HALVES)) is None


def test_a_loss_at_chance_with_predictions_at_chance():
    mixed = RNG.permutation(HALVES)
    found = degenerate(outcome(HALVES, mixed), math.log(2))
    assert found.kind == "loss at chance"
    assert "the training loss ends at 0.693 nats, and ln 2 is 0.693" in found.explanation
    assert kind_of("classification", outcome(HALVES, HALVES), math.log(2)) is None, "the predictions are right"
    assert kind_of("classification", outcome(HALVES, mixed), 0.3) is None, "it has learned its training data"
    assert kind_of("classification", outcome(HALVES, mixed), None) is None


def test_chance_is_that_of_the_classes_shares():
    """Of one in ten the loss of a model that knows nothing else is 0.325, not ln 2."""
    gold = (np.arange(300) % 10 == 0).astype(int)
    predicted = np.roll(gold, 3)
    entropy = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    found = degenerate(outcome(gold, predicted), entropy)
    assert "always saying the classes' shares is 0.325" in found.explanation
    assert kind_of("classification", outcome(gold, predicted), 0.9 * entropy) is None


def test_choices_at_chance():
    gold = np.arange(200) % 4
    assert kind_of("choice", outcome(gold, np.roll(gold, 1)), math.log(4)) == "loss at chance"
    assert kind_of("choice", outcome(gold, gold), 0.1) is None


def test_one_rating_for_everything():
    gold = np.linspace(0, 5, 50)
    assert kind_of("regression", outcome(gold, 2.5 + 1e-3 * gold)) == "one rating"
    assert kind_of("regression", outcome(gold, 2.5 + 0.1 * gold)) is None


def test_no_answers():
    def records(predicted: list[str], label: list[list[str]]) -> list[dict]:
        return [{"predicted": one, "label": other} for one, other in zip(predicted, label, strict=True)]

    truth = [["a"], ["b"], [], []] * 5
    assert kind_of("span", outcome(None, None, records([""] * 20, truth))) == "no answers"
    assert kind_of("span", outcome(None, None, records(["a", "", "", ""] * 5, truth))) is None


def test_one_tag_for_everything():
    def records(predicted: list[str]) -> list[dict]:
        return [{"predicted": predicted, "label": ["O", "B-PER", "O"]}] * 5

    assert kind_of("tagging", outcome(None, None, records(["O"] * 3))) == "one tag"
    assert kind_of("tagging", outcome(None, None, records(["O", "O", "B-LOC"]))) is None


def test_first_steps_without_bias_correction_are_larger():
    """By Adam itself: the updates of a constant gradient, with and without."""
    b1, b2, m, v = 0.9, 0.999, 0.0, 0.0
    for step in range(1, 60):
        m, v = b1 * m + (1 - b1), b2 * v + (1 - b2)
        plain, corrected = m / math.sqrt(v), (m / (1 - b1**step)) / math.sqrt(v / (1 - b2**step))
        assert step_ratio(step) == pytest.approx(plain / corrected)
    assert step_ratio(1) == pytest.approx(0.1 / math.sqrt(0.001))  # 3.16
    assert step_ratio(20_000) == pytest.approx(1)


def test_advice_names_what_may_help():
    """2006.05987, section 4: without bias correction the first steps are too large."""
    assert "optimizer.name" not in advice(CONFIG, 100)
    assert "--retries 1, --seeds 5" in advice(CONFIG, 100)
    largest = max(step_ratio(step) for step in range(1, 100))
    told = advice(override(FinetuneConfig(), ["optimizer.name=adamw_bert"]), 100)
    assert f"up to {largest:.1f} times as large as Adam's (still {step_ratio(10):.1f} times after a tenth" in told
    assert "set optimizer.name=adamw" in told


@pytest.mark.parametrize(("right", "kind"), [(52, "zero MCC"), (80, None)])
def test_two_classes_that_do_not_go_with_the_truth_are_zero_mcc(right, kind):
    """Of 100 examples of two classes: 52 right is a coefficient of 0.04, and 0.1 its standard error."""
    gold = np.repeat([0, 1], 50)
    wrong = np.zeros(100, bool)
    wrong[: (100 - right) // 2] = wrong[50 : 50 + (100 - right) // 2] = True
    predicted = np.where(wrong, 1 - gold, gold)
    scores = glue.scores(("mcc", "accuracy"), gold, predicted)
    assert kind_of("classification", Outcome(scores, gold, predicted, [], lambda folder: [])) == kind


# ---- not decided ---------------------------------------------------------------------------------------------------


def tagged(*pairs: tuple[list[str], list[str]]) -> Outcome:
    return outcome(None, None, [{"predicted": predicted, "label": label} for predicted, label in pairs])


def answered(*pairs: tuple[str, list[str]]) -> Outcome:
    return outcome(None, None, [{"predicted": predicted, "label": label} for predicted, label in pairs])


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("classification", outcome(np.zeros(9), np.zeros(9))),
        ("classification", outcome(np.ones(50), np.repeat([0, 1], 25))),
        ("regression", outcome(np.full(50, 2.0), np.full(50, 2.0))),
        ("span", answered(*[("", [])] * 40)),
        ("span", answered(*[("", ["ann"])] * 40)),
        ("tagging", tagged(*[(["O", "O"], ["O", "O"])] * 40)),
        ("tagging", tagged(*[(["O", "O"], ["B-PER", "B-PER"])] * 40)),
    ],
)
def test_one_truth_for_everything_tells_nothing(kind, found):
    """Also where the loss is that of chance: a right answer to all of it and a wrong one say as little."""
    scores = {"mcc": 0.0} if kind == "classification" else {}
    found = Outcome(scores, found.gold, found.predicted, found.records, found.write)
    assert kind_of(kind, found, math.log(2), HALVES) == "undecided"


@pytest.mark.parametrize(
    ("few", "many", "kind", "sign"),
    [
        (outcome([0, 0, 0, 1], np.zeros(4)), outcome([0, 0, 0, 1] * 9, np.zeros(36)), "classification", "one class"),
        (answered(("", ["a"]), ("", [])), answered(*[("", ["a"]), ("", [])] * 9), "span", "no answers"),
        (
            tagged((["O"] * 99, ["O"] * 98 + ["B-PER"])),
            tagged(*[(["O"] * 99, ["O"] * 98 + ["B-PER"])] * 9),
            "tagging",
            "one tag",
        ),
    ],
)
def test_a_sign_of_few_examples_decides_nothing(few, many, kind, sign):
    """What counts is how many differ from the one answer: one of a hundred words, one of two questions."""
    assert (kind_of(kind, few), kind_of(kind, many)) == ("undecided", sign)


@pytest.mark.parametrize(("count", "kind"), [(8, "undecided"), (200, "zero MCC")])
def test_no_correlation_of_few_examples_decides_nothing(count, kind):
    """Half right: the interval of the coefficient ends at 0.69 of 8 examples, and at 0.14 of 200."""
    gold, predicted = np.arange(count) // 2 % 2, np.arange(count) % 2
    scores = glue.scores(("mcc",), gold, predicted)
    assert kind_of("classification", Outcome(scores, gold, predicted, [], lambda folder: [])) == kind


def test_the_loss_is_compared_with_the_classes_that_were_trained_on():
    """Nine in ten of dev are of one class, half of train: a loss of 0.5 is below ln 2, and above what dev's shares give."""
    gold = (np.arange(100) % 10 == 0).astype(int)
    found = outcome(gold, np.roll(gold, 1))
    assert kind_of("classification", found, 0.5, HALVES) is None
    assert kind_of("classification", found, 0.5, gold) == "loss at chance"
