# SPDX-License-Identifier: Apache-2.0
"""The pre-training heads: against Hugging Face's, tied and untied, and what they see.

tests/golden/bert_torch.npz holds outputs of Hugging Face's model, made by tests/golden_from_torch.py; test_encoder.py
compares the whole network with it, here the heads stand alone.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_from_torch import formula_weights, SIZES

from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.model.encoder import Compute, Dense
from bert_jax.model.heads import BertModel, MlmHead

GOLDEN_ACTS = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new"}  # ours -> Hugging Face's

SMALL = ModelConfig(
    vocab_size=30,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
    initializer_range=0.3,
)


@cache
def golden_file() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "golden" / "bert_torch.npz") as file:
        return dict(file)


@cache
def golden_weights() -> dict[str, np.ndarray]:
    prefix = "gelu/gradient/"
    names = [name for name in golden_file() if name.startswith(prefix)]
    return formula_weights({name.removeprefix(prefix): golden_file()[name].shape for name in names})


# ---- against Hugging Face's model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_act", GOLDEN_ACTS)
def test_mlm_head_equals_hugging_face(hidden_act):
    """Dense, GELU, LayerNorm, the transposed word embedding, bias."""
    file, weights = golden_file(), golden_weights()
    head = MlmHead(ModelConfig(**SIZES, hidden_act=hidden_act), Compute(), rngs=nnx.Rngs(0))
    head.transform.kernel[...] = jnp.asarray(weights["cls.predictions.transform.dense.weight"].T)
    head.transform.bias[...] = jnp.asarray(weights["cls.predictions.transform.dense.bias"])
    head.norm.scale[...] = jnp.asarray(weights["cls.predictions.transform.LayerNorm.weight"])
    head.norm.bias[...] = jnp.asarray(weights["cls.predictions.transform.LayerNorm.bias"])
    head.bias[...] = jnp.asarray(weights["cls.predictions.bias"])

    # The file keeps valid tokens only: where the masked ones stand among them.
    valid = file["inputs/input_mask"].reshape(-1)
    rows, slots = np.nonzero(file["inputs/masked_lm_weights"])
    flat = rows * file["inputs/input_mask"].shape[1] + file["inputs/masked_lm_positions"][rows, slots]
    picked = (np.cumsum(valid) - 1)[flat]

    word_embedding = jnp.asarray(weights["bert.embeddings.word_embeddings.weight"])
    theirs, other = (f"{GOLDEN_ACTS[act]}/" for act in (hidden_act, *(GOLDEN_ACTS.keys() - {hidden_act})))
    sequence_output = file[f"{theirs}hidden_states"][-1]
    logits = np.asarray(head(sequence_output[None, picked], word_embedding))[0]
    np.testing.assert_allclose(logits, file[f"{theirs}mlm_logits"], rtol=1e-5, atol=1e-5)
    assert np.abs(logits - file[f"{other}mlm_logits"]).max() > 1e-3, "the forms of GELU could be mixed up"


def test_nsp_head_equals_hugging_face():
    """The order of the two logits, IsNext then NotNext, is theirs."""
    file, weights = golden_file(), golden_weights()
    head = Dense(SIZES["hidden_size"], 2, ModelConfig(**SIZES), Compute(), rngs=nnx.Rngs(0))
    head.kernel[...] = jnp.asarray(weights["cls.seq_relationship.weight"].T)
    head.bias[...] = jnp.asarray(weights["cls.seq_relationship.bias"])
    logits = head(jnp.asarray(file["gelu/pooled_output"]))
    np.testing.assert_allclose(logits, file["gelu/nsp_logits"], rtol=0, atol=1e-5)


# ---- what the heads see --------------------------------------------------------------------------------------------


def example_batch() -> dict[str, np.ndarray]:
    """Row 0 packs two examples of 6 and 4 tokens, row 1 holds one of 8; M = 3 predictions in a row."""
    ids = np.arange(1, 25, dtype=np.int32).reshape(2, 12)
    positions = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    positions[0, 6:10] = np.arange(4)
    return {
        "input_ids": ids,
        "segment_ids": (positions > 2).astype(np.int32),
        "sequence_ids": np.array([[1] * 6 + [2] * 4 + [0] * 2, [1] * 8 + [0] * 4], np.int32),
        "position_ids": positions,
        "masked_lm_positions": np.array([[1, 4, 7], [2, 5, 0]], np.int32),
        "cls_positions": np.array([[0, 6], [0, 0]], np.int32),
    }


@cache
def small_model(tied: bool) -> tuple[Any, Any]:
    """The jitted model, (parameters, batch) -> (MLM logits, NSP logits), and its parameters."""

    def create() -> BertModel:
        return BertModel(ModelDescription(replace(SMALL, tie_word_embeddings=tied)), rngs=nnx.Rngs(0))

    graph = nnx.split(nnx.eval_shape(create))[0]

    @jax.jit
    def predict(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        output = nnx.merge(graph, params)(batch)
        return output.mlm_logits, output.nsp_logits

    return predict, jax.jit(lambda: nnx.to_pure_dict(nnx.state(create())))()


def test_mlm_head_sees_the_masked_positions_only():
    """Logits of M positions, not S; a slot's position decides about that slot alone."""
    predict, params = small_model(True)
    batch = example_batch()
    logits, nsp = map(np.asarray, predict(params, batch))
    assert logits.shape == (2, 3, 30)
    assert nsp.shape == (2, 2, 2)
    assert logits.dtype == nsp.dtype == np.float32

    moved = batch | {"masked_lm_positions": np.array([[1, 8, 7], [2, 5, 0]], np.int32)}
    found, nsp_found = map(np.asarray, predict(params, moved))
    changed = np.abs(found - logits).max(-1) > 0  # [B, M]
    np.testing.assert_array_equal(changed, [[False, True, False], [False, False, False]])
    np.testing.assert_array_equal(nsp_found, nsp)

    swapped = batch | {"masked_lm_positions": batch["masked_lm_positions"][:, ::-1]}
    np.testing.assert_array_equal(predict(params, swapped)[0], logits[:, ::-1])


