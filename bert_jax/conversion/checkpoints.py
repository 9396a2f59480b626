# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of any format, found and described, with every one of its tensors accounted for.

Opening reads names, shapes and configurations only. `weight` then reads a tensor in our layout, in float32.
"""

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bert_jax.config.description import ModelDescription, TaskHead, TASKS
from bert_jax.config.model import ModelConfig
from bert_jax.conversion import names
from bert_jax.conversion.config_fields import not_kept, not_kept_of_google
from bert_jax.conversion.config_files import (
    GOOGLE_CONFIG,
    HUGGING_FACE_CONFIG,
    LABELLED,
    labels_of,
    read_google,
    read_hugging_face,
    read_json,
    task_of,
    with_vocab_size,
)
from bert_jax.conversion.names import BERT_JAX, DECODER_BIAS, HUGGING_FACE, NameRow, OUTPUT_BIAS, SECOND_NAMES, TF1
from bert_jax.conversion.own_format import filled, is_run, nested, no_checkpoint, RunParameters
from bert_jax.conversion.slots import moments_of, optimizer_tensors
from bert_jax.conversion.tensors import StoredTensors, TensorEntry, without_prefix
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
from bert_jax.errors import listed, UserError
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import CHECKPOINTS, CONFIG_FILE
from bert_jax.tokenization import Tokenizer
from bert_jax.tokenization.encoding import TOKENIZER_FILE
from bert_jax.tokenization.loading import RECORDED
from bert_jax.types import JsonObject, PyTree

FLOATS = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True)
class Asked:
    """The user's answers to what the files of a checkpoint leave open."""

    gelu: str | None = None  # gelu_tanh or gelu_erf
    task: str | None = None  # one of TASKS, where a head could be several
    vocabulary: Path | None = None
    padding_rows: str | None = None  # drop or keep rows beyond the vocabulary; None: refuse them
    skip: tuple[str, ...] = ()  # names of tensors to leave out, or patterns with * and ?
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
        return self.run.tree if self.run is not None else nested(filled(self.description, self.finite_weight))


def open_checkpoint(path: Path, asked: Asked = Asked()) -> Checkpoint:  # frozen
    """Find out what a path holds and account for it.

    Raises:
      UserError: no checkpoint, two of them, a config that its tensors contradict, a tensor that is missing or has no place.
    """
    format, where = detect(path)
    notes: list[str] = []
    run = None
    config: JsonObject = {}
    if format == BERT_JAX:
        description = RunDirectory(path).description()
        run = RunParameters(path, description)
        tensors, model = run.tensors(), description.model
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
    by_canonical = _by_canonical(found, tensors.path)
    if format != BERT_JAX:
        kept = {name: own for name, own in by_canonical.items() if own not in left_out}
        description = _describe(format, model, config, kept, tensors, asked)
    _refuse_idle_options(path, description, asked)
    folder = where if format == BERT_JAX else where.parent
    of_run = format == BERT_JAX and asked.vocabulary is None and (folder / TOKENIZER_FILE).is_file()
    tokenizer = RunDirectory(folder).tokenizer() if of_run else find_tokenizer(folder, asked.vocabulary)
    if format == HUGGING_FACE:
        notes += not_kept(config, description, tokenizer.pad_id if tokenizer else None)
    if format != BERT_JAX and asked.vocabulary is None:
        notes += settings_not_kept(folder, model.max_position_embeddings)
    notes += _conclusions(format, description, tokenizer, asked)
    own_names, skipped = _account(format, description, by_canonical, tensors, left_out)
    checkpoint = Checkpoint(format, path, description, tensors, own_names, skipped, tokenizer, tuple(notes), run)
    checkpoint = replace(checkpoint, step=None if run is None else run.step)
    return _fit_vocabulary(checkpoint, asked)


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


# ---- what the tensors say ------------------------------------------------------------------------------------------


def _by_canonical(found: Mapping[str, str], path: Path) -> dict[str, str]:
    """The table's name -> the checkpoint's own."""
    result: dict[str, str] = {}
    for own, name in found.items():
        if name in result:
            raise UserError(f"{path} holds {name} twice, as {result[name]} and as {own}: remove one of them")
        result[name] = own
    return result


def _describe(
    format: str,
    model: ModelConfig,
    config: JsonObject,
    own: Mapping[str, str],
    tensors: StoredTensors,
    asked: Asked,
) -> ModelDescription:
    """Describe the model: its heads are those whose tensors are there."""
    _check_layers(format, model, own, tensors.path)

    def has(rows: Iterable[NameRow]) -> bool:
        return any(row.name(format) in own for row in rows)

    mlm = has(names.MLM) or (format == HUGGING_FACE and names.DECODER_BIAS in own)
    if mlm and not model.tie_word_embeddings and names.UNTIED[0].name(format) not in own:
        raise UserError(
            f"{tensors.path} lacks {names.UNTIED[0].name(format)}, and its config says tie_word_embeddings=false: restore the"
            " tensor, or say true if the word embedding is the output matrix"
        )
    task = None
    for rows, span in ((names.SPAN, True), (names.CLASSIFIER, False)):
        kernel = rows[0].name(format)
        if kernel in own:
            outputs = tensors.entries[own[kernel]].shape[0]  # [C, D] in both formats
            task = _task(config, kernel, outputs, span, format, asked, tensors.path)
    pooler = has(names.POOLER)
    if task is not None and task.needs_pooler and not pooler and not asked.head:
        task = TaskHead("tagging", task.outputs)
    if task is not None and task.needs_pooler and not pooler:
        raise UserError(
            f"{tensors.path} has no pooler, which a head for {task.kind} stands on: give --task tagging, if its head stands on"
            " the tokens"
        )
    return ModelDescription(
        model if mlm else replace(model, tie_word_embeddings=True),
        pooler=pooler,
        mlm=mlm,
        nsp=has(names.NSP),
        task=task,
    )


