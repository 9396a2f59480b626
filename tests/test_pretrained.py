# SPDX-License-Identifier: Apache-2.0
"""`bert_jax.load`: the same model and tokenizer from each format, and what it makes of text."""

import re

import jax
import numpy as np
import pytest
from conversion_samples import KINDS, PRETRAINING, sample_weights, write_hugging_face

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.conversion import safetensors_files
from bert_jax.conversion.checkpoints import open_checkpoint
from bert_jax.conversion.convert import convert
from bert_jax.conversion.numpy_bert import forward

TEXTS = ["a b c", ("the a", "of b"), "", "z " * 15, "xyz"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("models") / "huggingface", PRETRAINING)


@pytest.fixture(scope="module")
def model(source):
    return bert_jax.load(source)


def test_outputs_are_those_of_an_independent_forward_pass(source, model):
    """Sequence and pooled output, [CLS] and [SEP] in place, segments of a pair, no trace of padding."""
    encoded = model.encode(TEXTS)
    checkpoint = open_checkpoint(source)
    for number, text in enumerate(TEXTS):
        ids, segments = model.ids(text)
        inputs = {"input_ids": ids, "segment_ids": segments, "input_mask": [1] * len(ids)}
        inputs = {name: np.array([values], np.int32) for name, values in inputs.items()}
        expected = forward(checkpoint.tensors, "hugging_face", PRETRAINING.model, inputs)
        assert encoded.tokens[number] == ids
        np.testing.assert_allclose(encoded.sequence_output[number], expected["sequence_output"][0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(encoded.pooled_output[number], expected["pooled_output"][0], rtol=0, atol=1e-5)
    assert [model.tokenizer.vocabulary[index] for index in encoded.tokens[1]] == [
        "[CLS]",
        "the",
        "a",
        "[SEP]",
        "of",
        "b",
        "[SEP]",
    ]
    assert model.ids(TEXTS[1])[1] == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("format", ["bert-jax", "tf1"])
def test_every_format_gives_the_same(tmp_path, source, model, format):
    if format == "tf1":
        pytest.importorskip("tensorflow", reason="TensorFlow reads its own checkpoints")
    convert(source, tmp_path / "other", format)
    np.testing.assert_array_equal(
        bert_jax.load(tmp_path / "other").encode(TEXTS).pooled_output, model.encode(TEXTS).pooled_output
    )


def test_the_order_and_the_company_of_texts_change_nothing(model):
    alone = [model.encode([text]).pooled_output[0] for text in TEXTS]
    np.testing.assert_allclose(model.encode(TEXTS[::-1]).pooled_output[::-1], alone, rtol=0, atol=1e-6)


def test_a_long_text_is_named(model):
    with pytest.raises(UserError, match=r"text 1 \('b b .*\) is 32 tokens long, and the model has 20 positions"):
        model.encode(["a", "b " * 30])


def test_an_encoder_without_pooler(tmp_path):
    """As sentence embedding models have it."""
    encoded = bert_jax.load(write_hugging_face(tmp_path / "encoder", KINDS["encoder"])).encode(["a b"])
    assert encoded.pooled_output is None
    assert encoded.sequence_output[0].shape == (4, 24)


def test_a_model_without_vocabulary_is_refused(tmp_path):
    folder = write_hugging_face(tmp_path / "source", PRETRAINING)
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match="has no vocabulary"):
        bert_jax.load(folder)


@pytest.mark.parametrize(
    "name",
    ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "pytorch_model.bin", "config.json"],
)
def test_a_link_to_nothing_does_not_pass_for_a_file_left_out(tmp_path, name):
    """As a copy of the hub's cache without what its links lead to: other settings would be taken, or other weights."""
    folder = write_hugging_face(tmp_path / "source", PRETRAINING)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=rf"{name} is a link to nowhere, which is not there: copy the file itself"):
        bert_jax.load(folder)


def test_a_run_that_lost_its_tokenizers_settings_is_not_guessed_at(source, tmp_path):
    """But a vocabulary may be put beside a converted model, which was trained with none that is recorded."""
    run = tmp_path / "run"
    convert(source, run, "bert-jax")
    (run / "tokenizer_config.json").unlink()
    assert bert_jax.load(run).tokenizer.vocab_size == PRETRAINING.model.vocab_size
    (run / "passport.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is missing: copy it"):
        bert_jax.load(run)


def test_every_weight_is_read_once(source, monkeypatch):
    """What is looked at for NaN is what is run."""
    read, read_one = [], safetensors_files._read
    monkeypatch.setattr(
        safetensors_files, "_read", lambda path, name, entry: read.append(name) or read_one(path, name, entry)
    )
    bert_jax.load(source)
    assert sorted(read) == sorted(sample_weights(PRETRAINING))


def test_a_weight_that_is_not_a_number_is_named(tmp_path):
    """By its own name, though layers are stacked once they are loaded."""
    name = "bert.encoder.layer.1.output.dense.bias"
    weights = sample_weights(PRETRAINING)
    weights[name][5] = np.nan
    folder = write_hugging_face(tmp_path / "source", PRETRAINING, weights)
    with pytest.raises(UserError, match=rf"{name} holds 1 values that are not finite, the first at \[5\]"):
        bert_jax.load(folder)


@pytest.mark.filterwarnings("error")
def test_a_weight_beyond_float32_is_one_line(tmp_path):
    weights, name = sample_weights(PRETRAINING), "bert.pooler.dense.weight"
    weights[name] = weights[name].astype(np.float64) * 1e300
    folder = write_hugging_face(tmp_path / "source", PRETRAINING, weights)
    with pytest.raises(UserError, match=f"{name} does not fit into float32"):
        bert_jax.load(folder)


def test_what_overflows_is_no_result(tmp_path, capsys):
    """Weights that are finite, one of them by a flipped bit: vectors of NaN, words of "nan%" and losses of NaN are none."""
    weights, name = sample_weights(PRETRAINING), "bert.encoder.layer.0.output.LayerNorm.weight"
    weights[name][:] = 1e38
    folder = write_hugging_face(tmp_path / "source", PRETRAINING, weights)
    said = r"NaN or infinity .*the largest is 1e\+38, in encoder/layers/.*norm/scale\).*: copy it again"
    with pytest.raises(UserError, match=said):
        bert_jax.load(folder).encode(["a b"])
    text, marked, output = tmp_path / "lines.txt", tmp_path / "marked.tsv", tmp_path / "v.npz"
    marked.write_text("a *b* c .\tone\nthe *b* .\ttwo\n")
    text.write_text("a b c .\nthe a of b .\n\nz a b .\n")
    for stage in (
        ["fill-mask", folder, "a [MASK]"],
        ["embed", folder, "--input", text, "--output", output],
        ["evaluate", folder, "--text", text],
        ["senses", folder, "--input", marked, "--output", tmp_path / "senses"],
    ):
        assert main([str(word) for word in stage]) == 2
        assert re.search(said, capsys.readouterr().err)
    assert not output.exists()


def test_the_module_itself_runs(model):
    """The Flax module with its parameters, for those who build on it."""
    batch = next(model.batches([model.ids("a b c")])).fields
    output = jax.jit(lambda batch: model.model(batch))(batch)
    np.testing.assert_allclose(output.encoder.pooled_output[0, 0], model.encode(["a b c"]).pooled_output[0], atol=1e-5)
    assert output.mlm_logits.shape[-1] == PRETRAINING.model.vocab_size
