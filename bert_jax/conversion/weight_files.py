# SPDX-License-Identifier: Apache-2.0
"""The files that transformers keeps a model's weights in: which one is read, and what lies beside it."""

from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.conversion import names
from bert_jax.conversion.names import HUGGING_FACE
from bert_jax.conversion.safetensors_files import open_safetensors
from bert_jax.conversion.tensors import StoredTensors
from bert_jax.conversion.torch_files import open_torch

HUGGING_FACE_FILES = (  # of several the first is read
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# File -> whose weights transformers keeps in it, and the option by which it reads them.
OTHER_FRAMEWORKS = {"tf_model.h5": ("TensorFlow 2", "from_tf"), "flax_model.msgpack": ("Flax", "from_flax")}


def open_weights(path: Path) -> StoredTensors:
    """The tensors of one of `HUGGING_FACE_FILES`."""
    return open_safetensors(path) if "safetensors" in path.name else open_torch(path)


def refuse_other_frameworks(path: Path) -> None:
    """Name the way for weights that transformers wrote for TensorFlow 2 or Flax, with nothing else beside them."""
    folder, present = (path, OTHER_FRAMEWORKS) if path.is_dir() else (path.parent, {path.name})
    name = next((name for name in OTHER_FRAMEWORKS if name in present and (folder / name).is_file()), None)
    if name is not None:
        framework, option = OTHER_FRAMEWORKS[name]
        raise UserError(
            f"{folder} holds {name} alone, which only transformers reads: with transformers 4, PyTorch and {framework} run"
            f" python -c \"import transformers as t; c = t.AutoConfig.from_pretrained('{folder}'); getattr(t,"
            f" c.architectures[0]).from_pretrained('{folder}', {option}=True).save_pretrained('{folder}')\", then this"
            " command again"
        )


def other_files(path: Path, used: Path) -> list[Path]:
    """The other files of weights in a directory; none where the file was named."""
    present = [path / name for name in HUGGING_FACE_FILES if (path / name).is_file()] if path.is_dir() else []
    return [file for file in present if file != used]


def same_weights(tensors: StoredTensors, other: Path) -> str:
    """Compare a second file of weights, and return the note about it.

    Raises:
      UserError: it holds others.
    """
    used, remedy = tensors.path.name, f"name the file that is meant, such as {tensors.path}, or move one away"
    try:
        second = open_weights(other)
        ours, theirs = (_weights_by_name(side) for side in (tensors, second))
    except UserError as error:
        return f"{used} is read, not {other.name} beside it, which is no whole checkpoint: {error}"
    different = sorted(ours.keys() ^ theirs.keys())
    if different:
        where = used if different[0] in ours else other.name
        raise UserError(f"{other.parent}: only {where} holds {different[0]}, of {used} and {other.name}: {remedy}")
    for name, own in ours.items():
        first, again = tensors.read(own), second.read(theirs[name])
        if first.shape != again.shape or not np.array_equal(
            first.astype(np.float32), again.astype(np.float32), equal_nan=True
        ):
            raise UserError(f"{other.parent}: {name} is another in {used} than in {other.name}: {remedy}")
    return f"{used} is read, not {other.name} beside it, which holds the same {len(ours)} tensors"


def _weights_by_name(tensors: StoredTensors) -> dict[str, str]:
    """The table's name -> the file's own, without buffers and second names of tied tensors, which a file may lack."""
    prefix = names.prefix_of(tensors.entries, HUGGING_FACE)
    short = {name.removeprefix(prefix): name for name in tensors.entries}
    found = names.canonical(list(short), HUGGING_FACE)
    spare = {second for second, first in names.SECOND_NAMES.items() if first in found.values()}
    return {
        name: short[own]
        for own, name in found.items()
        if name not in spare and names.reason_to_skip(name, HUGGING_FACE) is None
    }
