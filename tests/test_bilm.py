# SPDX-License-Identifier: Apache-2.0
"""objective=bilm: neither direction sees what it predicts, its LSTMs and loss, a run from its first step to its uses.

Shapes: B rows, S tokens, D features, P = D / 2 of a direction, U units, V vocabulary.
"""

import json
import math
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import made_up_text, run_stage, small_config
from finetune_samples import command, write_sst2
from flax import nnx

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import override, to_dict
from bert_jax.config.training import MeshConfig
from bert_jax.conversion.names import shape_of
from bert_jax.conversion.own_format import flat, stacked_shapes, write_run
from bert_jax.feed.batch import batch_of_rows
from bert_jax.feed.examples import evaluation_batch, make_examples
from bert_jax.feed.packing import make_arrangement
from bert_jax.feed.shards import open_data
from bert_jax.mesh.sharding import make_mesh, put_on_mesh
from bert_jax.model.accounting import formula_parameters, training_flops
from bert_jax.model.bilm import text_means
from bert_jax.model.encoder import Compute
from bert_jax.model.heads import BertModel
from bert_jax.train.both_directions import BothDirectionsLoss
from bert_jax.train.masked_lm import batch_fields
from bert_jax.train.state import Training
from bert_jax.train.step import compile_train_step

PEER_PYTHON = "BERT_JAX_PEER_PYTHON"  # a Python with torch and transformers
BILM = ObjectiveConfig("bilm")
P, U = 6, 10
MODEL = ModelConfig(
    vocab_size=40,
    hidden_size=2 * P,
    num_hidden_layers=2,
    max_position_embeddings=32,
    lstm_units=U,
    initializer_range=0.5,
)
CONFIG: PretrainConfig = small_config(objective=BILM)


def model_of(task: TaskHead | None = None, compute: Compute = Compute(), **changes: Any) -> BertModel:  # noqa: B008
    pooler = bool(task and task.needs_pooler)
    description = ModelDescription(replace(MODEL, **changes), pooler=pooler, mlm=task is None, nsp=False, task=task)
    return BertModel(description, compute, rngs=nnx.Rngs(0))


def parameters_of(model: BertModel) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float64) for name, leaf in flat(nnx.to_pure_dict(nnx.state(model))).items()}


def packed_batch() -> dict[str, np.ndarray]:
    """A row of two examples (7 and 5 tokens) and padding, and a full row."""
    rng = np.random.default_rng(0)
    batch = batch_of_rows([], 2, 16)
    batch["input_ids"] = rng.integers(5, MODEL.vocab_size, (2, 16)).astype(np.int32)
    batch["sequence_ids"] = np.stack([np.repeat([1, 2, 0], [7, 5, 4]), np.ones(16, int)]).astype(np.int32)
    batch["cls_positions"] = np.array([[0, 7], [0, 0]], np.int32)
    batch["masked_lm_positions"] = np.tile(np.arange(15, dtype=np.int32), (2, 1))
    return batch


SEEDS = np.arange(4, dtype=np.uint32).reshape(2, 2)


# ---- what each direction sees --------------------------------------------------------------------------------------


def test_no_direction_sees_what_it_predicts():
    """Gradients of a state by the vectors of tokens on its other side are exactly zero, with dropout, of each layer; and by
    those of another example of a packed row, and of padding."""
    graph, state = nnx.split(model_of())
    params, batch, place = nnx.to_pure_dict(state), packed_batch(), 9
    ids = np.arange(32, dtype=np.int32).reshape(2, 16)  # each token has a row of the table of its own

    def states(vectors: jax.Array) -> jax.Array:
        """A sum over the state at `place` of each layer and direction, [2, 2]."""
        own = {**params, "encoder": {**params["encoder"], "embeddings": {"word": vectors}}}
        encoded = nnx.merge(graph, own).encode({**batch, "input_ids": ids}, dropout_seeds=SEEDS, all_layers=True)
        halves = encoded.all_layers[1:, :, place].reshape(2, 2, 2, P)  # layer, row, direction
        return jnp.sin(halves).sum((1, 3))

    vectors = jnp.asarray(np.random.default_rng(1).normal(size=(MODEL.vocab_size, P)).astype(np.float32))
    gradients = np.asarray(jax.jit(jax.jacrev(states))(vectors))[:, :, :32].reshape(2, 2, 2, 16, P)
    for layer in range(2):
        for direction, read in enumerate((np.arange(16) <= place, np.arange(16) >= place)):
            seen = (gradients[layer, direction] != 0).any(-1)
            np.testing.assert_array_equal(seen[1], read)
            np.testing.assert_array_equal(seen[0], read & (batch["sequence_ids"][0] == 2))  # of 7 to 11


