# SPDX-License-Identifier: Apache-2.0
"""Nothing that a checkpoint's file declares makes time or memory grow beyond its size: each bound, and its line.

Every test ends soon, or it has failed: SECONDS and BYTES are far below what the declared sizes would take.
"""

import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversion_samples import hugging_face_config, PRETRAINING
from test_torch_files import Call, Name, row_of_pickles, storage, tensor, zip_of

from bert_jax.base.errors import UserError
from bert_jax.base.files import MOST_TENSORS, parse_json
from bert_jax.config.model import ModelConfig, MOST_LAYERS
from bert_jax.conversion.checkpoints import open_checkpoint
from bert_jax.conversion.pickle_bounds import MOST_OBJECTS, require_bounded
from bert_jax.conversion.safetensors_files import open_safetensors
from bert_jax.conversion.torch_files import open_torch
from bert_jax.tokenization import load_tokenizer
from bert_jax.tokenization.hugging_face import LARGEST_FILE

SECONDS, BYTES = 10.0, 200e6  # ten times what it takes
WEIGHT = np.arange(12, dtype=np.float32)


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    begin = time.process_time()
    yield
    assert time.process_time() - begin < SECONDS


@pytest.fixture
def in_little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < BYTES


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


# ---- torch files ---------------------------------------------------------------------------------------------------


def test_compressed_parts_hold_no_more_than_ten_times_the_file(in_little_memory, tmp_path):
    """300 MB of zeros in 300 kB: as a storage, and as the description itself."""
    zeros = bytes(30_000_000)
    for name in ("model/data/0", "model/other"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model/data.pkl", b"\x80\x02}.")
            archive.writestr(name, zeros)
        message = refused(tmp_path / "pytorch_model.bin", packed.getvalue())
        assert "compressed records hold 30,000,00" in message
        assert "more than 10 times" in message


def test_a_description_is_not_larger_than_four_megabytes(in_little_memory, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + b"}0" * 2_500_000 + b"}.")
    assert "data.pkl has 5,000,004 bytes" in refused(tmp_path / "pytorch_model.bin", packed.getvalue())


def doubled(times: int) -> bytes:
    """A tuple of two tuples of two tuples ...: one more step, twice the time to hash it."""
    return b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(times))


COPY = b"ccollections\nOrderedDict\nh\x00\x85R0"
PICKLES = {
    "a tuple of tuples as a name": b"\x80\x02}" + doubled(60) + b"Ns.",
    "wide tuples of wide tuples": b"\x80\x02)" + b"".join(b"q\x00(" + b"h\x00" * 500 + b"t" for _ in range(6)) + b".",
    "one list copied again and again": b"\x80\x02]q\x00(" + b"K\x01" * 5_000 + b"e" + COPY * 5_000 + b"N.",
    "a list that grows behind its name": b"\x80\x02]q\x00" + b"(h\x00h\x00e" * 40 + b"(h\x00h\x00t.",
    "a number of 800,000 bits": b"\x80\x02\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_nested_pickles_are_refused_before_they_are_made(tmp_path, name):
    """The bug: the time to hash, copy or print what a few bytes describe doubles with each of them."""
    with pytest.raises(pickle.UnpicklingError, match=f"more than {MOST_OBJECTS:,} objects|a number of"):
        require_bounded(io.BytesIO(PICKLES[name]))


def test_what_pickle_itself_writes_is_within_the_bounds():
    """Also where objects are shared, and nested a hundred deep."""
    deep: Any = ()
    for _ in range(100):
        deep = [deep, {"a": deep}] if len(str(deep)) < 2000 else (deep,)
    for protocol in range(6):
        for value in (deep, {str(n): (n, [n], {n}, frozenset([n]), b"x", 1.5, None, True) for n in range(300)}, 2**100):
            require_bounded(io.BytesIO(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("container", [zip_of, row_of_pickles])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": tensor(storage("0", WEIGHT), (10**12,), (0,))}, "more than 4 times over"),
        ({"w": tensor(storage("0", WEIGHT), (1,) * 5_000, (1,) * 5_000)}, "w has shape (1, 1, 1"),
        ({"w": tensor(storage("0", WEIGHT), (0, 2**62), (1, 1))}, "w has shape (0, 46"),
    ],
)
def test_a_small_file_is_no_large_model(in_little_memory, tmp_path, container, content, message):
    """A view with a stride of 0, and shapes that NumPy has no room for."""
    assert message in refused(tmp_path / "pytorch_model.bin", container(content, {"0": WEIGHT}))


def test_many_names_of_one_storage_are_no_large_model(tmp_path):
    large = np.zeros(3_000, np.float32)
    content = {f"w{n}": tensor(storage("0", large), (3_000,), (1,)) for n in range(50)}
    message = refused(tmp_path / "pytorch_model.bin", zip_of(content, {"0": large}))
    assert "its 50 tensors are 600,000 bytes and lie in" in message


def test_what_is_called_is_not_looked_up(tmp_path):
    content = {"w": Call(Name("os", "system"), ("true",))}
    assert "asks for os.system" in refused(tmp_path / "pytorch_model.bin", zip_of(content, {}))


# ---- headers -------------------------------------------------------------------------------------------------------


def safetensors(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_shape_of_200_000_sizes(tmp_path):
    header = {"w": {"dtype": "F32", "shape": [2**31] * 200_000, "data_offsets": [0, 4]}}
    assert "w has 200,000 axes, and a tensor 64 at most" in refused(
        tmp_path / "m.safetensors", safetensors(header, bytes(4))
    )


def test_150_000_names(tmp_path):
    header = {f"w{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(MOST_TENSORS + 1)}
    assert "names 50,001 tensors, and a file has 50,000 at most" in refused(
        tmp_path / "m.safetensors", safetensors(header)
    )


def test_150_000_names_of_which_the_last_is_twice():
    """The bug: each name was counted, which for these takes minutes."""
    pairs = ",".join(f'"{n}":0' for n in [*range(150_000), 149_999])
    with pytest.raises(ValueError, match="149999' is in one object twice"):
        parse_json(f"{{{pairs}}}".encode())


@pytest.mark.parametrize("layers", [10**9, MOST_LAYERS + 1])
def test_layers_are_not_counted_out(tmp_path, layers):
    values = hugging_face_config(PRETRAINING) | {"num_hidden_layers": layers}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes(safetensors({}))
    with pytest.raises(UserError, match=rf"config\.json: model\.num_hidden_layers={layers} is more than 1,000"):
        open_checkpoint(tmp_path)
    with pytest.raises(UserError, match="is more than 1,000"):
        ModelConfig(num_hidden_layers=layers)


# ---- vocabularies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "sentencepiece.model"])
def test_a_vocabulary_of_two_gigabytes(in_little_memory, tmp_path, name):
    """Refused by its size; the file has holes, and is not read."""
    with (tmp_path / name).open("wb") as file:
        file.truncate(2 * 2**30)
    with pytest.raises(UserError, match=rf"{name} has 2,147,483,648 bytes, and .* {LARGEST_FILE:,} at most"):
        load_tokenizer(tmp_path)
