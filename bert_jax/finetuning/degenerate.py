# SPDX-License-Identifier: Apache-2.0
"""Runs that have learned nothing: recognised by their predictions, explained, never averaged in.

Fine-tuning on small tasks fails for some seeds (BERT 1810.04805, section 4.1: "unstable on small datasets"); why and how often:
2006.04884 and 2006.05987.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.checks import rules
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.finetuning.split import Outcome
from bert_jax.train.metrics import wilson_interval


@dataclass(frozen=True)
class Degenerate:
    """A kind of run that has learned nothing, and what may help."""

    kind: str
    explanation: str

    def to_dict(self) -> JsonObject:
        """The judgement for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    """Whether a run has learned nothing; neither: it has learned something."""

    degenerate: Degenerate | None = None
    undecided: str | None = None  # why the split cannot tell


class Sign(NamedTuple):
    """A sign that nothing was learned."""

    kind: str
    what: str  # was seen
    highest: float  # skill within the 95 % interval: 0 chance, 1 all right


def judge(
    kind: str,
    outcome: Outcome,
    config: FinetuneConfig,
    steps: int,
    last_loss: float | None,
    trained_on: np.ndarray | None = None,
) -> Judgement:
    """Judge a finished run.

    A truth that is the same everywhere tells nothing, and a sign counts if the interval of what was measured reaches less
    than `HALFWAY` to a model that is always right.

    Args:
      kind: of the task.
      outcome: of the dev split, with labels.
      config: resolved.
      steps: of the run.
      last_loss: mean training loss of the last interval.
      trained_on: numbers of the classes or choices of the training examples, which that loss is of.
    """
    if (alike := _one_truth(kind, outcome)) is not None:
        return Judgement(undecided=f"{alike}, which tells nothing about others: score it on a split with several")
    sign = _recognise(kind, outcome)
    if sign is None and last_loss is not None and trained_on is not None and outcome.gold is not None:
        sign = _at_chance(outcome, last_loss, trained_on) if kind in ("classification", "choice") else None
    if sign is None:
        return Judgement()
    if sign.highest >= rules.HALFWAY:
        return Judgement(
            undecided=f"{sign.what}, but of so few the 95 % interval reaches {sign.highest:.0%} of the way from chance to"
            " all right: score it on more"
        )
    return Judgement(Degenerate(sign.kind, f"{sign.what}. {advice(config, steps)}"))


def _one_truth(kind: str, outcome: Outcome) -> str | None:
    """Say so where the truth is the same everywhere."""
    if kind in ("classification", "regression"):
        assert outcome.gold is not None
        one = np.all(outcome.gold == outcome.gold[0])
        what = f"all {len(outcome.gold):,} examples have the same {'class' if kind == 'classification' else 'rating'}"
        return what if one else None
    if kind == "multi_label":
        assert outcome.gold is not None
        alike = bool((outcome.gold == outcome.gold[0]).all())
        return f"all {len(outcome.gold):,} examples have the same classes" if alike else None
    truths = [tuple(record["label"]) for record in outcome.records] if kind in ("span", "tagging") else []
    if kind == "span" and len(set(truths)) == 1:
        return (
            f"all {len(truths):,} questions have the same answer"
            if truths[0]
            else f"none of {len(truths):,} questions has an answer"
        )
    tags = {tag for truth in truths for tag in truth}
    return f"every word is {next(iter(tags))}" if kind == "tagging" and len(tags) == 1 else None


def _recognise(kind: str, outcome: Outcome) -> Sign | None:
    if kind == "classification":
        return _one_class(outcome)
    if kind == "multi_label":
        return _one_set(outcome)
    if kind == "regression":
        return _one_rating(outcome)
    if kind == "span":
        return _one_answer(outcome.records)
    if kind == "tagging":
        return _one_tag(outcome.records)
    return None


def _one_class(outcome: Outcome) -> Sign | None:
    gold, predicted = outcome.gold, outcome.predicted
    assert gold is not None and predicted is not None
    if np.all(predicted == predicted[0]):
        others = int((gold != predicted[0]).sum())
        what = (
            f"every one of {len(predicted):,} examples is predicted class {predicted[0]}, and {others:,} are of another"
        )
        return Sign("one class", what, wilson_interval(0, others)[1])
    mcc = outcome.scores.get("mcc")
    error = 1 / math.sqrt(len(predicted))  # of the coefficient, where predictions do not depend on the truth
    if mcc is not None and mcc <= error:
        what = f"Matthews' correlation is {mcc:.3f}, within its standard error of none ({error:.3f})"
        return Sign("zero MCC", what, mcc + 1.96 * error)
    return None


