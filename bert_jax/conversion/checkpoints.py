# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of any format, found and described, with every one of its tensors accounted for.

Opening reads names, shapes and configurations only. `weight` then reads a tensor in our layout, in float32.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bert_jax.base.bucket_cache import local_copy
from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import refuse_dead_links
from bert_jax.base.paths import on_bucket
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.conversion import names
from bert_jax.conversion.accounting import account, by_table_name
from bert_jax.conversion.config_fields import not_kept, not_kept_of_google
from bert_jax.conversion.config_files import (
    GOOGLE_CONFIG,
    HUGGING_FACE_CONFIG,
    read_google,
    read_hugging_face,
    read_json,
    with_vocab_size,
)
from bert_jax.conversion.heads import conclusions, describe_tensors
from bert_jax.conversion.names import BERT_JAX, HUGGING_FACE, NameRow, TF1
from bert_jax.conversion.own_format import filled, is_run, nested, no_checkpoint, RunParameters, step_of
from bert_jax.conversion.tensors import StoredTensors, without_prefix
from bert_jax.conversion.tf1 import find_tf1, open_tf1
from bert_jax.conversion.vocabularies import find_tokenizer
from bert_jax.conversion.vocabularies import not_kept as settings_not_kept
from bert_jax.conversion.weight_files import (
    HUGGING_FACE_FILES,
    open_weights,
    other_files,
    refuse_other_frameworks,
    same_weights,
)
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import CHECKPOINTS, CONFIG_FILE, FINETUNE_FILE, MODEL_FILE, PASSPORT
from bert_jax.tokenization import Tokenizer
from bert_jax.tokenization.encoding import TOKENIZER_FILE


@dataclass(frozen=True)
class Asked:
    """The user's answers to what the files of a checkpoint leave open."""

    gelu: str | None = None  # gelu_tanh or gelu_erf
    task: str | None = None  # one of TASKS, where a head could be several
    vocabulary: Path | None = None
    padding_rows: str | None = None  # drop or keep rows beyond the vocabulary; None: refuse them
    skip: tuple[str, ...] = ()  # names of tensors to leave out, or patterns with * and ?
    generator: bool = False  # of a run that has one beside its discriminator, that one is meant
    head: bool = True  # False: a fine-tuned head is not taken, so that nothing need say what it predicts


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of any format, described, with every one of its tensors accounted for."""

    format: str
    path: Path
    description: ModelDescription  # after padding rows are dropped
    tensors: StoredTensors  # by the checkpoint's own names
    own_names: Mapping[str, str]  # ours -> its own
    skipped: Mapping[str, str]  # own name -> why it is left out
    tokenizer: Tokenizer | None
    notes: tuple[str, ...]  # what was decided on the way
    run: RunParameters | None = None  # of a run as it is: all its parameters, which are in memory together
    step: int | None = None  # of a run's checkpoint
    grown: bool = False  # its tables were extended, and an optimizer's state does not fit them

    @property
    def rows(self) -> list[NameRow]:
        """The tensors of the model, as in the table."""
        return names.rows_of(self.description)

    def weight(self, row: NameRow) -> np.ndarray:
        """A tensor in our layout, float32; not yet looked at."""
        array = self.tensors.read(self.own_names[row.ours])
        array = array.T if row.is_transposed(self.format) else array
        if array.ndim:
            array = array[: names.shape_of(row, self.description)[0]]  # without padding rows of the vocabulary
        with np.errstate(over="ignore"):  # what does not fit is refused below
            narrow = np.ascontiguousarray(array, np.float32)
        if array.dtype == np.float64 and not np.array_equal(narrow, array):
            raise UserError(
                f"{self.path}: {self.own_names[row.ours]} does not fit into float32: store it in float32 first"
            )
        return narrow

    def finite_weight(self, row: NameRow) -> np.ndarray:
        """A tensor in our layout, float32.

        Raises:
          UserError: it holds NaN or infinity.
        """
        array = self.weight(row)
        check_numbers(self.path, self.own_names[row.ours], array)
        return array

    def parameters(self) -> PyTree:
        """All weights in our layout as a nested dictionary, layers stacked: what our model takes.

        Raises:
          UserError: one is not finite.
        """
        return (
            self.run.tree(self.description)
            if self.run is not None
            else nested(filled(self.description, self.finite_weight))
        )


def open_checkpoint(path: Path, asked: Asked = Asked()) -> Checkpoint:  # frozen
    """Find out what a path holds and account for it.

    Args:
      path: of a checkpoint, or of a run, whose newest one is taken; RUN/checkpoints/400 is that of a step.
      asked: what the files leave open.

    Raises:
      UserError: no checkpoint, two of them, a config that its tensors contradict, a tensor that is missing or has no place.
    """
    path, step = step_of(path) or (path, None)
    path = readable_checkpoint(path)
    format, where = detect(path)
    notes: list[str] = []
    run = None
    config: JsonObject = {}
    if format == BERT_JAX:
        description = RunDirectory(path).description()
        run = RunParameters(path, step)
        tensors, model = run.tensors(), description.model
        notes += filter(None, [RunDirectory(path).averaging()])
    elif format == HUGGING_FACE:
        config_file = where.parent / HUGGING_FACE_CONFIG
        config = read_json(config_file)
        model = read_hugging_face(config_file, asked.gelu)
        tensors = open_weights(where)
        notes += [same_weights(tensors, other) for other in other_files(path, where)]
    else:
        config_file = where.parent / GOOGLE_CONFIG
        model, notes = read_google(config_file, asked.gelu)
        notes += not_kept_of_google(read_json(config_file))
        tensors = open_tf1(where)
    tensors, left_out = _named(tensors, format, asked, notes)
    found = names.canonical(list(tensors.entries), format)
    by_canonical = by_table_name(found, tensors.path)
    if format != BERT_JAX:
        kept = {name: own for name, own in by_canonical.items() if own not in left_out}
        description = describe_tensors(format, model, config, kept, tensors, asked.task, asked.head)
    _refuse_idle_options(path, description, asked)
    folder = where if format == BERT_JAX else where.parent
    # Where a run was trained here its vocabulary is recorded; a converted one may have been given a bare vocab.txt.
    recorded = any((folder / name).is_file() for name in (TOKENIZER_FILE, PASSPORT, FINETUNE_FILE))
    of_run = format == BERT_JAX and asked.vocabulary is None and recorded
    tokenizer = RunDirectory(folder).tokenizer() if of_run else find_tokenizer(folder, asked.vocabulary)
    if format == HUGGING_FACE:
        notes += not_kept(config, description, tokenizer.pad_id if tokenizer else None)
    if format != BERT_JAX and asked.vocabulary is None:
        notes += settings_not_kept(folder, model.max_position_embeddings)
    notes += conclusions(format, description, tokenizer, asked.task)
    own_names, skipped = account(format, description, by_canonical, tensors, left_out)
    taken = None if run is None else run.step
    checkpoint = Checkpoint(format, path, description, tensors, own_names, skipped, tokenizer, tuple(notes), run, taken)
    return _fit_vocabulary(checkpoint, asked)


def readable_checkpoint(path: Path) -> Path:
    """Return a checkpoint as it can be opened: of another format than ours, whose files are mapped, a copy of a bucket's."""
    if not on_bucket(path) or is_run(path):
        return path
    if path.exists():
        return local_copy(path)
    return local_copy(path.parent) / path.name if path.parent.exists() else path  # the prefix of one of TensorFlow's


