# SPDX-License-Identifier: Apache-2.0
"""The run directory: everything a run makes, under names that every later command knows.

config.json is written last, so a directory that has it is a run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, open_growing, parse_json, read_json, reading, write_json
from bert_jax.base.output_lock import LOCK_FILE
from bert_jax.base.paths import any_path
from bert_jax.base.types import JsonObject
from bert_jax.config.description import description_from, ModelDescription
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import differences, load_config, to_dict
from bert_jax.config.training import averaged_words
from bert_jax.runs.cost import CLOCK
from bert_jax.runs.names import (
    BAD_STEPS,
    CHECKPOINTS,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    EVALUATION_FILE,
    FINETUNE_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PASSPORT,
    PREDICTIONS,
    PROFILE,
    SCORES_FILE,
    SOURCE_FILE,
    TEACHER_FILE,
    TENSORBOARD,
)
from bert_jax.runs.shapes import require_shape, Shape, SOURCE, TEACHER
from bert_jax.tokenization import load_tokenizer, Tokenizer
from bert_jax.tokenization.encoding import TOKENIZER_FILE
from bert_jax.tokenization.sentencepiece import MODEL_FILE as SENTENCEPIECE_FILE
from bert_jax.tokenization.wordpiece import VOCABULARY_FILE

_OF_HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")  # with or without an index

_TOKENIZER_FILES = (VOCABULARY_FILE, SENTENCEPIECE_FILE, TOKENIZER_FILE)
_COPY_PASSPORT = "copy it from the data that the run was trained on"


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run of any kind: where its files are, and what they hold."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG_FILE

    @property
    def data_file(self) -> Path:
        """Copy of the passport (the manifest) of the data the run is trained on."""
        return self.path / PASSPORT

    @property
    def source_file(self) -> Path:
        """The model that a run of pre-training began with; not there where its weights were drawn."""
        return self.path / SOURCE_FILE

    @property
    def teacher_file(self) -> Path:
        """The model that a run of pre-training learns from; not there where it has no teacher."""
        return self.path / TEACHER_FILE

    @property
    def environment_file(self) -> Path:
        """Versions and devices."""
        return self.path / ENVIRONMENT_FILE

    @property
    def checkpoints(self) -> Path:
        """Orbax checkpoints, a folder for each step."""
        return self.path / CHECKPOINTS

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line."""
        return self.path / METRICS_FILE

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events."""
        return self.path / TENSORBOARD

    @property
    def bad_steps(self) -> Path:
        """Capsules of steps that did not count."""
        return self.path / BAD_STEPS

    @property
    def profile(self) -> Path:
        """Traces of steps."""
        return self.path / PROFILE

    @property
    def evaluation_file(self) -> Path:
        """Scores on held-out data."""
        return self.path / EVALUATION_FILE

    @property
    def finetune_file(self) -> Path:
        """Task, settings and weights of a fine-tuned run; written before the first step."""
        return self.path / FINETUNE_FILE

    @property
    def scores_file(self) -> Path:
        """Scores of a fine-tuned run, written last: it is there where the run is finished."""
        return self.path / SCORES_FILE

    @property
    def predictions(self) -> Path:
        """Predictions of a fine-tuned run, an object for each example, and the official files."""
        return self.path / PREDICTIONS

    def config(self) -> PretrainConfig:
        """The run's configuration."""
        return load_config(self.config_file)

    def optimizer(self) -> JsonObject:
        """Return the settings of the optimizer that its checkpoints come from, of a fine-tuned run too.

        Raises:
          UserError: the file that has them cannot be read.
        """
        file = self.finetune_file if self.finetune_file.is_file() else self.config_file
        remedy = "copy it from a backup of the run"
        values = read_json(file, remedy)
        with reading(file, remedy):
            return dict(values.get("settings", values).get("optimizer", {}))

    def averaging(self) -> str | None:
        """Return what to say of the weights in its checkpoints where they are averages over the steps."""
        return averaged_words(self.optimizer().get("average"))

    def description(self) -> ModelDescription:
        """Return the model that its checkpoints hold, without what was never trained or is of use to training alone.

        Raises:
          UserError: what is written down of it cannot be read.
        """
        described = self.stored() if (self.path / MODEL_FILE).is_file() else self.config().description
        return replace(described, teacher_size=0)

    def stored(self) -> ModelDescription:
        """Return what its checkpoints hold: runs of earlier versions, which did not write it down, all of pre-training.

        Raises:
          UserError: what is written down cannot be read.
        """
        file = self.path / MODEL_FILE
        if not file.is_file():
            return ModelDescription(self.config().model)
        remedy = "convert the checkpoint again"
        values = read_json(file, remedy)
        with reading(file, remedy):
            return description_from(values)

    def source(self) -> JsonObject | None:
        """Return what is recorded of the model that a run of pre-training began with; None: its weights were drawn.

        Raises:
          UserError: the record cannot be read.
        """
        return _record(self.source_file, ("path",), SOURCE)

    def teacher(self) -> JsonObject | None:
        """Return what is recorded of the teacher of a run of pre-training; None: it has none.

        Raises:
          UserError: the record cannot be read.
        """
        return _record(self.teacher_file, ("path", "summary", "weights_sha256"), TEACHER)

    def longest(self) -> int:
        """Return the tokens of the longest row that its model was trained on, before this run too."""
        own = max(phase.sequence_length for phase in self.config().phases)
        return max(own, (self.source() or {}).get("longest", 0))

    def manifest(self) -> JsonObject:
        """The manifest of the run's data.

        Raises:
          UserError: it is missing or broken.
        """
        try:
            return read_json(self.data_file, _COPY_PASSPORT)
        except FileNotFoundError:
            raise UserError(f"{self.data_file} is missing: {_COPY_PASSPORT}") from None

    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer.

        Raises:
          UserError: its files are missing, or are not those that the run was trained with.
        """
        if not (self.path / TOKENIZER_FILE).is_file():
            raise UserError(
                f"{self.path / TOKENIZER_FILE} is missing: copy it from where the vocabulary of this run came from"
            )
        tokenizer = load_tokenizer(self.path)
        trained_with = self.manifest().get("tokenizer") if self.data_file.is_file() else None
        if trained_with not in (None, tokenizer.fingerprint):
            raise UserError(
                f"{self.path}: the vocabulary and {TOKENIZER_FILE} there (fingerprint {tokenizer.fingerprint[:12]}...) are not"
                f" those that the run was trained with ({str(trained_with)[:12]}...): copy both from the data it was trained on"
            )
        return tokenizer


def _record(file: Path, needed: Sequence[str], shape: Shape) -> JsonObject | None:
    """Return what a run has recorded of another model; None where there is no such file."""
    if not file.is_file():
        return None
    remedy = "restore the file"
    record: JsonObject = read_json(file, remedy)
    require_shape(file, record, shape, remedy)
    with reading(file, remedy):
        _ = [record[name] for name in needed]
    return record


def open_run(path: str | Path) -> RunDirectory:
    """An existing run.

    Raises:
      UserError: the directory is none.
    """
    run = RunDirectory(any_path(path))
    other = _other_format(run)
    if other is not None:
        raise UserError(
            f"{path}: is a checkpoint of {other}, not a run directory: make one of it with bert-jax convert {path} RUN"
            " --to bert-jax"
        )
    if not run.config_file.is_file():
        raise UserError(f"{path}: is not a run directory (no config.json): make one with bert-jax pretrain")
    return run


def _other_format(run: RunDirectory) -> str | None:
    """Return whose checkpoint lies where a run is looked for, by the names of its files; None: nobody's."""
    path = run.path
    if run.checkpoints.is_dir():
        return None
    if any((path / f"{name}{index}").is_file() for name in _OF_HUGGING_FACE for index in ("", ".index.json")):
        return "Hugging Face's transformers"
    if path.name.endswith(tuple(_OF_HUGGING_FACE)) and path.is_file():
        return "Hugging Face's transformers"
    index = path.with_name(f"{path.name}.index") if path.name else path
    if (
        index.is_file()
        or (path.is_file() and path.suffix == ".index")
        or (path.is_dir() and any(path.glob("*.ckpt*.index")))
    ):
        return "TensorFlow 1"
    return None