def _one_set(outcome: Outcome) -> Sign | None:
    """The same classes for every example, where the truth has several sets of them."""
    gold, predicted = outcome.gold, outcome.predicted  # bool [N, C]
    assert gold is not None and predicted is not None
    if len(np.unique(predicted, axis=0)) > 1:
        return None
    chosen = ", ".join(map(str, np.flatnonzero(predicted[0]))) or "none"
    others = int((gold != predicted[0]).any(1).sum())
    what = f"every one of {len(predicted):,} examples is predicted the same classes ({chosen}), and {others:,} are of others"
    return Sign("one set of classes", what, wilson_interval(0, others)[1])


def _one_rating(outcome: Outcome) -> Sign | None:
    assert outcome.gold is not None and outcome.predicted is not None
    spread, wanted = float(np.std(outcome.predicted)), float(np.std(outcome.gold))
    if spread < rules.ALIKE * wanted:
        what = f"all predicted ratings are alike (standard deviation {spread:.3g}, of the true ones {wanted:.3g})"
        return Sign("one rating", what, 0.0)
    return None


def _one_answer(records: Sequence[JsonObject]) -> Sign | None:
    given = sum(bool(record["predicted"]) for record in records)
    wanted = sum(bool(record["label"]) for record in records)
    if given > (1 - rules.SAME_SHARE) * len(records) or wanted <= (1 - rules.SAME_SHARE) * len(records):
        return None
    found = sum(bool(record["predicted"] and record["label"]) for record in records)
    what = (
        f"{len(records) - given:,} of {len(records):,} questions get no answer, and {len(records) - wanted:,} have none"
    )
    return Sign("no answers", what, wilson_interval(found, wanted)[1])


def _one_tag(records: Sequence[JsonObject]) -> Sign | None:
    predicted = {tag for record in records for tag in record["predicted"]}
    if len(predicted) != 1:
        return None
    tag = next(iter(predicted))
    others = sum(one != tag for record in records for one in record["label"])
    what = f"every word is tagged {tag}, and {others:,} are something else"
    return Sign("one tag", what, wilson_interval(0, others)[1])


def _at_chance(outcome: Outcome, last_loss: float, trained_on: np.ndarray) -> Sign | None:
    """A training loss that is still that of the classes' shares, with predictions no better than the commonest class."""
    assert outcome.gold is not None and outcome.predicted is not None
    shares = np.unique(trained_on, return_counts=True)[1] / len(trained_on)
    entropy = float(-(shares * np.log(shares)).sum())
    commonest = np.unique(outcome.gold, return_counts=True)[1].max() / len(outcome.gold)
    if len(shares) == 1 or commonest == 1:
        return None
    right = int((outcome.gold == outcome.predicted).sum())
    # No better than the commonest class: within two standard errors of its share.
    chance = commonest + 2 * math.sqrt(commonest * (1 - commonest) / len(outcome.gold))
    if last_loss <= (1 - rules.NEAR_CHANCE) * entropy or right >= chance * len(outcome.gold):
        return None
    even = math.isclose(entropy, math.log(len(shares)), rel_tol=0.01)
    words = f"ln {len(shares)}" if even else "always saying the classes' shares"
    highest = (wilson_interval(right, len(outcome.gold))[1] - commonest) / (1 - commonest)
    return Sign(
        "loss at chance", f"the training loss ends at {last_loss:.3f} nats, and {words} is {entropy:.3f}", highest
    )


def advice(config: FinetuneConfig, steps: int) -> str:
    """Return what may help; where bias correction is off, also how large the first steps really are."""
    help = "Another seed may do (--retries 1, --seeds 5), a smaller optimizer.learning_rate, more epochs, or a longer warm-up"
    optimizer = config.optimizer
    if optimizer.kind.corrects_bias or not optimizer.kind.adam_rates:
        return help
    ratio = partial(step_ratio, b1=optimizer.b1, b2=optimizer.b2)
    largest = max(ratio(step) for step in range(1, 100))
    return (
        f"optimizer.name={optimizer.name} makes early steps up to {largest:.1f} times as large as Adam's (still"
        f" {ratio(max(steps // 10, 1)):.1f} times after a tenth of the run): set optimizer.name=adamw. {help}"
    )


def step_ratio(step: int, b1: float = 0.9, b2: float = 0.999) -> float:
    """A step of Adam without bias correction over one with it, from 1: (1 - b1^t) / sqrt(1 - b2^t).

    For a constant gradient; 2006.05987, section 4.
    """
    return (1 - b1**step) / math.sqrt(1 - b2**step)