def _named(tensors: StoredTensors, format: str, asked: Asked, notes: list[str]) -> tuple[StoredTensors, frozenset[str]]:
    """The tensors without a prefix of all their names, which is noted, and those that are left out as asked."""
    left_out: set[str] = set()
    for pattern in asked.skip:
        matching = fnmatch.filter(tensors.entries, pattern) if pattern not in tensors.entries else [pattern]
        if not matching:
            raise UserError(f"--skip {pattern}: {tensors.path} holds no such tensor")
        left_out.update(matching)
    prefix = names.prefix_of(tensors.entries.keys() - left_out, format)
    if not prefix:
        return tensors, frozenset(left_out)
    try:
        tensors = without_prefix(tensors, prefix)
    except ValueError as error:
        raise UserError(f"{tensors.path}: {error}: leave one out by --skip") from None
    notes.append(f"the names of the tensors begin with {prefix}, which is taken off")
    return tensors, frozenset(name.removeprefix(prefix) for name in left_out)


# ---- which format --------------------------------------------------------------------------------------------------


def detect(path: Path) -> tuple[str, Path]:
    """The format of what lies at a path, and the file or prefix to open (for a run of ours the directory).

    Raises:
      UserError: nothing is recognised, or more than one thing.
    """
    found: list[tuple[str, Path]] = []
    if path.is_file() and path.name in HUGGING_FACE_FILES:
        return HUGGING_FACE, path
    if path.is_dir():
        refuse_dead_links(path, (*HUGGING_FACE_FILES, CONFIG_FILE, GOOGLE_CONFIG, MODEL_FILE, PASSPORT, FINETUNE_FILE))
        present = [path / name for name in HUGGING_FACE_FILES if (path / name).is_file()]
        found += [(HUGGING_FACE, file) for file in present[:1]]  # the others are compared with it
        found += [(BERT_JAX, path)] if (path / CHECKPOINTS).is_dir() and is_run(path) else []
    prefix = find_tf1(path)
    found += [(TF1, prefix)] if prefix is not None else []
    if len(found) == 1:
        return found[0]
    if not found:
        refuse_other_frameworks(path)
        if is_run(path):
            raise no_checkpoint(path)
        if not path.exists():
            raise UserError(f"{path} is missing: give a checkpoint's directory, or the prefix of one of TensorFlow's")
        raise UserError(
            f"{path} holds no checkpoint: neither {CONFIG_FILE} with checkpoints/ (ours), nor {listed(HUGGING_FACE_FILES)}"
            " (Hugging Face), nor a *.index file (TensorFlow 1)"
        )
    described = listed(f"{place.name} ({format})" for format, place in found)
    raise UserError(
        f"{path} holds more than one checkpoint: {described}: name the file that is meant, or move one away"
    )


