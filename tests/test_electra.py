# SPDX-License-Identifier: Apache-2.0
"""ELECTRA to and from Hugging Face's classes, with its certificate; both losses and all gradients against transformers."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conversion_samples import MODEL, VOCABULARY
from golden_from_torch import formula_weights
from safetensors.numpy import load_file, save_file

from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.conversion import names
from bert_jax.conversion.certificate import example_inputs, our_batch
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.convert import convert
from bert_jax.conversion.own_format import flat, write_run
from bert_jax.mesh.sharding import make_mesh
from bert_jax.tokenization import WordPieceTokenizer
from bert_jax.train import replaced_tokens
from bert_jax.train.replaced_tokens import ReplacedTokenLoss
from bert_jax.train.state import Training

PEER_PYTHON = "BERT_JAX_PEER_PYTHON"  # a Python with torch and transformers
PEER = Path(os.environ[PEER_PYTHON]) if PEER_PYTHON in os.environ else None
needs_peer = pytest.mark.skipif(PEER is None, reason=f"{PEER_PYTHON} does not name a Python with transformers")
ELECTRA = replace(MODEL, embedding_size=10, hidden_act="gelu_erf", pooler_act="gelu")
WIDE = replace(ELECTRA, embedding_size=None)  # tables as wide as the layers: the base size
CONFIG = PretrainConfig(
    model=ELECTRA,
    objective=ObjectiveConfig(name="rtd", generator_share=0.5),
    phases=(PhaseConfig(16, steps=10, batch_size=8, max_predictions_per_seq=3),),
    optimizer=OptimizerConfig(warmup_steps=2),
    mesh=MeshConfig(data=1),
)


def write_rtd_run(folder: Path, config: PretrainConfig = CONFIG) -> Path:
    """A run with weights that depend on names alone."""
    folder.mkdir(parents=True)
    WordPieceTokenizer(VOCABULARY, lowercase=True).save(folder)
    rows = {row.ours: row for row in names.rows_of(config.description)}
    shapes = {name: names.shape_of(row, config.description) for name, row in rows.items()}
    weights = formula_weights({name.replace("scale", "LayerNorm.weight"): shape for name, shape in shapes.items()})
    write_run(folder, config.description, lambda row: weights[row.ours.replace("scale", "LayerNorm.weight")], config)
    return folder


@pytest.mark.parametrize("model", [ELECTRA, WIDE])
def test_both_halves_go_to_hugging_face_and_back(tmp_path, model):
    """Byte for byte, with the referee of NumPy in Hugging Face's names, and transformers itself where there is one."""
    run = write_rtd_run(tmp_path / "run", replace(CONFIG, model=model))
    kinds = {"ElectraForPreTraining": ("rtd_logits", False), "ElectraForMaskedLM": ("mlm_logits", True)}
    for architecture, (output, generator) in kinds.items():
        there, back = tmp_path / architecture, tmp_path / f"{architecture}-run"
        certificate = convert(
            run, there, "huggingface", Asked(generator=generator), peer_python=PEER if model is ELECTRA else None
        )
        assert certificate.holds, certificate.lines()
        assert {one.output for one in certificate.differences} == {"sequence_output", output}
        assert all(one.largest_value > 0.1 for one in certificate.differences), "outputs that say nothing"
        config = json.loads((there / "config.json").read_text())
        assert config["architectures"] == [architecture]
        assert (config["model_type"], config["embedding_size"]) == ("electra", model.table_size)
        assert convert(there, back, "bert-jax").holds
        again = convert(back, tmp_path / f"{architecture}-again", "huggingface")
        assert again.holds
        first, second = (
            load_file(tmp_path / name / "model.safetensors") for name in (architecture, f"{architecture}-again")
        )
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)
    assert convert(run, tmp_path / "whole", "bert-jax").holds
    assert open_checkpoint(tmp_path / "whole").description == CONFIG.description if model is ELECTRA else True


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The state dict of ElectraForPreTraining, as modeling_electra.py builds it, without the encoder's layers."""
    E, D, V = ELECTRA.table_size, ELECTRA.hidden_size, len(VOCABULARY)
    return {
        "electra.embeddings.word_embeddings.weight": (V, E),
        "electra.embeddings.position_embeddings.weight": (ELECTRA.max_position_embeddings, E),
        "electra.embeddings.token_type_embeddings.weight": (2, E),
        "electra.embeddings.LayerNorm.weight": (E,),
        "electra.embeddings.LayerNorm.bias": (E,),
        "electra.embeddings_project.weight": (D, E),
        "electra.embeddings_project.bias": (D,),
        "discriminator_predictions.dense.weight": (D, D),
        "discriminator_predictions.dense.bias": (D,),
        "discriminator_predictions.dense_prediction.weight": (1, D),
        "discriminator_predictions.dense_prediction.bias": (1,),
    }


