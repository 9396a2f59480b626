# SPDX-License-Identifier: Apache-2.0
"""A run's identity: the same content by any spelling of its path is the same run, other content by the same path is not.

Nothing is compiled: a run is recognised, or refused, before its first step.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finetune_samples import SETTINGS, write_conll, write_model, write_squad, write_sst2, write_stsb, write_swag
from safetensors.numpy import load_file, save_file

from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.settings import override
from bert_jax.conversion.checkpoints import Asked
from bert_jax.finetuning.directory import Finetuned, OwnTask, start_or_resume
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted

CONFIG = override(FinetuneConfig(), SETTINGS)
OF_QUESTIONS = replace(CONFIG, max_query_length=4)
OWN = {
    "classification": OwnTask("classification", ("sentence",), "label", labels=("0", "1")),
    "regression": OwnTask("regression", ("sentence1", "sentence2"), "score", id="index"),
    "choice": OwnTask("choice", ("sent1", "sent2"), "label", choices=tuple(f"ending{n}" for n in range(4))),
    "span": OwnTask("span"),
    "tagging": OwnTask("tagging"),
}
NAMES = {"val.csv": "dev.csv", "eng.train": "train.conll", "eng.testa": "dev.conll"}
NAMES |= {f"{split}-v2.0.json": f"{split}.json" for split in ("train", "dev")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and data of every kind under the names that own data has; not to be written to."""
    folder = tmp_path_factory.mktemp("again")
    write_model(folder / "model")
    writers = {"classification": write_sst2, "regression": write_stsb, "choice": write_swag, "tagging": write_conll}
    for kind, write in writers.items():
        write(folder / kind)
    write_squad(folder / "span", "2.0")
    for kind in OWN:
        for file in (folder / kind).iterdir():
            file.rename(file.with_name(NAMES.get(file.name, file.name)))
    return folder


def begin(wanted: Wanted, output: Path) -> Finetuned:
    prepared = FinetuneSetup(wanted)
    return start_or_resume(output, prepared.record(), prepared.description, prepared.tokenizer)


def of(folder: Path, kind: str) -> Wanted:
    return Wanted(OWN[kind], str(folder / kind), folder / "model", OF_QUESTIONS if kind == "span" else CONFIG)


