# SPDX-License-Identifier: Apache-2.0
"""Scores of a run on any text, against the NumPy forward pass of `conversion.numpy_bert` and plain loops."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import refusal_of, run_stage
from conversion_samples import KINDS, PRETRAINING, VOCABULARY, write_hugging_face

from bert_jax.conversion.checkpoints import open_checkpoint
from bert_jax.conversion.numpy_bert import forward
from bert_jax.conversion.own_format import config_for, write_run
from bert_jax.feed.examples import evaluation_batch, make_examples, scoring_seed
from bert_jax.feed.shards import open_data
from bert_jax.preparation.job import prepare
from bert_jax.preparation.request import PrepareSettings
from bert_jax.runs.directory import open_run
from bert_jax.tokenization import WordPieceTokenizer
from bert_jax.use.intrinsic import evaluate_text, segments_of, SplitTokens, text_offsets
from bert_jax.use.model import load
from bert_jax.use.ngrams import contexts_of, fit_ngrams
from bert_jax.use.pseudo_likelihood import choose_sentences

LENGTH = 20  # the model's positions
TOKENIZER = WordPieceTokenizer(VOCABULARY, lowercase=True)


def made_up_text(documents, seed):
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(documents):
        for _ in range(rng.integers(2, 6)):
            lines.append(" ".join(rng.choice(VOCABULARY[5:31], rng.integers(4, 12))))
        lines.append("")
    return "\n".join(lines)


def make_run(folder, kind):
    """A converted run with the weights of a Hugging Face directory beside it, which is where they are read from."""
    description = KINDS[kind]
    source = open_checkpoint(write_hugging_face(folder / "huggingface", description))
    run = folder / "run"
    TOKENIZER.save(run)
    config = config_for(description)
    phase = replace(config.phases[0], max_predictions_per_seq=3)
    write_run(run, description, source.weight, replace(config, phases=(phase,)), step=5)
    return source, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intrinsic")
    (folder / "text.txt").write_text(made_up_text(12, seed=1) + "\n" + " ".join(VOCABULARY[5:31]) + "\na b\n")
    (folder / "baseline.txt").write_text(made_up_text(60, seed=2))
    return folder


@pytest.fixture(scope="module")
def made(folder):
    return make_run(folder, "pretraining")


@pytest.fixture(scope="module")
def scores(folder, made):
    options = ("--baseline-text", folder / "baseline.txt", "--pseudo-perplexity", 20)
    run_stage("evaluate", made[1], "--text", folder / "text.txt", *options)
    return json.loads((made[1] / "evaluation-text.json").read_text())


def prepared_by_hand(folder, name, kind):
    output = folder / f"{name}-{kind}"
    if not output.exists():
        settings = PrepareSettings(kinds=(kind,), sequence_lengths=(LENGTH,), held_out=0.0)
        prepare([folder / f"{name}.txt"], TOKENIZER, output, settings, workers=1)
    return open_data(output).split("train")


@pytest.fixture(scope="module")
def baseline(folder):
    return fit_ngrams(prepared_by_hand(folder, "baseline", "full_sentences").shards, len(VOCABULARY), "baseline")


def numpy_outputs(source, input_ids, segment_ids, mask):
    inputs = {"input_ids": input_ids, "segment_ids": segment_ids, "input_mask": mask}
    inputs = {name: np.asarray(value, np.int32) for name, value in inputs.items()}
    return forward(source.tensors, "hugging_face", PRETRAINING.model, inputs)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


# ---- masked tokens --------------------------------------------------------------------------------------------------


def test_masked_scores_are_those_of_a_plain_restatement(folder, made, scores, baseline):
    """The examples that `prepare` makes of the text, masked as held-out data is; n-grams on the very same tokens."""
    source, run = made
    split = replace(prepared_by_hand(folder, "text", "nsp"), name="text")
    config = open_run(run).config()
    examples = make_examples(split, TOKENIZER, config, config.phases[-1])
    batch = evaluation_batch(examples, len(examples), 0)
    output = numpy_outputs(source, batch["input_ids"], batch["segment_ids"], batch["sequence_ids"])
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    places, labels = batch["masked_lm_positions"][rows, slots], batch["masked_lm_ids"][rows, slots]
    logs = log_softmax(output["mlm_logits"][rows, places])
    assert scores["masked_tokens"] == len(rows)
    loss = -logs[np.arange(len(rows)), labels].mean()
    assert scores["mlm_loss"] == pytest.approx(loss, rel=1e-5)
    assert scores["mlm_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert scores["mlm_accuracy"] == pytest.approx((logs.argmax(-1) == labels).mean())
    pairs = log_softmax(output["nsp_logits"])
    assert scores["pairs"] == len(examples)
    assert scores["nsp_accuracy"] == pytest.approx((pairs.argmax(-1) == batch["next_sentence_labels"][:, 0]).mean())
    assert scores["nsp_loss"] == pytest.approx(
        -pairs[np.arange(len(pairs)), batch["next_sentence_labels"][:, 0]].mean(), rel=1e-5
    )
    assert scores["unigram_loss"] == pytest.approx(-baseline.unigram(labels).mean())
    contexts = contexts_in_rows(batch, rows, places, labels, split)
    assert scores["bigram_loss"] == pytest.approx(-baseline.bigram.log(contexts[:, None], labels).mean())
    assert scores["bigram_perplexity"] == pytest.approx(math.exp(scores["bigram_loss"]))


def contexts_in_rows(batch, rows, places, labels, split):
    """The token before each masked one, found again by looking for the row's segment in the text."""
    true = batch["input_ids"].copy()
    true[rows, places] = labels
    words = SplitTokens.of(split)
    text = words.tokens.tolist()
    before = contexts_of(words.tokens, words.starts, len(VOCABULARY))[:, 0]
    contexts = []
    for row, place in zip(rows, places, strict=True):
        segment = batch["segment_ids"][row, place]
        inside = np.flatnonzero((batch["segment_ids"][row] == segment) & (true[row] > 4))
        piece = true[row, inside].tolist()
        found = [at for at in range(len(text)) if text[at : at + len(piece)] == piece]
        (context,) = {int(before[at + place - inside[0]]) for at in found}
        contexts.append(context)
    return np.array(contexts)


