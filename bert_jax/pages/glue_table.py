# SPDX-License-Identifier: Apache-2.0
"""Our scores on GLUE beside those that BERT's paper compares (Devlin et al. 2018, https://arxiv.org/abs/1810.04805, table 1).

Theirs are scores of the hidden test sets, ours are of dev: near each other, not the same.
"""

from collections.abc import Sequence

import markupsafe

from bert_jax.base.errors import UserError
from bert_jax.pages.page import below, Card, filled, Paragraph, Section, Table
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import number
from bert_jax.tasks.scoring.glue import paper_average, PAPER_METRICS, site_average, TaskScores

ABSENT = "–"
METRIC_WORDS = {"accuracy": "accuracy", "f1": "F1", "mcc": "Matthews", "spearman": "Spearman"}
TASK_WORDS = {
    "mnli": "MNLI-m",
    "mnli_mismatched": "MNLI-mm",
    "qqp": "QQP",
    "qnli": "QNLI",
    "sst2": "SST-2",
    "cola": "CoLA",
    "stsb": "STS-B",
    "mrpc": "MRPC",
    "rte": "RTE",
}
# In the order of PAPER_METRICS, then the paper's average.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "Pre-OpenAI SOTA": (80.6, 80.1, 66.1, 82.3, 93.2, 35.0, 81.0, 86.0, 61.7, 74.0),
    "BiLSTM+ELMo+Attn": (76.4, 76.1, 64.8, 79.8, 90.4, 36.0, 73.3, 84.9, 56.8, 71.0),
    "OpenAI GPT": (82.1, 81.4, 70.3, 87.4, 91.3, 45.4, 80.0, 82.3, 56.0, 75.1),
    "BERT-base": (84.6, 83.4, 71.2, 90.5, 93.5, 52.1, 85.8, 88.9, 66.4, 79.6),
    "BERT-large": (86.7, 85.9, 72.1, 92.7, 94.9, 60.5, 86.5, 89.3, 70.1, 82.1),
}


def glue_sections(name: str, ours: TaskScores, what: str) -> list[Section]:
    """The section with our row beside the five published ones; none where we have none of these tasks.

    Args:
      name: of our row.
      ours: fractions by task and metric, on dev.
      what: they are, such as "mean of 5 seeds".
    """
    figures = [ours.get(task, {}).get(metric) for task, metric in PAPER_METRICS.items()]
    if all(figure is None for figure in figures):
        return []
    texts = [ABSENT if figure is None else f"{100 * figure:.1f}" for figure in figures]
    heads = [below(TASK_WORDS[task], METRIC_WORDS[metric]) for task, metric in PAPER_METRICS.items()]
    average, note = _averages(ours)
    rows = [(system, "test", *(f"{figure:.1f}" for figure in row)) for system, row in PUBLISHED.items()]
    rows.append((below(name, what), "DEV", *texts, average))
    table = Table(
        ["System", "Split", *heads, below("Average", "paper's")], rows, "numbers glue", {len(rows) - 1: "ours"}
    )
    lede = filled(
        "Theirs are scores of the hidden {} sets (Devlin et al. 2018, table 1); ours are of {}. Each column names its metric.",
        *map(markupsafe.Markup("<b>{}</b>").format, ("test", "dev")),
    )
    card = Card([table, Paragraph(note, "footnote")])
    return [Section("glue", "Beside the published rows of GLUE", [Paragraph(lede, "lede"), card])]


def _averages(ours: TaskScores) -> tuple[str, str]:
    """The paper's average of ours, and a note that says what is averaged; both need scores of all tasks."""
    rule = "The paper's average is of these nine figures, MNLI-m and MNLI-mm counted apart, without WNLI."
    try:
        average, ours_words = f"{100 * paper_average(ours):.1f}", ""
    except UserError:
        average, ours_words = ABSENT, " Ours needs all of them."
    try:
        site = (
            " The GLUE site's average of ours (nine tasks with WNLI, two metrics of a task averaged first) is"
            f" {100 * site_average(ours):.1f}."
        )
    except UserError:
        site = ""
    return average, rule + ours_words + site


def task_scores(runs: Sequence[FinetunedRun]) -> TaskScores:
    """Scores of one task of GLUE by split, as `scoring.glue` names them; of several runs their mean.

    A metric that is not defined for one of the runs is left out.
    """
    if not runs or runs[0].per_cent:
        return {}
    name = runs[0].record["task"].get("name", "")
    found: dict[str, dict[str, float | None]] = {}
    for split, task in (("dev", name), ("dev_mismatched", f"{name}_mismatched")):
        tables = [run.scores.get(split, {}) for run in runs]
        for metric in tables[0]:
            values = [value for table in tables if (value := number(table, metric)) is not None]
            if len(values) == len(tables):
                found.setdefault(task, {})[metric] = sum(values) / len(values)
    return found
