# SPDX-License-Identifier: Apache-2.0
"""Parquet and Arrow files, and folders of Hugging Face's `datasets`, as text: written by pyarrow, which wrote none of ours."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import made_up_text, run_stage

from bert_jax.base.errors import UserError
from bert_jax.feed.shards import open_data
from bert_jax.text.documents import ReadingCounts, ReadingOptions
from bert_jax.text.sources import parse_sources, plan_parts, read_part

TEXTS = ["One line.\nAnother line.", "Ünïcode 文字.", "x" * 3000, None, "", "Last."]
DOCUMENTS = [["One line.", "Another line."], ["Ünïcode 文字."], ["x" * 3000], ["Last."]]


def write(path: Path, table: pa.Table, compression: str | None = None) -> Path:
    """Write a table as the end of the name says: .parquet (row groups of two), .arrow (a file), .stream."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, compression=compression or "none", row_group_size=2)
        return path
    kind = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
    with kind(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def read(item: object, counts: ReadingCounts | None = None, **options: str) -> list[list[str]]:
    sources = parse_sources([str(item)])
    parts = plan_parts(sources, 10**6)
    settings = ReadingOptions(**options)
    return [
        document.lines for part in parts for document in read_part(part, sources, settings, counts or ReadingCounts())
    ]


@pytest.mark.parametrize(
    ("name", "compression"),
    [("t.parquet", c) for c in (None, "snappy", "gzip", "brotli", "zstd", "lz4")]
    + [(f"t.{kind}", c) for kind in ("arrow", "stream") for c in (None, "zstd", "lz4")],
)
def test_a_row_is_a_document(tmp_path, name, compression):
    """In every format and compression; a row without text is counted."""
    table = pa.table({"id": list(range(len(TEXTS))), "text": TEXTS, "more": [b"\xff"] * len(TEXTS)})
    counts = ReadingCounts()
    assert read(write(tmp_path / name, table, compression), counts) == DOCUMENTS
    assert counts.empty_documents == 2


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "stream"])
@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
)
def test_text_of_every_type_and_inside_others(tmp_path, suffix, kind):
    if suffix == "parquet" and kind == pa.string_view():
        pytest.skip("pyarrow does not write it in groups")
    texts = pa.array(TEXTS, pa.string())
    texts = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    inner = pa.StructArray.from_arrays([pa.array(range(len(TEXTS))), texts], ["id", "body"])
    outer = pa.StructArray.from_arrays([inner, texts], ["page", "title"])
    file = write(tmp_path / f"t.{suffix}", pa.table({"text": texts, "meta": outer}))
    assert read(file) == DOCUMENTS
    assert read(file, json_field="meta.page.body") == DOCUMENTS


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "stream"])
def test_a_list_of_texts_is_a_document_of_paragraphs(tmp_path, suffix):
    table = pa.table({"parts": pa.array([["One.", "Two."], [], None, ["Three.", None]])})
    counts = ReadingCounts()
    assert read(write(tmp_path / f"t.{suffix}", table), counts, json_field="parts") == [["One.", "Two."], ["Three."]]
    assert counts.empty_documents == 2


def test_a_field_inside_others_of_json_lines(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"meta": {"text": "One."}, "meta.text": "flat"}\n{"meta": {"text": "Two."}}\n')
    assert read(file, json_field="meta.text") == [["flat"], ["Two."]]
    file.write_text('{"meta": {"title": "One."}}\n')
    with pytest.raises(UserError, match=r"has no field 'text' \(its fields: title\)"):
        read(file, json_field="meta.text")


def test_bytes_are_told_and_files_hashed_as_stored(tmp_path):
    table = pa.table({"text": [f"Document {n}." for n in range(2000)]})
    files = [write(tmp_path / name, table) for name in ("a.parquet", "b.stream")]
    sources = parse_sources([str(tmp_path)])
    (part,) = plan_parts(sources, 10**9)
    told, hashes = [], {}
    documents = list(read_part(part, sources, ReadingOptions(), ReadingCounts(), told.append, hashes.__setitem__))
    assert len(documents) == 4000
    assert sum(told) == part.bytes
    assert len(told) > 10, "progress in steps"
    assert hashes == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "stream"])
def test_columns_that_are_missing_or_no_text_are_named(tmp_path, suffix):
    table = pa.table({"body": ["a"], "n": [1], "meta": [{"title": "b"}], "parts": [[1, 2]]})
    file = write(tmp_path / f"t.{suffix}", table)
    with pytest.raises(UserError, match=r"no column 'text' \(there are: body, n, meta, parts\); name .* --json-field"):
        read(file)
    with pytest.raises(UserError, match=r"no column 'text' in meta \(there are: title\)"):
        read(file, json_field="meta.text")
    with pytest.raises(UserError, match=r"no column 'x' in body \(there are: none\)"):
        read(file, json_field="body.x")
    for column, found in (("n", "int64"), ("meta", "struct"), ("parts", "list<")):
        with pytest.raises(UserError, match=rf"the column '{column}' holds {found}.*, not text"):
            read(file, json_field=column)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "stream"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_named(tmp_path, suffix, share):
    table = pa.table({"text": ["Some text of a row. " * 50] * 500})
    file = write(tmp_path / f"t.{suffix}", table)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(UserError, match=r"this (Parquet|Arrow|Arrow stream) file is cut short or broken \(.*\): copy"):
        read(file)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "stream"])
