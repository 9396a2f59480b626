# SPDX-License-Identifier: Apache-2.0
"""objective=ltr: the network sees the past only, its loss, a run from its first step to its scores, and what it refuses.

Shapes: B rows, S tokens, D features, V vocabulary.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import made_up_text, refusal_of, run_stage, small_config
from finetune_samples import command, write_model, write_sst2
from finetune_samples import MODEL as FINETUNED
from flax import nnx

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import load_config, override, to_dict
from bert_jax.config.training import MeshConfig
from bert_jax.feed.batch import batch_of_rows
from bert_jax.feed.examples import evaluation_batch, make_examples
from bert_jax.feed.packing import make_arrangement
from bert_jax.feed.shards import open_data
from bert_jax.mesh.sharding import make_mesh, put_on_mesh
from bert_jax.model.accounting import step_flops, training_flops
from bert_jax.model.attention import interpreted_kernels
from bert_jax.model.encoder import Compute, last_positions
from bert_jax.model.heads import BertModel
from bert_jax.plan.estimate import assumptions
from bert_jax.plan.machine import Machine
from bert_jax.train import next_token
from bert_jax.train.losses import cross_entropy
from bert_jax.train.masked_lm import batch_fields
from bert_jax.train.next_token import in_pieces, NextTokenLoss
from bert_jax.train.state import Training
from bert_jax.train.step import compile_train_step

LTR = ObjectiveConfig("ltr")
MODEL = ModelConfig(
    vocab_size=40,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=32,
    causal=True,
)
CONFIG: PretrainConfig = small_config(objective=LTR)


def model_of(task: TaskHead | None = None, implementation: str = "auto", **changes: Any) -> BertModel:
    description = ModelDescription(
        replace(MODEL, **changes), pooler=bool(task and task.needs_pooler), mlm=task is None, nsp=False, task=task
    )
    return BertModel(description, Compute(attention=implementation), rngs=nnx.Rngs(0))


def packed_batch() -> dict[str, np.ndarray]:
    """A row of two examples (7 and 5 tokens) and padding, and a full row."""
    rng = np.random.default_rng(0)
    batch = batch_of_rows([], 2, 16)
    batch["input_ids"] = rng.integers(5, MODEL.vocab_size, (2, 16)).astype(np.int32)
    batch["sequence_ids"] = np.stack([np.repeat([1, 2, 0], [7, 5, 4]), np.ones(16, int)]).astype(np.int32)
    batch["position_ids"][0] = np.concatenate([np.arange(7), np.arange(9)])
    batch["cls_positions"] = np.array([[0, 7], [0, 0]], np.int32)
    batch["masked_lm_positions"] = np.tile(np.arange(16, dtype=np.int32), (2, 1))
    return batch


# ---- the network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["reference", "xla", "pallas_tpu", "pallas_gpu"])
def test_a_later_token_changes_no_earlier_logit(implementation):
    """Gradients by the embeddings of later tokens are exactly zero, with dropout, in whole rows and packed ones."""
    model, batch = model_of(implementation=implementation), packed_batch()
    seeds, place = np.arange(4, dtype=np.uint32).reshape(2, 2), 9
    words = jnp.zeros((2, 16, MODEL.hidden_size))

    def logits(words: jax.Array) -> jax.Array:
        x = model.encoder.embeddings(batch["input_ids"], batch["position_ids"], batch["segment_ids"], seeds) + words
        last, _ = model.encoder._run_layers(x, batch["sequence_ids"], seeds, False)
        return jnp.sin(model.mlm(last, model.encoder.embeddings.word[...])[:, place]).sum()

    with interpreted_kernels():
        gradient = np.asarray(jax.jit(jax.grad(logits))(words))
    assert (gradient[:, place + 1 :] == 0).all()
    assert (gradient[1, : place + 1] != 0).any(-1).all()
    assert (gradient[0, 7 : place + 1] != 0).any(-1).all()
    assert (gradient[0, :7] == 0).all()  # another example


def test_a_bidirectional_model_fails_that():
    model, batch = model_of(causal=False), packed_batch()
    changed = {**batch, "input_ids": np.where(np.arange(16)[None] > 9, 6, batch["input_ids"]).astype(np.int32)}
    before, after = (np.asarray(model(one).mlm_logits)[1, :10] for one in (batch, changed))
    assert (before != after).any()


def test_a_texts_vector_is_its_last_tokens():
    """Pooled output and heads that read [CLS] read the last valid token, of each packed example."""
    ids = np.array([[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0], [0] * 6], np.int32)
    np.testing.assert_array_equal(last_positions(ids, 2), [[2, 4], [0, 0], [0, 0]])
    batch = packed_batch()
    pooled = model_of(TaskHead("classification", 3))
    output = pooled.encode(batch)
    kernel, bias = pooled.encoder.pooler.kernel[...], pooled.encoder.pooler.bias[...]
    wanted = np.tanh(np.asarray(output.sequence_output)[0, [6, 11]] @ np.asarray(kernel) + np.asarray(bias))
    np.testing.assert_allclose(output.pooled_output[0], wanted, atol=1e-6)
    by_layer = model_of(TaskHead("classification", 3, layers=(-1,)))
    one = batch_of_rows([(batch["input_ids"][0, :7], [0] * 7)], 2, 16)
    encoded = by_layer.encode(one)
    features = by_layer.features(encoded, one, None)
    np.testing.assert_array_equal(features[0, 0], np.asarray(encoded.sequence_output)[0, 6])


# ---- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [5, 37])
def test_the_head_in_pieces_is_the_head_at_once(positions, monkeypatch):
    monkeypatch.setattr(next_token, "POSITIONS_AT_ONCE", 16)
    rng = np.random.default_rng(0)
    x, table = rng.normal(size=(3, positions, 8)).astype(np.float32), rng.normal(size=(8, 11)).astype(np.float32)
    labels = rng.integers(0, 11, (3, positions)).astype(np.int32)
    weights = rng.integers(0, 2, (3, positions)).astype(np.float32)

    def at_once(x: jax.Array, table: jax.Array) -> jax.Array:
        return cross_entropy(x @ table, labels, weights).loss

    def pieces(x: jax.Array, table: jax.Array) -> jax.Array:
        return in_pieces(lambda x: x @ table, x, labels, weights).loss

    program = jax.jit(jax.value_and_grad(pieces, (0, 1)))
    wanted = jax.jit(jax.value_and_grad(at_once, (0, 1)))(x, table)
    for one, other in zip(jax.tree.leaves(program(x, table)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    whole = cross_entropy(x @ table, labels, weights)
    cut = jax.jit(in_pieces, static_argnums=0)(lambda x: x @ table, x, labels, weights)
    assert (float(cut.correct), float(cut.weight)) == (float(whole.correct), float(whole.weight))
    assert f"tensor<3x{positions}x11xf32>" not in program.lower(x, table).as_text() or positions <= 16  # not all logits


@pytest.mark.parametrize("packing", ["padded", "packed"])
def test_each_token_but_the_last_predicts_the_next(prepared, packing):
    """Against a loop over the rows: [CLS] predicts the first word, the last word [SEP], and [SEP] nothing."""
    data = open_data(prepared.data)
    config = replace(CONFIG, packing=packing)
    tokenizer = data.load_tokenizer()
    examples = make_examples(data.split("train"), tokenizer, config, config.phases[0])
    batch = make_arrangement(examples, packing, 16, 4).batch(0, 0)
    for row in range(16):
        wanted = []
        for place in range(15):
            ids = batch["sequence_ids"][row, place : place + 2]
            if ids[0] > 0 and ids[0] == ids[1]:
                wanted.append((place, batch["input_ids"][row, place + 1]))
        count = int(batch["masked_lm_weights"][row].sum())
        found = zip(batch["masked_lm_positions"][row, :count], batch["masked_lm_ids"][row, :count], strict=True)
        assert list(found) == wanted
        assert batch["masked_lm_weights"][row, count:].sum() == 0
    assert tokenizer.mask_id not in batch["input_ids"]
    assert batch["input_ids"][0, 0] == tokenizer.cls_id
    assert set(batch["masked_lm_ids"][batch["masked_lm_weights"] > 0]) >= {tokenizer.sep_id}


def test_loss_of_a_batch_equals_numpy(prepared):
    """The mean over predicted tokens of -log softmax at the next id; the pair's head is not there."""
    training = Training(replace(CONFIG, model=replace(CONFIG.model, hidden_dropout_prob=0.0)), make_mesh(CONFIG.mesh))
    data = open_data(prepared.data)
    examples = make_examples(data.split("train"), data.load_tokenizer(), CONFIG, CONFIG.phases[0])
    batch = evaluation_batch(examples, 16, 0)
    params = training.initial_state().params
    assert set(params) == {"encoder", "mlm"}
    assert "pooler" not in params["encoder"]
    found = jax.jit(lambda p: NextTokenLoss(False, 4).scores(training, p, batch, None))(params)["ltr"]
    logits = np.asarray(nnx.merge(training.graph, params)(batch).mlm_logits, np.float64)  # [B, S, V]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    labels = batch["masked_lm_ids"][rows, slots]
    assert float(found.loss) == pytest.approx(-logs[rows, slots, labels].sum(), rel=1e-5)
    assert float(found.correct) == (logs[rows, slots].argmax(-1) == labels).sum()
    assert (
        float(found.weight) == len(rows) == (batch["sequence_ids"].sum(1) - 1)[batch["sequence_ids"].sum(1) > 0].sum()
    )


