# SPDX-License-Identifier: Apache-2.0
"""Large checkpoints as they lie in Hugging Face's repositories: cut into several files, or as pointers to them.

Beside the files is an index, `{"metadata": ..., "weight_map": {tensor name: file name}}`.
"""

from collections.abc import Callable
from pathlib import Path

from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import parse_json
from bert_jax.conversion.tensors import require_few, StoredTensors

INDEX_SUFFIX = ".index.json"
_LFS_POINTER = b"version https://git-lfs"


def open_sharded(index: Path, open_file: Callable[[Path], StoredTensors]) -> StoredTensors:
    """The tensors of all files that an index names, as one checkpoint; `open_file` opens one of them.

    Raises UserError where a file is missing and where index and files do not tell of the same tensors.
    """
    weight_map = _weight_map(index)
    require_few(index, len(weight_map))
    names = list(dict.fromkeys(weight_map.values()))
    _check_presence(index, names)
    shards = {name: open_file(index.parent / name) for name in names}
    holders = _holders(index, shards)
    _check_agreement(index, weight_map, holders)
    entries = {name: entry for shard in shards.values() for name, entry in shard.entries.items()}
    return StoredTensors(index, entries, lambda name: shards[holders[name]].read(name))


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = parse_json(index.read_bytes()).get("weight_map")
    except FileNotFoundError:
        raise UserError(f"there is no {index}: check the path") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{index} is no index of a checkpoint: {error}: copy or download it again") from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map, or an empty one: copy or download it again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or file != Path(file).name or file in ("", ".."):
            raise UserError(f"{index} puts {name} into {file!r}, which is no name of a file beside it: correct it")
    return weight_map


def _check_presence(index: Path, names: list[str]) -> None:
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index} names {len(names)} files, of which {len(missing)} are missing beside it ({listed(missing)}):"
            " copy or download them into the same folder"
        )


def _holders(index: Path, shards: dict[str, StoredTensors]) -> dict[str, str]:
    """Tensor -> the file that holds it."""
    holders: dict[str, str] = {}
    for file, shard in shards.items():
        for name in shard.entries:
            if name in holders:
                raise UserError(
                    f"{index}: {name} is in {holders[name]} and again in {file}: the files do not belong together"
                )
            holders[name] = file
    return holders


def _check_agreement(index: Path, weight_map: dict[str, str], holders: dict[str, str]) -> None:
    absent = [name for name in weight_map if name not in holders]
    if absent:
        raise UserError(
            f"{index} names {len(weight_map)} tensors, of which {len(absent)} are in none of its files"
            f" ({listed(f'{name} in {weight_map[name]}' for name in absent)}): the files do not belong together"
        )
    unnamed = [name for name in holders if name not in weight_map]
    if unnamed:
        raise UserError(
            f"{index} names {len(weight_map)} tensors, its files hold {len(holders)}, with {listed(unnamed)}:"
            " the files do not belong together"
        )
    for name, file in weight_map.items():
        if holders[name] != file:
            raise UserError(
                f"{index} puts {name} into {file}, it is in {holders[name]}: the files do not belong together"
            )


def refuse_lfs_pointer(path: Path) -> None:
    """Raise UserError for the few lines that a clone without Git LFS leaves in the place of a large file."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(f"{path} is a pointer of Git LFS, not the file: run git lfs pull")
