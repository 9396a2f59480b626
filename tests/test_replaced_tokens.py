# SPDX-License-Identifier: Apache-2.0
"""Replaced-token detection: the samples, what the discriminator sees, its loss, and that no mesh changes it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_stage, small_config
from finetune_samples import command, write_sst2
from scipy.stats import chi2
from test_train_step import B, M, make_batch, MASK, PLAIN, S, SHAPE

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.settings import load_config
from bert_jax.config.training import MeshConfig
from bert_jax.conversion import names
from bert_jax.conversion.checkpoints import Asked
from bert_jax.conversion.further import _ROWS_OF_ENTRIES, pretrain_further, Start
from bert_jax.export.export import export
from bert_jax.mesh.sharding import make_mesh, put_on_mesh
from bert_jax.runs.cost import without_clock
from bert_jax.train.losses import binary_cross_entropy, term_weight
from bert_jax.train.masked_lm import batch_fields
from bert_jax.train.metrics import mean_scores
from bert_jax.train.pretraining import pretrain
from bert_jax.train.replaced_tokens import example_seeds, replace_tokens, ReplacedTokenLoss, sample
from bert_jax.train.state import Training
from bert_jax.train.step import compile_train_step

MODEL = replace(PLAIN, embedding_size=16, hidden_act="gelu_erf", pooler_act="gelu")
RTD = ObjectiveConfig(name="rtd", generator_share=0.5)
LOSS = ReplacedTokenLoss(False, MASK)


def training_on(mesh: tuple[int, int, int] = (1, 1, 1), micro_batches: int = 1, **changes) -> Training:
    settings = {"model": MODEL, "objective": RTD, "mesh": MeshConfig(*mesh), "micro_batches": micro_batches}
    config = small_config(**(settings | changes))
    return Training(config, make_mesh(config.mesh))


# ---- samples -------------------------------------------------------------------------------------------------------


def test_samples_follow_the_softmax_of_the_logits():
    """Chi-square over 30,000 draws from one distribution; with the right one p is below 1e-6 once in a million runs."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 12).astype(np.float32)
    rows, positions = 3_000, np.arange(10)
    seeds = rng.integers(0, 2**32, (rows, 2), dtype=np.uint32)
    drawn = jax.jit(sample)(
        np.broadcast_to(logits, (rows, 10, 12)), np.broadcast_to(positions, (rows, 10)).astype(np.int32), seeds
    )
    expected = np.exp(logits) / np.exp(logits).sum() * rows * 10
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=12)
    assert chi2.sf((((counts - expected) ** 2) / expected).sum(), 11) > 1e-6
    across = np.asarray(drawn)
    assert np.abs((across[:, :5] == across[:, 5:]).mean() - ((expected / rows / 10) ** 2).sum()) < 0.02  # independent


def test_a_sample_depends_on_its_row_and_position_alone():
    """Not on the slot among the masked positions, nor on what other rows there are."""
    rng = np.random.default_rng(1)
    logits = np.broadcast_to(rng.normal(0, 1, 50).astype(np.float32), (4, 3, 50))
    seeds = rng.integers(0, 2**32, (4, 2), dtype=np.uint32)
    positions = np.array([[3, 8, 9]] * 4, np.int32)
    drawn = np.asarray(sample(logits, positions, seeds))
    turned = np.asarray(sample(logits, positions[:, ::-1].copy(), seeds))
    np.testing.assert_array_equal(drawn, turned[:, ::-1])
    np.testing.assert_array_equal(drawn[2:], np.asarray(sample(logits[2:], positions[2:], seeds[2:])))
    assert len({tuple(row) for row in drawn.tolist()}) == 4


