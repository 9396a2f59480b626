# SPDX-License-Identifier: Apache-2.0
"""Fills the template of a fine-tuned run: `FinetunedRun` -> the page -> report.html."""

from pathlib import Path
from typing import Any

from bert_jax.pages.answer_tables import answer_section
from bert_jax.pages.class_tables import class_section, Classes
from bert_jax.pages.finetune_panels import curve_panels
from bert_jax.pages.finetune_summary import count_rows, headline, notices, setting_rows, threshold_words, tiles
from bert_jax.pages.glue_table import glue_table, task_scores
from bert_jax.pages.hardest import hardest
from bert_jax.pages.multi_label_tables import multi_label_section
from bert_jax.pages.rating_tables import rating_section
from bert_jax.pages.tag_tables import share_right, tag_section
from bert_jax.pages.template import fill, save_page
from bert_jax.runs.finetuned import FinetunedRun, load_finetuned, prediction_fields
from bert_jax.runs.names import REPORT_FILE


def write_finetuned(directory: Path) -> Path:
    """Write `report.html` into the directory of a fine-tuned run; returns its path.

    Raises:
      UserError: not such a directory, or one of its files cannot be read.
    """
    return save_page(render(load_finetuned(directory)), directory / REPORT_FILE)


def render(run: FinetunedRun) -> str:
    """The page as text."""
    return fill(
        "pages/finetune.html.jinja",
        headline=headline(run),
        notices=notices(run),
        tiles=tiles(run),
        panels=curve_panels(run),
        kind=run.kind,
        split=run.split,
        breakdown=breakdown(run),
        sentences_right=share_right(run.labelled) if run.kind == "tagging" else "",
        hardest=hardest(run),
        glue=glue_table(run.directory.resolve().name, task_scores([run]), "one run"),
        counts=count_rows(run),
        found=threshold_words(run),
        settings=setting_rows(run),
    )


def breakdown(run: FinetunedRun) -> dict[str, Any] | None:
    """The tables of the kind of task; None without labelled predictions."""
    if not run.labelled:
        return None
    if run.kind == "span":
        return answer_section(run)
    if run.kind == "tagging":
        return tag_section(run)
    if run.kind == "regression":
        return rating_section(run)
    if run.kind == "multi_label":
        return multi_label_section(run)
    gold, predicted = prediction_fields(run.labelled)
    return class_section(Classes(gold, predicted, run.class_words, len(run.record["labels"])))
