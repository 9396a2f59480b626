# SPDX-License-Identifier: Apache-2.0
"""Files of torch.save, read without it: those that PyTorch wrote (tests/golden_torch_files.py), and others that are put
together here byte by byte, because PyTorch does not write what is damaged or malicious."""

import io
import json
import os
import pickle
import random
import re
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from golden_torch_files import contents

from bert_jax.base.errors import UserError
from bert_jax.conversion.tensors import TensorEntry
from bert_jax.conversion.torch_files import open_torch

GOLDEN = Path(__file__).parent / "golden" / "torch_files"


# ---- a writer that needs no PyTorch ------------------------------------------------------------------------


class Name(NamedTuple):
    """Something that the pickle asks for."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of it."""

    function: Any
    arguments: tuple


class Build(NamedTuple):
    """An object that is given a state."""

    of: Any
    state: Any


class Persistent(NamedTuple):
    """A reference to a storage."""

    identity: tuple


def opcodes(value: Any) -> bytes:
    """Opcodes of pickle protocol 2 which leave the value on the stack. https://docs.python.org/3/library/pickletools.html"""
    match value:
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return opcodes(function) + opcodes(arguments) + b"R"
        case Build(of, state):
            return opcodes(of) + opcodes(state) + b"b"
        case Persistent(identity):
            return opcodes(identity) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return f"I{value}\n".encode()
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(key) + opcodes(item) for key, item in value.items()) + b"u"
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


STORAGE_TYPES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
}


def storage(key: str, array: np.ndarray, **changes: Any) -> Persistent:
    """What stands for a storage of the array's numbers; `changes` may lie about it."""
    kind = Name(changes.get("module", "torch"), STORAGE_TYPES[array.dtype.name])
    identity: tuple = ("storage", kind, key, "cpu", changes.get("length", array.size))
    return Persistent((*identity, changes["view"]) if "view" in changes else identity)


def tensor(of: Any, shape: tuple, strides: tuple, offset: int = 0, *rest: Any) -> Call:
    hooks = Call(Name("collections", "OrderedDict"), ())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (of, offset, shape, strides, False, hooks, *rest))


def zip_of(content: Any, storages: dict[str, np.ndarray], root: str = "archive", **records: bytes) -> bytes:
    """The format since PyTorch 1.6; `records` are added or replace its own."""
    file = io.BytesIO()
    data = {f"data/{key}": array.tobytes() for key, array in storages.items()}
    parts = {"data.pkl": pickled(content), "version": b"3\n", **data, **records}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.writestr(f"{root}/{name}", part)
    return file.getvalue()


def row_of_pickles(content: Any, storages: dict[str, np.ndarray], little_endian: bool = True) -> bytes:
    """The format before PyTorch 1.6."""
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    head = (
        magic + pickled(1001) + pickled({"little_endian": little_endian}) + pickled(content) + pickled(list(storages))
    )
    return head + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())


CONTAINERS = pytest.mark.parametrize("container", [zip_of, row_of_pickles])

WEIGHT = np.arange(12, dtype=np.float32)
CORRECT = {"weight": tensor(storage("0", WEIGHT), (3, 4), (4, 1)), "bias": tensor(storage("0", WEIGHT), (3,), (1,), 2)}


