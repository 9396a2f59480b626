# SPDX-License-Identifier: Apache-2.0
"""An index and the files it names must tell of the same tensors."""

import json
from pathlib import Path

import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.conversion.sharded import open_sharded
from bert_jax.conversion.tensors import stored, StoredTensors

FILES = {"one": {"a": 1, "b": 2}, "two": {"c": 3}}
WEIGHT_MAP = {"a": "one", "b": "one", "c": "two"}


def opened(folder: Path, index: object, files: dict[str, dict[str, int]] = FILES) -> StoredTensors:
    """An index over files that are never looked into: their tensors are given here."""
    for name in files:
        (folder / name).touch()
    path = folder / "model.index.json"
    path.write_text(index if isinstance(index, str) else json.dumps(index), encoding="utf-8")
    return open_sharded(path, lambda file: stored(file, {name: np.array(v) for name, v in files[file.name].items()}))


def test_the_tensors_of_all_files_are_one_checkpoint(tmp_path):
    tensors = opened(tmp_path, {"metadata": {"total_size": 24}, "weight_map": dict(reversed(WEIGHT_MAP.items()))})
    assert list(tensors.entries) == ["c", "a", "b"]
    assert [int(tensors.read(name)) for name in "abc"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("index", "files", "message"),
    [
        ("{", FILES, "is no index of a checkpoint: Expecting"),
        ("[1]", FILES, "is no index of a checkpoint: it is a list, not an object"),
        ("[" * 100_000, FILES, "is no index of a checkpoint: it is nested deeper than 64"),
        ('{"weight_map": {"a": "one", "a": "two"}}', FILES, "'a' is in one object twice"),
        ({}, FILES, "has no weight_map"),
        ({"weight_map": {}}, FILES, "has no weight_map, or an empty one"),
        ({"weight_map": {"a": 1}}, FILES, "puts a into 1, which is no name of a file beside it"),
        ({"weight_map": {"a": "../one"}}, FILES, "puts a into '../one', which is no name"),
        ({"weight_map": {"a": ""}}, FILES, "puts a into '', which is no name"),
        ({"weight_map": {"a": ".."}}, FILES, "puts a into '..', which is no name"),
        (
            {"weight_map": WEIGHT_MAP | {"d": "three", "e": "four"}},
            FILES,
            "names 4 files, of which 2 are missing beside it (three, four): copy or download them",
        ),
        (
            {"weight_map": WEIGHT_MAP | {"d": "two", "e": "one"}},
            FILES,
            "names 5 tensors, of which 2 are in none of its files (d in two, e in one)",
        ),
        (
            {"weight_map": WEIGHT_MAP},
            {"one": {"a": 1, "b": 2}, "two": {"c": 3, "b": 2}},
            "b is in one and again in two",
        ),
        ({"weight_map": {"a": "one", "c": "two"}}, FILES, "names 2 tensors, its files hold 3, with b"),
        ({"weight_map": WEIGHT_MAP | {"b": "two"}}, FILES, "puts b into two, it is in one"),
    ],
)
def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path, index, files, message):
    with pytest.raises(UserError) as caught:
        opened(tmp_path, index, files)
    assert message in str(caught.value)
    assert str(tmp_path / "model.index.json") in str(caught.value)


def test_a_missing_index_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere\.index\.json: check the path"):
        open_sharded(tmp_path / "nowhere.index.json", lambda path: stored(path, {}))