def start_or_resume(
    path: Path,
    config: PretrainConfig,
    manifest: JsonObject,
    tokenizer: Tokenizer,
    source: JsonObject | None = None,
    teacher: JsonObject | None = None,
) -> RunDirectory:
    """The run directory for this configuration and data: made anew, or recognised as the same run.

    Args:
      source: what is recorded of the model that the run begins with; None: its weights are drawn.
      teacher: what is recorded of the model that it learns from; None: it has none.

    Raises:
      UserError: the directory holds something else, or a run with another configuration, vocabulary, data, source or teacher.
    """
    run = RunDirectory(path)
    if not run.config_file.is_file():
        others = {SOURCE_FILE: source, TEACHER_FILE: teacher}
        files = {
            MODEL_FILE: config.description.to_dict(),
            **{name: record for name, record in others.items() if record},
        }
        make_run(run, tokenizer, {**files, PASSPORT: manifest, CONFIG_FILE: to_dict(config)}, "is not a run directory")
        return run
    if not run.data_file.is_file() and (path / MODEL_FILE).is_file():
        raise UserError(f"{path}: holds a converted model: {further(path)}")
    _check_same_run(run, config, manifest, source)
    _check_same_teacher(run, teacher)
    if teacher is not None:
        write_json(run.teacher_file, teacher)  # where it lies now
    write_json(run.config_file, to_dict(config))
    return run


def further(model: Path) -> str:
    """Return the words that name how pre-training goes on with a model in a run of its own."""
    return f"pre-train it further in a new run (bert-jax pretrain CONFIG --from {model} --data DATA --output NEW)"


