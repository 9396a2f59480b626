# SPDX-License-Identifier: Apache-2.0
"""Weights as people have them: behind a prefix, in two files, for other frameworks, with an optimizer's tensors beside them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conversion_samples import KINDS, PRETRAINING, sample_weights, write_hugging_face
from safetensors.numpy import save_file
from test_torch_files import storage, tensor, zip_of

from bert_jax.base.errors import UserError
from bert_jax.conversion import checkpoints, names
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.config_files import google_config
from bert_jax.conversion.names import HUGGING_FACE, prefix_of, TF1
from bert_jax.conversion.optimizer_state import optimizer_for
from bert_jax.conversion.slots import moments_of, optimizer_tensors
from bert_jax.conversion.tensors import stored, TensorEntry
from bert_jax.runs.directory import open_run

DESCRIPTION = KINDS["classification"]
WEIGHTS = sample_weights(DESCRIPTION)


def source_of(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    return write_hugging_face(folder, DESCRIPTION, weights)


# ---- prefixes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.", "student.net.", "bert."])
def test_any_prefix_is_taken_off_and_said(tmp_path, prefix):
    """torch.compile, DataParallel, Lightning and people's own classes; the bug: "was cut or never whole"."""
    source = source_of(tmp_path / "source", {f"{prefix}{name}": array for name, array in WEIGHTS.items()})
    checkpoint = open_checkpoint(source)
    assert f"the names of the tensors begin with {prefix}, which is taken off" in checkpoint.notes
    row = next(row for row in checkpoint.rows if row.ours == "encoder/layers/1/feed_forward/output/kernel")
    np.testing.assert_array_equal(checkpoint.weight(row), WEIGHTS[row.huggingface].T)


def test_a_prefix_of_the_encoder_alone(tmp_path):
    """Own classes keep the encoder under another name than `bert`, and the head beside it."""
    weights = {name.replace("bert.", "backbone.", 1): array for name, array in WEIGHTS.items()}
    assert open_checkpoint(source_of(tmp_path / "source", weights)).description == DESCRIPTION


def test_prefixes_of_tensorflow_and_of_two_encoders():
    word = "bert/embeddings/word_embeddings"
    assert prefix_of([f"module/{word}", f"module/{word}/adam_m", "global_step"], TF1) == "module/"
    assert prefix_of([word, "global_step"], TF1) == ""
    two = [f"{side}.embeddings.word_embeddings.weight" for side in ("query", "document")]
    assert prefix_of(two, HUGGING_FACE) == ""


def test_cut_is_said_only_of_what_was_cut(tmp_path):
    whole = source_of(
        tmp_path / "cut", {name: array for name, array in WEIGHTS.items() if "layer.1.output" not in name}
    )
    with pytest.raises(UserError, match=r"lacks bert\.encoder\.layer\.1\.output.*: it was cut or never whole"):
        open_checkpoint(whole)
    renamed = {name.replace("attention.self", "mha"): array for name, array in WEIGHTS.items()}
    with pytest.raises(UserError, match=r"holds 12 tensors that are called otherwise than a BERT's \(.*mha\.query"):
        open_checkpoint(source_of(tmp_path / "renamed", renamed))


def test_patterns_leave_out_several(tmp_path):
    more = {f"ema.{number}": np.zeros(2, np.float32) for number in range(3)}
    source = source_of(tmp_path / "source", WEIGHTS | more)
    with pytest.raises(UserError, match=r"ema\.0, ema\.1, ema\.2, which has no place .* --skip ema\.0, .*\(a pattern"):
        open_checkpoint(source)
    assert set(open_checkpoint(source, Asked(skip=("ema.*",))).skipped) == set(more)
    with pytest.raises(UserError, match=r"--skip exp\*: .* holds no such tensor"):
        open_checkpoint(source, Asked(skip=("exp*",)))


# ---- several files -------------------------------------------------------------------------------------------------


