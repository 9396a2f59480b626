# SPDX-License-Identifier: Apache-2.0
"""Tables of Parquet and Arrow files -> documents: a column of text, a row a document, a paragraph a line of it.

A file is read as a stream of batches of rows, of the one column alone; it may be compressed in any way that pyarrow knows.
A column inside others is named by its path (`meta.text`); a list of texts is one document, each text a paragraph.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TYPE_CHECKING

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import read_json, reading
from bert_jax.text.documents import decode, RawDocument, ReadingCounts, ReadingOptions, text_document, Undecodable

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET, ARROW, STREAM = "Parquet", "Arrow", "Arrow stream"
_MAGIC = {b"PAR1": PARQUET, b"ARROW1": ARROW, b"\xff\xff\xff\xff": STREAM}  # the last: a message of an Arrow stream
_ROWS = 256  # made Python's at once
_PAGES = 2**20  # bytes of a Parquet column read at once

HUGGING_FACE = "hf:"  # a folder that `datasets` has saved
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of `save_to_disk`, of a data set and of several splits
_CACHED = (
    "dataset_info.json"  # of the cache, where all splits lie in one folder; save_to_disk has one beside state.json
)
_COPY = "copy or save it again"


def table_format(path: Path) -> str | None:
    """Return the kind of table that a file is by its first bytes; None: none."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def read_table(
    path: Path,
    kind: str,
    options: ReadingOptions,
    counts: ReadingCounts,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[RawDocument]:
    """The documents of a table, in the order of its rows; a row without a text (null) is counted as an empty one.

    Args:
      path: the file.
      kind: by `table_format`.
      options: `json_field` is the path of the column of text.
      counts: what is left out or replaced is added to these.
      on_bytes: told the share of the file's bytes that the rows read since stand for.

    Raises:
      UserError: there is no such column, or it holds no text; no rows; text that is not UTF-8, or too long; the file is
        cut short or broken.
    """
    size, read, told = path.stat().st_size, 0, 0
    batches, rows = _open(path, kind, options)
    if not rows:
        raise UserError(f"{path} has no rows: remove it or leave it out of {options.option}")
    for batch in batches:
        for begin in range(0, batch.num_rows, _ROWS):
            for raw in _texts(batch.slice(begin, _ROWS), options.json_field):
                yield from _document(f"{path}, row {read}", raw, options, counts)
                read += 1
            if on_bytes is not None:
                on_bytes(size * read // rows - told)
            told = size * read // rows


def _document(where: str, raw: bytes | None, options: ReadingOptions, counts: ReadingCounts) -> Iterator[RawDocument]:
    if raw is None:
        counts.empty_documents += 1
        return
    try:
        text = decode(raw, options, counts)
    except Undecodable as error:
        found = f"{error.found} at byte {error.position}"
        raise UserError(f"{where} is not {error.expected}: {found}; {error.mend}") from None
    yield from text_document(where, text, counts)


def _open(path: Path, kind: str, options: ReadingOptions) -> "tuple[Iterator[pa.RecordBatch], int]":
    """Return the batches of a table with nothing but the column, and the number of its rows."""
    import pyarrow as pa

    column = options.json_field
    with _readable(path, kind):
        if kind == PARQUET:
            import pyarrow.parquet

            file = pyarrow.parquet.ParquetFile(path, buffer_size=_PAGES, pre_buffer=False)
            _require_text(path, kind, file.schema_arrow, column)
            groups = (
                file.iter_batches(batch_size=_ROWS, row_groups=[number], columns=[column])
                for number in range(file.num_row_groups)  # pyarrow has no batches of nested columns across these
            )
            return _read(path, kind, itertools.chain.from_iterable(groups)), file.metadata.num_rows
        stream = pa.memory_map(str(path))
        opened = pa.ipc.open_file if kind == ARROW else pa.ipc.open_stream
        table = opened(stream)
        _require_text(path, kind, table.schema, column)
        rows = sum(batch.num_rows for batch in _batches(table))
        stream.seek(0)
        only = pa.ipc.IpcReadOptions(included_fields=[table.schema.get_field_index(column.split(".")[0])])
        return _read(path, kind, _batches(opened(stream, options=only))), rows


def _batches(table: Any) -> "Iterator[pa.RecordBatch]":
    """The batches of an Arrow file or stream."""
    if hasattr(table, "num_record_batches"):
        return (table.get_batch(number) for number in range(table.num_record_batches))
    return iter(table)


def _read(path: Path, kind: str, batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
    """Yield the batches, whose reading may fail."""
    with _readable(path, kind):
        yield from batches


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        said = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise UserError(f"{path}: this {kind} file is cut short or broken ({said}): copy or make it again") from None


# ---- the column ----------------------------------------------------------------------------------------------------


def _require_text(path: Path, kind: str, schema: "pa.Schema", column: str) -> None:
    """Refuse a column that is not there, or is neither text nor a list of texts."""
    import pyarrow as pa

    level: Any = schema
    parts = column.split(".")
    for depth, name in enumerate(parts):
        known = [field.name for field in level] if level is schema or pa.types.is_struct(level) else []
        if name not in known:
            where = f" in {'.'.join(parts[:depth])}" if depth else ""
            raise UserError(
                f"{path}: this {kind} file has no column {name!r}{where} (there are: {listed(known, 12) or 'none'}); name the"
                " text's with --json-field"
            )
        level = level.field(name).type
    inner = level.value_type if _is_list(level) or pa.types.is_dictionary(level) else level
    if not any(check(inner) for check in _checks_of_text(pa.types)):
        raise UserError(f"{path}: the column {column!r} holds {level}, not text; name the text's with --json-field")


def _checks_of_text(types: Any) -> tuple[Callable[[Any], bool], ...]:
    return types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary


def _is_list(type: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(type) or pa.types.is_large_list(type)


def _texts(batch: "pa.RecordBatch", column: str) -> list[bytes | None]:
    """The texts of some rows, in UTF-8; of a list its texts, a line each."""
    import pyarrow as pa
    import pyarrow.compute

    values = batch.column(0)
    for name in column.split(".")[1:]:
        values = pyarrow.compute.struct_field(values, name)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    raw = pa.large_binary()
    values = values.cast(pa.large_list(raw) if _is_list(values.type) else raw)
    return [_joined(value) for value in values.to_pylist()]


def _joined(value: bytes | list[bytes | None] | None) -> bytes | None:
    return b"\n".join(part for part in value if part is not None) if isinstance(value, list) else value


# ---- folders of `datasets` -----------------------------------------------------------------------------------------


def saved_files(spec: str, option: str) -> tuple[Path, list[Path]]:
    """Return the folder and the files of `hf:FOLDER`, which `datasets` has saved by save_to_disk or keeps in its cache.

    Raises:
      UserError: it is none, has several splits, a file is missing, or it has no rows.
    """
    folder = readable(spec.removeprefix(HUGGING_FACE))
    names = _splits(folder)
    if names is not None:
        one = f"{spec.rstrip('/')}/{names[0] if names else 'train'}"
        raise UserError(f"{option} {spec} has the splits {listed(names) or 'none'}: name one, such as {one}")
    if (folder / _STATE).is_file():
        with reading(folder / _STATE, _COPY):
            files = [folder / str(file["filename"]) for file in read_json(folder / _STATE, _COPY)["_data_files"]]
    elif (folder.parent / _CACHED).is_file() and folder.name in (_splits(folder.parent) or ()):
        folder, files = _cached_files(readable(folder.parent), folder.name)
    else:
        what = f"has no {_STATE}" if folder.is_dir() else "is missing"
        raise UserError(
            f"{option} {spec}: {folder} {what}: give a folder that datasets saved by save_to_disk or cached"
        )
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise UserError(f"{option} {spec}: {missing} is missing: {_COPY}")
    if not any(_has_rows(file) for file in files):
        raise UserError(f"{option} {spec} has no rows: leave it out of {option}")
    return folder, files


def _splits(folder: Path) -> list[str] | None:
    """Return the splits that a folder of `datasets` has below it; None: it is none of several."""
    for record in (folder / _SPLITS, folder / _CACHED):
        if record.is_file() and not (folder / _STATE).is_file():
            with reading(record, _COPY):
                return list(read_json(record, _COPY)["splits"])
    return None


def _cached_files(folder: Path, split: str) -> tuple[Path, list[Path]]:
    """Return the folder and the files of a split in the cache, where one that was made by several processes has several."""
    with reading(folder / _CACHED, _COPY):
        about = read_json(folder / _CACHED, _COPY)["splits"][split]
        name, count = f"{about['dataset_name']}-{split}", len(about.get("shard_lengths") or [0])
    if count == 1:
        return folder, [folder / f"{name}.arrow"]
    return folder, [folder / f"{name}-{number:05}-of-{count:05}.arrow" for number in range(count)]


def _has_rows(path: Path) -> bool:
    import pyarrow as pa

    kind = table_format(path)
    if kind != STREAM:
        raise UserError(f"{path} is no {STREAM}, which datasets saves: {_COPY}")
    with _readable(path, kind), pa.memory_map(str(path)) as stream:
        return any(batch.num_rows for batch in pa.ipc.open_stream(stream))
