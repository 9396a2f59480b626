# SPDX-License-Identifier: Apache-2.0
"""Data sets that TFDS builds on the spot are read offline; those that are not there are refused."""

import hashlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.text.documents import RawDocument, ReadingCounts, ReadingOptions
from bert_jax.text.sources import parse_sources, plan_parts, read_part
from bert_jax.text.tfds_source import find_split, read_split

tfds = pytest.importorskip("tensorflow_datasets")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf, inside TFDS

FORMATS = ("array_record", "tfrecord")
TEXTS = [f"Story {number} is here. It has Ä and 中文。\n\n \n  A second paragraph.\n" for number in range(20)]
STRICT = ReadingOptions()


class Stories(tfds.core.GeneratorBasedBuilder):
    """Twenty documents to train on, one of them without text, and one that is not UTF-8."""

    name = "stories"
    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="en"), tfds.core.BuilderConfig(name="zh")]  # noqa: RUF012

    def _info(self) -> Any:
        features = {
            "body": tfds.features.Text(),
            "label": tfds.features.Scalar(np.int64),
            "words": tfds.features.Sequence(tfds.features.Text()),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {"train": self._examples([*TEXTS, " \n"]), "latin": self._examples(["Good.", b"caf\xe9"])}

    def _generate_examples(self) -> Any:
        raise NotImplementedError

    def _examples(self, texts: list) -> Iterator:
        for number, text in enumerate(texts):
            yield number, {"body": text, "label": number, "words": ["a", "b"]}


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each format a folder as TFDS_DATA_DIR names it, with `stories` prepared in it."""
    folders = {}
    for name in FORMATS:
        folders[name] = tmp_path_factory.mktemp(name)
        builder = Stories(config="en", data_dir=str(folders[name]), file_format=name)
        builder.download_and_prepare()
    return folders


@pytest.fixture(params=FORMATS)
def data_dir(request, data_dirs, monkeypatch) -> Path:
    folder = data_dirs[request.param]
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


def test_documents_of_a_split(data_dir):
    """A document an example, a paragraph a line, whatever the format; one without text is counted."""
    counts = ReadingCounts()
    found = list(read_split(find_split("tfds:stories/en:1.2.0/train:body"), STRICT, counts))
    expected = [RawDocument([text.split("\n")[0], "A second paragraph."], True) for text in TEXTS]
    assert sorted(found) == sorted(expected)
    assert counts == ReadingCounts(empty_documents=1)


def test_order_is_that_of_tfds_and_slices_are_its_slices(data_dir):
    everything = list(read_split(find_split("tfds:stories/en/train:body"), STRICT, ReadingCounts()))
    assert list(read_split(find_split("tfds:stories/en/train:body"), STRICT, ReadingCounts())) == everything
    halves = [find_split(f"tfds:stories/en/train[{half}]:body") for half in (":50%", "50%:")]
    assert [document for half in halves for document in read_split(half, STRICT, ReadingCounts())] == everything
    assert sum(half.examples for half in halves) == len(TEXTS) + 1


def test_a_split_is_a_source_of_one_part_a_pass(data_dir):
    """Its record files are what is counted and hashed."""
    sources = parse_sources(["tfds:stories/en/train:body@2"])
    assert (sources[0].name, sources[0].weight) == ("tfds:stories/en/train:body", 2)
    first, second = plan_parts(sources, 10)
    told, hashes = [], {}
    documents = list(read_part(first, sources, STRICT, ReadingCounts(), told.append, hashes.__setitem__))
    assert documents == list(read_part(second, sources, STRICT, ReadingCounts()))
    assert len(documents) == len(TEXTS)
    assert sum(told) == first.bytes == sum(file.stat().st_size for file in first.files)
    assert hashes == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in first.files}
    assert [sources[0].name_of(file) for file in first.files] == [file.name for file in first.files]
    assert all(file.is_relative_to(data_dir) for file in first.files)


def test_slices_may_be_sources_of_their_own(data_dir):
    items = ["tfds:stories/en/train[:5]:body@2", "tfds:stories/en/train[5:]:body"]
    assert [source.weight for source in parse_sources(items)] == [2, 1]
    with pytest.raises(UserError, match="is given twice"):
        parse_sources([items[1], items[1]])


def test_text_that_is_not_utf8_is_named_by_its_example(data_dir):
    split = find_split("tfds:stories/en/latin:body")
    with pytest.raises(
        UserError, match=r"latin:body, example \d is not UTF-8: byte 0xe9 at byte 3; .*--errors replace"
    ):
        list(read_split(split, STRICT, ReadingCounts()))
    counts = ReadingCounts()
    replaced = list(read_split(split, ReadingOptions(errors="replace"), counts))
    assert sorted(document.lines for document in replaced) == [["Good."], ["caf\ufffd"]]
    assert counts == ReadingCounts(replaced_bytes=1)


def test_tf_data_is_closed_and_not_tuned(data_dirs, monkeypatch, tf_data_iterators):
    """See tf_feed.py: read to the end, and left in the middle."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dirs["tfrecord"]))
    for count in (len(TEXTS), 3):
        documents = read_split(find_split("tfds:stories/en/train:body"), STRICT, ReadingCounts())
        assert len(list(islice(documents, count))) == count
        assert tf_data_iterators.open == 1
        documents.close()
        assert tf_data_iterators.open == 0
    assert tf_data_iterators.autotuned == [False, False]


BAD_SPECS = [
    ("stories/en/train", "is not of the form tfds:NAME"),
    ("stories:body", "is not of the form tfds:NAME"),
    ("stories/train:body", "stories is prepared in DIR as en: name one, tfds:stories/en/..."),
    ("stories/zh/train:body", "stories/zh is not prepared in DIR, and nothing is downloaded: set TFDS_DATA_DIR"),
    ("stories/en:1.3.0/train:body", "stories/en:1.3.0 is not prepared in DIR"),
    ("imdb_reviews/train:text", "prepare it (tfds build imdb_reviews --data_dir DIR --file_format array_record)"),
    ("stories/en/test:body", "there is no split test; DIR/stories/en/1.2.0 has latin, train"),
    ("stories/en/train:text", "there is no field text; DIR/stories/en/1.2.0 has body, label, words"),
    ("stories/en/train:label", "the field label is not a text but Scalar"),
    ("stories/en/train:words", "the field words is not a text but Sequence"),
    ("stories/en/train[:0]:body", "has no examples"),
]


@pytest.mark.parametrize(("spec", "words"), BAD_SPECS, ids=[spec for spec, _ in BAD_SPECS])
def test_what_is_not_there_is_refused_and_never_downloaded(data_dirs, monkeypatch, spec, words):
    folder = data_dirs["array_record"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))

    def no_network(*_: object) -> None:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        parse_sources([f"tfds:{spec}"])
    assert words.replace("DIR", str(folder), words.count(" DIR")) in str(caught.value).replace("\n", "")
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_the_latest_version_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for version in ("1.9.0", "1.10.0", "incomplete.1.11.0"):
        (tmp_path / "x" / version).mkdir(parents=True)
        (tmp_path / "x" / version / "dataset_info.json").write_text("{}")
    from bert_jax.text.tfds_source import _find_folder

    assert _find_folder("", "x", None, None).name == "1.10.0"
    assert _find_folder("", "x", None, "1.9.0").name == "1.9.0"


