# SPDX-License-Identifier: Apache-2.0
"""`report.html` for whatever a directory holds: a run, several seeds of one task, or a folder of runs."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bert_jax.pages.finetune import write_finetuned
from bert_jax.pages.pretrain import write_report
from bert_jax.pages.several_runs import write_several
from bert_jax.pages.several_tasks import write_pretrained, write_tasks
from bert_jax.runs.finetuned import load_several, parts_of
from bert_jax.runs.names import CONFIG_FILE, FINETUNE_FILE, SEEDS_FILE

FEW = 3  # runs that are reported without a progress bar


def write_any(directory: Path) -> Path:
    """Write the page of a directory, and those of the runs in it that it links to; returns its path.

    Raises:
      UserError: the directory holds no run, or one of its files cannot be read.
    """
    if (directory / SEEDS_FILE).is_file():
        _write_all([directory / one.folder for one in load_several(directory).runs if one.run is not None])
        return write_several(directory)
    if (directory / FINETUNE_FILE).is_file():
        return write_finetuned(directory)
    if not (directory / CONFIG_FILE).is_file():
        if parts := parts_of(directory):
            _write_all(parts)
            return write_tasks(directory, parts)
        if runs := _pretraining_runs(directory):
            _write_all(runs)
            return write_pretrained(directory, runs)
    return write_report(directory)


def _pretraining_runs(directory: Path) -> list[Path]:
    """The folders in a directory that hold pre-training runs, by name."""
    return sorted(path.parent for path in directory.glob(f"*/{CONFIG_FILE}"))


def _write_all(folders: Sequence[Path]) -> None:
    for folder in tqdm(folders, unit="report", disable=len(folders) <= FEW):
        write_any(folder)