def _task(config: JsonObject, kernel: str, outputs: int, span: bool, format: str, asked: Asked, path: Path) -> TaskHead:
    config_file = path.parent / HUGGING_FACE_CONFIG
    if asked.task is not None and (asked.task == "span") == span:
        labels = labels_of(config, outputs) if asked.task in LABELLED else ()
        try:
            return TaskHead(asked.task, outputs, labels)
        except UserError as error:
            raise UserError(f"--task {asked.task}: {path} has {kernel} of {outputs} outputs: {error}") from None
    told = task_of(config, outputs, span, config_file)
    if told is None and format == TF1:
        told = TaskHead("classification", outputs)  # run_classifier.py is the one that Google published
    if told is None and not asked.head:
        told = TaskHead("tagging", outputs)
    if told is None:
        others = " or ".join(kind for kind in TASKS if kind != "span")
        raise UserError(
            f"{path}: config.json does not say what {kernel} of {outputs} outputs predicts: give --task {others}"
        )
    return told


def require_plain_head(path: Path, description: ModelDescription) -> None:
    """Refuse to convert a fine-tuned head that other formats have no place for.

    Raises:
      UserError: naming what it has.
    """
    task = description.task
    if task is not None and not task.is_plain:
        raise UserError(
            f"{path}: its head for {task.kind} is more than a dense layer (layers={list(task.layers)}, lstm={task.lstm},"
            f" fusion={task.fusion}), which has no place elsewhere: run it with bert-jax predict, or fine-tune a plain one"
        )


def _refuse_idle_options(path: Path, description: ModelDescription, asked: Asked) -> None:
    """An answer to what was not asked is a mistake about the checkpoint."""
    task, gelu = description.task, description.model.hidden_act
    if asked.task is not None and task is None:
        raise UserError(f"--task {asked.task}: {path} has no fine-tuned head: leave the option out")
    if asked.task is not None and task is not None and task.kind != asked.task:
        raise UserError(f"--task {asked.task}: {path} has a head for {task.kind}: leave the option out")
    if asked.gelu is not None and gelu != asked.gelu:
        raise UserError(f"--gelu {asked.gelu}: {path} is a run and says hidden_act={gelu} itself: leave the option out")


def _conclusions(
    format: str, description: ModelDescription, tokenizer: Tokenizer | None, asked: Asked
) -> Iterator[str]:
    """Yield what was assumed because no file says it, a sentence each."""
    task = description.task
    if format == TF1 and task is not None and task.kind == "classification" and asked.task is None:
        kernel = names.CLASSIFIER[0].tf1
        yield (
            f"{kernel} of {task.outputs} outputs is taken for a classification, as run_classifier.py writes it; give --task"
            " for another kind"
        )
    if tokenizer is not None and not tokenizer.decided_by.startswith(RECORDED):
        case = "lower-cased" if tokenizer.lowercase else "cased"
        yield (
            f"text is taken to be {case}: {tokenizer.decided_by}; do_lower_case in a {TOKENIZER_FILE} beside them decides"
            " otherwise"
        )
    if tokenizer is not None and tokenizer.unreachable:
        yield (
            f"{len(tokenizer.unreachable)} of the {tokenizer.vocab_size} entries of the vocabulary, the first of them id"
            f" {tokenizer.unreachable[0]}, are empty or repeated further down: their ids stay, and no text is encoded to them"
        )


_LAYER_NUMBER = {
    HUGGING_FACE: re.compile(r"bert\.encoder\.layer\.(\d+)\."),
    TF1: re.compile(r"bert/encoder/layer_(\d+)/"),
}


def _check_layers(format: str, model: ModelConfig, own: Iterable[str], path: Path) -> None:
    numbers = {int(match[1]) for name in own if (match := _LAYER_NUMBER[format].match(name))}
    count = model.num_hidden_layers
    if numbers and (len(numbers), min(numbers), max(numbers)) != (count, 0, count - 1):
        raise UserError(
            f"{path} holds layers {min(numbers)} to {max(numbers)} ({len(numbers)} of them) and its config says"
            f" num_hidden_layers={model.num_hidden_layers}: they do not belong together"
        )