def make_run(run: RunDirectory, tokenizer: Tokenizer, files: Mapping[str, JsonObject], otherwise: str) -> None:
    """Make the directory of a new run: the vocabulary, then `files` by name, of which the last makes it a run.

    Args:
      otherwise: what is said of a folder that holds something else; what a start that was cut off has left may be there.

    Raises:
      UserError: the folder holds something else.
    """
    ours = {*_TOKENIZER_FILES, *files}
    known = {LOCK_FILE, *ours, *(f"{name}.partial" for name in ours)} - {list(files)[-1]}
    if not any(run.checkpoints.glob("*")):  # a folder, or a link to one, may be there already
        known |= {CHECKPOINTS}
    if run.path.is_dir() and any(entry.name not in known for entry in run.path.iterdir()):
        raise UserError(f"{run.path}: is not empty and {otherwise}: choose another --output")
    run.path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(run.path)
    for name, content in files.items():
        write_json(run.path / name, content)


def refuse_changes(run: RunDirectory, what: str, changes: Sequence[str]) -> None:
    """Refuse to go on with a run under changes, `key: old -> new`, that would make another one of it.

    Raises:
      UserError: there are some; the first five are named.
    """
    if changes:
        raise UserError(
            f"{run.path}: holds {what} ({'; '.join(changes[:5])}): choose another --output, or take these back to go on"
            " with that run"
        )


def _check_same_run(run: RunDirectory, config: PretrainConfig, manifest: JsonObject, source: JsonObject | None) -> None:
    if run.source() != source:
        began = (run.source() or {}).get("path")
        remedy = "give no --from" if began is None else f"give --from {began} and its options as at first"
        raise UserError(f"{run.path}: holds a run that began with {began or 'weights drawn anew'}: {remedy}")
    changes = differences(run.config(), config)
    if changes and (run.checkpoints / str(run.config().total_steps)).is_dir():
        raise UserError(
            f"{run.path}: holds a finished run of another configuration ({'; '.join(changes[:5])}): {further(run.path)}"
        )
    refuse_changes(run, "a run of another configuration", changes)
    old = run.manifest()
    run.tokenizer()  # is whole, or refused
    with reading(run.data_file, _COPY_PASSPORT):
        check_same_data(run, old, manifest)


def _check_same_teacher(run: RunDirectory, teacher: JsonObject | None) -> None:
    """Refuse to go on with another teacher than the run has, wherever it lies now."""
    known = run.teacher()
    if (known or {}).get("weights_sha256") == (teacher or {}).get("weights_sha256"):
        return
    if known is None:
        raise UserError(f"{run.path}: holds a run without a teacher: give no --teacher, or choose another --output")
    what = f"{known['path']} ({known['summary']}, weights {known['weights_sha256'][:12]})"
    other = "" if teacher is None else f", and {teacher['path']} has the weights {teacher['weights_sha256'][:12]}"
    raise UserError(f"{run.path}: holds a run with the teacher {what}{other}: give --teacher with that one")


def check_same_data(run: RunDirectory, old: JsonObject, manifest: JsonObject) -> None:
    """Refuse data with another manifest than the run's.

    Raises:
      UserError: its vocabulary or its shards are others.
    """
    if old["tokenizer"] != manifest["tokenizer"]:
        raise UserError(
            f"{run.path}: was trained with another vocabulary ({old['vocab_size']} entries,"
            f" {old['tokenizer'][:12]}) than the data's ({manifest['vocab_size']} entries,"
            f" {manifest['tokenizer'][:12]}): prepare the data with --vocab {run.path}"
        )
    if _shard_hashes(old) != _shard_hashes(manifest):
        raise UserError(f"{run.path}: was trained on other data than this --data: name that data or another --output")


def _shard_hashes(manifest: JsonObject) -> list[str]:
    return [shard["sha256"] for split in manifest["splits"].values() for shard in split["shards"]]


def append_metrics(run: RunDirectory, line: JsonObject) -> None:
    """Add a line to metrics.jsonl."""
    with open_growing(run.metrics_file) as file:
        file.write(f"{json.dumps(line)}\n".encode())


def forget_metrics_after(run: RunDirectory, step: int, restarts: int = 1) -> int:
    """Drop the lines of steps after `step`, which a run resumed there computes again; a torn last line goes too.

    The newest line of the cost clock stays, as one of `step` and after so many more `restarts`: the time of what is dropped
    was spent.

    Returns:
      The number of lines dropped.
    """
    if not run.metrics_file.is_file():
        return 0
    lines = run.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines()
    read = [_parsed(line) for line in lines]
    kept = [line for line, record in zip(lines, read, strict=True) if _step_of(record) <= step]
    clock = next((record for record in reversed(read) if record.get("kind") == CLOCK), None)
    if clock is not None:
        kept.append(json.dumps({**clock, "step": max(step, 0), "restarts": clock.get("restarts", 0) + restarts}))
    if kept != lines:
        with complete_or_absent(run.metrics_file) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())
    return sum(_step_of(record) > step and record.get("kind") != CLOCK for record in read)


def _parsed(line: str) -> JsonObject:
    try:
        return parse_json(line)
    except ValueError:
        return {}


def _step_of(record: JsonObject) -> float:
    step = record.get("step")
    return step if type(step) is int else float("inf")