def write(folder: Path, data: bytes, name: str = "pytorch_model.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        open_torch(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


# ---- what PyTorch wrote ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zip.bin", "row_of_pickles.bin", "protocol_4.bin", "no_checksums.bin"])
def test_files_of_pytorch_are_read_in_full(name):
    """Every type, transposed, sliced and repeated tensors, two names for one storage, a scalar, an empty one."""
    tensors = open_torch(GOLDEN / name)
    assert list(tensors.entries) == list(contents())
    for name, (kind, values) in contents().items():
        array = tensors.read(name)
        assert tensors.entries[name] == TensorEntry(values.shape, kind) == TensorEntry(array.shape, array.dtype.name), (
            name
        )
        assert array.flags.c_contiguous, name
        np.testing.assert_array_equal(array, values.astype(kind), name)


def test_the_model_is_taken_out_of_a_training_checkpoint():
    tensors = open_torch(GOLDEN / "training.bin")
    assert list(tensors.entries) == ["dense.weight", "half"]
    np.testing.assert_array_equal(tensors.read("half"), contents()["half"][1])


# ---- what is put together here -----------------------------------------------------------------------------


@CONTAINERS
def test_a_file_put_together_here_is_read(tmp_path, container):
    """Else the refusals below would prove nothing."""
    tensors = open_torch(write(tmp_path, container(CORRECT, {"0": WEIGHT})))
    assert tensors.entries == {"weight": TensorEntry((3, 4), "float32"), "bias": TensorEntry((3,), "float32")}
    assert tensors.read("weight").tolist() == WEIGHT.reshape(3, 4).tolist()
    assert tensors.read("bias").tolist() == [2, 3, 4]


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_one_wrapper_is_taken_off(tmp_path, wrapper):
    tensors = open_torch(write(tmp_path, zip_of({"epoch": 3, wrapper: CORRECT}, {"0": WEIGHT})))
    assert list(tensors.entries) == ["weight", "bias"]


@CONTAINERS
def test_tensors_are_read_when_they_are_asked_for(tmp_path, container):
    """Not at opening: then a checkpoint would be in memory."""
    path = write(tmp_path, container(CORRECT, {"0": WEIGHT}))
    tensors = open_torch(path)
    path.write_bytes(container(CORRECT, {"0": WEIGHT + 100}))
    assert tensors.read("bias").tolist() == [102, 103, 104]


def test_a_compressed_archive_is_read(tmp_path):
    """PyTorch does not compress, but who packs the archive again does."""
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickled(CORRECT))
        archive.writestr("a/data/0", WEIGHT.tobytes())
    tensors = open_torch(path)
    assert tensors.read("weight").tolist() == WEIGHT.reshape(3, 4).tolist()
    assert tensors.read("bias").tolist() == [2, 3, 4]


def test_views_of_storages_from_before_pytorch_0_4_are_read(tmp_path):
    """The sixth number of the file is the view's first; offsets count from it. Saved on a GPU."""
    view = storage("0", WEIGHT, view=("view", 5, 4), module="torch.cuda")
    whole = storage("0", WEIGHT, view=None, module="torch.cuda")
    rebuild = Name("torch._utils", "_rebuild_tensor")
    content = {"part": Call(rebuild, (view, 1, (3,), (1,))), "all": Call(rebuild, (whole, 0, (12,), (1,)))}
    tensors = open_torch(write(tmp_path, row_of_pickles(content, {"0": WEIGHT})))
    assert tensors.read("part").tolist() == [6, 7, 8]
    assert tensors.read("all").tolist() == WEIGHT.tolist()


def test_a_view_that_leaves_its_storage_is_refused(tmp_path):
    content = {"part": tensor(storage("0", WEIGHT, view=("view", 10, 4)), (1,), (1,))}
    message = refused(write(tmp_path, row_of_pickles(content, {"0": WEIGHT})))
    assert "part lies in a view to number 14 of 12" in message


def test_shards_with_an_index_are_one_checkpoint(tmp_path):
    for number in (1, 2):
        content = {f"layer.{number}": tensor(storage("0", WEIGHT), (12,), (1,))}
        write(tmp_path, zip_of(content, {"0": WEIGHT * number}), f"pytorch_model-{number}.bin")
    weight_map = {f"layer.{number}": f"pytorch_model-{number}.bin" for number in (1, 2)}
    index = write(tmp_path, json.dumps({"weight_map": weight_map}).encode(), "pytorch_model.bin.index.json")
    tensors = open_torch(index)
    assert [tensors.read(f"layer.{number}")[3] for number in (1, 2)] == [3, 6]


# ---- pickles that want to run something --------------------------------------------------------------------