@pytest.mark.parametrize("kind", ["nsp", "full_sentences"])
def test_masked_tokens_are_found_in_the_text_of_several_shards(folder, made, tmp_path, kind):
    settings = PrepareSettings(kinds=(kind,), sequence_lengths=(LENGTH,), held_out=0.0, shard_size=500)
    prepare([folder / "baseline.txt"], TOKENIZER, tmp_path, settings, workers=1)
    split = open_data(tmp_path).split("train")
    assert len(split.shards) > 3
    config = open_run(made[1]).config()
    objective = replace(config.objective, name={"nsp": "mlm_nsp"}.get(kind, "mlm_full_sentences"))
    examples = make_examples(split, TOKENIZER, replace(config, objective=objective), config.phases[-1], rows=7)
    words, segments = SplitTokens.of(split), segments_of(examples)
    found = 0
    for number in range(-(-len(examples) // 7)):
        batch = evaluation_batch(examples, 7, number)
        offsets = text_offsets(segments, number, batch, seed=scoring_seed(split))
        labels = batch["masked_lm_ids"][batch["masked_lm_weights"] > 0]
        np.testing.assert_array_equal(words.tokens[offsets], labels)
        found += len(labels)
    assert found > 200


def test_the_same_text_has_the_same_scores(folder, made, scores):
    """From the command line and from Python; nothing is drawn anew."""
    again = evaluate_text(load(made[1]), [folder / "text.txt"], baseline_texts=[folder / "baseline.txt"])
    for name in ("mlm_loss", "mlm_accuracy", "nsp_loss", "unigram_loss", "bigram_loss", "mask_histogram", "ngrams"):
        assert again[name] == scores[name], name
    sentences = len(prepared_by_hand(folder, "text", "nsp").shards[0].sentence_starts) - 1
    assert again["pseudo"]["sentences"] == sentences - 1  # one is too long


# ---- pseudo-perplexity ----------------------------------------------------------------------------------------------


def test_pseudo_perplexity_token_by_token(folder, made, scores, baseline):
    """Each token of each chosen sentence masked by itself, in a row of its own, by the NumPy forward pass."""
    source, _ = made
    shard = prepared_by_hand(folder, "text", "nsp").shards[0]
    sentences = np.split(shard.tokens.astype(int), shard.sentence_starts[1:-1])
    short = [sentence for sentence in sentences if len(sentence) <= LENGTH - 2]
    assert len(short) == len(sentences) - 1
    chosen = [short[number * len(short) // 20] for number in range(20)]
    total, unigram, bigram = 0.0, 0.0, 0.0
    for sentence in chosen:
        ids = np.array([TOKENIZER.cls_id, *sentence, TOKENIZER.sep_id])
        rows = np.tile(ids, (len(sentence), 1))
        for number in range(len(sentence)):
            rows[number, number + 1] = TOKENIZER.mask_id
        logits = numpy_outputs(source, rows, np.zeros_like(rows), np.ones_like(rows))["mlm_logits"]
        logs = log_softmax(logits)
        total += sum(logs[number, number + 1, token] for number, token in enumerate(sentence))
        unigram += baseline.unigram(sentence).sum()
        contexts = contexts_of(sentence, np.array([0, len(sentence)]), len(VOCABULARY))
        bigram += baseline.bigram.log(contexts, sentence).sum()
    tokens = sum(map(len, chosen))
    pseudo = scores["pseudo"]
    assert (pseudo["sentences"], pseudo["tokens"], pseudo["too_long"]) == (20, tokens, 1)
    assert pseudo["sentences_of_text"] == len(sentences)
    assert pseudo["loss"] == pytest.approx(-total / tokens, rel=1e-5)
    assert pseudo["perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-4)
    assert pseudo["unigram_perplexity"] == pytest.approx(math.exp(-unigram / tokens))
    assert pseudo["bigram_perplexity"] == pytest.approx(math.exp(-bigram / tokens))


def test_sentences_are_chosen_evenly():
    lengths = np.array([3, 50, 4, 5, 6, 7, 8, 9, 10])
    assert choose_sentences(lengths, 4, 10).tolist() == [0, 3, 5, 7]
    assert choose_sentences(lengths, 100, 10).tolist() == [0, 2, 3, 4, 5, 6, 7, 8]
    assert choose_sentences(lengths, 5, 2).tolist() == []


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_everything_is_printed_with_its_name(folder, made, scores, capsys):
    from bert_jax.pipelines.evaluate import describe_text

    printed = describe_text(scores)
    masked, pseudo = scores["mlm_perplexity"], scores["pseudo"]["perplexity"]
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for begin in (
        "step 5, text.txt: ",
        f"MLM perplexity (15 % masked) {masked:.2f} ",
        f"unigram perplexity {scores['unigram_perplexity']:.2f} ",
        f"bigram perplexity {scores['bigram_perplexity']:.2f} ",
        "MLM accuracy ",
        "NSP accuracy ",
        f"pseudo-perplexity per token {pseudo:.2f} ",
        f"unigram perplexity {scores['pseudo']['unigram_perplexity']:.2f} ",
        f"bigram perplexity {scores['pseudo']['bigram_perplexity']:.2f} ",
        "unigram: add-k, k ",
    ):
        assert any(line.startswith(begin) for line in lines), begin
    assert (
        f"of 20 of {scores['pseudo']['sentences_of_text']} sentences (1 of more than 18 tokens are left out)" in printed
    )
    assert "of baseline.txt" in printed
    assert "interpolated Kneser-Ney" in printed
    assert scores["settings"]["pseudo_perplexity"] == 20
    assert scores["warnings"] == []


def test_a_run_without_nsp_head_on_one_document(folder, tmp_path, capsys):
    """Scored on whole sentences, and says why not on pairs; and without a text for them, no n-gram models."""
    _, run = make_run(tmp_path, "mlm")
    text, output = tmp_path / "text.txt", tmp_path / "scores.json"
    text.write_text("a b c d e\nthe a of the b\n")
    run_stage("evaluate", run, "--text", text, "--pseudo-perplexity", 0, "--output", output)
    printed = capsys.readouterr().out
    scores = json.loads(output.read_text())
    assert scores["objective"] == "mlm_full_sentences"
    assert scores["masked_tokens"] > 0
    assert not [
        name for name in scores if name.startswith(("nsp_a", "nsp_loss", "pairs", "pseudo", "unigram", "ngrams"))
    ]
    assert scores["nsp_left_out"] == "the checkpoint has no NSP head"
    assert "left out: the checkpoint has no NSP head" in printed
    assert "no unigram and bigram models beside it: name their text with --data or --baseline-text" in printed


def test_longer_and_backward_models_stand_beside_it(folder, made, scores, tmp_path, capsys):
    """On the same tokens as the others, made of the same text; the scores without --order stay what they were."""
    output = tmp_path / "scores.json"
    options = ("--baseline-text", folder / "baseline.txt", "--pseudo-perplexity", 20, "--order", 3, "--output", output)
    run_stage("evaluate", made[1], "--text", folder / "text.txt", *options)
    found = json.loads(output.read_text())
    assert {"trigram_loss", "backward_trigram_loss"} <= found.keys() - scores.keys()
    assert {"trigram_loss", "backward_trigram_loss"} <= found["pseudo"].keys()
    assert (found["unigram_loss"], found["bigram_loss"]) == (scores["unigram_loss"], scores["bigram_loss"])
    models = fit_ngrams(prepared_by_hand(folder, "baseline", "nsp").shards, len(VOCABULARY), "baseline", 3)
    words = SplitTokens.of(prepared_by_hand(folder, "text", "nsp"))
    short = np.diff(words.starts) <= LENGTH - 2
    chosen = np.flatnonzero(short)[np.arange(20) * short.sum() // 20]
    places = np.concatenate([np.arange(words.starts[one], words.starts[one + 1]) for one in chosen])
    backward = contexts_of(words.tokens, words.starts, len(VOCABULARY), 2, backward=True)[places]
    assert models.backward is not None
    expected = -models.backward.log(backward, words.tokens[places]).mean()
    assert found["pseudo"]["backward_trigram_loss"] == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert f"backward trigram perplexity {found['backward_trigram_perplexity']:.2f} (" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("options", "message"), [(["--order", "6"], "use 2 to 5"), (["--order", "3"], "--data or --baseline-text")]
)
def test_orders_that_are_refused(folder, made, capsys, options, message):
    assert message in refusal_of(capsys, "evaluate", made[1], "--text", folder / "text.txt", *options)


def test_one_document_is_scored_without_pairs(made, tmp_path, capsys):
    """Next-sentence prediction draws from another document; whole sentences need none."""
    text, output = tmp_path / "text.txt", tmp_path / "scores.json"
    text.write_text("a b c d e\nthe a of the b\n")
    run_stage("evaluate", made[1], "--text", text, "--pseudo-perplexity", 0, "--output", output)
    scores = json.loads(output.read_text())
    assert (scores["objective"], scores["text"]["documents"]) == ("mlm_full_sentences", 1)
    assert scores["masked_tokens"] > 0
    assert "nsp_accuracy" not in scores
    assert scores["nsp_left_out"].startswith("the text is one document")
    assert f"left out: {scores['nsp_left_out']}" in capsys.readouterr().out


def test_a_checkpoint_of_another_format_has_the_scores_of_its_conversion(
    folder, made, scores, tmp_path, capsys, monkeypatch
):
    """On a text, and on data that is prepared with its own vocabulary; nothing is written into its folder."""
    source = folder / "huggingface"
    before = sorted(source.iterdir())
    options = (
        "--pseudo-perplexity",
        20,
        "--baseline-text",
        folder / "baseline.txt",
        "--output",
        tmp_path / "scores.json",
    )
    run_stage("evaluate", source, "--text", folder / "text.txt", *options)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found.pop("step") is None
    assert found == {name: value for name, value in scores.items() if name != "step"}
    capsys.readouterr()
    data = tmp_path / "data"
    options = ("--sequence-length", LENGTH, "--held-out", 0, "--workers", 1)
    run_stage("prepare", "--input", folder / "text.txt", "--vocab", source, "--output", data, *options)
    capsys.readouterr()
    monkeypatch.setattr("bert_jax.feed.examples.TRAINING_SPLIT_SEED", 0)  # the masks of a text
    run_stage("evaluate", source, "--data", data, "--split", "train", "--json")
    of_data = json.loads(capsys.readouterr().out)
    for name in ("objective", "sequence_length", "mlm_loss", "masked_tokens", "nsp_loss", "pairs", "mask_histogram"):
        assert of_data[name] == scores[name], name
    assert sorted(source.iterdir()) == before


def test_fill_mask_on_checkpoints_of_another_format(folder, made, tmp_path, capsys):
    """The same words as its conversion gives; without an NSP head nothing of pairs; without an MLM head none at all."""
    text = ("a b [MASK] [SEP] the [MASK] of", "--json", "--top-k", 3)
    run_stage("fill-mask", folder / "huggingface", *text)
    found = json.loads(capsys.readouterr().out)
    run_stage("fill-mask", made[1], *text)
    assert json.loads(capsys.readouterr().out) == found
    assert [slot["position"] for slot in found["masks"]] == [3, 6]
    assert 0 < found["is_next"] < 1
    run_stage("fill-mask", write_hugging_face(tmp_path / "mlm", KINDS["mlm"]), *text)
    assert json.loads(capsys.readouterr().out).keys() == {"text", "masks"}
    encoder = write_hugging_face(tmp_path / "encoder", KINDS["encoder"])
    assert f"{encoder}: holds 2 layers of 24, 35 entries, encoder alone, and filling masks needs an MLM head" in (
        refusal_of(capsys, "fill-mask", encoder, "a [MASK]")
    )
    error = refusal_of(capsys, "fill-mask", folder / "huggingface", "a [MASK] " + "b " * 30)
    assert "is 34 tokens long and the model has 20 positions: shorten it" in error


def test_a_run_without_mlm_head_is_refused_by_name(folder, tmp_path, capsys):
    _, run = make_run(tmp_path, "classification")
    assert (
        f"{run}: holds 2 layers of 24, 35 entries, with pooler, classification, and scoring tokens needs"
        in refusal_of(capsys, "evaluate", run, "--text", folder / "text.txt")
    )


def test_text_of_another_script_and_text_that_was_trained_on_are_warned_of(made, folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("кошка сидит на ковре a\nэто другой алфавит b\n\nсобака спит c\nи ещё одна строка d\n")
    data = tmp_path / "data"
    settings = PrepareSettings(kinds=("nsp",), sequence_lengths=(LENGTH,), held_out=0.0)
    prepare([folder / "baseline.txt", text], TOKENIZER, data, settings, workers=1)
    run = tmp_path / "run"
    run.mkdir()
    for file in made[1].iterdir():
        (run / file.name).symlink_to(file)
    (run / "evaluation-text.json").unlink(missing_ok=True)
    (run / "passport.json").symlink_to(data / "passport.json")
    run_stage("evaluate", run, "--text", text, "--data", data, "--pseudo-perplexity", 0)
    errors = capsys.readouterr().err
    assert "warning: 76.5% of the text's tokens are [UNK]" in errors
    assert "warning: text.txt: the run was trained on this file" in errors
    assert "warning: text.txt: the n-gram models are made of this file" in errors
    assert len(json.loads((run / "evaluation-text.json").read_text())["warnings"]) == 3


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "text.txt is missing: check --text"),
        ("", [], "text.txt is empty: remove it or leave it out of --text"),
        ("\n \n", [], "text.txt holds no text: remove it or leave it out of --text"),
        ("a b\n", ["--pseudo-perplexity", "-1"], "--pseudo-perplexity -1 is not possible: use 0 for none, or more"),
        ("a b\n", ["--sequence-length", "16"], "--sequence-length 16 is not one the run was trained at"),
        ("a b\n", ["--split", "train"], "--split goes with --data alone"),
        ("a b\n", ["--output", "no/such/folder.json"], "--output no/such/folder.json: there is no folder"),
        ("a b\n", ["--baseline-text", "no.txt"], "no.txt is missing: check --baseline-text"),
    ],
)
def test_texts_that_cannot_be_scored(made, tmp_path, capsys, text, options, message):
    file = tmp_path / "text.txt"
    if text is not None:
        file.write_text(text)
    printed = refusal_of(capsys, "evaluate", made[1], "--text", file, *options)
    assert message in printed
    assert "--input" not in printed
    assert "--objective" not in printed


def test_options_without_a_text(made, folder, capsys):
    run = str(made[1])
    error = refusal_of(capsys, "evaluate", run)
    assert "nothing to score: give --data DATA (held-out data) or --text TEXT... (any text)" in error
    error = refusal_of(capsys, "evaluate", run, "--data", "data", "--baseline-text", "text.txt")
    assert "--baseline-text goes with --text TEXT...: leave it out" in error
    baseline = str(folder / "baseline.txt")
    data = str(folder / "text-nsp")
    error = refusal_of(capsys, "evaluate", run, "--text", baseline, "--data", data, "--baseline-text", baseline)
    assert "--data and --baseline-text both name the text of the n-gram models" in error