def test_what_the_discriminator_sees():
    """The text unmasked, samples in the masked places; one that is the text's own token counts as it."""
    batch = {
        "input_ids": np.array([[2, 4, 7, 4, 3, 0], [2, 9, 4, 3, 0, 0]], np.int32),
        "masked_lm_positions": np.array([[1, 3], [2, 0]], np.int32),
        "masked_lm_ids": np.array([[6, 8], [5, 0]], np.int32),
        "masked_lm_weights": np.array([[1, 1], [1, 0]], np.float32),
    }
    shown = replace_tokens(batch, jnp.array([[6, 11], [12, 13]]))
    assert shown.input_ids.tolist() == [[2, 6, 7, 11, 3, 0], [2, 9, 12, 3, 0, 0]]
    assert shown.labels.tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_binary_cross_entropy_is_its_formula():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 30, 200).astype(np.float32)
    labels, weights = (rng.integers(0, 2, 200).astype(np.float32) for _ in range(2))
    found = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights))
    signed = np.where(labels == 1, logits, -logits).astype(np.float64)
    np.testing.assert_allclose(found.loss, (np.logaddexp(0, -signed) * weights).sum(), rtol=1e-6)
    assert (found.correct, found.weight) == ((weights * ((logits > 0) == (labels == 1))).sum(), weights.sum())


def test_held_out_samples_depend_on_the_example_alone():
    batch = make_batch()
    seeds = np.asarray(example_seeds(batch))
    np.testing.assert_array_equal(seeds[5:7], example_seeds({name: field[5:7] for name, field in batch.items()}))
    assert len({tuple(row) for row in seeds.tolist()}) == B


# ---- the loss ------------------------------------------------------------------------------------------------------


def test_no_gradient_goes_through_the_samples():
    """The discriminator's loss moves the shared embeddings, and nothing that is the generator's alone."""
    training = training_on()
    params, batch = training.initial_state().params, make_batch()

    def loss(params, term):
        return LOSS.scores(training, params, batch, None)[term].loss

    rtd, mlm = (jax.jit(jax.grad(loss), static_argnums=1)(params, term) for term in ("rtd", "mlm"))
    largest = lambda tree: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert largest(rtd["generator"]) == 0 < largest(rtd["encoder"]["embeddings"])
    assert largest(mlm["encoder"]["layers"]) == largest(mlm["rtd"]) == 0 < largest(mlm["encoder"]["embeddings"])
    assert largest(mlm["generator"]) > 0 < largest(rtd["rtd"])


def one_step(training: Training):
    step = compile_train_step(training, LOSS, batch_fields(SHAPE))
    state, sums = step(training.initial_state(), put_on_mesh(training.mesh, make_batch()))
    return {name: float(value) for name, value in sums.items()}, jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="module")
def one_device():
    return one_step(training_on())


@pytest.mark.parametrize(("mesh", "micro_batches"), [((2, 2, 2), 1), ((1, 1, 1), 4), ((4, 1, 1), 2)])
def test_any_cut_gives_the_same_samples_and_steps(one_device, mesh, micro_batches):
    sums, params = one_step(training_on(mesh, micro_batches))
    assert sums == pytest.approx(one_device[0], rel=1e-5, abs=1e-5)
    assert sums["replaced_weight"] > 0.5 * sums["mlm_weight"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), params, one_device[1])


def test_the_loss_is_fifty_of_the_discriminator_and_one_of_the_generator():
    """By the gradient, which the step applies: of 50 mean(rtd) + mean(mlm)."""
    training, batch = training_on(), make_batch()
    params = training.initial_state().params
    valid, masked = batch["sequence_ids"].sum(), batch["masked_lm_weights"].sum()
    assert {name: float(weight) for name, weight in LOSS.weights(batch).items()} == {"mlm": masked, "rtd": valid}
    assert [term_weight(term, training.config) for term in ("mlm", "rtd")] == [1, 50]
    scores = jax.jit(lambda params: LOSS.scores(training, params, batch, None))(params)
    assert float(scores["rtd"].weight) == valid
    assert float(scores["replaced"].weight) <= masked
    told = mean_scores({f"{t}_{n}": float(v) for t, s in scores.items() for n, v in s._asdict().items()}, RTD.terms)
    assert told["replaced_share"] == pytest.approx(float(scores["replaced"].weight) / valid)
    assert 0 <= told["rtd_recall"] <= 1


