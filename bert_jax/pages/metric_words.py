# SPDX-License-Identifier: Apache-2.0
"""Names and units of the scores of fine-tuned tasks, as people know them: accuracy 91.28 %, Matthews 52.13."""

from bert_jax.pages.wording import SPACE

CORRELATIONS = ("mcc", "pearson", "spearman")  # known without "%", times 100 (BERT's table 1)

_NAMES = {
    "f1": "F1",
    "F1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "mcc": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "exact": "exact match",
    "exact_match": "exact match",
    "EM": "exact match",
    "AVERAGE": "mean of F1 and exact match",
    "HasAns_exact": "exact match, has an answer",
    "HasAns_f1": "F1, has an answer",
    "NoAns_exact": "exact match, no answer",
    "NoAns_f1": "F1, no answer",
}


def metric_name(name: str) -> str:
    """The name of a metric in words."""
    return _NAMES.get(name, name.replace("_", " "))


def title_name(name: str) -> str:
    """The name of a metric in words, as a heading."""
    words = metric_name(name)
    return words[:1].upper() + words[1:]


def fraction(value: float, per_cent: bool) -> float:
    """A score as a fraction."""
    return value / 100 if per_cent else value


def unit(name: str) -> str:
    """The unit that stands behind the figure of a metric."""
    return "× 100" if name in CORRELATIONS else "%"


def figure(value: float | None, per_cent: bool, digits: int = 2) -> str:
    """A score times 100 where it is a fraction, without its unit."""
    return "not defined" if value is None else f"{value if per_cent else 100 * value:z.{digits}f}"


def score_text(name: str, value: float | None, per_cent: bool, digits: int = 2) -> str:
    """A score as people know it: 91.28 %; of correlations 52.13."""
    text = figure(value, per_cent, digits)
    return text if value is None or name in CORRELATIONS else f"{text}{SPACE}%"
