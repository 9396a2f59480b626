# SPDX-License-Identifier: Apache-2.0
"""The table of names against Google's own checkpoints and Hugging Face's own names."""

from dataclasses import replace

import pytest
from conftest import real_data
from conversion_samples import hugging_face_shapes, KINDS, PRETRAINING

from bert_jax.config.description import ModelDescription
from bert_jax.conversion import names
from bert_jax.conversion.config_files import read_google
from bert_jax.conversion.names import HUGGING_FACE, TF1
from bert_jax.conversion.tf1 import open_tf1


def stored_shape(row: names.NameRow, format: str, description: ModelDescription) -> tuple[int, ...]:
    shape = names.shape_of(row, description)
    return shape[::-1] if row.is_transposed(format) else shape


@pytest.mark.parametrize("size", ["uncased_L-4_H-256_A-4", "uncased_L-8_H-512_A-8"])
def test_names_and_shapes_of_published_checkpoints(size):
    """Genuine .index files of Google's: every name and shape is in the table, and nothing else is."""
    pytest.importorskip("tensorflow", reason="TensorFlow reads its own checkpoints")
    folder = real_data(f"tf1-index/{size}")
    description = ModelDescription(read_google(folder / "bert_config.json")[0])
    entries = open_tf1(folder / "bert_model.ckpt").entries
    expected = {row.tf1: stored_shape(row, TF1, description) for row in names.rows_of(description)}
    assert expected == {name: entry.shape for name, entry in entries.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_of_hugging_face(kind):
    description = KINDS[kind]
    expected = hugging_face_shapes(description)
    expected.pop(names.DECODER_BIAS, None)
    rows = names.rows_of(description)
    assert {row.huggingface: stored_shape(row, HUGGING_FACE, description) for row in rows} == expected
    for format in (names.BERT_JAX, TF1):
        assert len({row.name(format) for row in rows}) == len(rows)


def test_layers_are_numbered():
    twelve = replace(PRETRAINING, model=replace(PRETRAINING.model, num_hidden_layers=12))
    rows = names.rows_of(twelve)
    assert len(rows) == 206
    row = next(row for row in rows if row.ours == "encoder/layers/11/feed_forward/output/kernel")
    assert row.huggingface == "bert.encoder.layer.11.output.dense.weight"
    assert row.tf1 == "bert/encoder/layer_11/output/dense/kernel"
