# SPDX-License-Identifier: Apache-2.0
"""A left-to-right model is transformers' BertLMHeadModel with is_decoder: both ways, and computes what it does."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import refusal_of
from conversion_samples import MODEL, VOCABULARY, write_hugging_face
from flax import nnx

from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.training import MeshConfig
from bert_jax.conversion import names, numpy_bert
from bert_jax.conversion.certificate import example_inputs, our_batch
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.convert import convert
from bert_jax.conversion.own_format import config_for, flat, place_of, write_run
from bert_jax.mesh.sharding import make_mesh
from bert_jax.tokenization import WordPieceTokenizer
from bert_jax.train.next_token import NextTokenLoss
from bert_jax.train.state import Training

PEER_PYTHON = "BERT_JAX_PEER_PYTHON"  # a Python with torch and transformers
CAUSAL = ModelDescription(replace(MODEL, causal=True, hidden_act="gelu_erf"), pooler=False, nsp=False)


def causal_batch(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every token but the last of a row predicts the next; rows of several lengths."""
    batch = our_batch(inputs)
    lengths = batch["sequence_ids"].sum(1)
    has_next = np.arange(batch["input_ids"].shape[1])[None, :] < lengths[:, None] - 1
    batch["masked_lm_ids"] = np.where(has_next, np.roll(batch["input_ids"], -1, axis=1), 0)
    batch["masked_lm_weights"] = has_next.astype(np.float32)
    return batch


def test_both_ways_with_a_certificate(tmp_path):
    source = write_hugging_face(tmp_path / "source", CAUSAL)
    there = convert(source, tmp_path / "run", "bert-jax")
    back = convert(tmp_path / "run", tmp_path / "back", "huggingface")
    assert there.holds
    assert back.holds
    assert open_checkpoint(tmp_path / "run").description == CAUSAL
    told = json.loads((tmp_path / "back" / "config.json").read_text())
    assert told["architectures"] == ["BertLMHeadModel"]
    assert told["is_decoder"] is True
    tensors = [open_checkpoint(folder).tensors for folder in (source, tmp_path / "back")]
    for name in tensors[0].entries:
        np.testing.assert_array_equal(*(side.read(name) for side in tensors))


def test_numpy_and_ours_differ_from_a_bidirectional_model(tmp_path):
    """So that a certificate can fail: the same weights without the mask give other logits."""
    source = open_checkpoint(write_hugging_face(tmp_path / "source", CAUSAL))
    inputs = example_inputs(CAUSAL.model)
    past, both = (
        numpy_bert.forward(source.tensors, "hugging_face", replace(CAUSAL.model, causal=causal), inputs)["mlm_logits"]
        for causal in (True, False)
    )
    assert np.abs(past - both)[:, 0].max() > 1e-2


def test_tf1_refuses_it_by_name(tmp_path, capsys):
    write_hugging_face(tmp_path / "source", CAUSAL)
    error = refusal_of(capsys, "convert", tmp_path / "source", tmp_path / "tf1", "--to", "tf1")
    assert "a left-to-right model has no place in bert_config.json" in error
    assert not (tmp_path / "tf1").exists()


def test_what_stands_on_the_first_token_has_no_place(tmp_path):
    """A decoder's pooler there reads [CLS], which sees nothing; a head of ours reads the last token."""
    pooled = replace(CAUSAL, pooler=True)
    source = write_hugging_face(tmp_path / "source", pooled)
    with pytest.raises(
        UserError, match=r"has a pooler and its config says is_decoder=true.*--skip bert.pooler.dense.\*"
    ):
        open_checkpoint(source)
    assert open_checkpoint(source, Asked(skip=("bert.pooler.dense.*",))).description == CAUSAL
    for task, holds in ((TaskHead("tagging", 5), True), (TaskHead("classification", 2), False)):
        description = ModelDescription(CAUSAL.model, pooler=task.needs_pooler, mlm=False, nsp=False, task=task)
        run = tmp_path / task.kind
        write_run_of(run, description)
        if holds:
            assert convert(run, tmp_path / "converted", "huggingface").holds
        else:
            with pytest.raises(UserError, match="head for classification reads the last token"):
                convert(run, tmp_path / "refused", "huggingface")


