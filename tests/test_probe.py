# SPDX-License-Identifier: Apache-2.0
"""`bert-jax probe`: features of every layer, linear probes beside another solver, the control task, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal_of, run_stage
from conversion_samples import write_own_run
from finetune_samples import write_conll, write_model, write_squad, write_sst2, write_stsb
from scipy.optimize import minimize

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.finetuning import probe
from bert_jax.finetuning.layer_features import layer_features
from bert_jax.finetuning.linear_probes import bootstrap, fit, mix_shares, predict, Standard
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
from bert_jax.pages.probe import best_layer, model_names, spreads
from bert_jax.tasks.rows import IGNORE


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    write_model(folder / "model")
    write_model(folder / "other", seed=1)
    write_sst2(folder / "sst2", train=120, dev=60)
    write_conll(folder / "conll")
    return folder


def setup_of(folder: Path, task: str, data: str) -> FinetuneSetup:
    return FinetuneSetup(Wanted(task, str(folder / data), folder / "model", FinetuneConfig()))


# ---- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_of_texts_are_what_embed_gives(folder, tmp_path, pooling):
    """Another reader of the same layers: `bert-jax embed`, a layer at a time, in float32."""
    setup = setup_of(folder, "sst2", "sst2")
    split = setup.dev_splits[0]
    found = layer_features(setup.checkpoint.description, setup.checkpoint.parameters(), split, pooling)
    lines = [example.texts[0] for example in split.examples]
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    for layer in range(3):
        output = tmp_path / f"{layer}.npz"
        options = ("--input", tmp_path / "lines", "--output", output, "--pooling", pooling, "--layers", layer)
        run_stage("embed", folder / "model", *options)
        expected = np.load(output)["embeddings"]
        np.testing.assert_allclose(found.values[layer], expected, rtol=2e-3, atol=2e-3)  # float16
    assert found.values.shape == (3, 60, 16)


def test_features_of_words_are_read_at_their_first_piece(folder):
    setup = setup_of(folder, "conll2003", "conll")
    split = setup.dev_splits[0]
    found = layer_features(setup.checkpoint.description, setup.checkpoint.parameters(), split, "mean")
    model = bert_jax.load(folder / "model")
    gold = probe._of_places(found, split)
    assert len(found.words) == sum(len(sentence.words) for sentence in split.sentences)
    at = 0
    for sentence in split.sentences[:5]:
        ids = [model.tokenizer.cls_id]
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            assert found.words[at] == model.tokenizer.encode(word).ids[0]
            assert split.labels_known[gold[at]] == tag
            assert found.places.tokens[at] == len(ids)
            ids += model.tokenizer.encode(word).ids
            at += 1
        vectors = model.encode([" ".join(sentence.words)]).sequence_output[0]
        own = slice(at - len(sentence.words), at)
        np.testing.assert_allclose(found.values[-1, own], vectors[found.places.tokens[own]], rtol=2e-3, atol=2e-3)


def test_only_chosen_examples_are_read(folder):
    setup = setup_of(folder, "sst2", "sst2")
    everything, some = (
        layer_features(setup.checkpoint.description, setup.checkpoint.parameters(), setup.train_split, "mean", chosen)
        for chosen in (None, np.array([3, 50, 51]))
    )
    assert some.places.units.tolist() == [3, 50, 51]
    np.testing.assert_allclose(some.values, everything.values[:, [3, 50, 51]], rtol=2e-3, atol=2e-3)


# ---- probes ---------------------------------------------------------------------------------------------------------


def planted(count: int, seed: int, layers: int = 3, width: int = 8, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features of which layer 1 alone tells the class, not quite surely."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(layers, count, width))
    directions = np.random.default_rng(99).normal(size=(width, classes))
    labels = (features[1] @ directions + rng.gumbel(size=(count, classes))).argmax(1)
    return features.astype(np.float16), labels.astype(np.int32)


def test_probes_reach_what_another_solver_reaches():
    """scipy's L-BFGS on the whole logistic loss; ours on samples with replacement. The mix finds the layer that tells."""
    (train, labels), (dev, gold) = planted(2000, 0), planted(2000, 1)
    standard = Standard.of(train)
    features = standard.applied(train), standard.applied(dev)
    probes = fit(features[0], np.tile(labels, (3, 1)), bootstrap(np.arange(len(labels)), 3), 3, "probes")
    logits = predict(probes, features[1])
    assert logits.shape == (3, 4, 2000, 3)
    x = ((train[1].astype(np.float64) - standard.mean[1]) / standard.deviation[1], labels)

    def loss(flat: np.ndarray) -> float:
        scores = x[0] @ flat[:24].reshape(8, 3) + flat[24:]
        return float((np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]).mean())

    best = minimize(loss, np.zeros(27), method="L-BFGS-B").x
    theirs = ((dev[1] - standard.mean[1]) / standard.deviation[1]) @ best[:24].reshape(8, 3) + best[24:]
    accuracy = (theirs.argmax(1) == gold).mean()
    found = (logits.argmax(-1) == gold).mean(-1)  # [Z, K + 1]
    np.testing.assert_allclose(found[:, [1, 3]], accuracy, atol=0.02)
    assert (found[:, [0, 2]] < np.bincount(gold).max() / len(gold) + 0.05).all()
    assert (mix_shares(probes).argmax(1) == 1).all()
    np.testing.assert_allclose(mix_shares(probes).sum(1), 1, rtol=1e-5)