class Runs:
    """Pickled by Python's own pickler, it calls `function` when it is read."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


MALICIOUS = {
    r"posix\.system": lambda marker: Runs(os.system, f"touch {marker}"),
    r"(__builtin__|builtins)\.eval": lambda marker: Runs(eval, f"open({str(marker)!r}, 'w').close()"),
    r"posix\.mkdir": lambda marker: {"weight": (1, [{"bias": (Runs(os.mkdir, str(marker)),)}])},
}


@pytest.mark.parametrize("asked", MALICIOUS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("container", ["plain", "zip", "row of pickles", "first of a row"])
def test_a_malicious_pickle_is_refused_by_name_and_nothing_runs(tmp_path, asked, protocol, container):
    marker = tmp_path / "ran"
    attack = pickle.dumps(MALICIOUS[asked](marker), protocol=protocol)
    file = {
        "plain": attack,
        "zip": zip_of(None, {}, **{"data.pkl": attack}),
        "row of pickles": row_of_pickles(None, {}).replace(pickled(None), attack),
        "first of a row": attack + row_of_pickles(None, {}),
    }[container]
    message = refused(write(tmp_path, file))
    assert re.search(rf"asks for {asked}, which is no tensor: it may be malicious; nothing of it was run", message)
    assert not marker.exists()
    pickle.loads(attack)
    assert marker.exists(), "Python's own unpickler runs nothing either: this attack proves nothing"


# What a pickle could do with the names that are known.
ORDERED_DICT, REBUILD = Name("collections", "OrderedDict"), Name("torch._utils", "_rebuild_tensor_v2")


@pytest.mark.parametrize(
    "content",
    [
        Build(REBUILD, {"__call__": "x"}),
        Build(REBUILD, (None, {"__call__": "x"})),
        Build(REBUILD, (None, {"__class__": ORDERED_DICT})),
        Build(ORDERED_DICT, {"items": "x"}),
        Build(ORDERED_DICT, (None, {"items": "x"})),
        Build(CORRECT["weight"], {"shape": (10**9,)}),
        Build(CORRECT["weight"], (None, {"shape": (10**9,)})),
        Build(Name("torch", "FloatStorage"), (None, {"dtype": "x"})),
        Call(REBUILD, ("storage", 0, (1,), (1,), False, None)),
        Call(REBUILD, ()),
        Call(Name("torch", "FloatStorage"), (4,)),
        Persistent(("module", ORDERED_DICT, "a.py", "source")),
        Persistent(("storage", "FloatStorage", "0", "cpu", 12)),
        Persistent(("storage", Name("torch", "FloatStorage"), "1", "cpu", -12)),
    ],
)
@CONTAINERS
def test_known_names_are_good_for_nothing_else(tmp_path, container, content):
    path = write(tmp_path, container({"weight": CORRECT["weight"], "x": content}, {"0": WEIGHT}))
    assert "is cut short or damaged" in refused(path)
    # Nor did it change anything for the files that come after it.
    tensors = open_torch(write(tmp_path, container(CORRECT, {"0": WEIGHT})))
    assert tensors.read("weight").tolist() == WEIGHT.reshape(3, 4).tolist()


def test_attributes_of_a_dictionary_are_not_taken_over(tmp_path):
    """PyTorch gives a state dict `_metadata`; another pickle might give it an `items` of its own."""
    state = Build(Call(ORDERED_DICT, ([["weight", CORRECT["weight"]]],)), {"items": "x", "_metadata": {}})
    assert list(open_torch(write(tmp_path, zip_of(state, {"0": WEIGHT}))).entries) == ["weight"]


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_tensor_v3",
        "torch.ComplexFloatStorage",
        "torch.load",
    ],
)
def test_other_things_of_pytorch_are_refused_by_name(tmp_path, name):
    asked = Name(*name.rsplit(".", 1))
    message = refused(write(tmp_path, zip_of({"weight": asked}, {})))
    assert f"asks for {name}, which is no dense tensor of a known type: load it with PyTorch and save" in message


def test_a_negated_or_conjugated_view_is_refused(tmp_path):
    """Its bytes are not its values."""
    content = {"weight": tensor(storage("0", WEIGHT), (12,), (1,), 0, {"neg": True})}
    assert "not a plain view of a storage" in refused(write(tmp_path, zip_of(content, {"0": WEIGHT})))


# ---- files that are not what they should be ----------------------------------------------------------------


@CONTAINERS
def test_a_file_that_was_cut_short_anywhere_is_refused(tmp_path, container):
    data = container(CORRECT, {"0": WEIGHT})
    for length in [*range(0, len(data), 5), len(data) - 1]:
        refused(write(tmp_path, data[:length]))
    assert "is not a file of torch.save (its 0 bytes begin with b'')" in refused(write(tmp_path, b""))


def test_the_tensor_that_was_cut_off_is_named(tmp_path):
    data = row_of_pickles(CORRECT, {"0": WEIGHT})
    expected = f" is cut short: weight ends at byte {len(data)} of {len(data) - 1}: copy or download it again"
    assert refused(write(tmp_path, data[:-1])) == expected
    zipped = zip_of(CORRECT, {"0": WEIGHT})
    assert f", {len(zipped) - 1} bytes, is cut short or damaged" in refused(write(tmp_path, zipped[:-1]))


@pytest.mark.parametrize("name", ["zip.bin", "row_of_pickles.bin"])
def test_damage_is_a_user_error_whatever_it_hits(tmp_path, name):
    """200 files with three bytes changed: each opens or is refused, and no other error ever comes out."""
    whole, rng, damaged = (GOLDEN / name).read_bytes(), random.Random(0), 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            tensors = open_torch(write(tmp_path, bytes(data)))
            for entry in tensors.entries:
                tensors.read(entry)
        except UserError:
            damaged += 1
    assert damaged > 50


def part(shape: tuple, strides: tuple, offset: int = 0) -> dict:
    return {"weight": tensor(storage("0", WEIGHT), shape, strides, offset)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (part((3, 5), (4, 1)), r"weight, [3, 5] with strides [4, 1], reaches to number 13 of a storage of 12"),
        (part((12,), (1,), 1), "reaches to number 13 of a storage of 12"),
        (part((2,), (10**30,)), "of a storage of 12"),
        (part((2,), (-1,)), "weight has shape (2,), strides (-1,) and offset 0"),
        (part((2,), (1,), -1), "weight has shape (2,), strides (1,) and offset -1"),
        (part((2,), (1, 1)), "weight has shape (2,), strides (1, 1) and offset 0"),
        (part((True,), (1,)), "weight has shape (True,)"),
        (part(("a",), (1,)), "weight has shape ('a',)"),
        (
            CORRECT | {"half": tensor(storage("0", WEIGHT.astype("f2")), (12,), (1,))},
            "storage 0 is 12 numbers of float16 and",
        ),
    ],
)
@CONTAINERS
def test_a_pickle_that_lies_about_its_storages_is_refused(tmp_path, container, content, message):
    assert message in refused(write(tmp_path, container(content, {"0": WEIGHT})))


@CONTAINERS
def test_a_storage_that_is_not_there_is_named_by_its_tensor(tmp_path, container):
    assert "is cut short: weight lies in storage 0, not in its" in refused(write(tmp_path, container(CORRECT, {})))


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (zip_of, "the storage of weight has 48 bytes, its pickle says 56"),
        (row_of_pickles, "storage 0 has 12 numbers, its pickle says 14"),
    ],
)
def test_a_storage_of_another_length_is_named_with_both(tmp_path, container, message):
    content = {"weight": tensor(storage("0", WEIGHT, length=14), (12,), (1,))}
    assert message in refused(write(tmp_path, container(content, {"0": WEIGHT})))


def test_a_storage_of_no_tensor_is_refused(tmp_path):
    data = row_of_pickles(CORRECT, {"0": WEIGHT, "1": WEIGHT})
    assert "lists storage '1', which no tensor lies in" in refused(write(tmp_path, data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            CORRECT | {"epoch": 3, "config": {}},
            "holds values that are no tensors: epoch (int), config (dict): load it",
        ),
        (
            dict.fromkeys("abcdefg"),
            "holds values that are no tensors: a (NoneType), b (NoneType), c (NoneType), d (NoneType), e (NoneType) and 2 more",
        ),
        ({"state_dict": {"model": CORRECT}}, "holds values that are no tensors: model (dict)"),
        ({"state_dict": CORRECT, "model": CORRECT}, "holds two models, state_dict and model"),
        ({7: CORRECT["weight"]}, "7, a name that is no text"),
        ({}, "holds no tensor"),
        ([1], "holds a list, not a dictionary of tensors"),
        (CORRECT["weight"], "holds a tensor, not a dictionary of tensors"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path, content, message):
    assert message in refused(write(tmp_path, zip_of(content, {"0": WEIGHT})))


def test_numbers_that_were_changed_are_refused(tmp_path):
    data = zip_of(CORRECT, {"0": WEIGHT}).replace(WEIGHT.tobytes(), (WEIGHT + 1).tobytes())
    tensors = open_torch(write(tmp_path, data))
    with pytest.raises(UserError, match="is damaged: weight does not have the checksum that the archive tells"):
        tensors.read("weight")


def test_a_pickle_that_wants_a_huge_table_is_refused(tmp_path):
    """Python's unpickler makes room for 2^33 places, 64 GiB, when told to remember something as number 2^32 - 1."""
    attack = b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."
    assert "LONG_BINPUT 4294967295 after 3 bytes" in refused(write(tmp_path, attack))
    zipped = zip_of(None, {}, **{"data.pkl": attack})
    assert "LONG_BINPUT 4294967295 after 3 bytes" in refused(write(tmp_path, zipped))


