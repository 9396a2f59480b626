# SPDX-License-Identifier: Apache-2.0
"""A checkpoint from any format to any other, with a certificate.

The result is written beside its place and takes it when the certificate holds, so what is there is whole and proven.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256, write_json
from bert_jax.base.host import __version__
from bert_jax.base.types import JsonObject
from bert_jax.config.settings import OF_TRAINING
from bert_jax.conversion import names
from bert_jax.conversion.card import write_card
from bert_jax.conversion.certificate import as_json, compare_tensors, Difference, differences, example_inputs, run_side
from bert_jax.conversion.checkpoints import (
    Asked,
    check_norm,
    Checkpoint,
    open_checkpoint,
)
from bert_jax.conversion.electra import half_of
from bert_jax.conversion.extension import extended, Extension, plan_extension
from bert_jax.conversion.finished import CERTIFICATE, request_for
from bert_jax.conversion.heads import require_no_bilm, require_plain_head
from bert_jax.conversion.names import BERT_JAX, HUGGING_FACE, TF1
from bert_jax.conversion.optimizer_state import optimizer_for, unequal_moments
from bert_jax.conversion.places import beside, free_place, put_in_place
from bert_jax.conversion.sentence_files import Served, vectors_for
from bert_jax.conversion.writing import Form, write_checkpoint


@dataclass(frozen=True)
class Certificate:
    """The proof of a conversion: both sides, and how far they are apart."""

    source: Checkpoint
    result: Checkpoint
    ran: tuple[str, str]  # what ran the source and the result
    differences: list[Difference]
    unequal: list[str]  # tensors, moments and entries of the vocabulary that are not the same on both sides
    compared: int  # tensors
    notes: list[str]
    left_in: Path | None = None  # where a result lies that was not put in its place

    @property
    def holds(self) -> bool:
        """Whether every tensor is equal and every output within the tolerance."""
        return not self.unequal and all(one.holds for one in self.differences)

    def lines(self) -> list[str]:
        """Return notes and verdict, as lines for people."""
        outputs = ", ".join(f"{one.output} {one.largest_difference:.1e}" for one in self.differences)
        tensors = f"{self.compared} tensors are bit for bit the same" if not self.unequal else "; ".join(self.unequal)
        verdict = "certificate holds" if self.holds else "CERTIFICATE DOES NOT HOLD"
        return [*self.notes, f"{verdict}: {tensors}; largest differences: {outputs} ({self.ran[0]}; {self.ran[1]})"]


def convert(
    source: Path,
    destination: Path,
    to: str,
    asked: Asked = Asked(),  # noqa: B008  # frozen
    dtype: str = "float32",
    peer_python: Path | None = None,
    served: Served = Served(),  # noqa: B008  # frozen
) -> Certificate:
    """Convert, prove, and put the result in its place where the proof holds.

    Args:
      source: a checkpoint of any format.
      destination: a directory that does not exist, or is empty.
      to: one of `names.FORMATS`.
      asked: what the user decides where files do not say.
      dtype: of the tensors that are written for Hugging Face; float16 and bfloat16 only if that loses nothing.
      peer_python: a Python with torch and transformers, which then runs Hugging Face's side.
      served: how servers of a directory for Hugging Face make vectors.

    Raises:
      UserError: what cannot be converted, named.
    """
    destination = free_place(destination)
    if dtype != "float32" and to != HUGGING_FACE:
        raise UserError(f"--dtype {dtype} is for --to {HUGGING_FACE} only: {to} keeps float32")
    opened = open_checkpoint(source, asked)
    if to != BERT_JAX or asked.generator:
        opened = half_of(opened, asked.generator)
    if to != BERT_JAX:
        require_no_bilm(source, opened.description, f"the format {to}")
    require_plain_head(source, opened.description)
    _refuse_idle_peer(peer_python, opened.format, to)
    form = Form(to, dtype, vectors_for(opened, to, served))
    request = request_for(source, to, asked, dtype, served)
    return _write_and_prove(opened, destination, form, peer_python, request=request)


def extend(
    source: Path,
    destination: Path,
    words: Sequence[str],
    positions: int | None = None,
    fill_unused: bool = True,
    asked: Asked = Asked(),  # noqa: B008  # frozen
) -> tuple[Certificate, Extension]:
    """Add words and positions to a checkpoint: the result has the source's format; see extension.py.

    What is proven: the tensors are those planned, bit for bit, and every old id gives the outputs of the source.

    Raises:
      UserError: as `convert` and `plan_extension`.
    """
    destination = free_place(destination)
    opened = open_checkpoint(source, asked)
    require_no_bilm(source, opened.description, "bert-jax vocab extend")
    require_plain_head(source, opened.description)
    extension = plan_extension(opened, words, positions, fill_unused)
    grown = extended(opened, extension)
    before = Before(opened, extension.kept())
    form = Form(opened.format, vectors=vectors_for(opened, opened.format, Served()))
    certificate = _write_and_prove(grown, destination, form, None, before)
    return certificate, extension


def compare(first: Path, second: Path, asked: Asked, peer_python: Path | None = None) -> Certificate:
    """Two checkpoints that are there: what differs, and what it looks like.

    Raises:
      UserError: as `open_checkpoint`; the models have different shapes.
    """
    source, result = (open_checkpoint(path, asked) for path in (first, second))
    _refuse_idle_peer(peer_python, source.format, result.format)
    shapes = [dataclasses.asdict(side.description.model) for side in (source, result)]
    different = [
        f"{name} {value} and {shapes[1][name]}"
        for name, value in shapes[0].items()
        if value != shapes[1][name] and name not in OF_TRAINING
    ]
    if different:
        raise UserError(f"{first} and {second} are different models: {', '.join(different)}")
    certificate = certify(source, result, [], peer_python)
    ours, theirs = ({row.ours for row in side.rows} for side in (source, result))
    alone = [f"{name}: only in {first if name in ours else second}" for name in sorted(ours ^ theirs)]
    return replace(certificate, unequal=certificate.unequal + alone)


def _refuse_idle_peer(peer_python: Path | None, first: str, second: str) -> None:
    if peer_python is not None and HUGGING_FACE not in (first, second):
        raise UserError(
            f"--peer-python runs Hugging Face's side, and here {first} stands against {second}: leave the option out"
        )


def _write_and_prove(
    opened: Checkpoint,
    destination: Path,
    form: Form,
    peer_python: Path | None,
    before: "Before | None" = None,
    request: JsonObject | None = None,
) -> Certificate:
    check_norms(opened)
    with beside(destination) as folder:
        optimizer, said = optimizer_for(opened, form.to)
        notes = [*opened.notes, *write_checkpoint(opened, folder, form, optimizer), *said]
        task = opened.description.task
        result = open_checkpoint(folder, Asked(task=task.kind if task else None, padding_rows="keep"))
        certificate = certify(opened, result, notes, peer_python, before)
        unequal = [*certificate.unequal, *_unequal_vocabulary(opened, result)]
        if optimizer is not None:
            kept = optimizer_for(result, form.to)[0]
            unequal += unequal_moments(optimizer, kept, result.rows) if kept else ["the optimizer's state is gone"]
        certificate = replace(certificate, unequal=unequal)
        if form.to == HUGGING_FACE:
            notes += write_card(opened, folder, form.vectors, certificate.lines())
        _record(certificate, folder, request)
        if certificate.holds:
            put_in_place(folder, destination)
    return certificate if certificate.holds else replace(certificate, left_in=folder)


def _unequal_vocabulary(source: Checkpoint, result: Checkpoint) -> list[str]:
    """Entries, and how text is normalised, where the result's format can say it."""
    ours, theirs = source.tokenizer, result.tokenizer
    if ours is None or theirs is None:
        return [] if ours is theirs else ["vocabulary: only on one side"]
    if list(ours.vocabulary) != list(theirs.vocabulary):
        return ["vocabulary: its entries, or their order, are others"]
    if result.format != TF1 and ours.settings() != theirs.settings():
        return ["vocabulary: text is normalised in another way"]
    return []