@pytest.mark.parametrize("kind", OWN)
def test_every_kind_of_own_data_is_recognised_by_any_path(folder, tmp_path, monkeypatch, kind):
    """Relative, with a slash behind, through a link, and as a copy: of data and of model."""
    wanted = of(folder, kind)
    first = begin(wanted, tmp_path / "run")
    assert begin(wanted, tmp_path / "run").record == first.record
    (tmp_path / "link").symlink_to(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(folder)
    for place in (".", f"{tmp_path}/link", str(copy)):
        again = replace(wanted, data=f"{place}/{kind}/", model=Path(place) / "model")
        assert begin(again, tmp_path / "run").record == first.record, place


def test_another_spelling_of_the_task_and_the_encoder_alone_are_recognised(folder, tmp_path):
    """What is not taken from a checkpoint, such as its other heads, does not count."""
    wanted = Wanted("sst2", str(folder / "classification"), folder / "model", CONFIG)
    first = begin(wanted, tmp_path / "run")
    file = shutil.copytree(folder / "model", tmp_path / "encoder") / "model.safetensors"
    save_file({name: weight for name, weight in load_file(file).items() if not name.startswith("cls.")}, file)
    again = replace(wanted, task="SST-2", model=tmp_path / "encoder")
    assert begin(again, tmp_path / "run").record == first.record


def changed(text: str) -> str:
    """A word of the last line is another one."""
    head, line = text.rstrip("\n").rsplit("\n", 1)
    return f"{head}\n{line.replace('the', 'a', 1) if 'the' in line else 'the ' + line}\n"


@pytest.mark.parametrize("split", ["train", "dev"])
def test_other_examples_under_the_same_path_are_another_run(folder, tmp_path, split):
    """Also those that are scored alone: their number says nothing."""
    data = shutil.copytree(folder / "classification", tmp_path / "data")
    wanted = replace(of(folder, "classification"), data=str(data))
    begin(wanted, tmp_path / "run")
    file = data / f"{split}.tsv"
    file.write_text(changed(file.read_text()))
    with pytest.raises(
        UserError, match=rf"another fine-tuned run \(the examples of {split} are others than those that"
    ):
        begin(wanted, tmp_path / "run")


def test_other_answers_are_another_run(folder, tmp_path):
    """The rows of a dev split of questions do not hold its answers."""
    data = shutil.copytree(folder / "span", tmp_path / "data")
    wanted = replace(of(folder, "span"), data=str(data))
    begin(wanted, tmp_path / "run")
    (data / "dev.json").write_text((data / "dev.json").read_text().replace('"text": "ann"', '"text": "a"', 1))
    with pytest.raises(UserError, match="the examples of dev are others"):
        begin(wanted, tmp_path / "run")


def test_other_weights_under_the_same_path_are_another_run(folder, tmp_path):
    wanted = replace(of(folder, "classification"), model=write_model(tmp_path / "model"))
    begin(wanted, tmp_path / "run")
    begin(replace(wanted, from_scratch=True), tmp_path / "scratch")
    shutil.rmtree(tmp_path / "model")
    write_model(tmp_path / "model", seed=1)
    with pytest.raises(UserError, match=r"the weights or the vocabulary of .* are not those that .* held"):
        begin(wanted, tmp_path / "run")
    begin(replace(wanted, from_scratch=True), tmp_path / "scratch")  # its weights are not read
    with pytest.raises(UserError, match="--from-scratch: False -> True"):
        begin(replace(wanted, from_scratch=True), tmp_path / "run")


def test_another_description_of_own_data_is_named_by_its_option(folder, tmp_path):
    wanted = of(folder, "classification")
    begin(wanted, tmp_path / "run")
    other = replace(OWN["classification"], labels=("1", "0"))
    with pytest.raises(UserError, match="--labels: 0 1 -> 1 0"):
        begin(replace(wanted, task=other), tmp_path / "run")
    with pytest.raises(UserError, match="task: own -> sst2"):
        begin(replace(wanted, task="sst2"), tmp_path / "run")


def test_a_run_of_an_older_version_goes_on(folder, tmp_path):
    """Its record has no digests; its rows are compared."""
    prepared = FinetuneSetup(of(folder, "classification"))
    record = prepared.record()
    old = {name: value for name, value in record.items() if name != "content"}
    old["source"] = {name: value for name, value in record["source"].items() if name != "digest"}
    start_or_resume(tmp_path / "run", old, prepared.description, prepared.tokenizer)
    assert start_or_resume(tmp_path / "run", record, prepared.description, prepared.tokenizer).record["labels"] == [
        "0",
        "1",
    ]
    with pytest.raises(UserError, match=r"the rows made from .* are others than they were"):
        start_or_resume(tmp_path / "run", {**record, "training_rows": "x"}, prepared.description, prepared.tokenizer)


def test_a_head_that_nothing_describes_is_no_obstacle(folder, tmp_path):
    """It is not taken: --kind, which would say what it predicts elsewhere, is the kind of one's own task here."""
    model = shutil.copytree(folder / "model", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if not name.startswith("cls.")}
    weights |= {"classifier.weight": np.zeros((3, 16), np.float32), "classifier.bias": np.zeros(3, np.float32)}
    save_file(weights, model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSomething"]}))
    wanted = replace(of(folder, "classification"), model=model)
    with pytest.raises(UserError, match=r"does not say what classifier.weight of 3 outputs predicts"):
        FinetuneSetup(wanted)
    assert FinetuneSetup(replace(wanted, asked=Asked(head=False))).head.labels == ("0", "1")
