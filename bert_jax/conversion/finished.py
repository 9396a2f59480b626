# SPDX-License-Identifier: Apache-2.0
"""Whether a conversion was made before: by what was asked for and by what the files of the source hold.

conversion.json keeps the request of a conversion whose certificate holds. Paths and times of files do not count.
"""

import dataclasses
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256, parse_json
from bert_jax.base.host import __version__
from bert_jax.base.types import JsonObject
from bert_jax.conversion.checkpoints import Asked, detect, readable_checkpoint
from bert_jax.conversion.names import BERT_JAX, HUGGING_FACE, TF1
from bert_jax.conversion.own_format import step_of
from bert_jax.conversion.sentence_files import Served
from bert_jax.runs.directory import RunDirectory

CERTIFICATE = "conversion.json"
_OF_A_CHECKPOINT = (".json", ".txt", ".model", ".bin", ".safetensors")
_OF_A_RUN = ("config.json", "model.json", "vocab.txt", "sentencepiece.model", "tokenizer_config.json")


def request_for(source: Path, to: str, asked: Asked, dtype: str, served: Served = Served()) -> JsonObject:  # noqa: B008
    """All that decides what is made, as JSON; equal requests make equal results. The files are read."""
    vocabulary = asked.vocabulary
    return {
        "bert_jax": __version__,
        "to": to,
        "dtype": dtype,
        "served": dataclasses.asdict(served),
        "asked": _answers(asked),
        "vocabulary": _vocabulary_hashes(vocabulary) if vocabulary else {},
        "source": {name: file_sha256(file) for name, file in sorted(_files_of(source).items())},
    }


def _answers(asked: Asked) -> JsonObject:
    answers = dataclasses.asdict(asked) | {"vocabulary": None, "skip": list(asked.skip)}
    if not asked.generator:  # as records of earlier versions, which know no generator
        del answers["generator"]
    return answers


def was_made(
    source: Path,
    destination: Path,
    to: str,
    asked: Asked,
    dtype: str,
    served: Served = Served(),  # noqa: B008  # frozen
) -> bool:
    """Whether `destination` holds what is asked for, whole.

    Raises:
      UserError: it holds another conversion, or its files were changed since.
    """
    file = destination / CERTIFICATE
    if not file.is_file() or destination.is_symlink():
        return False
    try:
        record = parse_json(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error}): choose another place for the result") from None
    request, result = record.get("request"), record.get("result")
    if not isinstance(request, dict) or not isinstance(result, dict):
        return False  # of an earlier version, or of --compare and the like: the place is not free
    now = request_for(source, to, asked, dtype, served)
    different = next((name for name in now if request.get(name) != now[name]), None)
    if different is not None:
        what = "files of MODEL" if different == "source" else different
        raise UserError(f"{destination} holds another conversion ({what} differ): choose another place, or remove it")
    hashes = result.get("files")
    changed = (
        [name for name, sha in hashes.items() if _hash_or_none(destination / name) != sha] if hashes else [file.name]
    )
    if changed:
        raise UserError(
            f"{destination / changed[0]} was changed since it was converted: remove {destination} to do it again"
        )
    return True


def _hash_or_none(file: Path) -> str | None:
    return file_sha256(file) if file.is_file() else None


def _vocabulary_hashes(path: Path) -> dict[str, str]:
    files = [file for file in path.iterdir() if file.suffix in _OF_A_CHECKPOINT] if path.is_dir() else [path]
    return {file.name: file_sha256(file) for file in sorted(files) if file.is_file()}


def _files_of(source: Path) -> dict[str, Path]:
    """Name -> file of all that a conversion reads: of a run one checkpoint too, of TensorFlow the prefix's files."""
    source, step = step_of(source) or (source, None)
    source = readable_checkpoint(source)
    format, where = detect(source)
    if format == BERT_JAX:
        steps = [folder for folder in RunDirectory(source).checkpoints.iterdir() if folder.name.isdecimal()]
        chosen = max(
            (one for one in steps if step in (None, int(one.name))), key=lambda one: int(one.name), default=None
        )
        arrays = [file for file in chosen.rglob("*") if file.is_file()] if chosen is not None else []
        found = [source / name for name in _OF_A_RUN if (source / name).is_file()] + arrays
        return {str(file.relative_to(source)): file for file in found}
    files = [file for file in where.parent.iterdir() if file.is_file() and file.name != CERTIFICATE]
    kept = [file for file in files if file.suffix in _OF_A_CHECKPOINT]
    kept += where.parent.glob("*/config.json") if format == HUGGING_FACE else []  # how vectors are pooled
    if format == TF1:
        kept += [file for file in files if file.name.startswith(f"{where.name}.") and file not in kept]
    return {file.relative_to(where.parent).as_posix(): file for file in kept}