def test_logits_are_those_of_a_plain_restatement():
    """A linear function of each layer, and one of scale * sum of softmax(weights) * layer (ELMo, equation 1)."""
    train, labels = planted(300, 2)
    features = Standard.of(train).applied(train)
    probes = fit(features, np.tile(labels, (2, 1)), bootstrap(np.arange(300), 2), 3, "probes")
    x, weights, biases = (np.asarray(one, np.float64) for one in (features, probes.weights, probes.biases))
    scale = np.asarray(probes.mix["scale"][...], np.float64)
    shares = mix_shares(probes)
    for seed in range(2):
        layers = [*x, scale[seed] * np.einsum("k,krd->rd", shares[seed], x)]
        expected = [
            layer @ weight + bias for layer, weight, bias in zip(layers, weights[seed], biases[seed], strict=True)
        ]
        np.testing.assert_allclose(predict(probes, features)[seed], expected, rtol=1e-3, atol=1e-4)


def test_ratings_are_regressed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 2000, 6)).astype(np.float16)
    ratings = (x[0] @ rng.normal(size=6)).astype(np.float32)
    standard = Standard.of(x)
    probes = fit(standard.applied(x), np.tile(ratings, (2, 1)), bootstrap(np.arange(2000), 2), 1, "probes")
    found = predict(probes, standard.applied(x))[..., 0]
    assert np.corrcoef(found[0, 0], ratings)[0, 1] > 0.99
    assert abs(np.corrcoef(found[0, 1], ratings)[0, 1]) < 0.2


def test_a_seed_is_a_sample_of_whole_groups():
    """Words of a sentence are drawn together, sentences with replacement: about 1/e of them are never drawn."""
    groups = np.repeat(np.arange(900), np.arange(900) % 3 + 1)
    weights = bootstrap(groups, 2)
    np.testing.assert_allclose(weights.mean(1), 1, rtol=1e-5)
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    np.testing.assert_array_equal(weights, weights[:, firsts][:, groups])
    assert (weights[0] == 0).mean() == pytest.approx(np.exp(-1), abs=0.05)
    assert not (weights[0] == weights[1]).all()


def test_random_labels_are_of_word_types():
    labels = np.array([0, 0, 0, 2, IGNORE], np.int32)
    table = probe._random_labels(labels, 3, 5000)
    assert set(np.unique(table)) == {0, 2}
    assert np.mean(table == 0) == pytest.approx(0.75, abs=0.02)
    assert not (table[0] == table[1]).all()


# ---- the stage ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_texts(folder) -> dict:
    output = folder / "probed"
    options = ("--task", "sst2", "--data", folder / "sst2", "--output", output, "--seeds", 3)
    run_stage("probe", folder / "model", folder / "other", *options)
    return json.loads((output / "probe.json").read_text())


