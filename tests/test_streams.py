# SPDX-License-Identifier: Apache-2.0
"""Compressed files, as the official libraries write them, come back whole or are refused by name."""

import bz2
import gzip
import hashlib
import lzma
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bert_jax.base.errors import UserError
from bert_jax.text.streams import open_stream

CONTENT = "".join(f"Line {number} of some text, with ä and 中文.\n" for number in range(20_000)).encode()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
KINDS = pytest.mark.parametrize("kind", COMPRESS)


def read(path: Path) -> bytes:
    with open_stream(path) as stream:
        return stream.read()


def refusal(path: Path) -> str:
    """The one line that reading `path` ends with."""
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A path whose name says nothing of what it holds."""
    return tmp_path / "text"


@KINDS
def test_compression_is_seen_by_content(file, kind):
    file.write_bytes(COMPRESS[kind](CONTENT))
    with open_stream(file) as stream:
        assert stream.packed == kind
        assert stream.read() == CONTENT


def test_a_file_that_is_not_compressed_is_read_as_it_is(file):
    file.write_bytes(CONTENT)
    with open_stream(file) as stream:
        assert stream.packed is None
        assert stream.read() == CONTENT


@KINDS
def test_streams_that_follow_each_other_are_read_whole(file, kind):
    """As `cat a.gz b.gz`, pbzip2 and pzstd write them: a reader of the first stream only loses the rest in silence."""
    parts = [CONTENT[:1000], b"", CONTENT[1000:5000], CONTENT[5000:]]
    file.write_bytes(b"".join(map(COMPRESS[kind], parts)))
    assert read(file) == CONTENT


def test_padding_and_frames_to_be_skipped_are_no_text(file):
    for kind in ("gzip", "xz"):
        packed = COMPRESS[kind](CONTENT)
        file.write_bytes(packed + bytes(8192) + packed + bytes(4))
        assert read(file) == CONTENT * 2
    skipped = b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"notes"
    file.write_bytes(skipped + COMPRESS["zstd"](CONTENT) + skipped + COMPRESS["zstd"](CONTENT) + skipped)
    assert read(file) == CONTENT * 2


@KINDS
def test_a_stream_that_breaks_off_is_refused(file, kind):
    """Wherever it breaks off, even in the checksum at its end."""
    packed = COMPRESS[kind](CONTENT)
    for size in (12, len(packed) // 2, len(packed) - 1):
        file.write_bytes(packed[:size])
        assert f"is cut short: its {kind} stream breaks off after" in refusal(file)
    file.write_bytes(packed + packed[:-1])
    assert f"is cut short: its {kind} stream breaks off after" in refusal(file)


@KINDS
def test_a_flipped_bit_is_refused(file, kind):
    packed = bytearray(COMPRESS[kind](CONTENT))
    packed[len(packed) // 2] ^= 4
    file.write_bytes(packed)
    assert f"is broken: its {kind} stream cannot be unpacked beyond" in refusal(file)


@KINDS
def test_anything_else_behind_a_stream_is_refused(file, kind):
    """Python's bz2 and lzma modules pass over it in silence."""
    file.write_bytes(COMPRESS[kind](CONTENT) + b"some more text\n")
    assert f"cannot be unpacked beyond {len(CONTENT)} unpacked bytes" in refusal(file)


@pytest.mark.parametrize("kind", [None, *COMPRESS])
def test_stored_bytes_are_counted_and_hashed_once(file, kind):
    stored = COMPRESS[kind](CONTENT) * 2 if kind else CONTENT
    file.write_bytes(stored)
    digest, told = hashlib.sha256(), []
    with open_stream(file, told.append, digest) as stream:
        while stream.read(100_000):
            pass
    assert sum(told) == len(stored)
    assert digest.hexdigest() == hashlib.sha256(stored).hexdigest()


@KINDS
def test_memory_does_not_grow_with_what_is_unpacked(file, kind):
    """The most regular text there is: a few kB of it unpack to more than 100 MB."""
    size = 200 * 2**20 if kind == "zstd" else 40 * 2**20
    file.write_bytes(COMPRESS[kind](bytes(size)))
    tracemalloc.start()
    with open_stream(file) as stream:
        assert sum(len(piece) for piece in iter(lambda: stream.read(2**20), b"")) == size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 2


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    assert "cannot be read: No such file" in refusal(tmp_path / "absent")
