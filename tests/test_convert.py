# SPDX-License-Identifier: Apache-2.0
"""Conversion between all formats, with its certificate; what is recognised and named instead of converted."""

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal_of, small_config
from conversion_samples import KINDS, PRETRAINING, sample_weights, VOCABULARY, write_hugging_face, write_own_run
from safetensors.numpy import load_file, save_file

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.conversion.certificate import compare_tensors, differences
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.convert import Certificate, compare, convert
from bert_jax.conversion.tf1 import open_tf1, write_tf1
from bert_jax.runs.directory import open_run
from bert_jax.train.pretraining import pretrain

pytest.importorskip("tensorflow", reason="TensorFlow writes and reads its own checkpoints")


ASKED = Asked()


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_through_every_direction(tmp_path, kind):
    """Six directions, and what comes back is byte for byte what was there."""
    description = KINDS[kind]
    source = write_hugging_face(tmp_path / "huggingface", description)
    ways = [
        ("huggingface", "ours", "bert-jax"),
        ("ours", "google", "tf1"),
        ("google", "huggingface-1", "huggingface"),
        ("huggingface-1", "google-1", "tf1"),
        ("google-1", "ours-1", "bert-jax"),
        ("ours-1", "huggingface-2", "huggingface"),
    ]
    task = description.task.kind if description.task else None
    for begin, end, to in ways:
        asked = replace(ASKED, task=task)
        certificate = convert(tmp_path / begin, tmp_path / end, to, asked)
        assert certificate.holds, certificate.lines()
        outputs = {one.output for one in certificate.differences}
        assert outputs == outputs_of(description)
        assert all(one.largest_value > 0.1 for one in certificate.differences), "outputs that say nothing"
        assert open_checkpoint(tmp_path / end, asked).description.model == description.model
    ours, again = final_parameters(tmp_path / "ours"), final_parameters(tmp_path / "ours-1")
    assert all(again[name].tobytes() == value.tobytes() for name, value in ours.items())
    before = tensors_of(source)
    for name in ("huggingface-1", "huggingface-2"):
        after = tensors_of(tmp_path / name)
        assert after.keys() == before.keys()
        assert all(after[key].tobytes() == value.tobytes() for key, value in before.items())
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["architectures"] == json.loads((source / "config.json").read_text())["architectures"]
        assert config["hidden_act"] == json.loads((source / "config.json").read_text())["hidden_act"]


def outputs_of(description: ModelDescription) -> set[str]:
    has = {"mlm_logits": description.mlm, "nsp_logits": description.nsp, "task_logits": description.task is not None}
    return {
        "sequence_output",
        *(name for name, there in (has | {"pooled_output": description.pooler}).items() if there),
    }


@pytest.mark.parametrize("format", ["huggingface", "tf1", "bert-jax"])
def test_describe_says_what_a_checkpoint_holds(tmp_path, format, capsys):
    """Through the command; the parameters are those that are stored."""
    source = write_hugging_face(tmp_path / "huggingface", PRETRAINING)
    model = source if format == "huggingface" else tmp_path / "model"
    if format != "huggingface":
        convert(source, model, format)
    stored = sum(value.size for name, value in tensors_of(source).items() if "position_ids" not in name)
    assert main(["describe", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == format
    assert facts["encoder_parameters"] + facts["head_parameters"] == stored
    assert facts["model"] == PRETRAINING.to_dict()
    assert facts["dtypes"] == {"float32": facts["tensors"]}
    assert facts["vocabulary"]["entries"] == PRETRAINING.model.vocab_size
    assert main(["describe", str(model)]) == 0
    assert PRETRAINING.summary() in capsys.readouterr().out
    if format == "huggingface":  # a line for each reason
        assert main(["describe", str(model), "--skip", "cls.*"]) == 0
        told = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": left out as asked")]
        assert len(told) == 1
        assert " more: left out as asked" in told[0]
    assert main(["describe", str(model), "seed=1"]) == 2
    assert main(["describe", "tiny", "--gelu", "gelu_erf"]) == 2


# ---- what the wild has ---------------------------------------------------------------------------------------------


