# SPDX-License-Identifier: Apache-2.0
"""The folder `prepare-unfinished`, which a run of `bert-jax prepare` works in and an interrupted one goes on in.

    request.json        what is made
    lock                held by the process that works here; see `output_lock`
    record-PPPPP-CCCCC  a finished chunk, beside its shards; see `chunks`
    part-PPPPP.json     a part that was read to its end: number of chunks, files with their sha256, what was met
    near-duplicates/    a folder as this one, of the pass that looks for them; see `near_duplicates`

A part is finished where it and all its chunks have records, and its files are still those. Of any other part, the
documents are read again, and a chunk is finished where its record is of the same documents.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256, own_folder, read_json, write_json
from bert_jax.base.output_lock import locked
from bert_jax.base.types import JsonObject
from bert_jax.feed.tokenised import cut
from bert_jax.preparation.chunks import Chunk, ChunkWork, SPLITS
from bert_jax.preparation.request import is_file_of, require_same_settings
from bert_jax.text.documents import ReadingCounts
from bert_jax.text.sources import describe_file, Part, read_part, Source

UNFINISHED = "prepare-unfinished"
NEAR_DUPLICATES = "near-duplicates"
_REQUEST = "request.json"


# ---- the folder --------------------------------------------------------------------------------------------


@contextmanager
def open_work_folder(output: Path, request: JsonObject) -> Iterator[Path]:
    """The folder inside `output`, locked: new, or with what an earlier run of the same request has finished.

    It is removed at the end where nothing in it is finished.

    Raises:
      UserError: `output` is a file, holds anything else, was begun with other settings, or another process is at work.
    """
    folder = output / UNFINISHED
    existed = output.exists()
    if existed and not output.is_dir():
        raise UserError(f"--output {output} is a file: choose another --output")
    if not folder.is_dir():
        _require_empty(output)
    own_folder(folder)
    with locked(folder, "prepare"):
        try:
            _begin_or_go_on(folder, request)
            yield folder
        finally:
            if not any(folder.rglob("record-*.json")):
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # not empty; and what went wrong before is what is said
                    if not existed:
                        output.rmdir()


def _require_empty(output: Path) -> None:
    foreign = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if foreign:
        raise UserError(
            f"--output {output} holds {foreign[0]}, not prepared data: choose another --output, new or empty"
        )


def _begin_or_go_on(folder: Path, request: JsonObject) -> None:
    for partial in folder.rglob("*.partial"):
        partial.unlink()
    path = folder / _REQUEST
    if not path.exists():
        write_json(path, request)
        return
    begun = read_json(path, f"remove {folder} to begin anew")
    mend = f"give the same again to go on, or remove {folder} to begin anew"
    for name in ("format", "bert_jax"):
        if begun.get(name) != request[name]:
            what = f"{folder} was begun by bert_jax {begun.get('bert_jax')}, this is {request['bert_jax']}"
            raise UserError(f"{what}: remove {folder} to begin anew")
    require_same_settings(f"{folder} was begun", begun, request, mend)


# ---- what is finished --------------------------------------------------------------------------------------


def part_path(folder: Path, part: int) -> Path:
    """Return where the record of a part is, or will be."""
    return folder / f"part-{part:05}.json"


def record_path(folder: Path, part: int, chunk: int) -> Path:
    """Return where the record of a chunk is, or will be."""
    return folder / f"record-{part:05}-{chunk:05}.json"


def left_out_path(folder: Path, part: int) -> Path:
    """Return the file that lists documents to leave out of a part; it is absent where the part is read as it is."""
    return folder / NEAR_DUPLICATES / f"left-out-{part:05}.npy"


def read_record(path: Path) -> JsonObject | None:
    """A record, or None where it is not there."""
    try:
        return read_json(path, f"remove {path} and run the same command again")
    except FileNotFoundError:
        return None


def part_is_finished(folder: Path, part: Part, sources: Sequence[Source]) -> bool:
    """Whether all chunks of a part are there and its files are those they were made of."""
    record = read_record(part_path(folder, part.number))
    if record is None or record["part"] != _described(folder, part) or len(record["files"]) != len(part.files):
        return False
    source = sources[part.source]
    same = all(is_file_of(old, source, file) for old, file in zip(record["files"], part.files, strict=True))
    return same and all(_shards_are_there(folder, part.number, chunk) for chunk in range(record["chunks"]))


def _chunk_is_finished(folder: Path, chunk: Chunk) -> bool:
    """Whether a chunk has a record, of the same documents."""
    record = read_record(record_path(folder, chunk.part, chunk.number))
    return (
        record is not None
        and record["fingerprint"] == chunk.fingerprint()
        and _shards_are_there(folder, chunk.part, chunk.number)
    )


def _shards_are_there(folder: Path, part: int, chunk: int) -> bool:
    record = read_record(record_path(folder, part, chunk))
    if record is None:
        return False
    shards = [record["splits"][name]["shard"] for name in SPLITS if name in record["splits"]]
    paths = [(folder / shard["file"], shard["bytes"]) for shard in shards]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _described(folder: Path, part: Part) -> JsonObject:
    left_out = left_out_path(folder, part.number)
    digest = file_sha256(left_out) if left_out.exists() else None
    return {"source": part.source, "repetition": part.repetition, "share": part.share, "left_out": digest}


def _left_out(folder: Path, part: Part) -> frozenset[tuple[int, int]]:
    path = left_out_path(folder, part.number)
    return frozenset(map(tuple, np.load(path).tolist())) if path.exists() else frozenset()


# ---- reading a part ----------------------------------------------------------------------------------------


def unfinished_chunks(
    part: Part, sources: Sequence[Source], work: ChunkWork, on_finished: Callable[[int], object] | None = None
) -> Generator[Chunk]:
    """Read a part and cut it into chunks; then write the part's record. Gives the chunks that are to be processed.

    Documents that are left out (`left_out_path`) are in none of them. `on_finished` is told the `stored_bytes` of the others.
    """
    counts, files, source = ReadingCounts(), [], sources[part.source]
    stored = told = number = 0

    def on_bytes(count: int) -> None:
        nonlocal stored
        stored += count

    def on_file(file: Path, sha256: str) -> None:
        files.append(describe_file(source, file) | {"sha256": sha256})

    left_out = _left_out(work.folder, part)
    documents = read_part(part, sources, work.settings.reading, counts, on_bytes, on_file)
    kept = (document for document in documents if document.place not in left_out)
    for texts in cut(kept, work.settings.shard_size):
        chunk = Chunk(part.number, number, part.source, part.repetition, stored - told, texts)
        told = stored
        number += 1
        if not _chunk_is_finished(work.folder, chunk):
            yield chunk
        elif on_finished is not None:
            on_finished(chunk.stored_bytes)
    record = {
        "part": _described(work.folder, part),
        "chunks": number,
        "files": files,
        "reading": dataclasses.asdict(counts),
    }
    write_json(part_path(work.folder, part.number), record)
