# SPDX-License-Identifier: Apache-2.0
"""An opened checkpoint, written in any of the three formats."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.config.description import ModelDescription, TASKS
from bert_jax.conversion import names
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.config_files import (
    GOOGLE_CONFIG,
    google_config,
    HUGGING_FACE_CONFIG,
    hugging_face_config,
    is_electra,
)
from bert_jax.conversion.names import BERT_JAX, HUGGING_FACE, NameRow, TF1
from bert_jax.conversion.optimizer_state import OptimizerState
from bert_jax.conversion.own_format import config_for, write_run
from bert_jax.conversion.safetensors_files import write_safetensors
from bert_jax.conversion.sentence_files import SentenceVectors, write_sentence_files
from bert_jax.conversion.tensors import TensorEntry, Writable
from bert_jax.conversion.tf1 import write_tf1
from bert_jax.conversion.vocabularies import write_google_vocabulary, write_hugging_face_tokenizer
from bert_jax.runs.directory import open_run, RunDirectory

TF1_PREFIX = "bert_model.ckpt"


@dataclass(frozen=True)
class Form:
    """The form in which a checkpoint is written."""

    to: str  # one of names.FORMATS
    dtype: str = "float32"  # of Hugging Face's tensors; or float16, bfloat16
    vectors: SentenceVectors | None = None  # how those who serve Hugging Face's directory make vectors of sentences


def write_checkpoint(source: Checkpoint, folder: Path, form: Form, optimizer: OptimizerState | None) -> list[str]:
    """Write the result; returns what is to be said about it."""
    with _progress(source, form.to) as weight:
        if form.to == BERT_JAX:
            notes = _write_ours(source, folder, weight, optimizer)
        elif form.to == HUGGING_FACE:
            notes = _write_hugging_face(source, folder, weight, form)
        else:
            notes = _write_google(source, folder, weight, optimizer)
    skipped: dict[str, list[str]] = {}
    for name, reason in source.skipped.items():
        skipped.setdefault(reason, []).append(name)
    return notes + [
        f"{len(own):,} skipped ({reason}): {own[0]}"
        for reason, own in skipped.items()
        if reason != names.OPTIMIZER_STATE
    ]


@contextmanager
def _progress(source: Checkpoint, to: str) -> Iterator[Callable[[NameRow], np.ndarray]]:
    """A reader of weights that refuses what is not finite and shows how far it is."""
    total = sum(source.tensors.entries[source.own_names[row.ours]].bytes for row in source.rows)
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"convert to {to}", disable=None) as bar:

        def weight(row: NameRow) -> np.ndarray:
            array = source.finite_weight(row)
            bar.update(source.tensors.entries[source.own_names[row.ours]].bytes)
            return array

        yield weight


def _write_ours(
    source: Checkpoint, folder: Path, weight: Callable[[NameRow], np.ndarray], optimizer: OptimizerState | None
) -> list[str]:
    if source.tokenizer is None:
        raise UserError(f"{source.path} has no vocabulary, which a run needs: give --vocab vocab.txt")
    source.tokenizer.save(folder)
    config = config_for(source.description)
    if source.format == BERT_JAX:  # the run's own settings stay
        config = replace(open_run(source.path).config(), model=source.description.model)
    step, moments = (0, None) if optimizer is None else (optimizer.step, optimizer.moments)
    write_run(folder, source.description, weight, config, step, moments)
    return []


def _write_hugging_face(
    source: Checkpoint, folder: Path, weight: Callable[[NameRow], np.ndarray], form: Form
) -> list[str]:
    description, notes = _as_hugging_face_has_it(source.description)
    tensors = [_writable(row, HUGGING_FACE, description, weight, form.dtype) for row in names.rows_of(description)]
    untied = description.mlm and not description.model.tie_word_embeddings
    if untied and not is_electra(description):  # both are asked for, and this one is used
        bias = next(tensor for tensor in tensors if tensor.name == names.OUTPUT_BIAS)
        tensors.append(bias._replace(name=names.DECODER_BIAS))
    if is_electra(description):
        pooled = description.task is not None and description.task.is_pooled
        tensors = [tensor._replace(name=names.electra_name(tensor.name, pooled)) for tensor in tensors]
    write_safetensors(folder / "model.safetensors", tensors)
    pad = source.tokenizer.pad_id if source.tokenizer else 0
    values = hugging_face_config(description, pad) | {"torch_dtype": form.dtype}
    write_json(folder / HUGGING_FACE_CONFIG, values)
    if source.tokenizer is None:
        return [*notes, "without a vocabulary: the source has none"]
    run = RunDirectory(source.path) if source.format == BERT_JAX else None
    longest = run.longest() if run is not None else description.model.max_position_embeddings
    if form.vectors is not None:
        write_sentence_files(folder, form.vectors, description.model.hidden_size, longest)
        notes.append(f"sentence-transformers and servers make vectors by {form.vectors}")
    return notes + write_hugging_face_tokenizer(source.tokenizer, folder, longest)


def _as_hugging_face_has_it(description: ModelDescription) -> tuple[ModelDescription, list[str]]:
    """Without what Hugging Face's class for the head has no place for, and would warn of."""
    notes = []
    if description.model.causal:
        if description.task is not None and description.task.is_pooled:
            raise UserError(
                f"a left-to-right model's head for {description.task.kind} reads the last token, and Hugging Face's class the"
                " first: it has no place there; run it with bert-jax predict"
            )
        if description.pooler or description.nsp:
            description = replace(description, pooler=False, nsp=False)
            notes.append(
                "the pooler and the NSP head are left out: left to right they are not trained, and have no place"
            )
    if description.task is not None and (description.mlm or description.nsp):
        description = replace(description, mlm=False, nsp=False)
        notes.append("the MLM and NSP heads are left out: Hugging Face's class for this head has none")
    tokens = description.task is not None and TASKS[description.task.kind] == "tokens"
    masked = description.mlm and not description.nsp and description.task is None
    unread = is_electra(description) and description.task is None
    if description.pooler and (tokens or masked or unread):
        description = replace(description, pooler=False)
        notes.append("the pooler is left out: Hugging Face's class for this head has none")
    return description, notes


