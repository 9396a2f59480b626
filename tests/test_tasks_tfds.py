# SPDX-License-Identifier: Apache-2.0
"""Questions and tags from data sets that TFDS's own builders of `squad` and `conll2003` make here of small files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from question_samples import entry, squad

from bert_jax.base.errors import UserError
from bert_jax.finetuning.question_split import read_task_questions
from bert_jax.finetuning.tagging_split import read_sentences
from bert_jax.tasks.conll import read_conll
from bert_jax.tasks.own import own_task
from bert_jax.tasks.questions import read_questions
from bert_jax.tasks.table import find_task, tfds_place

tfds = pytest.importorskip("tensorflow_datasets")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf, inside TFDS

QUESTIONS = {
    "v1.1": squad(entry("a", ("cat", 4), ("the cat", 0)), entry("b", ("mat", 19))),
    "v2.0": squad(
        entry("a", ("cat", 4), is_impossible=False),
        entry("b", is_impossible=True, plausible_answers=[{"text": "cat", "answer_start": 4}]),
    ),
}
SENTENCES = {
    "train.txt": "-DOCSTART- -X- O O\n\nU.N. NNP I-NP B-ORG\nofficial NN I-NP O\n\nRüdiger NNP I-NP B-PER\n. . O O\n",
    "valid.txt": "-DOCSTART- -X- O O\n\nParis NNP I-NP B-LOC\n",
    "test.txt": "-DOCSTART- -X- O O\n\nit PRP I-NP O\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as TFDS_DATA_DIR names it; the files that it was made of lie in `files`."""
    folder = tmp_path_factory.mktemp("tfds")
    files = folder / "files"
    files.mkdir()
    for name, text in SENTENCES.items():
        (files / name).write_text(text, encoding="utf-8")
    for config, content in QUESTIONS.items():
        path = files / f"{config}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
    build_squad(folder, {config: files / f"{config}.json" for config in QUESTIONS})
    build_conll(folder, files)
    return folder


def build_squad(folder: Path, files: dict[str, Path]) -> None:
    """With the features and the reader of TFDS's `squad`."""
    from tensorflow_datasets.datasets.squad import squad_dataset_builder as original
    from tensorflow_datasets.question_answering import qa_utils

    with tfds.core.registered.skip_registration():

        class Squad(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in QUESTIONS]  # noqa: RUF012

            def _info(self) -> Any:
                own = self.builder_config.name == "v2.0"
                features = original._v2_features() if own else qa_utils.squadlike_features()
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {name: self._generate_examples() for name in ("train", "validation")}

            def _generate_examples(self) -> Any:
                path = files[self.builder_config.name]
                if self.builder_config.name == "v2.0":
                    return original._generate_v2_examples(path)
                return qa_utils.generate_squadlike_examples(path)

    for config in files:
        Squad(config=config, data_dir=str(folder), file_format="array_record").download_and_prepare()


def build_conll(folder: Path, files: Path) -> None:
    """As TFDS's `conll2003` does after its download."""
    from tensorflow_datasets.text.conll2003 import conll2003

    with tfds.core.registered.skip_registration():

        class Conll2003(conll2003.Conll2003):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, urls: files)
        Conll2003(data_dir=str(folder), file_format="array_record").download_and_prepare()


@pytest.fixture(autouse=True)
def tfds_data_dir(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))


@pytest.mark.parametrize(("task", "config"), [("squad1", "v1.1"), ("squad2", "v2.0")])
def test_questions_are_those_of_the_file(task, config, folder):
    """Answers in another shape, and whether there is one, must come out as from SQuAD's own JSON."""
    found = read_task_questions(find_task(task), "tfds:", "dev")
    assert sorted(question.place for question in found) == [
        f"tfds:squad/{config}/validation, example {number}" for number in range(2)
    ]
    expected = [replace(question, place="") for question in read_questions(folder / "files" / f"{config}.json")]
    assert sorted((replace(question, place="") for question in found), key=lambda one: one.name) == expected
    named = read_task_questions(own_task("span"), f"tfds:squad/{config}:3.0.0", "train")
    assert [question.name for question in named] == [question.name for question in found]


def test_a_question_without_answer_is_refused_where_all_have_one(tmp_path, monkeypatch):
    """Version 2.0 tells which have none; a data set that does not tell is one of version 1.1."""
    (tmp_path / "v1.1.json").write_text(json.dumps(squad(entry("a"))), encoding="utf-8")
    build_squad(tmp_path, {"v1.1": tmp_path / "v1.1.json"})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"squad/v1.1/train, example 0 \('a'\) has no answer"):
        read_task_questions(find_task("squad1"), "tfds:", "train")


def test_a_data_set_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"there is no field question; .* has chunks, ner, pos, tokens"):
        read_task_questions(find_task("squad1"), "tfds:conll2003/conll2003", "train")
    with pytest.raises(UserError, match="CMRC 2018 has no data set in TFDS of its own: name one"):
        read_task_questions(find_task("cmrc"), "tfds:", "train")


def test_sentences_are_those_of_the_file(folder):
    """Tags are classes in TFDS; its splits have other names here."""
    for split, file in (("train", "train.txt"), ("dev", "valid.txt"), ("test", "test.txt")):
        found, notes = read_sentences(find_task("conll2003"), "tfds:", split)
        expected = read_conll(folder / "files" / file)
        assert sorted((one.words, one.tags) for one in found) == sorted((one.words, one.tags) for one in expected)
        assert len({one.document for one in found}) == len(found)  # which stood together is not told
        assert not notes
    own = own_task("tagging", ["tokens"], "pos")
    sentences, _ = read_sentences(own, "tfds:conll2003/conll2003", "test")
    assert [one.tags for one in sentences] == [("PRP",)]


def test_tags_whose_fields_are_not_known_are_refused():
    for task in (find_task("weibo"), own_task("tagging")):
        with pytest.raises(UserError, match="finetune own --kind tagging --text-column WORDS --label-column TAGS"):
            read_sentences(task, "tfds:conll2003/conll2003", "train")


def test_names_of_splits_that_the_table_does_not_have_are_tfds_own():
    assert tfds_place(find_task("squad1"), "dev", "tfds:") == ("tfds:squad/v1.1", "validation")
    assert tfds_place(find_task("squad1"), "train[:10%]", "tfds:xquad/en") == ("tfds:xquad/en", "train[:10%]")
    assert tfds_place(find_task("conll2003"), "dev", "tfds:") == ("tfds:conll2003/conll2003", "dev")