def write_torch(path: Path, weights: dict[str, np.ndarray]) -> None:
    arrays = {str(number): np.ascontiguousarray(array) for number, array in enumerate(weights.values())}
    strides = [tuple(step // array.itemsize for step in array.strides) for array in arrays.values()]
    content = {
        name: tensor(storage(key, array), array.shape, step)
        for name, (key, array), step in zip(weights, arrays.items(), strides, strict=True)
    }
    path.write_bytes(zip_of(content, arrays))


def test_safetensors_beside_the_same_in_torch(tmp_path):
    """As in most repositories: what the older file has besides are buffers and tied tensors."""
    description = PRETRAINING
    weights = sample_weights(description)
    source = write_hugging_face(tmp_path / "source", description, weights)
    buffers = {"bert.embeddings.position_ids": np.arange(20)[None]}
    buffers["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    write_torch(source / "pytorch_model.bin", {f"module.{name}": array for name, array in (weights | buffers).items()})
    said = f"model.safetensors is read, not pytorch_model.bin beside it, which holds the same {len(weights)} tensors"
    assert said in open_checkpoint(source).notes
    (source / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert any("pytorch_model.bin beside it, which is no whole" in note for note in open_checkpoint(source).notes)


@pytest.mark.parametrize("change", ["a value", "a tensor more", "a shape"])
def test_other_weights_beside_them_are_refused(tmp_path, change):
    source = source_of(tmp_path / "source", WEIGHTS)
    others = dict(WEIGHTS)
    if change == "a value":
        others["classifier.bias"] = others["classifier.bias"] + 1
    elif change == "a shape":
        others["classifier.bias"] = others["classifier.bias"][:2]
    else:
        others["dense.bias"] = np.zeros(2, np.float32)
    write_torch(source / "pytorch_model.bin", others)
    name = "dense.bias" if change == "a tensor more" else "classifier.bias"
    with pytest.raises(UserError, match=rf"{name}.*: name the file that is meant, such as .*model\.safetensors"):
        open_checkpoint(source)
    assert open_checkpoint(source / "model.safetensors").description == DESCRIPTION


@pytest.mark.parametrize(("file", "option"), [("tf_model.h5", "from_tf"), ("flax_model.msgpack", "from_flax")])
def test_weights_of_other_frameworks_are_named_with_the_way(tmp_path, file, option):
    (tmp_path / file).touch()
    for path in (tmp_path, tmp_path / file):
        with pytest.raises(UserError, match=rf"holds {file} alone, .*{option}=True"):
            open_checkpoint(path)


def test_a_run_is_asked_for_and_the_way_to_one_is_told(tmp_path):
    """`fill-mask`, `evaluate`: the checkpoint of another format, by its directory, its file or its prefix."""
    source = source_of(tmp_path / "source", WEIGHTS)
    (tmp_path / "bert_model.ckpt.index").touch()
    for path, whose in (
        (source, "Hugging Face"),
        (source / "model.safetensors", "Hugging Face"),
        (tmp_path, "TensorFlow 1"),
        (tmp_path / "bert_model.ckpt", "TensorFlow 1"),
    ):
        with pytest.raises(UserError, match=rf"is a checkpoint of {whose}.*bert-jax convert {path} RUN --to bert-jax"):
            open_run(path)


# ---- an optimizer's tensors ----------------------------------------------------------------------------------------

VARIABLES = {
    "bert/x/kernel": TensorEntry((6, 4), "float32"),
    "bert/x/bias": TensorEntry((4,), "float32"),
    "output_bias": TensorEntry((3,), "float32"),
}


@pytest.mark.parametrize(
    ("name", "shape", "slot"),
    [
        ("bert/x/kernel/BERTAdam_1", (6, 4), "BERTAdam_1"),
        ("bert/x/kernel/LAMB", (6, 4), "LAMB"),
        ("bert/x/bias/Momentum", (4,), "Momentum"),
        ("bert/x/kernel/ExponentialMovingAverage", (6, 4), "ExponentialMovingAverage"),
        ("bert/x/kernel_slot_vr", (6,), "slot_vr"),  # factored, as Adafactor keeps them
        ("bert/x/kernel_slot_vc", (4,), "slot_vc"),
        ("training/Adam/bert/x/kernel/m", (6, 4), "training/Adam/m"),
        ("output_bias/.OPTIMIZER_SLOT/optimizer/v", (3,), ".OPTIMIZER_SLOT/optimizer/v"),
        ("beta1_power", (), "beta1_power"),
        ("current_loss_scale", (), "current_loss_scale"),
        ("good_steps", (1,), "good_steps"),
        ("bert/x/kernel/adapter", (6, 9), None),  # another shape: it may be a part of the model
        ("bert/y/kernel/Adam", (6, 4), None),
        ("mix/scale", (), None),
        ("beta1_power", (2,), None),
    ],
)
def test_an_optimizers_tensors_are_known_by_name_and_shape(name, shape, slot):
    found = optimizer_tensors({name: TensorEntry(shape, "float32")}, VARIABLES)
    assert found == ({} if slot is None else {name: slot})


def test_which_slots_are_moments():
    def entries(*slots: str) -> dict[str, TensorEntry]:
        return {f"bert/x/kernel/{slot}": TensorEntry((6, 4), "float32") for slot in slots} | {
            "global_step": TensorEntry((), "int64")
        }

    assert moments_of(entries("adam_m", "adam_v")) == ("adam_m", "adam_v")
    assert moments_of(entries("Adam", "Adam_1")) == ("Adam", "Adam_1")
    assert moments_of(entries("BERTAdam_1", "BERTAdam")) == ("BERTAdam", "BERTAdam_1")
    assert moments_of(entries("LAMB", "LAMB_1")) is None
    assert moments_of(entries("Adam")) is None
    assert moments_of({"bert/x/kernel/Adam": VARIABLES["bert/x/kernel"]}) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_moments_of_another_adam_are_read(tmp_path, monkeypatch, sign):
    """As tf.train.Adam names them; the run goes on from them as from Google's own. One that is negative is none."""
    description = KINDS["encoder"]
    arrays: dict[str, np.ndarray] = {"global_step": np.array(1234), "beta1_power": np.array(0.1, np.float32)}
    for row in names.rows_of(description):
        shape = names.shape_of(row, description)
        value = np.arange(math.prod(shape), dtype=np.float32).reshape(shape[::-1] if row.tf1_transposed else shape)
        arrays |= {row.tf1: value, f"{row.tf1}/Adam": value / 2, f"{row.tf1}/Adam_1": sign * value / 4}
    (tmp_path / "bert_model.ckpt.index").write_bytes(bytes.fromhex("57fb808b247547db"))
    (tmp_path / "bert_config.json").write_text(json.dumps(google_config(description)[0]))
    monkeypatch.setattr(checkpoints, "open_tf1", lambda path: stored(path, arrays))
    checkpoint = open_checkpoint(tmp_path)
    state, notes = optimizer_for(checkpoint, names.BERT_JAX)
    assert state is not None
    assert state.step == 1234
    assert any(note.startswith("Adam and Adam_1 are taken for the first and second moments") for note in notes)
    assert checkpoint.skipped["beta1_power"] == "an optimizer's: beta1_power"
    row = checkpoint.rows[0]
    if sign == 1:
        np.testing.assert_array_equal(state.moments(row)[1], arrays[f"{row.tf1}/Adam_1"])
    else:
        with pytest.raises(UserError, match=r"Adam_1 holds negative numbers, .* --skip '\*/Adam'"):
            state.moments(row)


def test_one_file_of_safetensors_is_enough(tmp_path):
    source = source_of(tmp_path / "source", WEIGHTS)
    save_file(WEIGHTS, source / "other.safetensors")
    assert open_checkpoint(source).notes == ()
