# SPDX-License-Identifier: Apache-2.0
"""Runs that have learned nothing: recognised by their predictions, explained, never averaged in.

Fine-tuning on small tasks fails for some seeds (BERT 1810.04805, section 4.1: "unstable on small datasets"); why and how often:
2006.04884 and 2006.05987.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bert_jax.finetune_config import FinetuneConfig
from bert_jax.finetuning.split import Outcome

ALIKE = 0.02  # a rating's standard deviation, as a share of that of the true ones, below which all are the same
NEAR_CHANCE = 0.01  # of a loss, as a share of that of always saying the classes' shares
SAME_SHARE = 0.98  # of the answers of a model that gives one answer to everything


@dataclass(frozen=True)
class Degenerate:
    """What was recognised, and what may help."""

    kind: str
    explanation: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def find_degenerate(
    kind: str, outcome: Outcome, config: FinetuneConfig, steps: int, last_loss: float | None
) -> Degenerate | None:
    """What is degenerate about a finished run; None: nothing is.

    Args:
      kind: of the task.
      outcome: of the dev split, with labels.
      config: resolved.
      steps: of the run.
      last_loss: mean training loss of the last interval.
    """
    found = _recognise(kind, outcome)
    if found is None and kind in ("classification", "choice") and outcome.gold is not None and last_loss is not None:
        found = _at_chance(outcome, last_loss)
    if found is None:
        return None
    name, what = found
    return Degenerate(name, f"{what}. {advice(config, steps)}")


def _recognise(kind: str, outcome: Outcome) -> tuple[str, str] | None:
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


def _one_class(outcome: Outcome) -> tuple[str, str] | None:
    assert outcome.gold is not None and outcome.predicted is not None
    if len(np.unique(outcome.gold)) > 1 and len(np.unique(outcome.predicted)) == 1:
        return (
            "one class",
            f"every one of {len(outcome.predicted):,} examples is predicted class {outcome.predicted[0]}",
        )
    mcc = outcome.scores.get("mcc")
    error = 1 / math.sqrt(len(outcome.predicted))  # of the coefficient, where predictions do not depend on the truth
    if mcc is not None and mcc <= error:
        return "zero MCC", f"Matthews' correlation is {mcc:.3f}, within its standard error of none ({error:.3f})"
    return None


def _one_set(outcome: Outcome) -> tuple[str, str] | None:
    """The same classes for every example, where the truth has several sets of them."""
    gold, predicted = outcome.gold, outcome.predicted  # bool [N, C]
    assert gold is not None and predicted is not None
    if len(np.unique(gold, axis=0)) == 1 or len(np.unique(predicted, axis=0)) > 1:
        return None
    chosen = ", ".join(map(str, np.flatnonzero(predicted[0]))) or "none"
    others = int((gold != predicted[0]).any(1).sum())
    return (
        "one set of classes",
        f"every one of {len(predicted):,} examples is predicted the same classes ({chosen}), and {others:,} are of others",
    )


def _one_rating(outcome: Outcome) -> tuple[str, str] | None:
    assert outcome.gold is not None and outcome.predicted is not None
    spread, wanted = float(np.std(outcome.predicted)), float(np.std(outcome.gold))
    if wanted > 0 and spread < ALIKE * wanted:
        return (
            "one rating",
            f"all predicted ratings are alike (standard deviation {spread:.3g}, of the true ones {wanted:.3g})",
        )
    return None


def _one_answer(records: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
    empty = sum(not record["predicted"] for record in records)
    wanted = sum(not record["label"] for record in records)
    if len(records) > 1 and empty >= SAME_SHARE * len(records) and wanted < SAME_SHARE * len(records):
        return "no answers", f"{empty:,} of {len(records):,} questions get no answer, and {wanted:,} have none"
    return None


def _one_tag(records: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
    predicted = {tag for record in records for tag in record["predicted"]}
    wanted = {tag for record in records for tag in record["label"] or ()}
    if len(predicted) == 1 and len(wanted) > 1:
        return "one tag", f"every word is tagged {next(iter(predicted))}"
    return None


def _at_chance(outcome: Outcome, last_loss: float) -> tuple[str, str] | None:
    """A training loss that is still that of the classes' shares, with predictions no better than the commonest class."""
    assert outcome.gold is not None and outcome.predicted is not None
    counts = np.unique(outcome.gold, return_counts=True)[1]
    shares = counts / len(outcome.gold)
    entropy = float(-(shares * np.log(shares)).sum())
    right = float(np.mean(outcome.gold == outcome.predicted))
    # No better than the commonest class: within two standard errors of its share.
    chance = shares.max() + 2 * math.sqrt(shares.max() * (1 - shares.max()) / len(outcome.gold))
    if last_loss > (1 - NEAR_CHANCE) * entropy and right < chance:
        even = math.isclose(entropy, math.log(len(shares)), rel_tol=0.01)
        words = f"ln {len(shares)}" if even else "always saying the classes' shares"
        return "loss at chance", f"the training loss ends at {last_loss:.3f} nats, and {words} is {entropy:.3f}"
    return None


def advice(config: FinetuneConfig, steps: int) -> str:
    """What may help; where bias correction is off, how large the first steps really are."""
    help = "Another seed may do (--retries 1, --seeds 5), a smaller learning_rate, more epochs, or a longer warm-up"
    if config.bias_correction:
        return help
    largest = max(step_ratio(step) for step in range(1, 100))
    return (
        f"bias_correction=false makes early steps up to {largest:.1f} times as large as Adam's (still"
        f" {step_ratio(max(steps // 10, 1)):.1f} times after a tenth of the run): set bias_correction=true. {help}"
    )


def step_ratio(step: int, b1: float = 0.9, b2: float = 0.999) -> float:
    """A step of Adam without bias correction over one with it, from 1: (1 - b1^t) / sqrt(1 - b2^t).

    For a constant gradient; 2006.05987, section 4.
    """
    return (1 - b1**step) / math.sqrt(1 - b2**step)
