# SPDX-License-Identifier: Apache-2.0
"""Files of the safetensors library are read, and ours are byte for byte those it writes."""

import json
import re
import struct
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256
from bert_jax.conversion.safetensors_files import open_safetensors, write_safetensors
from bert_jax.conversion.tensors import each, stored, StoredTensors, TensorEntry, Writable

KINDS = ["bool", "u1", "i1", "u2", "i2", "f2", ml_dtypes.bfloat16, "u4", "i4", "f4", "f8", "i8", "u8"]
TENSORS: dict[str, np.ndarray] = {f"kind.{np.dtype(kind).name}": np.arange(3).astype(kind) for kind in KINDS} | {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "scalar": np.array(42),
    "empty": np.zeros((0, 4), np.float32),
    'ünüsual "name"\\\n': np.ones(1, np.float32),
}


def check(tensors: StoredTensors, expected: Mapping[str, np.ndarray]) -> None:
    assert tensors.entries.keys() == expected.keys()
    for name, array in expected.items():
        found = tensors.read(name)
        assert (
            tensors.entries[name]
            == TensorEntry(array.shape, array.dtype.name)
            == TensorEntry(found.shape, found.dtype.name)
        ), name
        np.testing.assert_array_equal(found, array, name)


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> str:
    return write_safetensors(path, list(each(stored(path, tensors))))


# ---- writing -----------------------------------------------------------------------------------------------


def test_what_is_written_is_what_the_library_writes(tmp_path):
    """Order, alignment, names in JSON, padding: so whatever reads its files reads ours."""
    save_file(TENSORS, tmp_path / "theirs", metadata={"format": "pt"})
    digest = write(tmp_path / "ours", TENSORS)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert digest == file_sha256(tmp_path / "ours")
    check(open_safetensors(tmp_path / "ours"), TENSORS)


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    """The one before is gone when the next one is made."""
    alive: list[weakref.ref] = []

    def make() -> np.ndarray:
        assert all(reference() is None for reference in alive)
        array = np.ones((5, 5), np.float32)
        alive.append(weakref.ref(array))
        return array

    entry = TensorEntry((5, 5), "float32")
    write_safetensors(tmp_path / "a", [Writable(name, entry, make) for name in "abc"])
    assert len(alive) == 3


def test_a_tensor_that_is_not_of_its_entry_is_never_written(tmp_path):
    wrong = [Writable("a", TensorEntry((2, 3), "float32"), lambda: np.ones((3, 2), np.float32))]
    with pytest.raises(ValueError, match=re.escape("a was made as float32 [3, 2], not float32 [2, 3]")):
        write_safetensors(tmp_path / "a", wrong)
    with pytest.raises(ValueError, match="two tensors have the same name"):
        write_safetensors(tmp_path / "a", wrong * 2)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_midway_leaves_what_was_there(tmp_path):
    write(tmp_path / "a", {"x": np.ones(2)})

    def fail() -> np.ndarray:
        raise UserError("the source went away")

    tensors = [*each(stored(tmp_path, {"a": np.ones(1000)})), Writable("b", TensorEntry((1,), "float64"), fail)]
    with pytest.raises(UserError, match="went away"):
        write_safetensors(tmp_path / "a", tensors)
    check(open_safetensors(tmp_path / "a"), {"x": np.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# ---- reading -----------------------------------------------------------------------------------------------


def test_tensors_come_in_the_order_of_the_file(tmp_path):
    """Theirs sorts by type, then name."""
    arrays = {name: np.ones(1, kind) for name, kind in (("a", "f2"), ("d", "f4"), ("b", "f4"), ("c", "i8"))}
    save_file(arrays, tmp_path / "a")
    assert list(open_safetensors(tmp_path / "a").entries) == ["c", "b", "d", "a"]


def test_tensors_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "a"
    write(path, {"x": np.ones(3)})
    tensors = open_safetensors(path)
    write(path, {"x": np.zeros(3)})
    assert tensors.read("x").tolist() == [0, 0, 0]
    write(path, {"x": np.zeros(4)})
    with pytest.raises(UserError, match=r"was changed while it was read: x was float64 \[3\], now float64 \[4\]"):
        tensors.read("x")
    write(path, {"y": np.zeros(3)})
    with pytest.raises(UserError, match=r"x cannot be read: .*copy or download the file again"):
        tensors.read("x")
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: x cannot be read: .*No such file"):
        tensors.read("x")


def test_shards_with_an_index_are_one_checkpoint(tmp_path):
    weight_map = {}
    for number, names in enumerate((["b.weight", "scalar"], ["a.weight", "kind.bfloat16"]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: TENSORS[name] for name in names}, tmp_path / file)
        weight_map |= dict.fromkeys(names, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 156}, "weight_map": weight_map}))
    check(open_safetensors(index), {name: TENSORS[name] for name in weight_map})


# ---- damage ------------------------------------------------------------------------------------------------


def file_of(header: Any, data_bytes: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def claim(begin: Any = 0, end: Any = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWICE = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its 0 bytes do not begin with a safetensors header"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the file: run git lfs pull"),
        (file_of(b"{", 0), "Expecting property name"),
        (file_of([1], 0), "it is a list, not an object"),
        (file_of(b"[" * 100_000, 0), "it is nested deeper than 64"),
        (file_of(b"\xff{}", 0), "can't decode byte"),
        (file_of(TWICE, 8), "'a' is in one object twice"),
        (file_of({"a": claim(end=12)}, 12), "a is float32 [2], which takes 8 bytes, and has 12 in its header"),
        (file_of({"a": claim(8, 0)}, 8), "a is float32 [2], which takes 8 bytes, and has -8 in its header"),
        (
            file_of({"a": claim(), "b": claim(4, 12)}, 12),
            "b begins at byte 4 of the data, and what comes before it ends at 8",
        ),
        (file_of({"a": claim(), "b": claim(12, 20)}, 20), "b begins at byte 12 of the data, and what comes before"),
        (
            file_of({"a": claim(), "b": claim()}, 8),
            "b begins at byte 0 of the data, and what comes before it ends at 8",
        ),
        (file_of({"a": claim(shape=[-2])}, 8), "a has the shape [-2], not a list of sizes"),
        (file_of({"a": claim(shape=2)}, 8), "a has the shape 2, not a list of sizes"),
        (file_of({"a": claim(begin=0.0)}, 8), "a has the place [0.0, 8], not two numbers of bytes"),
        (file_of({"a": claim() | {"data_offsets": [0, 4, 8]}}, 8), "a has the place [0, 4, 8], not two numbers"),
        (file_of({"a": 1}, 8), "a has the place None, not two numbers of bytes"),
        (file_of({"a": claim(dtype="F8_E4M3")}, 2), "a is of type F8_E4M3, not one of BOOL, U8, "),
        (file_of({"a": claim(dtype=["F32"])}, 8), "a is of type ['F32'], not one of"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, data, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        open_safetensors(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_the_tensor_that_was_cut_off_is_named_with_both_sizes(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    message = (
        f"it ends inside b: its header tells of {len(whole)} bytes, the file has {len(whole) - 20}: copy or download"
    )
    with pytest.raises(UserError, match=message):
        open_safetensors(path)


def test_a_file_that_was_cut_short_or_continued_anywhere_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(2), "b": np.ones(2)}, path)
    whole = path.read_bytes()
    for data in [*(whole[:length] for length in range(len(whole))), whole + b"\0"]:
        path.write_bytes(data)
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            open_safetensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere\.safetensors: check the path"):
        open_safetensors(tmp_path / "nowhere.safetensors")
