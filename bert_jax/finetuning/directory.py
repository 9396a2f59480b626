# SPDX-License-Identifier: Apache-2.0
"""The directory of a fine-tuned run: that of any run (config.json, model.json, vocabulary, checkpoints/), and

finetune.json   the task, every setting, where the weights came from; written before the first step
metrics.jsonl   loss and scores over the steps
predictions/    an object for each example, and the official files
scores.json     scores by split, written last: a run that has it is finished
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, read_json, reading
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription
from bert_jax.config.fields import build
from bert_jax.config.finetune import current_settings, FinetuneConfig
from bert_jax.config.settings import differences, to_dict
from bert_jax.conversion.own_format import config_for
from bert_jax.runs.directory import make_run, refuse_changes, RunDirectory
from bert_jax.runs.names import CONFIG_FILE, FINETUNE_FILE, MODEL_FILE, SEEDS_FILE
from bert_jax.tasks.own import own_task, with_columns
from bert_jax.tasks.table import find_task, Task
from bert_jax.tokenization import Tokenizer

AGAIN = "remove its folder and fine-tune again"
# A field of `OwnTask` that names columns -> its option.
COLUMN_OPTIONS = {
    "text": "--text-column",
    "label": "--label-column",
    "id": "--id-column",
    "choices": "--choice-column",
}


@dataclass(frozen=True)
class OwnTask:
    """How a task on one's own files was named on the command line.

    name: of a task of the table (of tagging) whose files have other columns or more labels; None: it is one's own.
    """

    kind: str
    text: tuple[str | int, ...] = ()
    label: str | int | None = None
    id: str | int | None = None
    labels: tuple[str, ...] | None = None
    choices: tuple[str | int, ...] = ()
    name: str | None = None
    positive: str | None = None
    separator: str | None = None

    def task(self) -> Task:
        """Return it as the table of tasks would have it."""
        if self.name is not None:
            return with_columns(self.name, self.text, self.label, self.labels)
        return own_task(
            self.kind,
            self.text,
            self.label,
            self.id,
            self.labels,
            self.choices,
            positive=self.positive,
            separator=self.separator,
        )


@dataclass(frozen=True)
class Finetuned(RunDirectory):
    """The directory of a fine-tuned run that is there, with its finetune.json."""

    record: JsonObject

    def settings(self) -> FinetuneConfig:
        """Return the settings with the task's numbers in them."""
        with reading(self.finetune_file, AGAIN):
            return settings_of(self.record)

    def task(self) -> Task:
        """Return the task with the labels that the head has."""
        with reading(self.finetune_file, AGAIN):
            return task_from(self.record["task"], tuple(self.record["labels"]) or None)


def settings_as_begun(output: Path, settings: FinetuneConfig) -> FinetuneConfig:
    """Return the settings for a run that may be there already: one of a version without packed rows goes on without."""
    file = RunDirectory(output).finetune_file
    if settings.packing is None and file.is_file() and "packing" not in read_record(file).get("settings", {}):
        return replace(settings, packing="buckets")
    return settings


def settings_of(record: JsonObject) -> FinetuneConfig:
    """Return the settings in a finetune.json of this version or an earlier one."""
    return build(FinetuneConfig, current_settings(record["settings"]))


def task_record(task: str | OwnTask) -> JsonObject:
    """Return the task as finetune.json has it; `task_from` inverts it."""
    return {"name": task} if isinstance(task, str) else {"own": to_dict(task)}


def named_task(record: JsonObject) -> str | OwnTask:
    """Return the task that `task_record` wrote; a record that JSON held has lists where there were tuples."""
    if "name" in record:
        return str(record["name"])
    own: JsonObject = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record["own"].items()
    }
    return OwnTask(**own)


def task_from(record: JsonObject, labels: tuple[str, ...] | None) -> Task:
    """The task of a run."""
    named = named_task(record)
    task = named.task() if isinstance(named, OwnTask) else find_task(named)
    return task.with_classes(labels) if labels and task.kind in ("classification", "multi_label") else task


def is_finetuned(path: Path) -> bool:
    """Return whether a folder is a fine-tuned run of ours, or one of several."""
    return any((path / name).is_file() for name in (FINETUNE_FILE, SEEDS_FILE))


def open_finetuned(path: Path) -> Finetuned:
    """A fine-tuned run; of a folder of several seeds the best one.

    Raises:
      UserError: there is none.
    """
    seeds = path / SEEDS_FILE
    if seeds.is_file():
        best = read_record(seeds).get("best")
        if best is None:
            raise UserError(f"{path}: none of its runs has learned anything: look into {seeds}")
        with reading(seeds, AGAIN):
            path = path / best
    file = RunDirectory(path).finetune_file
    if not file.is_file():
        raise UserError(f"{path}: is no fine-tuned run (no {FINETUNE_FILE}): make one with bert-jax finetune")
    return Finetuned(path, read_record(file))


