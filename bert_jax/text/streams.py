# SPDX-License-Identifier: Apache-2.0
"""Files as streams of bytes: hashed as they are read, and unpacked where they are compressed.

What a file is, is told by its first bytes, not by its name. gzip, bzip2, xz and zstd are unpacked as they are read, in
bounded memory; members, streams and frames that follow each other (`cat a.gz b.gz`, pbzip2, pzstd) are read whole.
Their own checksums are checked; a stream that is broken, cut short or followed by anything else is refused.
"""

import bz2
import hashlib
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bert_jax.base.errors import UserError
from bert_jax.base.lines import decode_text, text_lines

LARGEST_TEXT = 2**30  # bytes, unpacked, of a file that is read as a whole: a JSON file of questions, a CoNLL file
_BUFFER = 2**20  # bytes read at once
_PIECE = 2**10  # stored bytes unpacked at once: a zstd decoder gives all that they hold, at most 32 MiB
_LIMIT = 2**20  # unpacked bytes taken at once from the decoders that can stop

_PACKED = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to be skipped
}
_PADDED = ("gzip", "xz")  # zero bytes may follow a stream


class ByteStream(io.BufferedReader):
    """The bytes of a file, unpacked. `packed` names the compression and is None where there is none."""

    packed: str | None = None


def open_stream(
    path: Path,
    on_bytes: Callable[[int], object] | None = None,
    digest: "hashlib._Hash | None" = None,
) -> ByteStream:
    """The bytes of `path`, unpacked.

    Args:
      on_bytes: told how many more bytes of the file, as stored, have been read.
      digest: updated with the file as stored; complete once the stream has been read to its end.

    Raises:
      UserError: the file cannot be read, or, while it is read, its compressed stream is broken.
    """
    stored = ByteStream(_Stored(path, on_bytes, digest), _BUFFER)
    start = stored.peek(16)
    packed = next((name for name, magic in _PACKED.items() if magic.match(start)), None)
    if packed is None:
        return stored
    unpacked = ByteStream(_Unpacked(path, stored, packed), _BUFFER)
    unpacked.packed = packed
    return unpacked


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, packed or not, with their numbers from 1; see `lines.text_lines`.

    Raises:
      UserError: as `text_lines`, and as `open_stream`.
    """
    with open_stream(path) as stream:
        yield from text_lines(stream, str(path))


def read_text(path: Path) -> str:
    """Return all of a UTF-8 file, packed or not, without a byte order mark.

    Raises:
      UserError: it is no text (see `lines.decode_text`), unpacks to more than `LARGEST_TEXT` bytes, or as `open_stream`.
    """
    with open_stream(path) as stream:
        raw = stream.read(LARGEST_TEXT + 1)
    if len(raw) > LARGEST_TEXT:
        raise UserError(f"{path} holds more than {LARGEST_TEXT // 2**20:,} MiB: divide it")
    return decode_text(raw, str(path))


class _Stored(io.RawIOBase):
    """A file that is hashed and counted while it is read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], object] | None, digest: "hashlib._Hash | None"):
        self._path = path
        self._on_bytes = on_bytes
        self._digest = digest
        try:
            self._file = io.FileIO(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = self._file.readinto(buffer) or 0
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error.strerror}") from None
        if count and self._digest is not None:
            self._digest.update(memoryview(buffer)[:count])
        if count and self._on_bytes is not None:
            self._on_bytes(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Unpacked(io.RawIOBase):
    """The unpacked content of a compressed file, as a stream."""

    def __init__(self, path: Path, stored: ByteStream, packed: str):
        self._stored = stored
        self._pieces = _pieces(path, stored, packed)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._stored.close()
        super().close()


def _pieces(path: Path, stored: ByteStream, packed: str) -> Iterator[bytes]:
    """The content of all streams in a file, in pieces; none is empty."""
    given = 0
    try:
        for piece in _unpack(stored, packed):
            given += len(piece)
            yield piece
    except EOFError:
        raise UserError(
            f"{path} is cut short: its {packed} stream breaks off after {given} unpacked bytes; copy or make it again"
        ) from None
    except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:  # OSError: bz2's; those of the disk are said
        raise UserError(
            f"{path} is broken: its {packed} stream cannot be unpacked beyond {given} unpacked bytes"
            f" ({str(error) or type(error).__name__}); copy or make it again"
        ) from None


def _unpack(stored: ByteStream, packed: str) -> Iterator[bytes]:
    data = stored.read(_PIECE)
    while data:
        decoder = _new_decoder(packed)
        while not decoder.eof:
            piece = decoder.decompress(data, _LIMIT)
            if piece:
                yield piece
            data = getattr(decoder, "unconsumed_tail", b"")  # of zlib; the others keep what they have not looked at
            if len(piece) < _LIMIT and not data and not decoder.eof:
                data = stored.read(_PIECE)
                if not data:
                    raise EOFError
        data = decoder.unused_data or stored.read(_PIECE)
        while packed in _PADDED and data and not (data := data.lstrip(b"\0")):
            data = stored.read(_PIECE)


def _new_decoder(packed: str) -> "zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor | _ZstdDecoder":
    """An object with the interface of bz2.BZ2Decompressor, for one stream."""
    if packed == "gzip":
        return zlib.decompressobj(wbits=31)
    if packed == "bzip2":
        return bz2.BZ2Decompressor()
    if packed == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ)
    return _ZstdDecoder()


class _ZstdDecoder:
    """One zstd frame. It gives all that its input holds, whatever the limit."""

    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, limit: int) -> bytes:
        del limit
        try:
            return self._frame.decompress(data)
        except self._error as error:
            raise ValueError(str(error)) from None