class Before(NamedTuple):
    """A checkpoint before it was extended: what is run on its side, and the ids that must give what they gave."""

    checkpoint: Checkpoint
    kept: np.ndarray


def certify(
    source: Checkpoint,
    result: Checkpoint,
    notes: list[str],
    peer_python: Path | None = None,
    before: Before | None = None,
) -> Certificate:
    """Compare two checkpoints: outputs, then tensors. One side at a time is in memory."""
    first = source if before is None else before.checkpoint
    inputs = example_inputs(first.description.model, None if before is None else before.kept)
    ran_first, expected = run_side(first, inputs, peer_python)
    ran_result, outputs = run_side(result, inputs, peer_python)
    if before is not None:
        for side in (expected, outputs):
            side.update({name: side[name][:, :, before.kept] for name in ("mlm_logits",) if name in side})
    found = differences(expected, outputs, inputs["input_mask"] == 1)
    compared = len({row.ours for row in source.rows} & {row.ours for row in result.rows})
    ran = ran_first, ran_result
    return Certificate(source, result, ran, found, compare_tensors(source, result), compared, notes)


def check_norms(checkpoint: Checkpoint) -> None:
    """Refuse LayerNorms whose scale and bias were swapped."""
    by_name = {row.ours: row for row in checkpoint.rows}
    for name, row in by_name.items():
        if name.endswith("/scale"):
            bias = by_name[f"{name.removesuffix('scale')}bias"]
            pair = checkpoint.own_names[row.ours], checkpoint.own_names[bias.ours]
            check_norm(checkpoint.path, pair, checkpoint.weight(row), checkpoint.weight(bias))


