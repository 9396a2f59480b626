# SPDX-License-Identifier: Apache-2.0
"""Files are whole or absent. The tensors in them are tested with the shards and the conversion."""

import json
import resource

import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.base.files import (
    complete_or_absent,
    file_sha256,
    map_tensors,
    new_folder,
    open_itself,
    own_folder,
    parse_json,
    write_json,
    write_tensors,
)
from bert_jax.cli import describe_error


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
    assert parse_json(b'{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2}
    with pytest.raises(ValueError, match="'b' is in one object twice"):
        parse_json(b'{"a": {"b": 1, "b": 1}}')
    with pytest.raises(ValueError, match="it is a list, not an object"):
        parse_json(b"[]")


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    """A folder beside the output, with a file, neither of which may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "theirs").write_text("theirs")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert (folder / "theirs").read_text() == "theirs"


def link_to_a_file(place, outside):
    place.symlink_to(outside / "theirs")


def link_to_nothing(place, outside):
    place.symlink_to(outside / "new")


def hard_link(place, outside):
    place.hardlink_to(outside / "theirs")


def leftover(place, outside):
    place.write_text("of a process that was killed, longer than what comes")


@pytest.mark.parametrize("plant", [link_to_a_file, link_to_nothing, hard_link, leftover])
@pytest.mark.parametrize("name", ["a.partial", "a"])
def test_what_stands_under_a_name_is_never_written_through(tmp_path, outside, plant, name):
    plant(tmp_path / name, outside)
    write_json(tmp_path / "a", {"new": 1})
    assert (tmp_path / "a").read_text() == '{\n  "new": 1\n}\n'
    assert not (tmp_path / "a").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "outside"]


@pytest.mark.parametrize("mode", ["a", "w", "xb"])
def test_a_file_that_is_added_to_is_no_link(tmp_path, outside, mode):
    (tmp_path / "a").symlink_to(outside / ("new" if mode == "xb" else "theirs"))
    with pytest.raises((UserError, FileExistsError)), open(tmp_path / "a", mode, opener=open_itself):
        pass
    (tmp_path / "a").unlink()
    for _ in range(2):
        with open(tmp_path / "a", "a", opener=open_itself) as file:
            file.write("line\n")
    assert (tmp_path / "a").read_text() == "line\nline\n"


def test_a_folder_of_an_output_is_no_link(tmp_path, outside):
    (tmp_path / "a").symlink_to(outside)
    with pytest.raises(UserError, match=r"/a is a link to .*/outside, and nothing outside an output is written"):
        own_folder(tmp_path / "a")
    assert own_folder(tmp_path / "b" / "c").is_dir()
    assert own_folder(tmp_path / "b" / "c").is_dir()


def test_a_folder_elsewhere_is_taken_by_a_link_of_the_same_user_alone(tmp_path, outside, monkeypatch):
    for name, target in (("a", outside), ("b", outside / "missing")):
        (tmp_path / name).symlink_to(target)
    assert own_folder(tmp_path / "a", elsewhere=True) == tmp_path / "a"
    with pytest.raises(UserError, match="/b is a link to"):
        own_folder(tmp_path / "b", elsewhere=True)
    monkeypatch.setattr("os.geteuid", lambda: (tmp_path / "a").lstat().st_uid + 1)  # planted by somebody else
    with pytest.raises(UserError, match="/a is a link to"):
        own_folder(tmp_path / "a", elsewhere=True)


@pytest.mark.parametrize("plant", [link_to_a_file, leftover, lambda place, outside: place.symlink_to(outside)])
def test_a_new_folder_takes_the_place_of_what_was_there(tmp_path, outside, plant):
    plant(tmp_path / "a", outside)
    assert list(new_folder(tmp_path / "a").iterdir()) == []
    (tmp_path / "a" / "b").mkdir()
    assert list(new_folder(tmp_path / "a").iterdir()) == []
    assert not (tmp_path / "a").is_symlink()