def test_big_endian_files_are_refused(tmp_path):
    """Their numbers would be read as others."""
    zipped = zip_of(CORRECT, {"0": WEIGHT}, byteorder=b"big")
    for data in (zipped, row_of_pickles(CORRECT, {"0": WEIGHT}, little_endian=False)):
        assert "was written on a big-endian machine: load it with PyTorch" in refused(write(tmp_path, data))


def test_archives_of_another_kind_are_refused(tmp_path):
    assert "a zip archive with 0 records */data.pkl" in refused(write(tmp_path, zip_of(None, {}, root="a/b")))
    program = zip_of(CORRECT, {"0": WEIGHT}, **{"constants.pkl": b""})
    assert "is a TorchScript program" in refused(write(tmp_path, program))
    away = zip_of(CORRECT, {"0": WEIGHT})
    offset = away.index(b"PK\x01\x02") + 42  # of the first record, in the directory at the end
    away = away[:offset] + struct.pack("<I", 2**32 - 2) + away[offset + 4 :]
    assert "archive/data.pkl should begin at byte 4294967294" in refused(write(tmp_path, away))
    twice = zip_of(CORRECT, {"0": WEIGHT, "1": WEIGHT}).replace(b"archive/data/1", b"archive/data/0")
    assert "holds two records of the same name" in refused(write(tmp_path, twice))
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("archive/data.pkl", pickled(CORRECT))
    assert "is compressed otherwise than by deflating" in refused(tmp_path / "pytorch_model.bin")


def test_files_of_another_kind_are_refused(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440473133\n"
    assert "is a pointer of Git LFS, not the file: run git lfs pull" in refused(write(tmp_path, pointer))
    assert "is a pickle, but not one of torch.save" in refused(write(tmp_path, pickle.dumps({"weight": [1]})))
    assert "bytes begin with b'<!DOCTYP')" in refused(write(tmp_path, b"<!DOCTYPE html>"))
    with tarfile.open(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    assert "was written by a PyTorch before 0.1.10" in refused(tmp_path / "pytorch_model.bin")


def test_a_file_that_is_missing_or_went_away_is_named(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with pytest.raises(UserError, match=f"there is no {path}: check the path"):
        open_torch(path)
    tensors = open_torch(write(tmp_path, row_of_pickles(CORRECT, {"0": WEIGHT})))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="was cut short while it was read: weight has 11 numbers of 12"):
        tensors.read("weight")
    path.unlink()
    with pytest.raises(UserError, match=r"weight cannot be read: .*No such file"):
        tensors.read("weight")