def test_no_rows_and_no_utf8(tmp_path, suffix):
    empty = write(tmp_path / f"empty.{suffix}", pa.table({"text": pa.array([], pa.string())}))
    with pytest.raises(UserError, match="has no rows: remove it or leave it out of --input"):
        read(empty)
    raw = write(tmp_path / f"raw.{suffix}", pa.table({"text": [b"good", b"b\xffd"]}))
    with pytest.raises(UserError, match=r"row 1 is not UTF-8: byte 0xff at byte 1; .*--errors replace"):
        read(raw)
    counts = ReadingCounts()
    assert read(raw, counts, errors="replace") == [["good"], ["b\ufffdd"]]
    assert counts.replaced_bytes == 1
    said = "is UTF-32LE" if suffix == "stream" else "which is a table: leave out --text-format"  # it has no name there
    with pytest.raises(UserError, match=said):
        read(raw, text_format="plain")


# ---- folders of `datasets` -----------------------------------------------------------------------------------------


def save_to_disk(folder: Path, tables: list[pa.Table]) -> Path:
    """A folder as datasets 5 saves one (its Dataset.save_to_disk), with a file for each table."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(tables):05}.arrow" for n in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    state = {
        "_data_files": [{"filename": name} for name in names], "_fingerprint": "d39d6ea6e16f8c4b", "_format_columns": None,
        "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": "train",
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    features = {"text": {"dtype": "string", "_type": "Value"}}
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "description": "", "features": features}))
    return folder


def test_a_saved_data_set_is_a_source(tmp_path):
    """Its files in the order of state.json, and nothing else of the folder; with a weight, as any source."""
    tables = [pa.table({"text": [f"Number {n}."]}) for n in (1, 2)]
    folder = save_to_disk(tmp_path / "set" / "train", tables)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(f"hf:{folder}") == [["Number 1."], ["Number 2."]]
    assert len(read(f"hf:{folder}@3")) == 6
    (source,) = parse_sources([f"hf:{folder}"])
    assert source.name == "hf:train"
    assert [source.name_of(file) for file in source.files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    with pytest.raises(UserError, match=rf"has the splits train, test: name one, such as hf:{tmp_path}/set/train"):
        read(f"hf:{tmp_path / 'set'}")
    with pytest.raises(UserError, match=r"test is missing: give a folder that datasets saved by save_to_disk"):
        read(f"hf:{tmp_path / 'set' / 'test'}")
    with pytest.raises(UserError, match="given twice"):
        parse_sources([f"hf:{folder}", str(folder / "data-00000-of-00002.arrow")])


@pytest.mark.parametrize("shards", [1, 2])
def test_a_data_set_in_the_cache_is_a_source(tmp_path, shards):
    """As load_dataset of datasets 5 leaves it, made by one process or, in several files, by several."""
    ends = [""] if shards == 1 else [f"-{n:05}-of-{shards:05}" for n in range(shards)]
    for number, end in enumerate(ends):
        table = pa.table({"text": [f"Number {number}."]})
        with pa.ipc.new_stream(tmp_path / f"json-train{end}.arrow", table.schema) as writer:
            writer.write_table(table)
    lengths = {} if shards == 1 else {"shard_lengths": [1] * shards}
    splits = {"train": {"name": "train", "num_examples": shards, "dataset_name": "json", **lengths}, "test": {}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"builder_name": "json", "splits": splits}))
    assert read(f"hf:{tmp_path}/train") == [[f"Number {n}."] for n in range(shards)]
    with pytest.raises(UserError, match="has the splits train, test"):
        read(f"hf:{tmp_path}")
    with pytest.raises(UserError, match="lacks 'dataset_name'"):
        read(f"hf:{tmp_path}/test")
    (tmp_path / f"json-train{ends[-1]}.arrow").unlink()
    with pytest.raises(UserError, match="is missing: copy or save it again"):
        read(f"hf:{tmp_path}/train")


def test_a_data_set_that_is_empty_or_not_whole(tmp_path):
    empty = save_to_disk(tmp_path / "empty", [pa.table({"text": pa.array([], pa.string())})])
    with pytest.raises(UserError, match=r"--input hf:.*empty has no rows: leave it out of --input"):
        read(f"hf:{empty}")
    folder = save_to_disk(tmp_path / "set", [pa.table({"text": ["a"]})] * 2)
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00002\.arrow is missing: copy or save it again"):
        read(f"hf:{folder}")
    (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json lacks '_data_files'"):
        read(f"hf:{folder}")


def test_prepared_data_is_that_of_the_same_text(prepared, tmp_path):
    """From Parquet, from a saved data set, from JSON lines: the same shards, to the byte."""
    texts = ["\n".join(document.split("\n")) for document in made_up_text(30).strip().split("\n\n")]
    table = pa.table({"body": texts})
    write(tmp_path / "t.parquet", table, "zstd")
    save_to_disk(tmp_path / "set", [table])
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    found = []
    for number, item in enumerate((tmp_path / "t.jsonl", tmp_path / "t.parquet", f"hf:{tmp_path / 'set'}")):
        options = ("--json-field", "body", "--sequence-length", 16, "--workers", 1, "--licence", "CC0")
        out = tmp_path / f"data-{number}"
        run_stage("prepare", "--input", item, "--vocab", prepared.vocab, "--output", out, *options)
        found.append(open_data(out))
    assert len({data.fingerprint for data in found}) == 1
    assert [data.manifest["sources"][0]["documents"] for data in found] == [30, 30, 30]
    assert found[2].manifest["sources"][0]["source"] == "hf:set"