def test_a_generator_has_whole_heads_and_the_tables_of_the_model():
    description = training_on().description
    assert (description.generator.hidden_size, description.generator.num_attention_heads) == (16, 2)
    assert description.generator.table_size == MODEL.table_size == 16
    with pytest.raises(UserError, match=r"generator_share=0.3 of 4 heads is no whole number"):
        small_config(model=MODEL, objective=replace(RTD, generator_share=0.3))


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"), [("electra_small", 13.5e6, 256), ("electra_base", 109e6, 768)]
)
def test_published_sizes(name, discriminator, generator):
    """Table 6 of the paper, and 14 and 110 million parameters: those of the discriminator with its head."""
    config = load_config(name)
    model, small = config.model, config.description.generator
    assert (model.num_hidden_layers, model.hidden_size) == (12, generator)
    assert small.hidden_size == {256: 64, 768: 256}[model.hidden_size]
    assert small.intermediate_size == 4 * small.hidden_size
    shapes = Training(config, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])).abstract_state.params
    count = sum(leaf.size for name in ("encoder", "rtd") for leaf in jax.tree.leaves(shapes[name]))
    assert count == pytest.approx(discriminator, rel=0.01)


# ---- whole runs ----------------------------------------------------------------------------------------------------

CONFIG = small_config(
    model=replace(small_config().model, embedding_size=8, hidden_act="gelu_erf", pooler_act="gelu"),
    objective=RTD,
    phases=small_config().phases[:1],
    mesh=MeshConfig(1, 1, 1),
    eval_every=8,
)


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("rtd") / "run"
    pretrain(CONFIG, prepared.data, run, resume_command="")
    return run


