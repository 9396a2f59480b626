# SPDX-License-Identifier: Apache-2.0
"""A run directory -> what it trains on, as the run core sees it: pre-training or fine-tuning, under changed settings too."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json, reading
from bert_jax.base.paths import any_path
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.training import TrainingConfig
from bert_jax.conversion.further import beginning_of
from bert_jax.conversion.teachers import same_teacher
from bert_jax.feed.shards import open_data
from bert_jax.finetuning.directory import AGAIN, changes_of, Finetuned, is_finetuned, named_task, open_finetuned
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
from bert_jax.finetuning.run import Finetuning
from bert_jax.runs.directory import check_same_data, open_run, RunDirectory
from bert_jax.tokenization import Tokenizer
from bert_jax.train.distillation import require_teacher
from bert_jax.train.pretraining import prepare_training, Pretraining
from bert_jax.train.session import RunObjective

type Edit = Callable[[TrainingConfig], TrainingConfig]
DATA = "data"  # name in environment.json: where the data lies that a run is trained on


@dataclass(frozen=True)
class Opened:
    """A run and what it trains on."""

    run: RunDirectory
    objective: RunObjective
    tokenizer: Tokenizer


def open_again(path: Path, data: str | None = None, edit: Edit = lambda config: config) -> Opened:
    """Open a run of any kind to train on it again; the files in its directory are not changed.

    Args:
      path: the run directory.
      data: where its data lies; None: where it lay when the run was started.
      edit: changes its configuration, such as the mesh of another machine.

    Raises:
      UserError: no run, or its data, model or vocabulary is not there or not the same.
    """
    if is_finetuned(path):
        return _open_finetuned(open_finetuned(path), data, edit)
    run = open_run(path)
    if not run.data_file.is_file():
        raise UserError(f"{path}: was converted and not trained here: there are no steps to take again")
    place = data or _recorded_data(run)
    return open_pretraining(run, edit(run.config()), any_path(place))


def open_pretraining(run: RunDirectory, config: TrainingConfig, data: Path) -> Opened:
    """Open prepared data for a configuration; `run` is asked for its own where it is there.

    Raises:
      UserError: as `open_again`.
    """
    assert isinstance(config, PretrainConfig)
    opened = open_data(data)
    training = prepare_training(config, opened)
    if run.data_file.is_file():
        check_same_data(run, run.manifest(), dict(opened.manifest))
        training = replace(training, described=run.stored())
    tokenizer = opened.load_tokenizer()
    teacher = same_teacher(run)
    require_teacher(training, teacher, tokenizer)
    return Opened(run, Pretraining(training, opened, tokenizer, run, beginning_of(run), teacher), tokenizer)


def wanted_of(run: Finetuned, data: str | None, edit: Edit) -> Wanted:
    """Return the request that a fine-tuned run answered.

    Raises:
      UserError: its finetune.json does not say it.
    """
    record, settings = run.record, run.settings()
    if settings.too_long != "windows":  # the task's own stride, which acts in windows alone
        settings = replace(settings, stride=None)
    with reading(run.finetune_file, AGAIN):
        model = any_path(record["source"]["path"])
        teacher = any_path(record["teacher"]["path"]) if "teacher" in record else None
        task, scratch, place = named_task(record["task"]), record["source"]["from_scratch"], data or record["data"]
    return Wanted(task, place, model, edit(settings), scratch, teacher=teacher)  # type: ignore[arg-type]


def _open_finetuned(run: Finetuned, data: str | None, edit: Edit) -> Opened:
    prepared = FinetuneSetup(wanted_of(run, data, edit))
    with reading(run.finetune_file, AGAIN):
        unlike = [line for line in changes_of(run.record, prepared.record()) if line.startswith("the ")]
    if unlike:
        raise UserError(f"{run.path}: {unlike[0]}: name with --data what it was trained on")
    return Opened(run, Finetuning(prepared, run), prepared.tokenizer)


def _recorded_data(run: RunDirectory) -> str:
    try:
        place = read_json(run.environment_file, "remove it: it is written when the run goes on").get(DATA)
    except FileNotFoundError:
        place = None
    if not isinstance(place, str):
        raise UserError(f"{run.path}: does not say where its data lies: name that with --data")
    return place
