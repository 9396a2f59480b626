# SPDX-License-Identifier: Apache-2.0
"""`report.html` for whatever a directory holds: pre-training, a fine-tuned run, several seeds of one, several tasks."""

from pathlib import Path

from tqdm import tqdm

from bert_jax.pages.finetune import write_finetuned
from bert_jax.pages.pretrain import write_report
from bert_jax.pages.several_runs import write_several
from bert_jax.pages.several_tasks import write_tasks
from bert_jax.runs.finetuned import load_several, parts_of
from bert_jax.runs.names import CONFIG_FILE, FINETUNE_FILE, SEEDS_FILE

FEW = 3  # runs that are reported without a progress bar


def write_any(directory: Path) -> Path:
    """Write the page of a directory, and those of the runs in it that it links to; returns its path.

    Raises:
      UserError: the directory holds no run, or one of its files cannot be read.
    """
    if (directory / SEEDS_FILE).is_file():
        folders = [directory / one.folder for one in load_several(directory).runs if one.run is not None]
        _write_all(folders)
        return write_several(directory)
    if (directory / FINETUNE_FILE).is_file():
        return write_finetuned(directory)
    if not (directory / CONFIG_FILE).is_file() and (parts := parts_of(directory)):
        _write_all(parts)
        return write_tasks(directory, parts)
    return write_report(directory)


def _write_all(folders: list[Path]) -> None:
    for folder in tqdm(folders, unit="report", disable=len(folders) <= FEW):
        write_any(folder)