def test_the_names_are_those_of_transformers(tmp_path):
    convert(write_rtd_run(tmp_path / "run"), tmp_path / "there", "huggingface")
    found = {name: array.shape for name, array in load_file(tmp_path / "there" / "model.safetensors").items()}
    assert {name: shape for name, shape in found.items() if ".encoder." not in name} == published_shapes()


def test_a_published_generator_is_read_with_its_second_names(tmp_path):
    """With the tied output matrix stored too, and without `electra.`'s buffer of positions."""
    convert(write_rtd_run(tmp_path / "run"), tmp_path / "there", "huggingface", Asked(generator=True))
    file = tmp_path / "there" / "model.safetensors"
    tensors = load_file(file)
    tensors["generator_lm_head.weight"] = tensors["electra.embeddings.word_embeddings.weight"]
    tensors["electra.embeddings.position_ids"] = np.arange(20)[None]
    save_file(tensors, file, {"format": "pt"})
    certificate = convert(tmp_path / "there", tmp_path / "back", "bert-jax")
    assert certificate.holds, certificate.lines()
    description = certificate.result.description
    assert (description.mlm, description.rtd, description.pooler) == (True, False, False)
    assert description.model == replace(CONFIG.description.generator, pooler_act="gelu")


@pytest.mark.parametrize("kind", ["classification", "regression", "span", "tagging"])
def test_fine_tuned_heads_are_electra_s(tmp_path, kind):
    outputs = {"classification": 3, "regression": 1, "span": 2, "tagging": 5}[kind]
    task = TaskHead(kind, outputs)
    description = ModelDescription(ELECTRA, pooler=task.needs_pooler, mlm=False, nsp=False, task=task)
    shapes = {row.ours: names.shape_of(row, description) for row in names.rows_of(description)}
    weights = formula_weights({name.replace("scale", "LayerNorm.weight"): shape for name, shape in shapes.items()})
    (tmp_path / "run").mkdir()
    WordPieceTokenizer(VOCABULARY, lowercase=True).save(tmp_path / "run")
    write_run(tmp_path / "run", description, lambda row: weights[row.ours.replace("scale", "LayerNorm.weight")], CONFIG)
    certificate = convert(
        tmp_path / "run", tmp_path / "there", "huggingface", peer_python=PEER if kind == "classification" else None
    )
    assert certificate.holds, certificate.lines()
    assert {"sequence_output", "task_logits"} <= {one.output for one in certificate.differences}
    stored = load_file(tmp_path / "there" / "model.safetensors")
    assert ("classifier.out_proj.weight" in stored) == task.is_pooled
    back = convert(tmp_path / "there", tmp_path / "back", "bert-jax")
    assert back.holds, back.lines()
    assert back.result.description.task.kind == kind


def test_what_has_no_place_is_refused(tmp_path):
    run = write_rtd_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"google-research/bert has no place for .* it is an ELECTRA"):
        convert(run, tmp_path / "google", "tf1")
    convert(run, tmp_path / "there", "huggingface")
    with pytest.raises(UserError, match=r"--generator: .* holds 2 layers .* leave the option out"):
        convert(tmp_path / "there", tmp_path / "other", "bert-jax", Asked(generator=True))
    config = tmp_path / "there" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"gelu_new"'))
    with pytest.raises(UserError, match="hidden_act=gelu_new: only those with gelu"):
        convert(tmp_path / "there", tmp_path / "other", "bert-jax")
    tanh = replace(CONFIG, model=replace(ELECTRA, hidden_act="gelu_tanh"))
    with pytest.raises(UserError, match="hidden_act=gelu_tanh: the heads of transformers' ELECTRA have gelu_erf"):
        convert(write_rtd_run(tmp_path / "tanh", tanh), tmp_path / "other", "huggingface")


# ---- transformers --------------------------------------------------------------------------------------------------


