# SPDX-License-Identifier: Apache-2.0
"""Files are whole or absent. The tensors in them are tested with the shards."""

import json

import pytest

from bert_jax.files import complete_or_absent, file_sha256, write_json


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
