# SPDX-License-Identifier: Apache-2.0
"""Files are whole or absent. The tensors in them are tested with the shards and the conversion."""

import json
import resource

import numpy as np
import pytest

from bert_jax.cli import describe_error
from bert_jax.files import complete_or_absent, file_sha256, map_tensors, parse_json_object, write_json, write_tensors


def test_a_failed_write_leaves_no_file_and_says_where(tmp_path):
    """The error of a full disk does not name a file by itself."""

    def fail() -> None:
        with complete_or_absent(tmp_path / "a") as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        fail()
    assert caught.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def save_array(file):
    np.save(file, np.zeros(100_000))


def save_arrays(file):
    np.savez(file, one=np.zeros(10), two=np.zeros(100_000))


def write_array(file):
    np.zeros(100_000).tofile(file)


@pytest.mark.parametrize("write", [save_array, save_arrays, write_array])
def test_numpys_own_writes_say_why_they_fall_short(tmp_path, write):
    """NumPy tells how many items were written and nothing else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught, complete_or_absent(tmp_path / "a") as file:
            write(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert describe_error(caught.value) == (
        f"file size limit reached at {tmp_path / 'a'}: free some space and run the same command again"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path):
    write_json(tmp_path / "a", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a", {"new": object()})
    assert json.loads((tmp_path / "a").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_hash_is_sha256(tmp_path):
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_only_whole_numbers_are_mapped(tmp_path):
    """Prepared data holds nothing else: another type means another file."""
    write_tensors(tmp_path / "a", {"ids": np.arange(3, dtype=np.uint16)})
    assert map_tensors(tmp_path / "a")["ids"].tolist() == [0, 1, 2]
    write_tensors(tmp_path / "a", {"ids": np.arange(3, dtype=np.float16)})
    with pytest.raises(ValueError, match="ids is of type F16, not of whole numbers"):
        map_tensors(tmp_path / "a")


def test_json_is_read_strictly():
    """Python's own reader takes the last of two values of one name."""
    assert parse_json_object(b'{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2}
    with pytest.raises(ValueError, match="b is in it twice"):
        parse_json_object(b'{"a": {"b": 1, "b": 1}}')
    with pytest.raises(ValueError, match="a JSON list, not an object"):
        parse_json_object(b"[]")
