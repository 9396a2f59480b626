# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is what was saved: its record tells the checksum of each array and of itself.

The record is JSON beside the arrays. A checkpoint of an earlier version has a record without checksums and is taken as
it is; a record that has only some of them was changed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bert_jax.base.types import JsonObject, PyTree
from bert_jax.runs.checksums import arrays_by_path, checksums, not_finite, text_checksum

ARRAYS, OWN = "checksums", "checksum"  # in the record: of each array by its path, and of all the rest of the record
RECORD_FILE = "record/metadata"  # as Orbax lays a checkpoint out, like the two names below
_ITEM_FILES = ("_METADATA", "manifest.ocdbt")


class Damaged(ValueError):
    """A checkpoint is not what was saved; the message says what of it."""


def sealed(record: JsonObject, items: Mapping[str, PyTree]) -> JsonObject:
    """A copy of the record with the checksums of the arrays that are saved with it, and its own.

    A copy, because it is written behind the steps, whose sums the record holds and which go on adding to them.
    """
    content = json.loads(json.dumps({**record, ARRAYS: checksums(items)}))
    return {**content, OWN: text_checksum(content)}


def unsealed(record: object) -> tuple[JsonObject, dict[str, str] | None]:
    """The inverse of `sealed`: the record and the arrays' checksums; None where an earlier version saved it.

    Raises:
      Damaged: it was changed.
    """
    if not isinstance(record, dict):
        raise Damaged(f"{RECORD_FILE} holds a JSON {type(record).__name__}, not an object")
    content = {name: value for name, value in record.items() if name != OWN}
    if OWN not in record and ARRAYS not in record:
        return content, None
    if OWN not in record or ARRAYS not in record or text_checksum(content) != record[OWN]:
        raise Damaged(f"{RECORD_FILE} is not what was saved: its checksum differs")
    arrays = content.pop(ARRAYS)
    return content, arrays


def check_arrays(items: Mapping[str, PyTree], saved: Mapping[str, str] | None) -> None:
    """Refuse arrays that are not those that were saved, and weights that are no numbers.

    Args:
      items: name -> pytree of arrays, as restored.
      saved: the checksums in the record; None: there are none to compare with.

    Raises:
      Damaged: naming the array.
    """
    if saved is not None:
        for path, found in checksums(items).items():
            if path not in saved:
                raise Damaged(f"array {path} has no checksum in {RECORD_FILE}")
            if saved[path] != found:
                raise Damaged(f"array {path} is not what was saved: its checksum is {found}, not {saved[path]}")
    broken = not_finite(items)
    if broken is not None:
        raise Damaged(f"array {broken} holds values that are not finite")


def damage_found(folder: Path, items: Mapping[str, PyTree], error: Exception) -> str | None:
    """Return which file or array caused an error that Orbax raised, as far as can be told."""
    needed = [RECORD_FILE, *(f"{item}/{file}" for item in items for file in _ITEM_FILES)]
    for name in needed:
        if not (folder / name).is_file():
            return f"{name} is missing"
    also = [str(file.relative_to(folder)) for item in items for file in (folder / item).glob("array_metadatas/*")]
    for name in (*needed, *sorted(also)):
        if not name.endswith(".ocdbt") and not _is_json(folder / name):
            return f"{name} is damaged: it is not JSON"
    text = " ".join(str(part) for part in chain(error))
    for item, tree in items.items():
        for path in arrays_by_path(tree):
            if f"/{item}/" in text and re.search(rf"""['"]{re.escape(path.replace("/", "."))}/""", text):
                return f"array {item}/{path} cannot be read{_file_in(text, folder)}"
    if isinstance(error, KeyError | TypeError | AttributeError):
        return f"a _METADATA or array_metadatas file in it is damaged: {type(error).__name__} {error}"
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came of, one after the other."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _file_in(text: str, folder: Path) -> str:
    """The last file of the checkpoint that a message names, in words."""
    files = [name for name in re.findall(rf"{re.escape(str(folder))}/([\w./-]+)", text) if (folder / name).is_file()]
    return f", of which {files[-1]} is damaged" if files else ""


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True