def test_broken_and_missing_records_are_refused(data_dir, tmp_path, monkeypatch):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data_dir, copy)
    monkeypatch.setenv("TFDS_DATA_DIR", str(copy))
    split = find_split("tfds:stories/en/train:body")
    raw = split.files[0].read_bytes()
    split.files[0].write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match="prepare the data set again") as caught:
        list(read_split(split, STRICT, ReadingCounts()))
    assert "\n" not in str(caught.value)
    split.files[0].unlink()
    with pytest.raises(UserError, match=r"record.* is missing: prepare the data set again"):
        find_split("tfds:stories/en/train:body")


WITHOUT_TENSORFLOW = """
    import importlib.machinery, os, sys

    found = importlib.machinery.PathFinder.find_spec
    importlib.machinery.PathFinder.find_spec = lambda name, *rest: None if name == "tensorflow" else found(name, *rest)
    from bert_jax.text.documents import ReadingCounts, ReadingOptions
    from bert_jax.text.tfds_source import find_split, read_split
    from bert_jax.base.errors import UserError

    for folder in sys.argv[1:]:
        os.environ["TFDS_DATA_DIR"] = folder
        try:
            split = find_split("tfds:stories/en/train:body")
            print(len(list(read_split(split, ReadingOptions(), ReadingCounts()))))
        except UserError as error:
            print(error)
"""


def test_array_records_need_no_tensorflow(data_dirs):
    """TFRecord files do, and are refused in one line where it is not installed."""
    program = [sys.executable, "-c", textwrap.dedent(WITHOUT_TENSORFLOW), *map(str, data_dirs.values())]
    run = subprocess.run(program, capture_output=True, text=True, check=True, env=dict(os.environ))
    read, refused = run.stdout.splitlines()
    assert read == str(len(TEXTS))
    assert "tfrecord files, which need TensorFlow: pip install 'bert-jax[tensorflow]'" in refused