def fixed_samples() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A batch of ours with its draws, and the same as transformers takes it."""
    inputs = dict(
        example_inputs(ELECTRA, np.arange(5, ELECTRA.vocab_size))
    )  # torch gives [PAD] no gradient as an input
    batch = {name: np.asarray(field) for name, field in our_batch(inputs).items()}
    rng = np.random.default_rng(5)
    rows, width = inputs["input_ids"].shape
    text, lengths = inputs["input_ids"].copy(), inputs["input_mask"].sum(1)
    picked = [np.sort(rng.choice(np.arange(1, n), min(3, n - 1), replace=False)) for n in lengths]
    positions = np.zeros((rows, 3), np.int32)
    weights, drawn = np.zeros((rows, 3), np.float32), rng.integers(5, ELECTRA.vocab_size, (rows, 3)).astype(np.int32)
    masked, replaced, mlm_labels = text.copy(), text.copy(), np.full((rows, width), -100)
    for row, own in enumerate(picked):
        positions[row, : len(own)], weights[row, : len(own)] = own, 1
        drawn[row, 0] = text[row, own[0]]  # a sample that is the text's own
        masked[row, own], replaced[row, own] = 4, drawn[row, : len(own)]
        mlm_labels[row, own] = text[row, own]
    batch |= {
        "input_ids": masked.astype(np.int32),
        "masked_lm_positions": positions,
        "masked_lm_ids": np.take_along_axis(text, positions, axis=1).astype(np.int32),
        "masked_lm_weights": weights,
    }
    theirs = {name: inputs[name] for name in ("segment_ids", "input_mask")}
    theirs |= {"masked_ids": masked, "replaced_ids": replaced, "mlm_labels": mlm_labels, "rtd_labels": replaced != text}
    return batch | {"drawn": drawn}, theirs


@needs_peer
def test_losses_logits_and_gradients_are_those_of_transformers(tmp_path, monkeypatch):
    """Both models on one set of embeddings, mlm + 50 rtd, on fixed samples."""
    run = write_rtd_run(tmp_path / "run")
    for half in ("generator", "discriminator"):
        convert(run, tmp_path / half, "huggingface", Asked(generator=half == "generator"))
    batch, theirs = fixed_samples()
    drawn = batch.pop("drawn")
    np.savez(tmp_path / "inputs.npz", **theirs)
    script = Path(__file__).with_name("electra_in_torch.py")
    files = [str(tmp_path / name) for name in ("generator", "discriminator", "inputs.npz", "outputs.npz")]
    subprocess.run([str(PEER), str(script), *files], check=True, capture_output=True)
    with np.load(tmp_path / "outputs.npz") as file:
        expected = dict(file)

    monkeypatch.setattr(replaced_tokens, "sample", lambda *_: drawn)
    training = Training(CONFIG, make_mesh(CONFIG.mesh))
    params = jax.tree.map(np.asarray, open_checkpoint(run).parameters())
    loss = ReplacedTokenLoss(False, 4)

    def total(params):
        scores = loss.scores(training, params, batch, None)
        means = {term: scores[term].loss / scores[term].weight for term in ("mlm", "rtd")}
        return means["mlm"] + 50 * means["rtd"], means

    (_, means), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    for term, value in means.items():
        np.testing.assert_allclose(value, expected[f"{term}_loss"], rtol=1e-4)
    found, compared = flat(jax.tree.map(np.asarray, gradient)), 0
    for row in names.rows_of(CONFIG.description):
        half = "generator" if row.ours.startswith(names.GENERATOR) else "discriminator"
        theirs_name = names.electra_name(row.huggingface.removeprefix("generator."), pooled=False)
        # Layers are stacked here: the number of one stands in its name.
        parts = row.ours.split("layers/")
        number = None if len(parts) == 1 else int(parts[1].split("/")[0])
        path = row.ours if number is None else f"{parts[0]}layers/{parts[1].partition('/')[2]}"
        ours = found[path] if number is None else found[path][number]
        wanted = expected.get(f"{half}/{theirs_name}", expected.get(f"generator/{theirs_name}"))
        wanted = wanted.T if row.huggingface_transposed else wanted
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-4 * max(1.0, np.abs(wanted).max()), err_msg=row.ours)
        compared += 1
    assert compared == len(names.rows_of(CONFIG.description)) > 40