def test_a_changed_token_changes_logits_on_one_side_alone():
    """The logits that predict a token, of both directions, do not depend on it; and those of all others but one do."""
    model, batch, place = model_of(), packed_batch(), 9
    ids = batch["input_ids"].copy()
    ids[1, place] = (ids[1, place] + 1) % MODEL.vocab_size
    run = jax.jit(lambda batch: model(batch))
    before, after = (run({**batch, "input_ids": each}) for each in (batch["input_ids"], ids))
    forward = (np.asarray(before.mlm_logits) != np.asarray(after.mlm_logits)).any(-1)[1]
    backward = (np.asarray(before.rtl_logits) != np.asarray(after.rtl_logits)).any(-1)[1]
    np.testing.assert_array_equal(forward, np.arange(15) >= place)  # the one at place - 1 predicts it
    np.testing.assert_array_equal(backward, np.arange(15) < place)  # the one at place predicts it, from place + 1


def test_packed_examples_are_what_they_are_alone():
    """States, loss of each direction, and a text's vector: bit for bit the rows of one example each."""
    model, batch = model_of(TaskHead("classification", 3)), packed_batch()
    encode = jax.jit(lambda batch: model.encode(batch, all_layers=True))
    packed = encode(batch)
    for begin, end, slot in ((0, 7, 0), (7, 12, 1)):
        alone = encode(batch_of_rows([(batch["input_ids"][0, begin:end], [0] * (end - begin))], 2, 16))
        np.testing.assert_array_equal(alone.all_layers[:, 0, : end - begin], packed.all_layers[:, 0, begin:end])
        np.testing.assert_allclose(alone.pooled_output[0, 0], packed.pooled_output[0, slot], atol=1e-6)


def test_the_pooler_activates_as_it_is_told():
    """`pooler_act` of a biLM too: GELU by the error function, in float64."""
    model, batch = model_of(TaskHead("classification", 3), pooler_act="gelu", hidden_act="gelu_erf"), packed_batch()
    encoded, weights = model.encode(batch), parameters_of(model)
    means = np.asarray(text_means(encoded.sequence_output, jnp.asarray(batch["sequence_ids"]), 2), np.float64)
    x = means @ weights["encoder/pooler/kernel"] + weights["encoder/pooler/bias"]
    wanted = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    np.testing.assert_allclose(encoded.pooled_output, wanted, atol=1e-5)


def test_a_texts_vector_is_the_mean_of_its_tokens():
    """Pooled output and heads without layers of their own; padding does not count."""
    batch = packed_batch()
    last = np.random.default_rng(3).normal(size=(2, 16, 2 * P)).astype(np.float32)
    means = text_means(jnp.asarray(last), jnp.asarray(batch["sequence_ids"]), 2)
    np.testing.assert_allclose(means[0], [last[0, :7].mean(0), last[0, 7:12].mean(0)], atol=1e-6)
    np.testing.assert_allclose(means[1], [last[1].mean(0), np.zeros(2 * P)], atol=1e-6)
    model = model_of(TaskHead("classification", 3, layers=(0, 2), combine="mean"))
    one = batch_of_rows([(batch["input_ids"][0, :7], [0] * 7)], 2, 16)
    encoded = jax.jit(model.encode)(one)
    wanted = np.asarray(encoded.all_layers)[[0, 2], 0, :7].mean((0, 1))
    np.testing.assert_allclose(model.features(encoded, one, None)[0, 0], wanted, atol=1e-6)


