# SPDX-License-Identifier: Apache-2.0
"""Every tensor of a checkpoint has its place in the model, a reason to be left out, or is refused by name."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from bert_jax.base.errors import listed, UserError
from bert_jax.config.description import ModelDescription
from bert_jax.conversion import names
from bert_jax.conversion.names import BERT_JAX, DECODER_BIAS, NameRow, OUTPUT_BIAS, SECOND_NAMES, TF1
from bert_jax.conversion.slots import moments_of, optimizer_tensors
from bert_jax.conversion.tensors import StoredTensors, TensorEntry

FLOATS = ("float32", "float16", "bfloat16", "float64")


def by_table_name(found: Mapping[str, str], path: Path) -> dict[str, str]:
    """The table's name -> the checkpoint's own."""
    result: dict[str, str] = {}
    for own, name in found.items():
        if name in result:
            raise UserError(f"{path} holds {name} twice, as {result[name]} and as {own}: remove one of them")
        result[name] = own
    return result


def account(
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