@pytest.mark.parametrize("mesh", [MeshConfig(2, 1, 2)], ids=str)
def test_a_step_on_a_mesh_is_that_of_one_device(prepared, mesh):
    """With dropout, packed rows and micro-batches: losses and gradient norm."""
    data = open_data(prepared.data)
    config = replace(CONFIG, packing="packed")
    examples = make_examples(data.split("train"), data.load_tokenizer(), config, config.phases[0])
    arrangement = make_arrangement(examples, "packed", 16, 4)

    def sums(mesh: MeshConfig, parts: int) -> list[float]:
        training = Training(replace(config, mesh=mesh, micro_batches=parts), make_mesh(mesh))
        step = compile_train_step(training, NextTokenLoss(False, 4), batch_fields(arrangement.shapes[0]))
        state, found = training.initial_state(), []
        for number in range(2):
            state, one = step(state, put_on_mesh(training.mesh, arrangement.batch(0, number)))
            found += [float(one["ltr_loss"]), float(one["grad_norm"])]
        return found

    np.testing.assert_allclose(sums(mesh, 2), sums(MeshConfig(1), 1), rtol=1e-5)


def test_flops_count_half_of_attention():
    """Against a count of the pairs (query, key) that are seen, n (n + 1) / 2 of them, of which n^2 / 2 is the formula's."""
    model, n = MODEL, 512.0
    both, past = (training_flops(replace(model, causal=causal), n, n * n, 0) for causal in (False, True))
    pairs = n * n - n * (n + 1) / 2
    saved = 12 * model.num_hidden_layers * model.hidden_size * pairs
    assert both - past == pytest.approx(saved, rel=2 / n)
    # `plan` says so: rows of 512, of which 64 are a batch.
    config = load_config("gpt")
    (line, *_) = assumptions(Machine("none", [], None, 0, None, None), config)
    saved = 64 * 6 * 12 * 768 * 512**2
    assert (
        f"which saves {saved:.3g} of {step_flops(config, config.phases[0]) + saved:.3g} FLOPs of a step (3.8%)" in line
    )


