# SPDX-License-Identifier: Apache-2.0
"""What no loss has reached leaves a run nowhere: not in its checkpoints, its description, its vectors, its exports."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config
from safetensors.numpy import load_file

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription
from bert_jax.config.objective import ObjectiveConfig, OBJECTIVES
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.convert import convert
from bert_jax.conversion.own_format import flat
from bert_jax.runs.directory import RunDirectory
from bert_jax.train.pretraining import pretrain
from bert_jax.use.embedding import check, embed, EmbedSettings

PLAIN = replace(small_config().model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
CONFIG = small_config(
    model=PLAIN, phases=small_config().phases[:1], eval_every=0, objective=ObjectiveConfig("mlm_document")
)


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    """A run of 8 steps without labels of pairs, in rows of 16 tokens; its model has 32 positions."""
    path = tmp_path_factory.mktemp("run") / "run"
    pretrain(CONFIG, prepared.data, path, resume_command="")
    return path


@pytest.fixture(scope="module")
def earlier(run, prepared, tmp_path_factory) -> Path:
    """The same run as earlier versions made it: with a pooler and an NSP head that stay as they were drawn, and no record."""
    path = tmp_path_factory.mktemp("earlier") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainConfig, "description", property(lambda config: ModelDescription(config.model)))
        pretrain(CONFIG, prepared.data, path, resume_command="")
    (path / "model.json").unlink()
    return path


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_network_is_what_the_objective_trains(name):
    """Without labels of pairs nothing stands on the pooler."""
    description = replace(CONFIG, objective=ObjectiveConfig(name, generator_share=0.5)).description
    assert (description.pooler, description.nsp) == (ObjectiveConfig(name).nsp,) * 2
    assert description.mlm


def test_a_run_has_no_head_that_was_never_trained(run, earlier, tmp_path):
    """In its description, its parameters and its export, whichever version has made it."""
    for path in (run, earlier):
        checkpoint = open_checkpoint(path)
        assert (checkpoint.description.pooler, checkpoint.description.nsp) == (False, False)
        assert not [name for name in flat(checkpoint.parameters()) if "pooler" in name or "nsp" in name]
        assert set(checkpoint.skipped.values()) <= {"no loss of the run has ever reached it"}
        out = tmp_path / f"out-{path.parent.name}"
        assert convert(path, out, "huggingface", Asked(padding_rows="keep")).holds
        assert json.loads((out / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
        assert not [name for name in load_file(out / "model.safetensors") if "pooler" in name or "seq_rel" in name]
    assert sorted(open_checkpoint(earlier).skipped) == [
        "encoder/pooler/bias", "encoder/pooler/kernel", "nsp/bias", "nsp/kernel",
    ]  # fmt: skip
    assert not open_checkpoint(run).skipped


def test_pooled_vectors_are_refused_with_the_reason(run, earlier):
    for path in (run, earlier):
        with pytest.raises(
            UserError, match=r"has no pooler, because objective=mlm_document predicts no label of pairs"
        ):
            check(EmbedSettings(pooling="pooled"), bert_jax.load(path))


def test_an_earlier_run_goes_on_with_all_that_it_has(earlier, prepared, tmp_path):
    """Its checkpoints are read as they are, and the parameters are those of the straight run, to the bit."""
    stopped = Path(shutil.copytree(earlier, tmp_path / "stopped"))
    shutil.rmtree(stopped / "checkpoints" / "8")
    pretrain(CONFIG, prepared.data, stopped, resume_command="")
    expected, found = (flat(open_checkpoint(path).run.tree(RunDirectory(path).stored())) for path in (earlier, stopped))
    assert "nsp/kernel" in found
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_positions_beyond_the_rows_of_training_are_not_used(run, tmp_path):
    """Of 32 positions 16 were trained: texts are no longer, also where the model is served by others."""
    model = bert_jax.load(run)
    text = " ".join(["sea"] * 30)
    with pytest.raises(UserError, match=r"the model was trained on 16 at most: shorten or split it"):
        model.encode([text])
    with pytest.raises(
        UserError, match=r"the model was trained on 16 at most: shorten it, or give --too-long truncate"
    ):
        embed([text], model, EmbedSettings())
    assert convert(run, tmp_path / "out", "huggingface", Asked(padding_rows="keep")).holds
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 16
    assert json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())["max_seq_length"] == 16