def _refuse_idle_options(path: Path, description: ModelDescription, asked: Asked) -> None:
    """An answer to what was not asked is a mistake about the checkpoint."""
    task, gelu = description.task, description.model.hidden_act
    if asked.task is not None and task is None:
        raise UserError(f"--kind {asked.task}: {path} has no fine-tuned head: leave the option out")
    if asked.task is not None and task is not None and task.kind != asked.task:
        raise UserError(f"--kind {asked.task}: {path} has a head for {task.kind}: leave the option out")
    if asked.gelu is not None and gelu != asked.gelu:
        raise UserError(f"--gelu {asked.gelu}: {path} is a run and says hidden_act={gelu} itself: leave the option out")


# ---- the vocabulary ------------------------------------------------------------------------------------------------


def _fit_vocabulary(checkpoint: Checkpoint, asked: Asked) -> Checkpoint:
    """Rows of the tables against the entries of the vocabulary and the config."""
    path, model = checkpoint.tensors.path, checkpoint.description.model
    rows = {
        checkpoint.own_names[row.ours]: checkpoint.tensors.entries[checkpoint.own_names[row.ours]].shape[0]
        for row in checkpoint.rows
        if row.shape[:1] == ("V",)
    }
    sizes = set(rows.values())
    if len(sizes) > 1:
        raise UserError(
            f"{path}: {' and '.join(f'{name} has {size} rows' for name, size in rows.items())}: they must agree"
        )
    size = sizes.pop()
    entries = checkpoint.tokenizer.vocab_size if checkpoint.tokenizer else None
    if entries is not None and entries > size:
        raise UserError(f"{path} has rows for {size} entries, and the vocabulary has {entries}: it is another model's")
    # A run may have more rows than entries, for a round number of them; it loses them where that is asked.
    if entries is not None and entries < size and (checkpoint.format != BERT_JAX or asked.padding_rows == "drop"):
        if asked.padding_rows == "keep":
            return replace(checkpoint, description=with_vocab_size(checkpoint.description, size))
        if asked.padding_rows != "drop":
            raise UserError(
                f"{path} has rows for {size} entries, and the vocabulary has {entries}: the last {size - entries} are padding,"
                " or it is another model's: give --padding-rows drop (or keep), or the right --vocab"
            )
        return replace(checkpoint, description=with_vocab_size(checkpoint.description, entries), run=None)
    if size != model.vocab_size:
        raise UserError(
            f"{path} has rows for {size} entries, and its config says vocab_size={model.vocab_size}: mend it"
        )
    return checkpoint


# ---- what the numbers say ------------------------------------------------------------------------------------------


def check_numbers(path: Path, name: str, array: np.ndarray) -> None:
    """Refuse NaN and infinity.

    Raises:
      UserError: naming the tensor, how many there are and where the first is.
    """
    finite = np.isfinite(array)
    if not finite.all():
        first = np.argwhere(~finite)[0].tolist()
        raise UserError(
            f"{path}: {name} holds {int((~finite).sum())} values that are not finite, the first at {first}: the checkpoint is"
            " broken, take an earlier one"
        )


def check_norm(path: Path, names_of_pair: tuple[str, str], scale: np.ndarray, bias: np.ndarray) -> None:
    """Refuse a LayerNorm whose scale and bias stand in each other's place: scales lie around 1, biases around 0.

    Raises:
      UserError: naming both.
    """
    mean_scale, mean_bias = float(scale.mean()), float(bias.mean())
    if abs(mean_bias - 1) < abs(mean_scale - 1) and abs(mean_scale) < abs(mean_bias):
        raise UserError(
            f"{path}: {names_of_pair[0]} is {mean_scale:.2f} on average and {names_of_pair[1]} {mean_bias:.2f}: they seem to"
            " have been swapped, a LayerNorm scales by about 1 and adds about 0"
        )
