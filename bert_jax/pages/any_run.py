# SPDX-License-Identifier: Apache-2.0
"""`report.html` for whatever a directory holds: a run, several seeds of one task, or a folder of runs."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bert_jax.base.files import read_json, reading
from bert_jax.pages import finetune, pretrain, several_runs
from bert_jax.pages.page import Page
from bert_jax.pages.several_tasks import pretrained_page, tasks_page
from bert_jax.pages.study import study_page
from bert_jax.pages.template import write
from bert_jax.runs.finetuned import AGAIN, load_finetuned, load_several, parts_of
from bert_jax.runs.names import CONFIG_FILE, FINETUNE_FILE, REPORT_FILE, SEEDS_FILE, STUDY_FILE
from bert_jax.runs.reading import load_run

FEW = 3  # runs that are reported without a progress bar


def write_any(directory: Path) -> Path:
    """Write the page of a directory, and those of the runs in it that it links to; returns its path.

    Raises:
      UserError: the directory holds no run, or one of its files cannot be read.
    """
    return write(_page(directory), directory / REPORT_FILE)


def _page(directory: Path) -> Page:
    if (directory / STUDY_FILE).is_file():
        remedy = "run the same bert-jax study command again"
        with reading(directory / STUDY_FILE, remedy):
            return study_page(read_json(directory / STUDY_FILE, remedy))
    if (directory / SEEDS_FILE).is_file():
        several = load_several(directory)
        _write_all([directory / one.folder for one in several.runs if one.run is not None])
        with reading(directory / SEEDS_FILE, AGAIN):
            return several_runs.page_of(several)
    if (directory / FINETUNE_FILE).is_file():
        with reading(directory / FINETUNE_FILE, AGAIN):
            return finetune.page_of(load_finetuned(directory))
    if not (directory / CONFIG_FILE).is_file():
        if parts := parts_of(directory):
            _write_all(parts)
            return tasks_page(directory, parts)
        # A folder of pre-training runs.
        if runs := sorted(path.parent for path in directory.glob(f"*/{CONFIG_FILE}")):
            _write_all(runs)
            return pretrained_page(directory, [load_run(run) for run in runs])
    return pretrain.page_of(load_run(directory))


def _write_all(folders: Sequence[Path]) -> None:
    for folder in tqdm(folders, unit="report", disable=len(folders) <= FEW):
        write_any(folder)