def test_each_packed_example_has_its_own_next_sentence_prediction():
    predict, params = small_model(True)
    batch = example_batch()
    nsp = np.asarray(predict(params, batch)[1])
    changed = batch | {"input_ids": np.where(batch["sequence_ids"] == 2, 29, batch["input_ids"])}
    found = np.asarray(predict(params, changed)[1])
    difference = np.abs(found - nsp).max(-1)  # [B, E]
    np.testing.assert_array_equal(difference > 0, [[False, True], [False, False]])


# ---- tied and untied output embeddings -----------------------------------------------------------------------------


def word_gradient(tied: bool) -> np.ndarray:
    """Greatest gradient of each row [V] of the word embedding, of a loss on the MLM logits."""
    predict, params = small_model(tied)

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.sin(predict(params, batch)[0]).sum()

    return np.abs(jax.jit(jax.grad(loss))(params, example_batch())["encoder"]["embeddings"]["word"]).max(-1)


def test_tied_output_matrix_is_the_word_embedding():
    """No parameter of its own; words that are in no input get their gradient from the head."""
    predict, params = small_model(True)
    assert "decoder" not in params["mlm"]
    assert (word_gradient(True) > 0).all()
    # Swapping two words that no input holds swaps their logits, and nothing else.
    order = np.arange(30)
    order[[25, 27]] = 27, 25
    word, bias = params["encoder"]["embeddings"]["word"][order], params["mlm"]["bias"]
    swapped = jax.tree.map(lambda x: x, params)
    swapped["encoder"]["embeddings"]["word"] = word
    assert (bias == 0).all()
    before, after = predict(params, example_batch())[0], predict(swapped, example_batch())[0]
    np.testing.assert_allclose(after, np.asarray(before)[..., order], rtol=0, atol=1e-6)
    assert np.abs(before[..., 25] - before[..., 27]).max() > 0.1


def test_untied_output_matrix_is_a_parameter_of_its_own():
    """V x D more parameters; only words that attention reaches get a gradient in the word embedding."""
    predict, params = small_model(False)
    tied = small_model(True)[1]
    assert params["mlm"]["decoder"].shape == (30, 16)
    assert sum(x.size for x in jax.tree.leaves(params)) == sum(x.size for x in jax.tree.leaves(tied)) + 30 * 16
    batch = example_batch()
    seen = batch["input_ids"][batch["sequence_ids"] > 0]
    # Slot 2 of row 1 is filler at position 0: it is computed like any other, and has weight 0 in the loss.
    gradient = word_gradient(False)
    assert (gradient[seen] > 0).all()
    assert (np.delete(gradient, seen) == 0).all()
    other = jax.tree.map(lambda x: x, params)
    other["mlm"]["decoder"] = 2 * params["mlm"]["decoder"]
    np.testing.assert_allclose(predict(other, batch)[0], 2 * predict(params, batch)[0], rtol=1e-5, atol=1e-5)