# ---- the record -----------------------------------------------------------------------------------------------------


def _record(certificate: Certificate, folder: Path, request: JsonObject | None) -> None:
    """conversion.json; `request`: by which the same conversion is recognised, see finished.py."""
    source, result = certificate.source, certificate.result
    record: JsonObject = {
        "bert_jax": __version__,
        "holds": certificate.holds,
        "source": {"format": source.format, "path": source.path.name, "files": _hashes(source)},
        "result": {"format": result.format, "files": _hashes(result)},
        "weights_sha256": {"source": weights_sha256(source, result), "result": weights_sha256(result, result)},
        "model": result.description.to_dict(),
        "ran": {"source": certificate.ran[0], "result": certificate.ran[1]},
        "outputs": as_json(certificate.differences),
        "unequal_tensors": certificate.unequal,
        "tensors": [
            {
                "name": row.ours,
                "shape": list(names.shape_of(row, result.description)),
                "source": source.own_names[row.ours],
                "result": result.own_names[row.ours],
            }
            for row in result.rows
        ],
        "skipped": dict(source.skipped),
        "left_out": [row.ours for row in source.rows if row.ours not in result.own_names],
        "notes": certificate.notes,
        "request": request,
    }
    write_json(folder / CERTIFICATE, record)


def weights_sha256(checkpoint: Checkpoint, like: Checkpoint) -> str:
    """A hash of the tensors that `like` has, in our layout: the same whatever format holds them."""
    digest = hashlib.sha256()
    for row in like.rows:
        array = checkpoint.weight(row)
        digest.update(f"{row.ours} {array.shape}".encode())
        digest.update(array)
    return digest.hexdigest()


def _hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """sha256 of the files that lie beside each other; a run's arrays are covered by `weights_sha256`."""
    place, stem = (checkpoint.path, "") if checkpoint.path.is_dir() else (checkpoint.path.parent, checkpoint.path.name)
    files = [path for path in sorted(place.iterdir()) if path.is_file() and path.name != CERTIFICATE]
    if checkpoint.format == HUGGING_FACE:
        files += sorted(place.glob("*/config.json"))  # of the modules behind the network
    named = ("config", "vocab", "tokenizer", "special_tokens", "bert_config", stem)
    wanted = [path for path in files if not stem or path.name.startswith(named)]
    return {path.relative_to(place).as_posix(): file_sha256(path) for path in wanted}