def start_or_resume(path: Path, record: JsonObject, description: ModelDescription, tokenizer: Tokenizer) -> Finetuned:
    """The directory for a run: made anew, or recognised as the same.

    Raises:
      UserError: it holds something else, or a run with other settings.
    """
    run = Finetuned(path, record)
    if run.finetune_file.is_file():
        run = Finetuned(path, read_record(run.finetune_file))
        with reading(run.finetune_file, AGAIN):
            refuse_changes(run, "another fine-tuned run", changes_of(run.record, record))
        own = run.tokenizer().fingerprint
        if own != tokenizer.fingerprint:
            raise UserError(
                f"{path}: the vocabulary and tokenizer_config.json there (fingerprint {own[:12]}...) are not those of the model"
                f" it began with ({tokenizer.fingerprint[:12]}...): copy both from there"
            )
        return run
    config = to_dict(config_for(description))
    files = {MODEL_FILE: description.to_dict(), CONFIG_FILE: config, FINETUNE_FILE: record}
    make_run(run, tokenizer, files, "is no fine-tuned run")
    return run


def read_if_same(path: Path, record: JsonObject) -> Finetuned | None:
    """Return the run in a directory; None where it is not there, or trained on other rows."""
    file = RunDirectory(path).finetune_file
    run = Finetuned(path, read_record(file)) if file.is_file() else None
    return run if run is not None and run.record["training_rows"] == record["training_rows"] else None


def changes_of(old: JsonObject, new: JsonObject) -> list[str]:
    """Return how settings, task, data or weights say something else than they did, whatever their paths are."""
    changed = differences(settings_of(old), settings_of(new))
    changed += _task_changes(old["task"], new["task"])
    for name in ("labels", "examples"):
        if old.get(name) != new[name]:
            changed.append(f"{name}: {old.get(name)} -> {new[name]}")
    return changed + _content_changes(old, new) + _teacher_changes(old.get("teacher"), new.get("teacher"))


def _task_changes(old: JsonObject, new: JsonObject) -> list[str]:
    before, after = named_task(old), named_task(new)
    if isinstance(before, OwnTask) and isinstance(after, OwnTask):
        told = {
            COLUMN_OPTIONS.get(name, f"--{name}"): (getattr(before, name), getattr(after, name))
            for name in asdict(after)
        }
    else:
        one, other = (named if isinstance(named, str) else "own" for named in (before, after))
        told = {"task": (one, other)}
    return [f"{option}: {_spelled(one)} -> {_spelled(other)}" for option, (one, other) in told.items() if one != other]


def _spelled(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _content_changes(old: JsonObject, new: JsonObject) -> list[str]:
    """Say which examples and weights are other ones; a record without digests, of an older version, says it of rows alone."""
    recorded: JsonObject = old["content"] if "content" in old else new["content"]
    splits = [name for name, content in new["content"].items() if recorded.get(name) != content]
    changed = [f"the examples of {name} are others than those that {old['data']} held" for name in splits]
    if not changed and old["training_rows"] != new["training_rows"]:
        changed.append(f"the rows made from {new['data']} are others than they were")
    before, after = old["source"], new["source"]
    if before["from_scratch"] != after["from_scratch"]:
        changed.append(f"--from-scratch: {before['from_scratch']} -> {after['from_scratch']}")
    elif before.get("digest", after["digest"]) != after["digest"]:
        changed.append(f"the weights or the vocabulary of {after['path']} are not those that {before['path']} held")
    return changed


def _teacher_changes(before: JsonObject | None, after: JsonObject | None) -> list[str]:
    if (before or {}).get("weights_sha256") == (after or {}).get("weights_sha256"):
        return []
    if before is not None and after is not None and before["path"] == after["path"]:
        return [f"the weights of the teacher {after['path']} are not those that it had"]
    return [f"the teacher: {(before or {}).get('path')} -> {(after or {}).get('path')}"]


def write_records(path: Path, records: list[JsonObject]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as file:
        for record in records:
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())


def read_record(file: Path) -> JsonObject:
    """A file of a fine-tuned run; raises UserError where it is broken."""
    try:
        return read_json(file, AGAIN)
    except FileNotFoundError:
        raise UserError(f"{file} is missing: {AGAIN}") from None
