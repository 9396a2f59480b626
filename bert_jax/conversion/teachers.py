# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of any format as the teacher of a run; a run keeps a record of it and opens it again to go on."""

from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import reading
from bert_jax.base.paths import absolute, any_path
from bert_jax.base.types import JsonObject
from bert_jax.conversion.checkpoints import Asked, Checkpoint, open_checkpoint
from bert_jax.conversion.convert import weights_sha256
from bert_jax.conversion.names import BERT_JAX
from bert_jax.runs.directory import RunDirectory
from bert_jax.train.distillation import Teacher


def open_teacher(path: Path) -> Teacher:
    """Open a teacher of pre-training.

    Raises:
      UserError: no checkpoint, one that is not whole, no vocabulary.
    """
    return teacher_of(open_checkpoint(path, Asked(padding_rows="keep", head=False)), path)


def teacher_of(checkpoint: Checkpoint, path: Path) -> Teacher:
    """Return an opened checkpoint as a teacher.

    Raises:
      UserError: it has no vocabulary.
    """
    if checkpoint.tokenizer is None:
        raise UserError(f"--teacher {path}: has no vocabulary: put its vocab.txt beside it")
    own = checkpoint.format == BERT_JAX
    positions = checkpoint.description.model.max_position_embeddings
    longest = RunDirectory(checkpoint.path).longest() if own else positions
    record: JsonObject = {
        "path": absolute(path),
        "format": checkpoint.format,
        "step": checkpoint.step,
        "summary": checkpoint.description.summary(),
        "weights_sha256": weights_sha256(checkpoint, checkpoint),
        "vocabulary": checkpoint.tokenizer.fingerprint,
    }
    return Teacher(str(path), checkpoint.description, checkpoint.tokenizer, longest, record, checkpoint.parameters)


def same_teacher(run: RunDirectory) -> Teacher | None:
    """Return the teacher that a run had, to learn from it again; None: it had none.

    Raises:
      UserError: it is gone, or not what it was.
    """
    record = run.teacher()
    if record is None:
        return None
    with reading(run.teacher_file, "restore the file"):
        path, known = any_path(record["path"]), record["weights_sha256"]
    teacher = open_teacher(path)
    if teacher.record["weights_sha256"] != known:
        raise UserError(f"{run.path}: its teacher {path} was changed since: put back what it was ({record['summary']})")
    return teacher
