# SPDX-License-Identifier: Apache-2.0
"""Whatever is in a file, its reader gives what it holds or a UserError of one line that names it: nothing else.

hypothesis changes small whole files: bytes that are others, missing or more, and JSON values of every kind in the place of
the right ones. The examples are the same in every run. `BERT_JAX_FUZZ_EXAMPLES=5000` looks further.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_torch_files import row_of_pickles, storage, tensor, zip_of
from tokenization_samples import VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_tensors
from bert_jax.conversion.safetensors_files import open_safetensors
from bert_jax.conversion.tensors import each, stored, StoredTensors
from bert_jax.conversion.torch_files import open_torch
from bert_jax.conversion.vocabularies import write_hugging_face_tokenizer
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer
from bert_jax.tokenization.switches import AddedToken, Switches

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis")
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = int(os.environ.get("BERT_JAX_FUZZ_EXAMPLES", "60"))
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "repeat"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=4,
)


def bounded(examples: int = EXAMPLES) -> Callable[[Any], Any]:
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def changed(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, new in changes:
        place %= len(content) + 1
        if kind == "set":
            content = content[:place] + new + content[place + len(new) :]
        elif kind == "cut":
            content = content[:place]
        elif kind == "insert":
            content = content[:place] + new + content[place:]
        else:
            content += content[place:]
    return content


def gives_or_names(path: Path, read: Callable[[], Any]) -> None:
    said = f"{path.parent.name}: nothing"
    try:
        read()
    except UserError as error:
        said = str(error)
    assert path.parent.name in said
    assert len(said) < 1500


def read_all(tensors: StoredTensors) -> None:
    for name, entry in tensors.entries.items():
        array = tensors.read(name)
        assert (array.shape, array.dtype.name) == entry


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@bounded()
@hypothesis.given(changes=CHANGES)
def test_safetensors(place, changes):
    path = place / "model.safetensors"
    write_tensors(path, {"weight": WEIGHT, "bias": WEIGHT[0].copy(), "ids": np.arange(3)})
    path.write_bytes(changed(path.read_bytes(), changes))
    gives_or_names(path, lambda: read_all(open_safetensors(path)))


@pytest.mark.parametrize("container", [zip_of, row_of_pickles])
def test_torch_files(place, container):
    content = {
        "weight": tensor(storage("0", WEIGHT), (3, 4), (4, 1)),
        "bias": tensor(storage("1", WEIGHT[0]), (4,), (1,)),
        "view": tensor(storage("0", WEIGHT), (4, 3), (1, 4)),
    }
    whole = container({"state_dict": content}, {"0": WEIGHT, "1": WEIGHT[0]})
    path = place / "pytorch_model.bin"

    @bounded()
    @hypothesis.given(changes=CHANGES)
    def check(changes):
        path.write_bytes(changed(whole, changes))
        gives_or_names(path, lambda: read_all(open_torch(path)))

    check()


def test_tf1_index(place):
    pytest.importorskip("tensorflow", reason="TensorFlow reads its own checkpoints")
    from bert_jax.conversion.tf1 import open_tf1, write_tf1

    prefix = place / "bert_model.ckpt"
    write_tf1(prefix, list(each(stored(prefix, {"a/kernel": WEIGHT, "a/bias": WEIGHT[0], "global_step": np.array(3)}))))
    index = prefix.with_name("bert_model.ckpt.index")
    whole = index.read_bytes()

    @bounded(EXAMPLES // 3)
    @hypothesis.given(changes=CHANGES)
    def check(changes):
        index.write_bytes(changed(whole, changes))
        gives_or_names(prefix, lambda: read_all(open_tf1(prefix)))

    check()


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    switches = Switches(added_tokens=(AddedToken("new york"), AddedToken("<e1>", normalized=False)))
    write_hugging_face_tokenizer(WordPieceTokenizer(VOCABULARY, True, switches=switches), folder, 512)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def restore(place: Path, files: dict[str, bytes]) -> Path:
    folder = place / "m"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@bounded()
@hypothesis.given(changes=CHANGES, name=st.sampled_from(["vocab.txt", "tokenizer.json", "tokenizer_config.json"]))
def test_tokenizers(place, tokenizer_files, changes, name):
    folder = restore(place, tokenizer_files)
    (folder / name).write_bytes(changed(tokenizer_files[name], changes))
    gives_or_names(folder / name, lambda: load_tokenizer(folder).encode("The cat <e1> new york"))


NAMES = st.sampled_from(["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])


@bounded(2 * EXAMPLES)
@hypothesis.given(name=NAMES, path=st.lists(st.integers(0, 10**6), min_size=1, max_size=4), value=STRANGE)
def test_tokenizers_with_strange_values(place, tokenizer_files, name, path, value):
    """A value of another type anywhere in a file."""
    folder = restore(place, tokenizer_files)
    values = json.loads(tokenizer_files[name])
    inner = values
    for number in path:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        if not keys:
            break
        holder, key = inner, keys[number % len(keys)]
        inner = holder[key]
        if not isinstance(inner, dict | list) or number == path[-1]:
            break
    holder[key] = value
    (folder / name).write_text(json.dumps(values))
    gives_or_names(folder / name, lambda: load_tokenizer(folder).encode("The cat <e1> new york"))