def test_texts_of_two_models(folder, of_texts):
    assert (of_texts["metric"], of_texts["split"], of_texts["kind"]) == ("accuracy", "dev", "classification")
    assert of_texts["always_the_commonest"] == 0.5
    assert model_names(of_texts["models"]) == ["model", "other"]
    for model in of_texts["models"]:
        assert np.shape(model["scores"]) == np.shape(model["plain"]) == np.shape(model["control"]) == (3, 4)
        np.testing.assert_allclose(np.sum(model["mix"], axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(model["scores"], model["plain"])  # accuracy is the task's own measure
        assert np.mean(model["scores"]) > np.mean(model["control"]), "one word decides the task, and none the control"
    page = (folder / "probed" / "report.html").read_text()
    assert page.count("<svg") == 5
    assert "learned mix" in page


def test_words_are_scored_by_conlleval(folder, tmp_path, capsys):
    run_stage(
        "probe",
        folder / "model",
        "--task",
        "conll2003",
        "--data",
        folder / "conll",
        "--output",
        tmp_path / "o",
        "--seeds",
        2,
    )
    record = json.loads((tmp_path / "o" / "probe.json").read_text())
    (model,) = record["models"]
    assert (record["metric"], record["always_the_commonest"]) == ("f1", 0.0)
    assert model["features"]["train"] == 40 * 8
    assert min(model["plain"][0]) > 0.75, "O is three words of four"
    best = best_layer(spreads(model["scores"]))
    assert best is not None
    assert spreads(model["scores"])[best].mean > 75, "names are told by their words"
    assert "dev f1 by layer: 0 " in capsys.readouterr().out


def test_the_model_is_asked_where_a_text_is_read(folder, tmp_path, monkeypatch, capsys):
    """Of a left-to-right model [CLS] sees no word (`ModelConfig.require_pooling`, which embed and export ask too)."""
    causal, plain = (ModelConfig(**MODEL_SIZES["tiny"], causal=causal) for causal in (True, False))
    plain.require_pooling("cls")
    with pytest.raises(UserError, match="sees no word"):
        causal.require_pooling("cls")
    ask = ModelConfig.require_pooling
    monkeypatch.setattr(ModelConfig, "require_pooling", lambda self, pooling: ask(causal, pooling))
    options = ("--task", "sst2", "--data", folder / "sst2", "--output", tmp_path / "out", "--pooling", "cls")
    assert "its [CLS] sees no word" in refusal_of(capsys, "probe", folder / "model", *options)


def test_bad_input(folder, tmp_path, capsys):
    model, out = folder / "model", tmp_path / "out"
    one_class = tmp_path / "one"
    one_class.mkdir()
    for name in ("train", "dev"):
        (one_class / f"{name}.tsv").write_text("sentence\tlabel\n" + "good film\t1\n" * 30)
    message = refusal_of(capsys, "probe", model, "--task", "sst2", "--data", one_class, "--output", out)
    assert "train: every example has the same label" in message
    data = write_squad(tmp_path / "squad", "1.1")
    assert "is span: probes are for" in refusal_of(
        capsys, "probe", model, "--task", "squad1", "--data", data, "--output", out
    )
    (one_class / "dev.tsv").unlink()
    assert "has no dev split" in refusal_of(
        capsys, "probe", model, "--task", "sst2", "--data", one_class, "--output", out
    )
    options = ("--task", "conll2003", "--data", folder / "conll", "--output", out, "--pooling", "cls")
    assert "--pooling is of a text's tokens" in refusal_of(capsys, "probe", model, *options)
    options = ("--task", "sst2", "--data", folder / "sst2", "--output", folder / "sst2")
    assert "is there already" in refusal_of(capsys, "probe", model, *options)
    with pytest.raises(UserError, match="--seeds 1 has no interval"):
        probe.ProbeSettings(seeds=1)
    assert not out.exists()


def test_pairs_with_ratings(folder, tmp_path):
    write_stsb(tmp_path / "stsb")
    options = (
        "--task",
        "stsb",
        "--data",
        tmp_path / "stsb",
        "--output",
        tmp_path / "out",
        "--seeds",
        2,
        "--train-examples",
        30,
    )
    run_stage("probe", folder / "model", *options)
    record = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert (record["metric"], record["always_the_commonest"]) == ("spearman", None)
    assert record["models"][0]["examples"] == {"train": 30, "dev": 24}


def test_the_checkpoint_of_a_step_is_named_by_its_folder(tmp_path):
    """RUN is its newest checkpoint, RUN/checkpoints/7 that of step 7."""
    write_own_run(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "7", checkpoints / "9")
    newest, seventh = (bert_jax.load(path) for path in (tmp_path / "run", checkpoints / "7"))
    assert (newest.origin.step, seventh.origin.step) == (9, 7)
    assert seventh.origin.path == tmp_path / "run"
    with pytest.raises(UserError, match="8 is missing"):
        bert_jax.load(checkpoints / "8")
    names = model_names([{"model": f"run/checkpoints/{step}", "step": step} for step in (7, 9)])
    assert names == ["run, step 7", "run, step 9"]


def test_models_are_told_apart_by_name():
    models = [{"model": "a/run", "step": 3}, {"model": "b/run", "step": 3}]
    assert model_names(models) == ["a/run", "b/run"]
    assert model_names([models[0], {"model": "a/run", "step": 4}]) == ["run, step 3", "run, step 4"]
    assert best_layer(spreads([[0.5, 0.7, 0.9], [0.5, 0.7, 0.9]])) == 1, "the last is the mix"