# ---- the LSTMs -----------------------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def numpy_direction(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """One example [n, P] -> the states [n, P] of one layer and direction, token by token."""
    own = {part: weights[f"{name}/{part}"] for part in ("input", "recurrent", "bias", "projection")}
    hidden, cell, states = np.zeros(P), np.zeros(U), []
    for token in x if "forward" in name else x[::-1]:
        i, f, g, o = np.split(token @ own["input"] + hidden @ own["recurrent"] + own["bias"], 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = (sigmoid(o) * np.tanh(cell)) @ own["projection"]
        states.append(hidden)
    return np.array(states if "forward" in name else states[::-1])


def numpy_layers(weights: dict[str, np.ndarray], ids: np.ndarray) -> list[np.ndarray]:
    """The three layers [n, D] of one example: 1802.05365, section 3.2."""
    layers = [np.tile(weights["encoder/embeddings/word"][ids], (1, 2))]
    for number in range(2):
        own = {name: array[number] if "/layers/" in name else array for name, array in weights.items()}
        halves = np.split(layers[-1], 2, axis=-1)
        named = zip(("forward", "backward"), halves, strict=True)
        y = np.concatenate([numpy_direction(own, f"encoder/layers/{name}", half) for name, half in named], axis=-1)
        layers.append(y + layers[-1] if number else y)
    return layers


def test_layers_and_logits_equal_numpy():
    model, batch = model_of(), packed_batch()
    model.mlm.bias[...] = jnp.linspace(-1, 1, MODEL.vocab_size)
    weights = parameters_of(model)
    output = jax.jit(lambda batch: model(batch, all_layers=True))(batch)
    table, bias = weights["encoder/embeddings/word"], weights["mlm/bias"]
    for row, begin, end in ((0, 0, 7), (0, 7, 12), (1, 0, 16)):
        layers = numpy_layers(weights, batch["input_ids"][row, begin:end])
        for found, wanted in zip(output.encoder.all_layers[:, row, begin:end], layers, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        forward, backward = np.split(layers[-1], 2, axis=-1)
        places = slice(begin, end - 1)
        np.testing.assert_allclose(output.mlm_logits[row, places], forward[:-1] @ table.T + bias, atol=1e-5)
        np.testing.assert_allclose(output.rtl_logits[row, places], backward[1:] @ table.T + bias, atol=1e-5)


def test_an_output_matrix_of_its_own_and_remat():
    model = model_of(tie_word_embeddings=False)
    output = jax.jit(lambda batch: model(batch))(packed_batch())
    forward = np.asarray(output.encoder.sequence_output)[:, :15, :P]
    np.testing.assert_allclose(output.mlm_logits, forward @ np.asarray(model.mlm.decoder[...]).T, atol=1e-5)
    kept, again = (model_of(compute=Compute(remat=remat)) for remat in ("none", "full"))

    def gradients(model: BertModel) -> Any:
        graph, params = nnx.split(model)
        return jax.jit(jax.grad(lambda p: jnp.sin(nnx.merge(graph, p).encode(packed_batch())[0]).sum()))(params)

    for one, other in zip(*map(jax.tree.leaves, (gradients(kept), gradients(again))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_bfloat16_is_close():
    wide, narrow = (model_of(compute=Compute(dtype)).encode(packed_batch())[0] for dtype in (jnp.float32, jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, atol=0.05)


SCRIPT = """
import sys
import numpy as np, torch
given, made = sys.argv[1:]
given = {name: torch.from_numpy(array) for name, array in np.load(given).items()}
layers, units, width = given["sizes"].tolist()
table = given["encoder/embeddings/word"].float().requires_grad_()
bias = given["mlm/bias"].float().requires_grad_()
leaves = {"encoder/embeddings/word": table, "mlm/bias": bias}
directions = {}
for direction in ("forward", "backward"):
    directions[direction] = []
    for n in range(layers):
        lstm = torch.nn.LSTM(width, units, proj_size=width, batch_first=True)
        own = {name: given[f"encoder/layers/{direction}/{name}"][n].float()
               for name in ("input", "recurrent", "bias", "projection")}
        with torch.no_grad():
            lstm.weight_ih_l0.copy_(own["input"].T), lstm.weight_hh_l0.copy_(own["recurrent"].T)
            lstm.bias_ih_l0.copy_(own["bias"]), lstm.bias_hh_l0.zero_(), lstm.weight_hr_l0.copy_(own["projection"].T)
        directions[direction].append(lstm)
ids = given["ids"].long()
loss, found = 0.0, {}
for direction, lstms in directions.items():
    read = ids if direction == "forward" else ids.flip(1)
    x = table[read]
    for n, lstm in enumerate(lstms):
        y = lstm(x)[0]
        x = x + y if n else y
    found[direction] = (x if direction == "forward" else x.flip(1)).detach().numpy()
    logits = x[:, :-1] @ table.T + bias
    loss = loss + torch.nn.functional.cross_entropy(logits.flatten(0, 1), read[:, 1:].flatten())
loss.backward()
for name, leaf in leaves.items():
    found[f"gradient/{name}"] = leaf.grad.numpy()
theirs = {"input": "weight_ih_l0", "recurrent": "weight_hh_l0", "bias": "bias_ih_l0", "projection": "weight_hr_l0"}
for direction, lstms in directions.items():
    for name, own in theirs.items():
        stacked = [getattr(lstm, own).grad for lstm in lstms]
        stacked = torch.stack([one.T if one.ndim == 2 else one for one in stacked])
        found[f"gradient/encoder/layers/{direction}/{name}"] = stacked.numpy()
np.savez(made, loss=loss.detach().numpy(), **found)
"""


@pytest.mark.skipif(PEER_PYTHON not in os.environ, reason=f"{PEER_PYTHON} does not name a Python with torch")
def test_states_loss_and_gradients_are_those_of_torch(tmp_path):
    """nn.LSTM with proj_size, one for each layer and direction, and its own cross-entropy: 1e-5, gradients 1e-4."""
    training = Training(replace(CONFIG, model=replace(MODEL, hidden_dropout_prob=0.0)), make_mesh(CONFIG.mesh))
    params = training.initial_state().params
    ids = np.random.default_rng(2).integers(0, MODEL.vocab_size, (3, 9)).astype(np.int32)
    weights = {name: np.asarray(leaf) for name, leaf in flat(params).items()}
    np.savez(tmp_path / "given.npz", ids=ids, sizes=np.array([2, U, P]), **weights)
    arguments = [os.environ[PEER_PYTHON], "-c", SCRIPT, str(tmp_path / "given.npz"), str(tmp_path / "made.npz")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = dict(np.load(tmp_path / "made.npz"))
    batch = batch_of_rows([(row, [0] * 9) for row in ids], 3, 9)
    batch |= {
        "masked_lm_positions": np.tile(np.arange(8, dtype=np.int32), (3, 1)),
        "masked_lm_ids": ids[:, 1:],
        "masked_lm_weights": np.ones((3, 8), np.float32),
    }

    def loss(params: Any) -> jax.Array:
        scores = BothDirectionsLoss(False, 4).scores(training, params, batch, None)
        return sum((one.loss / one.weight for one in scores.values()), jnp.zeros(()))

    output = nnx.merge(training.graph, params).encode(batch)[0]
    np.testing.assert_allclose(output, np.concatenate([theirs["forward"], theirs["backward"]], axis=-1), atol=1e-5)
    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(float(theirs["loss"]), abs=1e-5)
    for name, found in flat(gradients).items():
        wanted = theirs[f"gradient/{name}"]
        assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max()), name


# ---- the loss ------------------------------------------------------------------------------------------------------


def examples_of(data: Path, config: PretrainConfig) -> Any:
    opened = open_data(data)
    return make_examples(opened.split("train"), opened.load_tokenizer(), config, config.phases[0])


def test_the_loss_is_the_mean_of_both_directions_in_numpy(prepared):
    """[CLS] predicts the first word forward and is predicted from it backward; [SEP] the other way round."""
    training = Training(replace(CONFIG, model=replace(CONFIG.model, hidden_dropout_prob=0.0)), make_mesh(CONFIG.mesh))
    batch = evaluation_batch(examples_of(prepared.data, CONFIG), 16, 0)
    params = training.initial_state().params
    assert {name: leaf.shape for name, leaf in flat(params).items()} == stacked_shapes(CONFIG.description)
    found = jax.jit(lambda p: BothDirectionsLoss(False, 4).scores(training, p, batch, None))(params)
    table, bias = np.asarray(params["encoder"]["embeddings"]["word"]), np.asarray(params["mlm"]["bias"])
    states = np.asarray(jax.jit(lambda batch: nnx.merge(training.graph, params).encode(batch)[0])(batch))
    sums = {"ltr": 0.0, "rtl": 0.0}
    pairs = 0
    for row, length in enumerate(batch["sequence_ids"].sum(1)):
        forward, backward = np.split(states[row, :length].astype(np.float64), 2, axis=-1)
        ids = batch["input_ids"][row, :length]
        for term, read, asked in (("ltr", forward[:-1], ids[1:]), ("rtl", backward[1:], ids[:-1])):
            logits = read @ table.T + bias
            logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            sums[term] -= logs[np.arange(length - 1), asked].sum()
        pairs += length - 1
    for term, wanted in sums.items():
        assert float(found[term].loss) == pytest.approx(wanted, rel=1e-5)
        assert float(found[term].weight) == pairs


def test_a_step_on_a_mesh_is_that_of_one_device(prepared):
    """With dropout, packed rows and micro-batches: losses and gradient norm."""
    config = replace(CONFIG, packing="packed")
    arrangement = make_arrangement(examples_of(prepared.data, config), "packed", 16, 4)

    def sums(mesh: MeshConfig, parts: int) -> list[float]:
        training = Training(replace(config, mesh=mesh, micro_batches=parts), make_mesh(mesh))
        step = compile_train_step(training, BothDirectionsLoss(False, 4), batch_fields(arrangement.shapes[0]))
        state, found = training.initial_state(), []
        for number in range(2):
            state, one = step(state, put_on_mesh(training.mesh, arrangement.batch(0, number)))
            found += [float(one[name]) for name in ("ltr_loss", "rtl_loss", "grad_norm")]
        return found

    np.testing.assert_allclose(sums(MeshConfig(2, 1, 2), 2), sums(MeshConfig(1), 1), rtol=1e-5)


# ---- configuration -------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_elmo():
    """4096 units and 512 features in each direction (1802.05365, section 3.4); FLOPs against the products of a token."""
    model = override(PretrainConfig(), ["model=large", "objective=bilm", "model.num_hidden_layers=2"]).model
    assert (model.lstm_units, model.table_size) == (4_096, 512)
    shapes = stacked_shapes(ModelDescription(model, pooler=False, nsp=False))
    recurrent = sum(np.prod(shape) for name, shape in shapes.items() if "/layers/" in name and "bias" not in name)
    assert recurrent == 4 * (2 * 512 * 16_384 + 4_096 * 512) == formula_parameters(model) - model.vocab_size * 512
    flops = training_flops(model, 10.0, 0.0, 9.0)
    assert flops == 6 * (10 * recurrent + 9 * 2 * 512 * model.vocab_size)


def test_settings_that_do_not_go_together():
    for settings, said in (
        (["model.lstm_units=8"], "model.lstm_units=8 is the model of objective=bilm, not of objective.name=mlm_nsp"),
        (["objective=bilm", "model.causal=true"], "model.causal=true is the model of objective=ltr"),
        (["objective=bilm", "model.hidden_size=9", "model.lstm_units=8"], "model.hidden_size=9 is odd"),
        (["objective=bilm", "model.embedding_size=64"], "model.embedding_size=64 has no meaning in a biLM"),
        (["objective=bilm", "objective.masking=span"], "objective.masking=span says how tokens are masked"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            override(PretrainConfig(), settings)


# ---- runs ----------------------------------------------------------------------------------------------------------

TRAINED = small_config(
    objective=BILM,
    model=replace(small_config().model, hidden_dropout_prob=0.0, num_hidden_layers=2, lstm_units=24),
    phases=(PhaseConfig(sequence_length=16, steps=12, batch_size=16),),
)


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bilm")
    (folder / "config.json").write_text(json.dumps(to_dict(TRAINED)))
    run_stage("pretrain", folder / "config.json", "--data", prepared.data, "--output", folder / "run")
    return folder / "run"


def test_a_run_trains_and_is_scored(run, prepared):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    for term in ("ltr", "rtl"):
        assert train[-1][f"{term}_loss"] < train[0][f"{term}_loss"]
    assert train[-1]["loss"] == pytest.approx(train[-1]["ltr_loss"] + train[-1]["rtl_loss"])
    assert not {"mlm_loss", "mask_share", "picked_share", "nsp_loss"} & set(train[-1])
    run_stage("evaluate", run, "--data", prepared.data)
    scores = json.loads((run / "evaluation.json").read_text())
    for term in ("ltr", "rtl"):
        assert scores[f"{term}_perplexity"] == pytest.approx(np.exp(scores[f"{term}_loss"]))
        in_training = [line for line in lines if line["kind"] == "eval"][-1]
        assert in_training[f"{term}_loss"] == pytest.approx(scores[f"{term}_loss"], rel=0.05)  # two batches of it
    assert scores["samples"][0]["answers"]
    run_stage("report", run)
    page = (run / "report.html").read_text().split("Configuration and environment")[0]
    assert "Language models in both directions" in page
    assert "RTL loss" in page
    assert "MLM" not in page


def test_any_text_has_a_perplexity_in_each_direction(run, prepared, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(made_up_text(6, seed=3))
    run_stage("evaluate", run, "--text", tmp_path / "text.txt", "--data", prepared.data, "--order", 5)
    said = capsys.readouterr().out
    assert "LTR perplexity (left to right)" in said
    assert "RTL perplexity (right to left)" in said
    scores = json.loads((run / "evaluation-text.json").read_text())
    assert {"ltr_perplexity", "rtl_perplexity", "unigram_perplexity", "bigram_perplexity"} <= set(scores)
    assert not {"pseudo", "mlm_probability", "mask_histogram"} & set(scores)
    assert "on the same tokens without [SEP]" in said
    run_stage("report", run)
    page = (run / "report.html").read_text()
    for name in ("bigram", "five-gram", "backward five-gram"):
        assert (
            f"{scores[name.replace('-', '_').replace(' ', '_') + '_perplexity']:,.2f}"
            in page.split(f">{name},")[1][:200]
        )


# ---- what a run is used for ----------------------------------------------------------------------------------------


def test_its_layers_are_mixed_for_a_task_as_elmo_s(run, tmp_path, capfd):
    """The encoder stays as it is, and the report shows the weights that were learned."""
    write_sst2(tmp_path / "sst2", train=64)
    settings = ("layers=0,1,2", "combine=mix", "optimizer.freeze=encoder", "epochs=2", "optimizer.learning_rate=1e-1")
    assert main(command("sst2", tmp_path / "sst2", run, tmp_path / "tuned", *settings)) == 0
    assert "the head reads the mean of tokens of a text" in capfd.readouterr().err
    before, after = bert_jax.load(run), bert_jax.load(tmp_path / "tuned")
    jax.tree.map(np.testing.assert_array_equal, before.params["encoder"], after.params["encoder"])
    mix = json.loads((tmp_path / "tuned" / "scores.json").read_text())["mix"]
    learned = np.asarray(jax.nn.softmax(after.params["features"]["mix"]["weights"]))
    assert mix["layers"] == [0, 1, 2]
    np.testing.assert_allclose(mix["weights"], learned, atol=1e-6)
    assert mix["scale"] == pytest.approx(float(after.params["features"]["mix"]["scale"]))
    assert np.ptp(learned) > 0.01
    run_stage("report", tmp_path / "tuned")
    page = (tmp_path / "tuned" / "report.html").read_text()
    assert "Mix of layers" in page
    assert f"{100 * learned[0]:.1f}" in page
    assert main(["predict", str(tmp_path / "tuned"), "--data", str(tmp_path / "sst2"), "--split", "dev"]) == 0


def test_it_is_fine_tuned_whole(run, tmp_path, capfd):
    write_sst2(tmp_path / "sst2", train=32)
    assert main(command("sst2", tmp_path / "sst2", run, tmp_path / "tuned", "epochs=1")) == 0
    assert "drawn anew: pooler, task" in capfd.readouterr().err
    before, after = bert_jax.load(run), bert_jax.load(tmp_path / "tuned")
    assert after.description.pooler
    for name, leaf in flat(before.params["encoder"]).items():
        assert (np.asarray(leaf) != np.asarray(flat(after.params["encoder"])[name])).any(), name


def test_vectors_are_means_of_layers(run, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("the ship of the sea\nthe rose\n")
    run_stage("embed", run, "--input", tmp_path / "lines.txt", "--output", tmp_path / "out.npz", "--layers", 0, 2)
    vectors = np.load(tmp_path / "out.npz")["embeddings"]
    model = bert_jax.load(run)
    ids, segments = model.ids("the rose")
    layers = np.asarray(model(batch_of_rows([(ids, segments)], 1, 32), all_layers=True).encoder.all_layers)
    np.testing.assert_allclose(vectors[1], layers[[0, 2], 0, : len(ids)].mean(1).ravel(), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fill-mask", "RUN", "the [MASK] of the sea"], "is a biLM.*filling masks needs both.*bert-jax evaluate"),
        (["generate", "RUN", "the ship"], "is a biLM.*needs a left-to-right model.*bert-jax evaluate"),
        (["convert", "RUN", "OUT", "--to", "huggingface"], "is a biLM.*the format huggingface has no place for it"),
        (["convert", "RUN", "OUT", "--to", "tf1"], "is a biLM.*the format tf1 has no place for it"),
        (["convert", "RUN", "OUT", "--to", "huggingface", "--generator"], "--generator: .* holds 2 LSTM layers"),
        (["vocab", "extend", "RUN", "--words", "LINES", "--output", "OUT"], "is a biLM.*bert-jax vocab extend"),
        (["export", "RUN", "--output", "OUT", "--to", "stablehlo"], "a biLM is not exported"),
        (["embed", "RUN", "--input", "LINES", "--output", "OUT.npz", "--pooling", "cls"], "no token sees both sides"),
        (["embed", "RUN", "--input", "LINES", "--output", "OUT.npz", "--pooling", "last"], "no token sees both sides"),
        (["evaluate", "RUN", "--text", "LINES", "--pseudo-perplexity", "3"], "is a biLM"),
        (["pretrain", "BILM", "--data", "DATA", "--output", "OUT", "attention=xla"], "a biLM, which has no attention"),
        (["pretrain", "BERT", "--from", "RUN", "--data", "DATA", "--output", "OUT"], "the model of objective=bilm"),
        (
            ["pretrain", "BILM", "--from", "OTHER", "--data", "DATA", "--output", "OUT"],
            "layers of attention.* train a biLM",
        ),
    ],
    ids=lambda value: "-".join(value[:2] + value[-1:]) if isinstance(value, list) else "",
)
def test_what_it_cannot_do_is_refused_by_name(run, prepared, tmp_path, capsys, arguments, said):
    (tmp_path / "lines.txt").write_text("the ship of the sea\n")
    (tmp_path / "bert.json").write_text(json.dumps(to_dict(small_config())))
    places = {"RUN": run, "OUT": tmp_path / "out", "OUT.npz": tmp_path / "out.npz", "LINES": tmp_path / "lines.txt"}
    places |= {"BERT": tmp_path / "bert.json", "BILM": run / "config.json", "DATA": prepared.data}
    if "OTHER" in arguments:
        description = small_config().description
        write_run(tmp_path, description, lambda row: np.zeros(shape_of(row, description), np.float32), small_config())
        open_data(prepared.data).load_tokenizer().save(tmp_path)
        places["OTHER"] = tmp_path
    assert main([str(places.get(word, word)) for word in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, error[-1]), error
    assert not (tmp_path / "out").exists()
