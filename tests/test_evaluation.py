# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction of a run, through the command line."""

import json
import shutil

import numpy as np
import pytest
from conftest import refusal_of, run_stage, small_config

from bert_jax.cli import main
from bert_jax.config.settings import to_dict
from bert_jax.feed.examples import evaluation_batch, make_examples
from bert_jax.feed.shards import open_data
from bert_jax.use.evaluation import unigram_report
from bert_jax.use.fill_mask import encode, predict
from bert_jax.use.model import load

CONFIG = small_config()


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A run whose model has 4 rows more than the vocabulary has entries."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "config.json"
    config.write_text(json.dumps(to_dict(CONFIG)))
    run_stage("pretrain", config, "--data", prepared.data, "--output", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def scores(run, prepared):
    run_stage("evaluate", run, "--data", prepared.data)
    return json.loads((run / "evaluation.json").read_text())


def test_scores_are_those_of_a_plain_restatement(run, prepared, scores):
    """Loss and accuracy from the logits of every example, one at a time, in NumPy."""
    data = open_data(prepared.data)
    model = load(run)
    examples = make_examples(data.split("validation"), model.tokenizer, CONFIG, CONFIG.phases[-1])
    losses, hits, pairs = [], [], []
    size = CONFIG.phases[-1].batch_size
    for number in range(-(-len(examples) // size)):
        batch = evaluation_batch(examples, size, number)
        output = model(batch)
        logits = np.asarray(output.mlm_logits, np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for row, slot in zip(*np.nonzero(batch["masked_lm_weights"]), strict=True):
            label = batch["masked_lm_ids"][row, slot]
            losses.append(-logs[row, slot, label])
            hits.append(logs[row, slot].argmax() == label)
        right = np.asarray(output.nsp_logits).argmax(-1) == batch["next_sentence_labels"]
        pairs += right[batch["next_sentence_weights"] > 0].tolist()
    assert scores["masked_tokens"] == len(losses)
    assert scores["pairs"] == len(pairs) == len(examples)
    assert scores["mlm_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert scores["mlm_perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert scores["mlm_accuracy"] == pytest.approx(np.mean(hits))
    assert scores["nsp_accuracy"] == pytest.approx(np.mean(pairs))
    low, high = scores["nsp_accuracy_95"]
    assert low < scores["nsp_accuracy"] < high


def test_shares_of_the_evaluation(scores):
    histogram = scores["mask_histogram"]
    assert sum(histogram.values()) == scores["masked_tokens"]
    assert histogram["mask"] / scores["masked_tokens"] == pytest.approx(0.8, abs=0.1)
    assert scores["picked_share"] == pytest.approx(0.15, abs=0.03)


def test_samples_speak_in_words(scores):
    """IsNext and NotNext, never 0 and 1; a prediction for each [MASK] of the text."""
    assert scores["samples"]
    for sample in scores["samples"]:
        assert sample["text"].count("[MASK]") == len(sample["answers"]) == len(sample["predictions"]) > 0
        assert all(len(entries) == 3 for entries in sample["predictions"])
        pair = sample["pair"]
        assert {pair["label"], pair["prediction"]} <= {"IsNext", "NotNext"}
        assert 0.5 <= pair["probability"] <= 1


def as_if_trained_on(run, folder, **objective):
    """The run's parameters under another objective: what is said of them must follow the objective."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("evaluation.json"))
    config = json.loads((folder / "config.json").read_text())
    config["objective"] |= objective
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_sentence_order_is_scored_on_its_own_examples_and_called_so(run, prepared, tmp_path, capsys):
    other = as_if_trained_on(run, tmp_path / "run", name="mlm_sop")
    run_stage("evaluate", other, "--data", prepared.data)
    printed = capsys.readouterr().out
    scores = json.loads((other / "evaluation.json").read_text())
    assert scores["objective"] == "mlm_sop"
    assert scores["pairs"] == open_data(prepared.data).split("validation").num_examples("sop", 32)
    table = open_data(prepared.data).manifest["splits"]["validation"]["tables"]["sop_32"]
    assert scores["is_next_share"] == pytest.approx(table["in_order_share"])
    assert "SOP accuracy" in printed
    assert f"{scores['is_next_share']:.1%} of them in order" in printed
    assert "NSP" not in printed
    assert "IsNext" not in printed
    labels = {sample["pair"][key] for sample in scores["samples"] for key in ("label", "prediction")}
    assert labels <= {"in order", "swapped"}
    run_stage("fill-mask", other, "the ship [SEP] the [MASK] .")
    assert capsys.readouterr().out.splitlines()[-1].split("%")[0].rsplit(" ", 1)[0].strip() in ("in order", "swapped")
    run_stage("fill-mask", other, "the ship [SEP] the [MASK] .", "--json")
    assert {"in_order"} == json.loads(capsys.readouterr().out).keys() - {"text", "masks"}


def test_without_pairs_nothing_is_said_of_them(run, prepared, tmp_path, capsys):
    other = as_if_trained_on(run, tmp_path / "run", name="mlm_full_sentences")
    run_stage("evaluate", other, "--data", prepared.data)
    printed = capsys.readouterr().out
    scores = json.loads((other / "evaluation.json").read_text())
    assert not [name for name in scores if name.startswith(("nsp", "pairs", "is_next"))]
    assert "pairs" not in printed
    assert all("pair" not in sample for sample in scores["samples"])
    run_stage("fill-mask", other, "the [MASK] .", "--json")
    assert json.loads(capsys.readouterr().out).keys() == {"text", "masks"}
    assert main(["fill-mask", str(other), "the ship [SEP] the [MASK] ."]) == 2
    message = "has two segments, and objective.name=mlm_full_sentences trains on one: remove the [SEP]"
    assert message in capsys.readouterr().err


def test_scores_do_not_depend_on_packing_or_schedule(run, prepared, tmp_path, scores):
    """Held-out rows are padded and masked at `mlm_probability`, so that scores can be compared."""
    other = as_if_trained_on(run, tmp_path / "run", mlm_probability_end=0.05)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"packing": "buckets", "buckets": 2}))
    run_stage("evaluate", other, "--data", prepared.data)
    assert json.loads((other / "evaluation.json").read_text()) == scores


def test_a_text_is_scored_as_the_data_that_is_made_of_it(run, prepared, tmp_path, capsys, monkeypatch):
    """`--text` is `prepare` and `--data` in one; and this text, which was trained on, is no held-out one."""
    data, output = tmp_path / "data", tmp_path / "scores.json"
    options = ("--sequence-length", 32, "--held-out", 0, "--workers", 1)
    run_stage("prepare", "--input", prepared.text, "--vocab", run, "--output", data, *options)
    capsys.readouterr()
    monkeypatch.setattr("bert_jax.feed.examples.TRAINING_SPLIT_SEED", 0)  # the masks of a text
    run_stage("evaluate", run, "--data", data, "--split", "train", "--json")
    expected = json.loads(capsys.readouterr().out)
    run_stage("evaluate", run, "--text", prepared.text, "--pseudo-perplexity", 5, "--output", output)
    scores = json.loads(output.read_text())
    for name in ("step", "objective", "masked_tokens", "pairs", "is_next_share", "mask_histogram", "picked_share"):
        assert scores[name] == expected[name], name
    for name in ("mlm_loss", "mlm_accuracy", "mlm_perplexity", "nsp_loss", "nsp_accuracy"):
        assert scores[name] == pytest.approx(expected[name], rel=1e-5), name
    assert "text.txt: the run was trained on this file" in capsys.readouterr().err
    assert not (run / "evaluation-text.json").exists()


def test_unigram_figures_by_hand():
    class Words:
        vocabulary = ("a", "b", "c", "d")

    counts, targets = np.array([4, 2, 2, 0]), np.array([1, 0, 1, 2])
    report = unigram_report(targets, counts, Words())  # type: ignore[arg-type]
    assert report["unigram_entropy"] == pytest.approx(1.5 * np.log(2))
    assert report["unigram_loss"] == pytest.approx(-(np.log(5 / 12) + np.log(3 / 12) + 2 * np.log(1 / 12)) / 4)
    assert report["commonest_token"] == "a"
    assert report["commonest_token_accuracy"] == 0.25


def test_evaluate_prints_words(run, prepared, capsys):
    run_stage("evaluate", run, "--data", prepared.data, "--sequence-length", 16)
    printed = capsys.readouterr().out
    assert "masked tokens in rows of 16" in printed
    assert "the unigram entropy of the training text" in printed
    assert "IsNext" in printed


def test_fill_mask(run, capsys):
    run_stage("fill-mask", run, "the ship of the [MASK] is near the [MASK] .", "--top-k", 2, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [slot["position"] for slot in found["masks"]] == [5, 9]
    assert all(len(slot["entries"]) == 2 for slot in found["masks"])
    for slot in found["masks"]:
        first, second = (entry["probability"] for entry in slot["entries"])
        assert 1 > first >= second > 0


def test_fill_mask_is_the_model_s_softmax_over_the_vocabulary(run):
    """All entries together have probability 1: rows beyond the vocabulary take no part; padding does not matter."""
    model = load(run)
    entries = model.tokenizer.vocab_size
    assert entries < CONFIG.model.vocab_size
    row = encode(model, "the [MASK] of the island")
    alone = predict(model, [row], entries)[0]
    probabilities = {entry.token: entry.probability for entry in alone.masks[0].entries}
    assert set(probabilities) == set(model.tokenizer.vocabulary)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    longer = encode(model, "the rose of the garden is near the seed . [SEP] the [MASK] of the island")
    beside = predict(model, [longer, row], entries)[1]
    for entry in beside.masks[0].entries:
        assert entry.probability == pytest.approx(probabilities[entry.token], abs=1e-5)


def test_segments_of_a_pair(run):
    """[CLS] A [SEP] are segment 0, B [SEP] segment 1."""
    ids, segments = encode(load(run), "the ship [SEP] the [MASK] .")
    assert segments == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(ids) == 8


def test_fill_mask_prints_pairs_in_words(run, capsys, monkeypatch):
    import io

    text = b"the ship of the [MASK] . [SEP] the rose .\n\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    run_stage("fill-mask", run)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "the ship of the [MASK] . [SEP] the rose ."
    assert "  [MASK] " in printed
    assert "IsNext" in printed or "NotNext" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no mask here"], "'no mask here': has no [MASK] to fill: put one where a word is to be predicted"),
        (["a [MASK] " + "the " * 40], "is 44 tokens long and the model has 32 positions: shorten it"),
        (["a [SEP] b [SEP] [MASK]"], "has 3 segments: the model takes at most two"),
        (["a [MASK]", "--top-k", "0"], "--top-k 0 is not possible: use 1 or more"),
    ],
)
def test_texts_that_cannot_be_filled(run, capsys, arguments, message):
    assert message in refusal_of(capsys, "fill-mask", run, *arguments)


def test_evaluation_of_other_data_is_refused(run, prepared, tmp_path, capsys):
    error = refusal_of(capsys, "evaluate", run, "--data", prepared.data, "--sequence-length", "24")
    assert "--sequence-length 24 is not one the run was trained at: choose one of 16, 32" in error
    other = as_if_trained_on(run, tmp_path / "run", name="mlm_sop")
    pairs = tmp_path / "pairs"
    run_stage(
        "prepare", "--input", prepared.text, "--vocab", prepared.vocab, "--output", pairs, "--sequence-length", 32
    )
    assert "--objective mlm_nsp mlm_sop" in refusal_of(capsys, "evaluate", other, "--data", pairs)
    vocab, data = tmp_path / "vocab", tmp_path / "data"
    run_stage("vocab", "--input", prepared.text, "--output", vocab, "--size", 80)
    run_stage("prepare", "--input", prepared.text, "--vocab", vocab, "--output", data, "--sequence-length", 32)
    assert "was prepared with another vocabulary (" in refusal_of(capsys, "evaluate", run, "--data", data)


def test_a_run_without_a_checkpoint(run, tmp_path, capsys):
    empty = tmp_path / "run"
    shutil.copytree(run, empty, ignore=shutil.ignore_patterns("checkpoints"))
    error = refusal_of(capsys, "fill-mask", empty, "a [MASK]")
    assert "has no complete checkpoint: go on with bert-jax pretrain" in error
