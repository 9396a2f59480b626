# SPDX-License-Identifier: Apache-2.0
"""The format of prepared data: what is written is read back, and what is damaged is refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from bert_jax.base.errors import UserError
from bert_jax.feed.shards import (
    MANIFEST,
    open_data,
    open_shard,
    prepare_command,
    TOKEN_COUNTS,
    token_dtype,
    write_shard,
)

VOCAB_SIZE = 60
COUNTS = np.bincount(np.arange(50), minlength=VOCAB_SIZE)  # of the tokens of TENSORS
WORD_STARTS = np.arange(50) % 3 != 1
TENSORS = {
    "tokens": np.arange(50, dtype=np.uint16),
    "word_starts": np.array(
        [sum(int(bit) << i for i, bit in enumerate(WORD_STARTS[n : n + 8])) for n in range(0, 50, 8)]
    ),
    "sentence_starts": np.array([0, 7, 20, 31, 50], np.int64),
    "document_starts": np.array([0, 2, 4], np.int64),
}
TENSORS["word_starts"] = TENSORS["word_starts"].astype(np.uint8)
TABLES = {
    "nsp_16": np.array([[0, 7, 7, 6, 0], [20, 5, 0, 7, 1], [31, 6, 40, 7, 0]], np.int32),
    "nsp_32": np.array([[0, 20, 31, 9, 1]], np.int32),
    "document_16": np.array([[0, 7, 0, 0, 0], [7, 13, 0, 0, 0]], np.int32),
}


def write(path: Path) -> dict:
    return write_shard(path, *(TENSORS | {"word_starts": WORD_STARTS}).values(), TABLES)


@pytest.fixture
def data(tmp_path):
    """A directory of prepared data with one shard in each split."""
    directory = tmp_path / "data"
    directory.mkdir()
    splits = {}
    for name in ("train", "validation"):
        record = write(directory / f"{name}-00000-of-00001.safetensors")
        splits[name] = {"documents": 2, "tokens": 50, "shards": [record]}
    manifest = {
        "format": 2,
        "tokenizer": "abc",
        "kinds": ["nsp", "document"],
        "vocab_size": VOCAB_SIZE,
        "seed": 7,
        "short_seq_prob": 0.1,
        "random_next_prob": 0.5,
        "sequence_lengths": [16, 32],
        "held_out": 0.25,
        "splits": splits,
    }
    (directory / MANIFEST).write_text(json.dumps(manifest))
    np.save(directory / TOKEN_COUNTS, COUNTS)
    return directory


def change_manifest(directory: Path, **changes: object) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | changes))


# ---- one shard ---------------------------------------------------------------------------------------------


def test_a_shard_is_read_back_as_it_was_written(tmp_path):
    record = write(tmp_path / "a.safetensors")
    shard = open_shard(tmp_path / "a.safetensors")
    for name, tensor in TENSORS.items():
        read = getattr(shard, name)
        assert read.dtype == tensor.dtype
        assert read.tolist() == tensor.tolist()
    for kind, length in (("nsp", 16), ("nsp", 32), ("document", 16)):
        table = shard.table(kind, length)
        assert table.dtype == np.int32
        assert table.tolist() == TABLES[f"{kind}_{length}"].tolist()
    assert record["bytes"] == (tmp_path / "a.safetensors").stat().st_size
    assert (record["documents"], record["sentences"], record["tokens"], record["max_id"]) == (2, 4, 50, 49)
    assert record["examples"] == {"nsp_16": 3, "nsp_32": 1, "document_16": 2}


def test_token_t_begins_a_word_where_bit_t_mod_8_of_byte_t_div_8_is_set(tmp_path):
    """Format: least significant bit first, as np.packbits(bitorder="little")."""
    write(tmp_path / "a.safetensors")
    packed = open_shard(tmp_path / "a.safetensors").word_starts
    assert packed.size == 7
    assert [bool(packed[token >> 3] >> (token & 7) & 1) for token in range(50)] == WORD_STARTS.tolist()


def test_arrays_are_aligned_read_only_views_of_the_file(tmp_path):
    """A copy would own its data; writing through a view would change the file."""
    write(tmp_path / "a.safetensors")
    shard = open_shard(tmp_path / "a.safetensors")
    tensors = (shard.tokens, shard.word_starts, shard.sentence_starts, shard.document_starts)
    for array in (*tensors, *shard.tables.values()):
        assert not array.flags.owndata
        assert not array.flags.writeable
        assert array.flags.aligned


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.int32)])
def test_ids_of_large_vocabularies_fit(tmp_path, vocab_size, dtype):
    assert token_dtype(vocab_size) == dtype
    tokens = np.array([vocab_size - 1, 0], token_dtype(vocab_size))
    write_shard(tmp_path / "a", tokens, np.ones(2, bool), np.array([0, 1, 2]), np.array([0, 1, 2]), {})
    assert open_shard(tmp_path / "a").tokens.tolist() == [vocab_size - 1, 0]


def test_the_safetensors_library_reads_our_files(tmp_path):
    write(tmp_path / "a.safetensors")
    read = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    expected = TENSORS | TABLES
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].tolist() == tensor.tolist()


def test_we_read_files_of_the_safetensors_library(tmp_path):
    tensors = TENSORS | {"nsp_16": TABLES["nsp_16"]}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", metadata={"made": "elsewhere"})
    shard = open_shard(tmp_path / "a.safetensors")
    assert shard.tokens.tolist() == TENSORS["tokens"].tolist()
    assert shard.table("nsp", 16).tolist() == TABLES["nsp_16"].tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-10], r"header tells of (\d+) bytes, the file has (?!\1)\d+: .*bert-jax prepare"),
        (lambda raw: raw + b"\0" * 8, "header tells of"),
        (lambda raw: raw[:4], "4 bytes do not begin with a safetensors header"),
        (lambda raw: b"", "0 bytes do not begin"),
        (lambda raw: b"\xff" * 8 + raw[8:], "do not begin with a safetensors header"),
        (lambda raw: raw.replace(b'"tokens"', b'"tokenz"'), "lacks 'tokens'"),
        (lambda raw: raw.replace(b'"word_starts"', b'"word_startz"'), "lacks 'word_starts'"),
        (lambda raw: raw.replace(b'"U16"', b'"F16"'), "tokens is of type F16"),
        (lambda raw: raw.replace(b'"tokens":{"', b'"tokens":{['), "not a whole shard"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(tmp_path, damage, message):
    path = tmp_path / "a.safetensors"
    write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        open_shard(path)
    assert str(path) in str(caught.value)


def test_offsets_that_do_not_end_with_the_tokens_are_refused(tmp_path):
    starts = np.array([0, 7, 20, 31, 49])
    write_shard(tmp_path / "a", TENSORS["tokens"], WORD_STARTS, starts, TENSORS["document_starts"], TABLES)
    with pytest.raises(UserError, match="sentence_starts ends at 49, tokens at 50"):
        open_shard(tmp_path / "a")


def test_word_starts_of_another_length_are_refused(tmp_path):
    tensors = TENSORS | {"word_starts": TENSORS["word_starts"][:-1]}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="word_starts has 6 bytes for 50 tokens"):
        open_shard(tmp_path / "a.safetensors")


# ---- a directory -------------------------------------------------------------------------------------------


def test_a_directory_gives_what_the_feed_needs(data):
    opened = open_data(data)
    split = opened.split("train")
    assert [shard.path.name for shard in split.shards] == ["train-00000-of-00001.safetensors"]
    assert split.num_examples("nsp", 16) == 3
    assert split.shards[0].table("nsp", 32).tolist() == TABLES["nsp_32"].tolist()
    assert opened.vocab_size == VOCAB_SIZE
    assert opened.token_counts().tolist() == COUNTS.tolist()


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(data, tmp_path):
    shutil.copytree(data, tmp_path / "copy")
    assert open_data(tmp_path / "copy").fingerprint == open_data(data).fingerprint
    change_manifest(tmp_path / "copy", tokenizer="other")
    assert open_data(tmp_path / "copy").fingerprint != open_data(data).fingerprint


def test_examples_that_were_not_prepared_give_the_command(data):
    """The settings that decide the splits are repeated, so that no held-out document is trained on."""
    split = open_data(data).split("train")
    rest = "--held-out 0.25 --short-seq-prob 0.1 --random-next-prob 0.5 --seed 7"
    command = f"run bert-jax prepare --input TEXT... --vocab VOCAB --output {data}"
    prepared = "only nsp_16 nsp_32 document_16"
    for ask in (split.num_examples, split.shards[0].table):
        with pytest.raises(UserError) as caught:
            ask("nsp", 512)
        assert str(caught.value) == (
            f"{data} has no nsp examples of sequence length 512, {prepared}: {command}-nsp-document-16-32-512"
            f" --objective mlm_nsp mlm_document --sequence-length 16 32 512 {rest}"
        )
        with pytest.raises(UserError) as caught:
            ask("sop", 16)
        assert str(caught.value) == (
            f"{data} has no sop examples of sequence length 16, {prepared}: {command}-nsp-document-sop-16-32"
            f" --objective mlm_nsp mlm_document mlm_sop --sequence-length 16 32 {rest}"
        )


def test_the_command_repeats_how_the_text_was_read(data):
    """Without --lines paragraphs it made other sentences, and pairs of other kinds."""
    change_manifest(data, lines="paragraphs", near_duplicates="count", licence="CC BY-SA 4.0", errors="strict")
    command = prepare_command(data)
    assert command.endswith(" --seed 7 --lines paragraphs --near-duplicates count --licence 'CC BY-SA 4.0'")


def test_a_split_that_is_not_there_gives_the_command(data):
    manifest = json.loads((data / MANIFEST).read_text())
    change_manifest(data, held_out=0.0, splits={"train": manifest["splits"]["train"]})
    with pytest.raises(UserError, match=r"no validation split .*--held-out 0\.0.*: run .*--held-out 0\.05"):
        open_data(data).split("validation")


def test_a_truncated_shard_is_named_with_both_sizes(data):
    path = data / "validation-00000-of-00001.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        open_data(data)
    message = str(caught.value)
    assert message.startswith(f"{path} has {size - 1} bytes, {size} in passport.json: ")
    assert f"remove {data} and run bert-jax prepare --input TEXT... --vocab VOCAB --output {data} " in message
    assert "--sequence-length 16 32" in message


def test_a_missing_shard_is_named(data):
    path = data / "train-00000-of-00001.safetensors"
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} is missing \(\d+ bytes in passport.json\): .*bert-jax prepare"):
        open_data(data)


def test_a_shard_of_the_same_size_and_other_content_is_found(data):
    path = data / "train-00000-of-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=f"{path.name} was changed: its sha256 is"):
        open_data(data)
    open_data(data, verify_hashes=False)  # as data of more than a GiB is opened


def test_large_data_is_read_through_only_when_asked(data, monkeypatch):
    monkeypatch.setattr("bert_jax.feed.shards.ALWAYS_VERIFIED", 100)
    path = data / "train-00000-of-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    open_data(data)
    with pytest.raises(UserError, match="was changed"):
        open_data(data, verify_hashes=True)


def test_an_id_beyond_the_vocabulary_is_refused(data):
    """On an accelerator it would read another row, or give NaN, without a word."""
    change_manifest(data, vocab_size=49)
    with pytest.raises(UserError, match=r"train-00000-of-00001\.safetensors holds token id 49, .* has 49 entries"):
        open_data(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "has no passport.json .*: run bert-jax prepare"),
        (lambda path: path.write_text("{"), "passport.json is not JSON"),
        (lambda path: path.write_text("[]"), "it is a list, not an object"),
        (lambda path: change_manifest(path.parent, format=3), "is of format 3, this version reads format 2"),
        (lambda path: path.write_text('{"format": 2, "splits": {}}'), "lacks held_out, kinds, sequence_lengths"),
        (lambda path: path.rename(path.with_name("data.json")), "was prepared by an older version: run bert-jax prep"),
    ],
)
def test_a_directory_without_a_good_manifest_is_refused(data, change, message):
    change(data / MANIFEST)
    with pytest.raises(UserError, match=message):
        open_data(data)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere is missing: run bert-jax prepare"):
        open_data(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [None, b"", b"no array", np.ones(VOCAB_SIZE + 1), COUNTS.astype(np.float64)])
def test_damaged_token_counts_are_refused(data, content):
    path = data / TOKEN_COUNTS
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=TOKEN_COUNTS):
        open_data(data)


@pytest.mark.parametrize("place", [-8 * VOCAB_SIZE, -VOCAB_SIZE, -1])
def test_a_flipped_bit_of_the_token_counts_is_refused(data, place):
    path = data / TOKEN_COUNTS
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"{TOKEN_COUNTS} was changed: it counts .* tokens, {MANIFEST} 50: copy it again"
    ):
        open_data(data)