def renamed(change: Callable[[str], str]) -> dict[str, np.ndarray]:
    return {change(name): value for name, value in sample_weights(PRETRAINING).items()}


OTHER_NAMES: dict[str, Callable[[str], str]] = {
    "DataParallel's": lambda name: f"module.{name}",
    "of 2018": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    ),
}


@pytest.mark.parametrize("change", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_other_names_of_the_same_tensors(tmp_path, change):
    source = write_hugging_face(tmp_path / "source", PRETRAINING, renamed(change))
    assert convert(source, tmp_path / "result", "huggingface").holds
    after = tensors_of(tmp_path / "result")
    assert all(np.array_equal(after[name], value) for name, value in sample_weights(PRETRAINING).items())


def test_an_encoder_saved_without_its_prefix(tmp_path):
    """As BertModel.save_pretrained writes it, and with the buffer that old versions saved."""
    description = KINDS["encoder and pooler"]
    weights = {name.removeprefix("bert."): value for name, value in sample_weights(description).items()}
    buffer = {"embeddings.position_ids": np.arange(20)[None]}
    source = write_hugging_face(tmp_path / "source", description, weights | buffer)
    certificate = convert(source, tmp_path / "result", "bert-jax")
    assert certificate.holds
    assert certificate.source.skipped == {"embeddings.position_ids": "a buffer of 0, 1, 2, ..."}


def test_what_a_distilled_model_keeps_of_its_training_is_left_out(tmp_path):
    """TinyBERT's checkpoints hold its projection to the teacher's features."""
    projection = {"fit_dense.weight": np.ones((48, 24), np.float32), "fit_dense.bias": np.ones(48, np.float32)}
    source = write_hugging_face(tmp_path / "source", PRETRAINING, sample_weights(PRETRAINING) | projection)
    certificate = convert(source, tmp_path / "result", "bert-jax")
    assert certificate.holds
    assert set(certificate.source.skipped) == set(projection)


def test_second_names_of_tied_tensors_are_skipped_where_equal(tmp_path):
    weights = sample_weights(PRETRAINING)
    second = {
        "cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": weights["cls.predictions.bias"],
    }
    source = write_hugging_face(tmp_path / "source", PRETRAINING, weights | second)
    certificate = convert(source, tmp_path / "result", "bert-jax")
    assert certificate.holds
    assert set(certificate.source.skipped) == set(second)
    other = second | {"cls.predictions.decoder.weight": second["cls.predictions.decoder.weight"] + 1}
    source = write_hugging_face(tmp_path / "other", PRETRAINING, weights | other)
    with pytest.raises(UserError, match=r"decoder\.weight is not equal to bert\.embeddings\.word_embeddings\.weight"):
        convert(source, tmp_path / "no", "bert-jax")


def test_the_bias_of_an_output_matrix_of_its_own(tmp_path):
    """transformers adds the decoder's; the other one is there, not used, and may be anything."""
    weights = sample_weights(KINDS["untied"])
    other = weights | {"cls.predictions.bias": weights["cls.predictions.bias"] + 1}
    certificate = convert(
        write_hugging_face(tmp_path / "source", KINDS["untied"], other), tmp_path / "result", "huggingface"
    )
    assert certificate.holds
    assert "cls.predictions.bias" in certificate.source.skipped
    after = tensors_of(tmp_path / "result")
    for name in ("cls.predictions.bias", "cls.predictions.decoder.bias"):
        np.testing.assert_array_equal(after[name], weights["cls.predictions.decoder.bias"])


def test_half_precision_is_widened_and_comes_back(tmp_path):
    weights = {name: value.astype(np.float16) for name, value in sample_weights(PRETRAINING).items()}
    source = write_hugging_face(tmp_path / "source", PRETRAINING, weights)
    assert convert(source, tmp_path / "ours", "bert-jax").holds
    assert convert(tmp_path / "ours", tmp_path / "back", "huggingface", dtype="float16").holds
    after = tensors_of(tmp_path / "back")
    assert all(after[name].tobytes() == value.tobytes() for name, value in weights.items())
    full = write_hugging_face(tmp_path / "full", PRETRAINING)
    with pytest.raises(UserError, match="does not fit into float16 without loss"):
        convert(full, tmp_path / "no", "huggingface", dtype="float16")
    assert not (tmp_path / "no").exists()


def test_padding_rows_of_the_vocabulary_are_named_and_can_be_dropped(tmp_path):
    """NVIDIA's checkpoints have 30,528 rows for 30,522 entries."""
    model = replace(PRETRAINING.model, vocab_size=len(VOCABULARY) + 6)
    source = write_hugging_face(tmp_path / "source", ModelDescription(model))
    with pytest.raises(
        UserError, match=rf"rows for {len(VOCABULARY) + 6} entries.*has {len(VOCABULARY)}.*padding-rows drop"
    ):
        convert(source, tmp_path / "result", "bert-jax")
    certificate = convert(source, tmp_path / "result", "bert-jax", Asked(padding_rows="drop"))
    assert certificate.holds
    assert certificate.result.description.model.vocab_size == len(VOCABULARY)


# ---- what is refused -----------------------------------------------------------------------------------------------


def edited(name: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    weights = sample_weights(PRETRAINING)
    return weights | {name: change(weights[name])}


LAYER_0 = "bert.encoder.layer.0."
BROKEN = {
    "transposed": (
        edited(f"{LAYER_0}intermediate.dense.weight", np.transpose),
        r"intermediate\.dense\.weight is \[24, 56\], and by the config it should be \[56, 24\]: it is transposed",
    ),
    "not a number": (
        edited(f"{LAYER_0}output.dense.bias", lambda x: np.where(np.arange(24) == 5, np.float32("nan"), x)),
        r"layer\.0\.output\.dense\.bias holds 1 values that are not finite, the first at \[5\]",
    ),
    "swapped LayerNorm": (
        sample_weights(PRETRAINING)
        | {
            f"{LAYER_0}output.LayerNorm.weight": sample_weights(PRETRAINING)[f"{LAYER_0}output.LayerNorm.bias"],
            f"{LAYER_0}output.LayerNorm.bias": sample_weights(PRETRAINING)[f"{LAYER_0}output.LayerNorm.weight"],
        },
        r"layer\.0\.output\.LayerNorm\.weight is .* and .*LayerNorm\.bias .*swapped",
    ),
    "homeless": (
        sample_weights(PRETRAINING) | {"bert.adapter.weight": np.zeros((2, 2), np.float32)},
        r"holds bert\.adapter\.weight, which has no place in a BERT: leave it out by --skip bert\.adapter\.weight",
    ),
    "missing": (
        {
            name: value
            for name, value in sample_weights(PRETRAINING).items()
            if name != f"{LAYER_0}attention.self.key.bias"
        },
        r"lacks bert\.encoder\.layer\.0\.attention\.self\.key\.bias",
    ),
    "a layer missing": (
        {name: value for name, value in sample_weights(PRETRAINING).items() if not name.startswith(LAYER_0)},
        r"holds layers 1 to 1 \(1 of them\) and its config says num_hidden_layers=2",
    ),
    "integers": (
        edited("cls.predictions.bias", lambda x: x.astype(np.int64)),
        r"cls\.predictions\.bias is of type int64",
    ),
}


@pytest.mark.parametrize(("weights", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_tensor_is_named(tmp_path, weights, message):
    source = write_hugging_face(tmp_path / "source", PRETRAINING, weights)
    with pytest.raises(UserError, match=message) as refusal:
        convert(source, tmp_path / "result", "bert-jax")
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


CONFIGS = {
    "another shape": (
        {"hidden_size": 32},
        r"word_embeddings\.weight is \[35, 24\], and by the config it should be \[35, 32\]",
    ),
    "RoBERTa": ({"model_type": "roberta"}, r"roberta model, which is no BERT \(positions count from 2"),
    "rotary": ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
    "relu": ({"hidden_act": "relu"}, "hidden_act=relu: only models with gelu"),
    "words for numbers": ({"hidden_size": "24"}, "hidden_size='24', which is no number"),
    "a word for a switch": (
        {"tie_word_embeddings": "false"},
        "tie_word_embeddings='false', which is neither true nor false",
    ),
    "heads": ({"num_attention_heads": 5}, "hidden_size=24 is not divisible by model.num_attention_heads=5"),
}


@pytest.mark.parametrize(("changes", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_does_not_fit_is_refused(tmp_path, changes, message):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(UserError, match=message):
        convert(source, tmp_path / "result", "bert-jax")


def test_places_that_do_not_fit_are_refused(tmp_path):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no checkpoint: neither config\.json with checkpoints/ \(ours\)"):
        convert(tmp_path / "empty", tmp_path / "result", "tf1")
    with pytest.raises(UserError, match="source is not empty: choose another place"):
        convert(source, source, "tf1")
    (source / "bert_model.ckpt.index").write_bytes(bytes.fromhex("57fb808b247547db"))
    with pytest.raises(UserError, match=r"more than one checkpoint: model\.safetensors .*bert_model\.ckpt \(tf1\)"):
        convert(source, tmp_path / "result", "tf1")


def test_a_run_needs_a_vocabulary(tmp_path):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    vocabulary = (source / "vocab.txt").rename(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match="has no vocabulary, which a run needs: give --vocab"):
        convert(source, tmp_path / "result", "bert-jax")
    assert convert(source, tmp_path / "result", "bert-jax", Asked(vocabulary=vocabulary)).holds


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    (source / "vocab.txt").write_text("".join(f"{entry}\n" for entry in [*VOCABULARY, "more"]))
    with pytest.raises(UserError, match="rows for 35 entries, and the vocabulary has 36: it is another model's"):
        convert(source, tmp_path / "result", "bert-jax")


# ---- the certificate -----------------------------------------------------------------------------------------------


def flipped(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return weights | {
        name: weights[name][::-1] for name in ("cls.seq_relationship.weight", "cls.seq_relationship.bias")
    }


def turned(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return weights | {f"{LAYER_0}attention.self.key.weight": weights[f"{LAYER_0}attention.self.key.weight"].T}


def reordered(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    name = "bert.embeddings.word_embeddings.weight"
    return weights | {name: np.roll(weights[name], 1, axis=0)}


def exchanged(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pair = [f"cls.predictions.transform.LayerNorm.{part}" for part in ("weight", "bias")]
    return weights | dict(zip(pair, (weights[pair[1]], weights[pair[0]]), strict=True))


NEAR_MISSES = {
    "nsp/kernel: its two columns (IsNext, NotNext) are swapped": flipped,
    "encoder/layers/0/attention/key/kernel: is transposed": turned,
    "encoder/embeddings/word: has the same rows in another order: the vocabularies are ordered differently": reordered,
    "mlm/norm: scale and bias are swapped": exchanged,
}


@pytest.mark.parametrize(("finding", "change"), NEAR_MISSES.items())
def test_a_near_miss_is_named(tmp_path, capsys, finding, change):
    """Two checkpoints that are almost the same, and what is the matter with one of them."""
    weights = sample_weights(PRETRAINING)
    first = write_hugging_face(tmp_path / "first", PRETRAINING)
    second = write_hugging_face(tmp_path / "second", PRETRAINING, change(weights))
    assert finding in compare_tensors(open_checkpoint(first), open_checkpoint(second))
    assert main(["convert", "--compare", str(first), str(second)]) == 1
    printed = capsys.readouterr().out
    assert "CERTIFICATE DOES NOT HOLD" in printed
    assert finding in printed


def test_a_pooled_output_is_compared_in_full():
    """Also where the model has as many features as positions, and [B, D] looks like the mask of tokens, [B, S]."""
    valid = np.array([[True, True, False], [True, False, False]])
    outputs = {"pooled_output": np.zeros((2, 3)), "sequence_output": np.zeros((2, 3, 4))}
    spoiled = {name: value.copy() for name, value in outputs.items()}
    spoiled["pooled_output"][1, 2] = 1.0
    spoiled["sequence_output"][~valid] = 1.0
    found = {one.output: one.largest_difference for one in differences(outputs, spoiled, valid)}
    assert found == {"pooled_output": 1.0, "sequence_output": 0.0}


def test_tensors_that_are_equal_are_read_once(tmp_path):
    checkpoint = open_checkpoint(write_hugging_face(tmp_path / "source", PRETRAINING))
    read: list[str] = []
    tensors = replace(checkpoint.tensors, read=lambda name: read.append(name) or checkpoint.tensors.read(name))
    assert compare_tensors(replace(checkpoint, tensors=tensors), checkpoint) == []
    assert sorted(read) == sorted(sample_weights(PRETRAINING))


def test_the_certificate_says_what_was_done(tmp_path, capsys):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    assert main(["convert", str(source), str(tmp_path / "google"), "--to", "tf1"]) == 0
    printed = capsys.readouterr().out
    tensors = len(sample_weights(PRETRAINING))
    assert f"certificate holds: {tensors} tensors are bit for bit the same" in printed
    record = json.loads((tmp_path / "google" / "conversion.json").read_text())
    assert record["holds"]
    assert len(record["tensors"]) == tensors
    assert {one["output"] for one in record["outputs"]} == {
        "sequence_output",
        "pooled_output",
        "mlm_logits",
        "nsp_logits",
    }
    assert record["weights_sha256"]["source"] == record["weights_sha256"]["result"]
    assert record["source"]["files"].keys() == {
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    }
    assert "is not empty" in refusal_of(capsys, "convert", source, source, "--to", "tf1")


def test_a_result_that_is_not_the_source_is_not_put_in_its_place(tmp_path, monkeypatch):
    """A tensor is changed on its way into the file."""
    from bert_jax.conversion import writing as module

    def spoiled(path: Path, tensors) -> None:
        arrays = {tensor.name: tensor.make() for tensor in tensors}
        arrays["bert.pooler.dense.bias"] = arrays["bert.pooler.dense.bias"] + np.float32(0.5)
        save_file(arrays, path, {"format": "pt"})

    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    monkeypatch.setattr(module, "write_safetensors", spoiled)
    certificate = convert(source, tmp_path / "result", "huggingface")
    assert not certificate.holds
    assert [one.output for one in certificate.differences if not one.holds] == ["pooled_output", "nsp_logits"]
    assert certificate.unequal == ["encoder/pooler/bias: differs in 24 of 24 values, by up to 0.5"]
    assert not (tmp_path / "result").exists()


# ---- what comes along ----------------------------------------------------------------------------------------------


def test_the_form_of_gelu_is_never_guessed_silently(tmp_path):
    """Google's gelu is the tanh form, and may be declared to be the erf form of 2018."""
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    convert(source, tmp_path / "google", "tf1")
    certificate = convert(tmp_path / "google", tmp_path / "tanh", "huggingface")
    assert any("hidden_act=gelu is taken for gelu_tanh" in note for note in certificate.lines())
    assert json.loads((tmp_path / "tanh" / "config.json").read_text())["hidden_act"] == "gelu_new"
    convert(tmp_path / "google", tmp_path / "erf", "huggingface", Asked(gelu="gelu_erf"))
    assert json.loads((tmp_path / "erf" / "config.json").read_text())["hidden_act"] == "gelu"


def test_what_tf1_does_not_say_is_said(tmp_path):
    """Labels that are lost, what a head is taken for, and whether text is lower-cased."""
    source = write_hugging_face(tmp_path / "source", KINDS["classification"])
    certificate = convert(source, tmp_path / "google", "tf1")
    assert "the labels no, yes, ? are left out: a TF1 checkpoint has no place for them" in certificate.notes
    certificate = convert(tmp_path / "google", tmp_path / "guessed", "bert-jax")
    case = "text is taken to be lower-cased: 0 of the 35 entries of vocab.txt have capital letters"
    taken = "output_weights of 3 outputs is taken for a classification"
    assert [any(note.startswith(words) for note in certificate.notes) for words in (case, taken)] == [True, True]
    told = open_checkpoint(tmp_path / "google", Asked(task="tagging"))
    assert not any(note.startswith(taken) for note in told.notes)
    assert open_checkpoint(source).notes == (), "Hugging Face's files say it all"


def test_entries_that_no_text_reaches_are_counted_and_stay(tmp_path):
    """An empty line and a repeated one, as published vocabularies have them: no id moves on the way there."""
    source = write_hugging_face(tmp_path / "source", KINDS["classification"])
    entries = (source / "vocab.txt").read_text().split("\n")[:-1]
    entries[7], entries[9] = "", entries[12]
    (source / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries))
    notes = convert(source, tmp_path / "run", "bert-jax").notes
    assert any(note.startswith("2 of the 35 entries of the vocabulary, the first of them id 7,") for note in notes)
    assert open_checkpoint(tmp_path / "run").tokenizer.vocabulary == tuple(entries)


def test_a_head_on_the_tokens_is_asked_for_where_there_is_no_pooler(tmp_path):
    source = write_hugging_face(tmp_path / "source", KINDS["tagging"])
    certificate = convert(source, tmp_path / "google", "tf1")
    assert "nothing there says what the head is for: it is read again by --kind tagging" in certificate.notes
    with pytest.raises(
        UserError, match="has no pooler, which a head for classification stands on: give --kind tagging"
    ):
        open_checkpoint(tmp_path / "google")
    assert open_checkpoint(tmp_path / "google", Asked(task="tagging")).description.task.kind == "tagging"


@pytest.mark.parametrize("more", [{"layers": (-2, -1)}, {"lstm": 8}, {"fusion": "attention"}])
def test_a_head_that_no_other_format_has_is_refused(tmp_path, more):
    description = replace(PRETRAINING, task=TaskHead("classification", 2, **more))
    write_own_run(tmp_path / "run")
    (tmp_path / "run" / "model.json").write_text(json.dumps(description.to_dict()))
    with pytest.raises(UserError, match=r"its head for classification is more than a dense layer .*bert-jax predict"):
        convert(tmp_path / "run", tmp_path / "result", "huggingface")


def test_options_without_a_use_are_refused(tmp_path, capsys):
    """An answer to what was not asked: the user takes the checkpoint for another one."""
    write_own_run(tmp_path / "run")
    write_hugging_face(tmp_path / "tags", KINDS["classification"])
    refused = {
        ("run", "--to tf1 --kind tagging"): "--kind tagging: {} has no fine-tuned head: leave the option out",
        ("run", "--to tf1 --gelu gelu_erf"): "--gelu gelu_erf: {} is a run and says hidden_act=gelu_tanh itself",
        ("tags", "--to tf1 --kind span"): "--kind span: {} has a head for classification: leave the option out",
        ("tags", "--to tf1 --kind regression"): "classifier.weight of 3 outputs: task.outputs=3 is not possible",
        (
            "run",
            "--to tf1 --peer-python .",
        ): "--peer-python runs Hugging Face's side, and here bert-jax stands against tf1",
        ("run", "--to tf1 --compare A B"): "--compare A B writes nothing: leave out MODEL, DST, --to, --dtype",
    }
    for (name, options), message in refused.items():
        source = str(tmp_path / name)
        assert message.format(source) in refusal_of(
            capsys, "convert", source, tmp_path / "result", *options.split()
        ).replace(f"{source}/model.safetensors", source)
        assert not (tmp_path / "result").exists()
    with pytest.raises(UserError, match="--peer-python runs Hugging Face's side"):
        compare(tmp_path / "run", tmp_path / "run", ASKED, Path("python"))


def test_a_converted_run_fills_masks(tmp_path, capsys):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    convert(source, tmp_path / "run", "bert-jax")
    assert main(["fill-mask", str(tmp_path / "run"), "a [MASK] c [SEP] the b"]) == 0
    assert "[MASK]" in capsys.readouterr().out
    assert open_run(tmp_path / "run").config().model == PRETRAINING.model


def google_run(folder: Path, source: Path) -> Certificate:
    """A TF1 checkpoint of a training run: with Adam's moments and the number of steps."""
    from bert_jax.conversion.tensors import TensorEntry, Writable

    certificate = convert(source, folder / "weights", "tf1")
    tensors = open_tf1(folder / "weights" / "bert_model.ckpt")
    arrays = {name: tensors.read(name) for name in tensors.entries}
    rng = np.random.default_rng(0)
    slots = {
        f"{name}/{slot}": rng.random(array.shape, np.float32)
        for name, array in arrays.items()
        for slot in ("adam_m", "adam_v")
    }
    arrays |= slots | {"global_step": np.array(1234, np.int64)}
    (folder / "run").mkdir()
    write_tf1(
        folder / "run" / "model.ckpt-1234",
        [
            Writable(name, TensorEntry(array.shape, array.dtype.name), lambda array=array: array)
            for name, array in arrays.items()
        ],
    )
    for name in ("bert_config.json", "vocab.txt"):
        (folder / "weights" / name).rename(folder / "run" / name)
    return certificate


def test_moments_and_steps_come_along(tmp_path):
    """A Google run -> ours -> Google's: every slot is byte for byte the same."""
    google_run(tmp_path, write_hugging_face(tmp_path / "source", PRETRAINING))
    certificate = convert(tmp_path / "run", tmp_path / "ours", "bert-jax")
    assert certificate.holds
    assert "with the optimizer's moments after 1,234 steps" in certificate.notes
    assert convert(tmp_path / "ours", tmp_path / "back", "tf1").holds
    before, after = (open_tf1(tmp_path / name) for name in ("run/model.ckpt-1234", "back/bert_model.ckpt"))
    assert before.entries == after.entries
    assert all(before.read(name).tobytes() == after.read(name).tobytes() for name in before.entries)


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_a_run_keeps_its_own_recipe(tmp_path, optimizer):
    """From ours to ours: the configuration and the moments, whichever optimizer's; what is wrong with it is TF1's matter."""
    config = write_own_run(tmp_path / "run", name=optimizer, clip_norm=0.0)
    certificate = convert(tmp_path / "run", tmp_path / "again", "bert-jax")
    assert certificate.holds, certificate.lines()
    assert certificate.notes == ["with the optimizer's moments after 7 steps"]
    assert open_run(tmp_path / "again").config() == config
    said = convert(tmp_path / "run", tmp_path / "google", "tf1").notes
    assert any(f"the run was trained with {optimizer}" in note for note in said)


def short_config(**changes) -> PretrainConfig:
    """One phase, evaluated at its end: as little to compile as a run has."""
    settings = {"phases": small_config().phases[:1], "eval_every": 0, "save_every": 4} | changes
    return small_config(**settings)


@pytest.fixture(scope="module")
def straight(prepared, tmp_path_factory) -> Path:
    """A run of ours with a checkpoint after 4 of its 8 steps."""
    run = tmp_path_factory.mktemp("straight") / "run"
    pretrain(short_config(), prepared.data, run, resume_command="")
    return run


def final_parameters(run: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(run)
    return {row.ours: checkpoint.weight(row) for row in checkpoint.rows}


def test_moments_that_are_not_the_source_s_are_named(tmp_path, straight, monkeypatch):
    from bert_jax.conversion import writing as module

    def spoiled(path, tensors) -> None:
        changed = [
            tensor._replace(make=lambda old=tensor.make: old() + 1)
            if tensor.name == "bert/pooler/dense/bias/adam_v"
            else tensor
            for tensor in tensors
        ]
        write_tf1(path, changed)

    monkeypatch.setattr(module, "write_tf1", spoiled)
    certificate = convert(straight, tmp_path / "google", "tf1")
    assert certificate.unequal == ["encoder/pooler/bias: adam_v differs"]
    assert not certificate.holds
    assert certificate.left_in is not None
    assert certificate.left_in.is_dir()


def test_rows_go_with_their_moments_where_that_is_asked(tmp_path):
    """Of a run of ours, and of a TF1 checkpoint."""
    write_own_run(tmp_path / "run", more_rows=5)
    drop = Asked(padding_rows="drop")
    ways = [("run", "whole", "tf1", ASKED), ("run", "google", "tf1", drop), ("whole", "again", "bert-jax", drop)]
    for begin, end, to, asked in ways:
        certificate = convert(tmp_path / begin, tmp_path / end, to, asked)
        assert certificate.holds, certificate.lines()
        rows = len(VOCABULARY) + (5 if asked is ASKED else 0)
        assert certificate.result.description.model.vocab_size == rows
        assert "with the optimizer's moments after 7 steps" in certificate.notes
    entries = open_tf1(tmp_path / "google" / "bert_model.ckpt").entries
    assert entries["bert/embeddings/word_embeddings/adam_v"].shape == (len(VOCABULARY), 24)


def test_nothing_that_was_there_is_removed(tmp_path):
    """Even where the source has the name that a result might have had while it is written."""
    source = write_hugging_face(tmp_path / "x.partial", PRETRAINING)
    assert convert(source, tmp_path / "x", "bert-jax").holds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.partial"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a link or the current folder"):
        convert(source, tmp_path / "link", "tf1")


def test_an_output_matrix_of_its_own_must_be_there(tmp_path):
    weights = sample_weights(KINDS["untied"])
    weights = {name: value for name, value in weights.items() if "decoder" not in name}
    source = write_hugging_face(tmp_path / "source", KINDS["untied"], weights)
    with pytest.raises(
        UserError, match=r"lacks cls\.predictions\.decoder\.weight, and its config says tie_word_embeddings=false"
    ):
        convert(source, tmp_path / "result", "bert-jax")


def test_models_that_are_not_alike_do_not_pass_for_the_same(tmp_path, capsys):
    whole = write_hugging_face(tmp_path / "whole", PRETRAINING)
    part = write_hugging_face(tmp_path / "part", KINDS["encoder"])
    assert main(["convert", "--compare", str(part), str(whole)]) == 1
    assert f"mlm/bias: only in {whole}" in capsys.readouterr().out
    other = ModelDescription(replace(PRETRAINING.model, intermediate_size=32))
    write_hugging_face(tmp_path / "other", other)
    error = refusal_of(capsys, "convert", "--compare", whole, tmp_path / "other")
    assert "are different models: intermediate_size 56 and 32" in error


def test_tensors_are_left_out_as_asked(tmp_path):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    nsp = tuple(f"cls.seq_relationship.{part}" for part in ("weight", "bias"))
    certificate = convert(source, tmp_path / "result", "huggingface", Asked(skip=nsp))
    assert certificate.holds
    assert not certificate.result.description.nsp
    with pytest.raises(UserError, match=r"--skip none\.such: .* holds no such tensor"):
        convert(source, tmp_path / "no", "huggingface", Asked(skip=("none.such",)))


def test_a_finished_conversion_is_recognised_by_its_content(tmp_path, capsys):
    """Given again, also by another path: nothing is done. Of other weights, or with other options: refused."""
    source = write_hugging_face(tmp_path / "source", KINDS["encoder"])
    result = tmp_path / "result"
    command = ["convert", str(source), str(result), "--to", "huggingface"]
    assert main(command) == 0
    times = {file.name: file.stat().st_mtime_ns for file in result.iterdir()}
    moved = source.rename(tmp_path / "moved")
    command[1] = f"{moved}/"
    capsys.readouterr()
    assert main(command) == 0
    assert "holds this conversion already" in capsys.readouterr().out
    assert {file.name: file.stat().st_mtime_ns for file in result.iterdir()} == times
    assert "holds another conversion (asked differ)" in refusal_of(capsys, *command, "--gelu", "gelu_erf")
    (result / "vocab.txt").write_text("changed")
    assert f"{result / 'vocab.txt'} was changed since it was converted" in refusal_of(capsys, *command)
    (moved / "vocab.txt").write_text("".join(f"{entry}\n" for entry in reversed(VOCABULARY)))
    assert "holds another conversion (files of MODEL differ)" in refusal_of(capsys, *command)


def test_what_a_killed_conversion_left_is_removed(tmp_path, capsys):
    """Not what another process works in, what did not hold and was told of, or what has another name."""
    source = write_hugging_face(tmp_path / "source", KINDS["encoder"])
    folders = {
        name: tmp_path / name for name in ("x.partial-killed", "x.partial-kept", "x.partial-busy", "y.partial-z")
    }
    for folder in folders.values():
        folder.mkdir()
        (folder / "config.json").touch()
    (folders["x.partial-kept"] / "conversion.json").touch()
    busy = os.open(folders["x.partial-busy"], os.O_RDONLY)
    fcntl.flock(busy, fcntl.LOCK_EX)
    try:
        assert convert(source, tmp_path / "x", "huggingface").holds
    finally:
        os.close(busy)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["source", "x", "x.partial-busy", "x.partial-kept", "y.partial-z"]
    assert "removed" in capsys.readouterr().err
