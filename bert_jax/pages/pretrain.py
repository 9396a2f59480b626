# SPDX-License-Identifier: Apache-2.0
"""Fills the template: `Run` -> the page -> report.html."""

from pathlib import Path

from bert_jax.config.objective import pair_words
from bert_jax.pages.drawing import MOST_POINTS
from bert_jax.pages.notices import evaluate_command, notices
from bert_jax.pages.panels import mlm_panels, optimizer_panels, pair_panels, picked_tokens, speed_panels
from bert_jax.pages.pretrain_data import data_tables, first_batches, passes, shares
from bert_jax.pages.pretrain_samples import sample_card
from bert_jax.pages.pretrain_summary import headline, tiles
from bert_jax.pages.pretrain_tables import evaluation_table, machine, settings
from bert_jax.pages.template import fill, save_page
from bert_jax.runs.names import REPORT_FILE
from bert_jax.runs.reading import load_run, Run


def write_report(run_directory: Path) -> Path:
    """Write `report.html` into a run directory, in place of an earlier one; returns its path.

    Raises:
      UserError: not a run directory, or one of its JSON files cannot be read.
    """
    return save_page(render(load_run(run_directory)), run_directory / REPORT_FILE)


def render(run: Run) -> str:
    """The page as text."""
    return fill(
        "pages/pretrain.html.jinja",
        headline=headline(run),
        notices=notices(run),
        tiles=tiles(run),
        mlm_panels=mlm_panels(run),
        pair_panels=pair_panels(run),
        optimizer_panels=optimizer_panels(run),
        speed_panels=speed_panels(run),
        pair=pair_words(run.config.objective),
        objective=run.config.objective.name,
        averaged=len(run.train) > MOST_POINTS,
        most_points=MOST_POINTS,
        picked=picked_tokens(run),
        samples=[sample_card(sample) for sample in (run.evaluation or {}).get("samples", [])],
        split=(run.evaluation or {}).get("split", "validation"),
        evaluation=evaluation_table(run),
        data=data_tables(run),
        passes=passes(run),
        shares=shares(run),
        first_batches=first_batches(run),
        settings=settings(run.config),
        machine=machine(run),
        evaluate=evaluate_command(run),
    )