def lines_of(run: Path) -> list[dict]:
    return without_clock([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def test_a_run_logs_both_halves_and_resumes_to_the_bit(run, prepared, tmp_path):
    names = {"mlm_loss", "rtd_loss", "rtd_accuracy", "rtd_recall", "rtd_precision", "replaced_share"}
    lines = [line for line in lines_of(run) if line["kind"] != "data"]
    assert all(names <= line.keys() for line in lines)
    train = next(line for line in lines if line["kind"] == "train")
    assert train["loss"] == pytest.approx(train["mlm_loss"] + 50 * train["rtd_loss"])
    again = Path(shutil.copytree(run, tmp_path / "again"))
    shutil.rmtree(again / "checkpoints" / "8")
    pretrain(CONFIG, prepared.data, again, resume_command="")
    assert lines_of(again) == lines_of(run)
    jax.tree.map(np.testing.assert_array_equal, *(bert_jax.load(path).params for path in (run, again)))


def test_every_stage_takes_the_run(run, prepared, tmp_path, capsys):
    """The generator fills masks and is scored; the discriminator is scored, embeds and is fine-tuned."""
    model = bert_jax.load(run)
    batch = make_batch()
    output = model({name: field % 100 if name == "input_ids" else field for name, field in batch.items()})
    assert (output.mlm_logits.shape, output.rtd_logits.shape) == ((B, M, 104), (B, S))
    run_stage("evaluate", run, "--data", prepared.data)
    scores = json.loads((run / "evaluation.json").read_text())
    evaluated = [line for line in lines_of(run) if line["kind"] == "eval"][-1]
    assert "replaced tokens" in capsys.readouterr().out
    assert 0 < scores["replaced_share"] < scores["picked_share"]
    assert scores["rtd_always_original"] == 1 - scores["replaced_share"]
    shares = np.array([scores["replaced_share"], scores["rtd_always_original"]])
    assert scores["rtd_share_loss"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert scores["rtd_loss"] == pytest.approx(evaluated["rtd_loss"], rel=0.2)
    run_stage("fill-mask", run, "the [MASK] of the wave")
    (tmp_path / "lines.txt").write_text("the ship\nthe wave\n")
    run_stage("embed", run, "--input", tmp_path / "lines.txt", "--output", tmp_path / "vectors.npz")
    with np.load(tmp_path / "vectors.npz") as file:
        assert next(iter(file.values())).shape == (2, CONFIG.model.hidden_size)
    run_stage("report", run)
    assert "Replaced tokens found" in (run / "report.html").read_text(encoding="utf-8")
    assert main(["doctor", str(run), "--json"]) in (0, 1)  # a run of 8 steps has something wrong with it


def begun_with(run: Path, data: Path, output: Path, *settings: str, keep: str | None = None) -> dict:
    """What is recorded of a run that another one began."""
    start = Start(run, keep=keep, asked=Asked(head=False))
    return pretrain_further(CONFIG, settings, start, data, output, resume_command="").source()


def test_a_run_begins_another_one_with_both_halves(run, prepared, tmp_path):
    """At its step, stopped in the middle, to the bit; the generator must be as wide."""
    stopped = Path(shutil.copytree(run, tmp_path / "stopped"))
    shutil.rmtree(stopped / "checkpoints" / "8")
    record = begun_with(stopped, prepared.data, tmp_path / "further", keep="step")
    assert (record["drawn"], record["left_out"]) == ([], [])
    jax.tree.map(np.testing.assert_array_equal, *(bert_jax.load(path).params for path in (run, tmp_path / "further")))
    with pytest.raises(
        UserError, match=r"makes a generator of 16, and that of .* has 8: give objective.generator_share=0.5"
    ):
        begun_with(run, prepared.data, tmp_path / "wide", "objective.generator_share=1")


def test_under_another_objective_the_discriminator_goes_on(run, prepared, tmp_path):
    record = begun_with(run, prepared.data, tmp_path / "mlm", "objective.name=mlm_full_sentences")
    assert (record["drawn"], record["left_out"]) == (["mlm"], ["generator", "rtd"])
    again = begun_with(tmp_path / "mlm", prepared.data, tmp_path / "rtd")
    assert (again["drawn"], again["left_out"]) == (["generator", "rtd"], ["mlm"])


def test_a_row_of_every_table_of_entries_goes_to_another_vocabulary():
    untied = replace(CONFIG, model=replace(CONFIG.model, tie_word_embeddings=False))
    tables = {row.ours for row in names.rows_of(untied.description) if row.shape[0] == "V"}
    assert len(tables) == 3
    assert tables <= set(_ROWS_OF_ENTRIES)


@pytest.mark.parametrize("to", ["stablehlo", "onnx"])
def test_each_half_is_exported(run, tmp_path, to):
    """The certificate compares it with the model here; for texts it is the discriminator, for masks the generator."""
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    for name, width in (("embed", 16), ("fill-mask", 8)):
        exported = export(run, tmp_path / name, to, name)
        assert exported.description.model.hidden_size == width
    with pytest.raises(UserError, match="is a bidirectional model"):
        bert_jax.load(run).require_left_to_right("going on with a text")


def test_it_is_fine_tuned_with_electra_s_head(run, tmp_path, capsys):
    write_sst2(tmp_path / "sst2", train=32)
    arguments = command("sst2", tmp_path / "sst2", run, tmp_path / "tuned", "epochs=1")
    assert main([*arguments, "optimizer.layer_decay=0.8"]) == 0
    assert "drawn anew: pooler, task" in capsys.readouterr().err
    tuned, before = bert_jax.load(tmp_path / "tuned"), bert_jax.load(run)
    assert tuned.description.pooler
    assert "generator" not in tuned.params
    ids = np.array([[2, 9, 8, 3]], np.int32)
    batch = {"input_ids": ids, "segment_ids": 0 * ids, "sequence_ids": 0 * ids + 1, "cls_positions": ids[:, :1] * 0}
    output = jax.device_get(
        tuned(batch | {"position_ids": np.arange(4, dtype=np.int32)[None], "masked_lm_positions": ids[:, :1] * 0})
    )
    params = jax.tree.map(np.asarray, tuned.params)
    pooler, task = params["encoder"]["pooler"], params["task"]
    first = output.encoder.sequence_output[:, 0] @ pooler["kernel"] + pooler["bias"]
    expected = np.asarray(jax.nn.gelu(first, approximate=False)) @ task["kernel"] + task["bias"]
    np.testing.assert_allclose(output.task_logits[:, 0], expected, atol=1e-5)
    assert before.description.rtd