def _write_google(
    source: Checkpoint, folder: Path, weight: Callable[[NameRow], np.ndarray], optimizer: OptimizerState | None
) -> list[str]:
    values, notes = google_config(source.description)
    tensors = [_writable(row, TF1, source.description, weight) for row in source.rows]
    if optimizer is not None:
        for row in source.rows:
            for number, slot in enumerate(names.SLOTS):
                moment = _writable(row, TF1, source.description, lambda row, n=number: optimizer.moments(row)[n])  # type: ignore[misc]
                tensors.append(moment._replace(name=f"{moment.name}/{slot}"))
        steps = np.array(optimizer.step, np.int64)
        tensors.append(Writable(names.GLOBAL_STEP, TensorEntry((), "int64"), lambda: steps))
    write_tf1(folder / TF1_PREFIX, tensors)
    write_json(folder / GOOGLE_CONFIG, values)
    if source.tokenizer is None:
        return [*notes, "without a vocabulary: the source has none"]
    return notes + write_google_vocabulary(source.tokenizer, folder)


def _writable(
    row: NameRow,
    format: str,
    description: ModelDescription,
    weight: Callable[[NameRow], np.ndarray],
    dtype: str = "float32",
) -> Writable:
    shape = names.shape_of(row, description)
    transposed = row.is_transposed(format)

    def make() -> np.ndarray:
        array = weight(row)
        array = np.ascontiguousarray(array.T if transposed else array)
        return array if dtype == "float32" else _narrowed(row.name(format), array, dtype)

    return Writable(row.name(format), TensorEntry(shape[::-1] if transposed else shape, dtype), make)


def _narrowed(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    narrow = array.astype(np.dtype(dtype))
    if not np.array_equal(narrow.astype(np.float32), array):
        raise UserError(f"{name} does not fit into {dtype} without loss: leave out --dtype {dtype}")
    return narrow