def write_run_of(folder: Path, description: ModelDescription) -> None:
    rng = np.random.default_rng(0)

    def weight(row: names.NameRow) -> np.ndarray:
        drawn = 0.3 * rng.standard_normal(names.shape_of(row, description))
        return (drawn + row.ours.endswith("scale")).astype(np.float32)

    WordPieceTokenizer(VOCABULARY, lowercase=True).save(folder)
    write_run(folder, description, weight, config_for(description))


# ---- transformers ----------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import numpy as np, torch, transformers
folder, given, made = sys.argv[1:]
model = transformers.BertLMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
assert model.config.is_decoder
batch = {name: torch.from_numpy(x).long() for name, x in np.load(given).items()}
ids, mask = batch["input_ids"], batch["input_mask"]
output = model(input_ids=ids, token_type_ids=batch["segment_ids"], attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
output.loss.backward()
found = {f"gradient/{name}": p.grad.numpy() for name, p in model.named_parameters()}
np.savez(made, loss=output.loss.detach().numpy(), logits=output.logits.detach().numpy(), **found)
"""


@pytest.mark.skipif(PEER_PYTHON not in os.environ, reason=f"{PEER_PYTHON} does not name a Python with transformers")
def test_logits_loss_and_gradients_are_those_of_transformers(tmp_path):
    """Its labels are the ids: it shifts them itself. Every parameter's gradient, 1e-4 of its largest value."""
    folder = write_hugging_face(tmp_path / "source", CAUSAL)
    # PyTorch gives the embedding of [PAD], its padding_idx, no gradient where it stands as a token.
    inputs = example_inputs(CAUSAL.model, np.arange(1, len(VOCABULARY)))
    batch = causal_batch(inputs)
    np.savez(tmp_path / "inputs.npz", **dict(inputs))
    command = [
        os.environ[PEER_PYTHON],
        "-c",
        SCRIPT,
        str(folder),
        str(tmp_path / "inputs.npz"),
        str(tmp_path / "made.npz"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = dict(np.load(tmp_path / "made.npz"))
    config = config_for(CAUSAL)
    training = Training(replace(config, mesh=MeshConfig(1)), make_mesh(MeshConfig(1)))
    params = open_checkpoint(folder).parameters()
    valid = inputs["input_mask"] == 1
    logits = np.asarray(nnx.merge(training.graph, params)(batch).mlm_logits)
    np.testing.assert_allclose(logits[valid], theirs["logits"][valid], atol=1e-4)

    def loss(params):
        scores = NextTokenLoss(False, 4).scores(training, params, batch, None)["ltr"]
        return scores.loss / scores.weight

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(float(theirs["loss"]), abs=1e-5)
    ours = flat(gradients)
    for row in names.rows_of(CAUSAL):
        path, number = place_of(row.ours)
        found = np.asarray(ours[path] if number is None else ours[path][number])
        wanted = theirs[f"gradient/{row.huggingface}"]
        wanted = wanted.T if row.huggingface_transposed else wanted
        assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max()), row.ours


@pytest.mark.skipif(PEER_PYTHON not in os.environ, reason=f"{PEER_PYTHON} does not name a Python with transformers")
def test_the_certificate_may_be_transformers_own(tmp_path):
    folder = write_hugging_face(tmp_path / "source", CAUSAL)
    there = convert(folder, tmp_path / "run", "bert-jax", peer_python=Path(os.environ[PEER_PYTHON]))
    assert there.holds
    assert "BertLMHeadModel" in there.ran[0]
    back = convert(tmp_path / "run", tmp_path / "back", "huggingface", peer_python=Path(os.environ[PEER_PYTHON]))
    assert back.holds