def _account(
    format: str,
    description: ModelDescription,
    own: Mapping[str, str],
    tensors: StoredTensors,
    left_out: Collection[str],
) -> tuple[dict[str, str], dict[str, str]]:
    """Every tensor is used, skipped with a reason, or an error."""
    used: dict[str, str] = {}
    untied = description.mlm and not description.model.tie_word_embeddings
    for row in names.rows_of(description):
        name = row.name(format)
        if name not in own or (name == OUTPUT_BIAS and untied):
            name = next((second for second, first in SECOND_NAMES.items() if first == name and second in own), name)
        if name not in own or own[name] in left_out:
            raise UserError(_lacking(name, format, description, own, tensors.path))
        _check_shape(row, format, description, tensors.entries[own[name]], own[name], tensors.path)
        used[row.ours] = own[name]
    skipped, homeless = {}, []
    taken = set(used.values())
    optimizer = _of_optimizer(format, tensors, taken | set(left_out))
    for name, stored_name in own.items():
        if stored_name in taken:
            continue
        reason = "left out as asked" if stored_name in left_out else names.reason_to_skip(name, format)
        reason = optimizer.get(stored_name) if reason is None else reason
        if name == names.POSITION_IDS:
            _require_counting(tensors, stored_name)
        if reason is None and name == OUTPUT_BIAS and untied:
            reason = f"not used: transformers adds {DECODER_BIAS} where the output matrix is its own"
        if reason is None and name in SECOND_NAMES and SECOND_NAMES[name] in own:
            reason = f"another name of {SECOND_NAMES[name]}"
            _require_equal(tensors, stored_name, own[SECOND_NAMES[name]])
        if reason is None:
            homeless.append(stored_name)
        else:
            skipped[stored_name] = reason
    if homeless:
        several = " (a pattern, such as 'name*', leaves out several)" if len(homeless) > 1 else ""
        raise UserError(
            f"{tensors.path} holds {listed(homeless)}, which has no place in a BERT: leave it out by"
            f" --skip {homeless[0]}, if it is not needed{several}"
        )
    return used, skipped


def _lacking(name: str, format: str, description: ModelDescription, own: Mapping[str, str], path: Path) -> str:
    """Return the message about a missing tensor: the checkpoint was cut off, or its tensors have other names."""
    known = {row.name(format) for row in names.rows_of(description)} | SECOND_NAMES.keys()
    others = [own_name for name, own_name in own.items() if name not in known]
    strange = [own_name for own_name in others if names.reason_to_skip(own_name, format) is None]
    if not strange or format == BERT_JAX:
        return f"{path} lacks {name}, which the other tensors need: it was cut or never whole"
    return (
        f"{path} lacks {name}, and holds {len(strange):,} tensors that are called otherwise than a BERT's ({listed(strange)}):"
        " it is another model's, or one with names of its own, which must become those of transformers first"
    )


def _of_optimizer(format: str, tensors: StoredTensors, taken: Collection[str]) -> dict[str, str]:
    """An optimizer's tensors -> why they are left out: as moments, of which `optimizer_for` tells, or as what they are."""
    if format != TF1:
        return {}
    variables = {name: entry for name, entry in tensors.entries.items() if name in taken}
    others = {name: entry for name, entry in tensors.entries.items() if name not in taken}
    slots = optimizer_tensors(others, variables)
    moments = moments_of(others) or ()
    kinds = sorted({slot for slot in slots.values() if slot not in moments and slot != names.GLOBAL_STEP})
    reason = f"an optimizer's: {listed(kinds)}"
    return {
        name: names.OPTIMIZER_STATE if slot in moments or slot == names.GLOBAL_STEP else reason
        for name, slot in slots.items()
    }


def _require_counting(tensors: StoredTensors, name: str) -> None:
    buffer = tensors.read(name).ravel()
    if not np.array_equal(buffer, np.arange(buffer.size)):
        raise UserError(f"{tensors.path}: {name} does not count from 0: positions of this model are others than BERT's")


def _require_equal(tensors: StoredTensors, second: str, first: str) -> None:
    if not np.array_equal(tensors.read(second), tensors.read(first)):
        raise UserError(
            f"{tensors.path}: {second} is not equal to {first}, and config.json says that they are one"
            " (tie_word_embeddings): set it to false there if the output matrix is its own"
        )


def _check_shape(
    row: NameRow, format: str, description: ModelDescription, entry: TensorEntry, name: str, path: Path
) -> None:
    """Refuse a tensor that the config contradicts; rows of the vocabulary are looked at later."""
    if entry.dtype not in FLOATS:
        raise UserError(f"{path}: {name} is of type {entry.dtype}: weights are {', '.join(FLOATS)}")
    wanted = names.shape_of(row, description)
    wanted = wanted[::-1] if row.is_transposed(format) else wanted
    vocabulary = row.shape[:1] == ("V",)
    if entry.shape == wanted or (vocabulary and entry.shape[1:] == wanted[1:]):
        return
    shapes = f"is {list(entry.shape)}, and by the config it should be {list(wanted)}"
    hint = ": it is transposed" if entry.shape == wanted[::-1] else ": the config belongs to another model"
    raise UserError(f"{path}: {name} {shapes}{hint}")


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