# ---- configuration -------------------------------------------------------------------------------------------------


def test_the_objective_makes_the_model_causal_and_takes_off_pooler_and_pair():
    config = override(PretrainConfig(), ["model=tiny", "objective=ltr"])
    assert config.model.causal
    assert config.description == ModelDescription(config.model, pooler=False, nsp=False)
    assert config.predictions(PhaseConfig(128)) == 128
    assert not override(config, ["objective=mlm_nsp", "model.causal=false"]).model.causal
    for settings, said in (
        (["model.causal=true"], "model.causal=true is the model of objective=ltr, not of objective.name=mlm_nsp"),
        (["objective=ltr", "objective.masking=span"], "objective.masking=span says how tokens are masked"),
        (
            ["objective=ltr", "objective.mlm_probability=0.2"],
            "objective.mlm_probability=0.2 says how tokens are masked",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            override(PretrainConfig(), settings)


# ---- runs ----------------------------------------------------------------------------------------------------------

TRAINED = small_config(
    objective=LTR,
    model=replace(small_config().model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    phases=(PhaseConfig(sequence_length=16, steps=12, batch_size=16),),
)


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ltr")
    (folder / "config.json").write_text(json.dumps(to_dict(TRAINED)))
    run_stage("pretrain", folder / "config.json", "--data", prepared.data, "--output", folder / "run")
    return folder / "run"


def test_a_run_trains_and_is_scored(run, prepared):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    data, *_ = lines
    train = [line for line in lines if line["kind"] == "train"]
    assert data["next_share"] == 1.0
    assert train[-1]["ltr_loss"] < train[0]["ltr_loss"]
    assert train[-1]["loss"] == train[-1]["ltr_loss"]
    assert not {"mlm_loss", "mask_share", "picked_share", "nsp_loss"} & set(train[-1])
    run_stage("evaluate", run, "--data", prepared.data)
    scores = json.loads((run / "evaluation.json").read_text())
    assert scores["ltr_perplexity"] == pytest.approx(np.exp(scores["ltr_loss"]))
    assert scores["objective"] == "ltr"
    assert scores["next_tokens"] == held_out_tokens(prepared.data)
    assert scores["samples"][0]["answers"]
    in_training = [line for line in lines if line["kind"] == "eval"][-1]
    assert in_training["ltr_loss"] == pytest.approx(scores["ltr_loss"], rel=0.05)  # two batches of it
    run_stage("report", run)
    page = (run / "report.html").read_text()
    assert "Left-to-right language model" in page
    assert "LTR loss" in page
    assert "MLM" not in page.split("Configuration and environment")[0]


def held_out_tokens(data: Path) -> int:
    split, config = open_data(data).split("validation"), TRAINED
    examples = make_examples(split, open_data(data).load_tokenizer(), config, config.phases[0])
    return int(sum((examples.lengths(shard) - 1).sum() for shard in range(len(examples.tables))))


def test_any_text_has_one_perplexity(run, prepared, tmp_path, capsys):
    """By the chain rule: of the rows of the text; n-gram models beside it, and no pseudo-perplexity."""
    (tmp_path / "text.txt").write_text(made_up_text(6, seed=3))
    run_stage("evaluate", run, "--text", tmp_path / "text.txt", "--data", prepared.data, "--json")
    scores = json.loads(capsys.readouterr().out)
    assert {"ltr_perplexity", "unigram_perplexity", "bigram_perplexity"} <= set(scores)
    assert not {"pseudo", "mlm_probability", "mask_histogram"} & set(scores)
    arguments = ["evaluate", str(run), "--text", str(tmp_path / "text.txt"), "--pseudo-perplexity", "3"]
    assert "left to right" in refusal_of(capsys, *arguments)


def test_the_description_says_the_direction(run, capsys):
    assert "left to right" in bert_jax.load(run).description.summary()
    run_stage("describe", run / "config.json")
    assert "left to right" in capsys.readouterr().out


def test_doctor_judges_the_run(run, capsys):
    main(["doctor", str(run)])
    said = capsys.readouterr().out
    assert "LTR loss" in said
    assert "next tokens measured before the first step" in said


def test_fill_mask_refuses_it_by_name(run, capsys):
    assert f"bert-jax generate {run}" in refusal_of(capsys, "fill-mask", run, "the [MASK] .")


# ---- a bidirectional checkpoint goes on left to right ----------------------------------------------------------------


def test_a_bidirectional_run_goes_on_left_to_right(prepared, tmp_path, capfd):
    """Allowed, and said; its weights are those that training begins from, and every later stage knows the direction."""
    first = PhaseConfig(sequence_length=16, steps=4, batch_size=16, max_predictions_per_seq=3)
    plain = small_config(model=replace(TRAINED.model, causal=False), phases=(first,))
    (tmp_path / "both.json").write_text(json.dumps(to_dict(plain)))
    run_stage("pretrain", tmp_path / "both.json", "--data", prepared.data, "--output", tmp_path / "both")
    capfd.readouterr()
    (tmp_path / "ltr.json").write_text(json.dumps(to_dict(TRAINED)))
    options = ("--from", tmp_path / "both", "--data", prepared.data, "--output", tmp_path / "next")
    run_stage("pretrain", tmp_path / "ltr.json", *options)
    assert "goes on left to right" in capfd.readouterr().err
    before, after = bert_jax.load(tmp_path / "both"), bert_jax.load(tmp_path / "next")
    assert (before.description.model.causal, after.description.model.causal) == (False, True)
    assert (after.description.pooler, after.description.nsp) == (False, False), (
        "left out: this objective trains neither"
    )
    assert main(["generate", str(tmp_path / "next"), "the ship"]) == 0
    assert (
        main(
            ["pretrain", str(tmp_path / "both.json"), "--data", str(prepared.data), "--output", str(tmp_path / "next")]
        )
        == 2
    )


def test_data_of_pairs_alone_is_refused_with_the_way(prepared, tmp_path, capsys):
    options = ["--objective", "mlm_nsp", "--sequence-length", "16", "--workers", "1"]
    run_stage("prepare", "--input", prepared.text, "--vocab", prepared.vocab, "--output", tmp_path / "nsp", *options)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(TRAINED)))
    arguments = [
        "pretrain",
        str(tmp_path / "config.json"),
        "--data",
        str(tmp_path / "nsp"),
        "--output",
        str(tmp_path / "run"),
    ]
    error = refusal_of(capsys, *arguments)
    assert "no full_sentences examples" in error
    assert "bert-jax prepare" in error
    assert "--objective mlm_nsp mlm_full_sentences" in error


# ---- fine-tuning -----------------------------------------------------------------------------------------------------


def test_fine_tuning_keeps_the_mask_on_and_says_so(tmp_path, capfd):
    """A word anywhere in the text decides: only the last token sees all of them."""
    write_model(tmp_path / "model", replace(FINETUNED, causal=True))
    write_sst2(tmp_path / "sst2", train=96)
    assert main(command("sst2", tmp_path / "sst2", tmp_path / "model", tmp_path / "run", "epochs=8")) == 0
    assert (
        "left to right: a token sees those before it only, and the head reads the last token" in capfd.readouterr().err
    )
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["main"]["value"] > 0.9
    made = bert_jax.load(tmp_path / "run")
    assert made.description.model.causal
    run_stage("report", tmp_path / "run")
    assert "a text is read from its last token" in (tmp_path / "run" / "report.html").read_text()
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "refused"), "--to", "huggingface"]) == 2
    assert "reads the last token" in capfd.readouterr().err
