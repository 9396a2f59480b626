# SPDX-License-Identifier: Apache-2.0
"""What stands between encoder and dense layer: against torch.nn.LSTM, and NumPy restatements of the formulas."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import refusal_of
from conversion_samples import MODEL, VOCABULARY
from flax import nnx

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.conversion.names import NameRow, shape_of
from bert_jax.conversion.own_format import config_for, write_run
from bert_jax.model.encoder import EncoderOutput
from bert_jax.model.heads import BertModel
from bert_jax.model.task_heads import BiLstm, ScalarMix, TaskFeatures, WindowFusion
from bert_jax.tokenization import WordPieceTokenizer

# torch 2.13: torch.nn.LSTM(3, 2, bidirectional=True), its weights and its input sines of a count (`sines` below), rows of 4
# and 2 tokens packed with pack_padded_sequence; outputs [2, 4, 4], the last states of both directions [2, 2, 2].
TORCH_OUTPUTS = [
    [
        [0.3395467, 0.0518575, -0.3431668, -0.6579522],
        [-0.3902977, -0.3754788, -0.0268663, -0.0929672],
        [0.1529478, -0.0127554, -0.2766568, -0.549598],
        [-0.470519, -0.226027, 0.0154538, -0.0474773],
    ],
    [[0.2384436, 0.0646536, -0.2655296, -0.4694076], [-0.4888795, 0.108728, 0.0125897, -0.093317]],
]
TORCH_LAST = [[[-0.470519, -0.226027], [-0.4888795, 0.108728]], [[-0.3431668, -0.6579522], [-0.2655296, -0.4694076]]]


def sines(shape: tuple[int, ...], begin: int) -> np.ndarray:
    return np.sin(begin + np.arange(np.prod(shape))).reshape(shape).astype(np.float32)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- the scalar mix --------------------------------------------------------------------------------


def test_scalar_mix_is_that_of_elmo():
    """1802.05365, equation 1: gamma * sum_j softmax(s)_j h_j."""
    layers, weights = random(3, 2, 4, 5), np.array([0.5, -1, 2], np.float32)
    mix = ScalarMix(3)
    np.testing.assert_allclose(mix(layers), layers.mean(0), atol=1e-6)  # to begin with
    mix.weights[...], mix.scale[...] = jnp.asarray(weights), jnp.asarray(1.7)
    shares = np.exp(weights.astype(np.float64)) / np.exp(weights.astype(np.float64)).sum()
    np.testing.assert_allclose(mix(layers), 1.7 * np.einsum("k,kbsd->bsd", shares, layers), atol=1e-5)


# ---- the BiLSTM ------------------------------------------------------------------------------------------


def test_bilstm_equals_torch():
    """Padding too: the forward state stays, the backward one begins at the last token."""
    lstm = BiLstm(3, 2, rngs=nnx.Rngs(0))
    for number, direction in enumerate((lstm.forward, lstm.backward)):
        direction.input[...] = jnp.asarray(sines((3, 8), 10 * number))
        direction.recurrent[...] = jnp.asarray(sines((2, 8), 10 * number + 1))
        direction.bias[...] = jnp.asarray(sines((8,), 10 * number + 2))
    valid = (np.arange(4) < np.array([[4], [2]])).astype(np.int32)
    x = sines((2, 4, 3), 5)
    x[1, 2:] = 1e3  # padding is not looked at
    found = jax.jit(lambda x: lstm(x, valid))(x)
    for row, wanted in enumerate(TORCH_OUTPUTS):
        np.testing.assert_allclose(found[row, : len(wanted)], wanted, atol=1e-6)
    forward, backward = np.split(np.asarray(BiLstm.ends(found))[:, 0], 2, axis=-1)
    np.testing.assert_allclose([forward, backward], TORCH_LAST, atol=1e-6)


def test_forget_gates_begin_open():
    lstm = BiLstm(3, 2, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(lstm.forward.bias[...], [0, 0, 1, 1, 0, 0, 0, 0])
    recurrent = np.asarray(lstm.backward.recurrent[...])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(2), atol=1e-5)


# ---- windows ---------------------------------------------------------------------------------------------

EXAMPLES = np.array([0, 0, 0, 1, 2, 2, 4, 4], np.int32)  # of 4: the last is not there, and two rows fill up


def fuse(kind: str, x: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Example by example."""
    fused = np.zeros((4, x.shape[-1]))
    for example in range(3):
        own = x[np.flatnonzero(np.equal(EXAMPLES, example)), 0].astype(np.float64)
        if kind == "max":
            fused[example] = own.max(0)
        else:
            scores = own @ query if kind == "attention" else np.zeros(len(own))
            shares = np.exp(scores - scores.max())
            fused[example] = (shares / shares.sum()) @ own
    return fused


def fusion(kind: str, width: int, query: np.ndarray) -> WindowFusion:
    made = WindowFusion(TaskHead("classification", 2, fusion=kind), width, MODEL, rngs=nnx.Rngs(0))
    if made.query is not None:
        made.query[...] = jnp.asarray(query)
    return made


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_windows_are_fused(kind):
    x, query = random(8, 1, 5), random(5, seed=1)
    found = np.asarray(fusion(kind, 5, query)(x, EXAMPLES, 4))
    assert found.shape == (4, 1, 5)
    np.testing.assert_allclose(found[:, 0], fuse(kind, x, query), atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_rows_that_fill_up_cannot_spoil_a_gradient(kind):
    """Whatever the network makes of them: their attention would be infinite."""
    x, query = random(8, 1, 5), 40 * np.abs(random(5, seed=1))
    x[6:] = 10
    layer = fusion(kind, 5, query)
    gradient = jax.jit(jax.grad(lambda x: jnp.square(layer(x, EXAMPLES, 4)).sum()))(x)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient[6:]) == 0).all()
    assert (np.asarray(gradient[:6]) != 0).any()


# ---- all of it -----------------------------------------------------------------------------------------------------


def encoded(rows: int, width: int, seed: int = 0) -> EncoderOutput:
    """As an encoder of three layers of D = 24 gives it."""
    each = random(4, rows, width, MODEL.hidden_size, seed=seed)
    return EncoderOutput(jnp.asarray(each[-1]), jnp.tanh(random(rows, 1, MODEL.hidden_size)), jnp.asarray(each))


def features(task: TaskHead, output: EncoderOutput, batch: dict[str, Any]) -> np.ndarray:
    return np.asarray(TaskFeatures(task, MODEL, rngs=nnx.Rngs(0))(output, batch, None))


BATCH = {
    "cls_positions": np.zeros((2, 1), np.int32),
    "sequence_ids": (np.arange(6) < np.array([[6], [4]])).astype(np.int32),
}


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        (TaskHead("classification", 2), lambda out: out.pooled_output),
        (TaskHead("tagging", 5), lambda out: out.sequence_output),
        (TaskHead("span", 2, layers=(-2,)), lambda out: out.all_layers[2]),
        (TaskHead("tagging", 5, layers=(0,)), lambda out: out.all_layers[0]),
        (TaskHead("tagging", 5, layers=(-1, 1), combine="sum"), lambda out: out.all_layers[3] + out.all_layers[1]),
        (
            TaskHead("tagging", 5, layers=(3, 1)),
            lambda out: jnp.concatenate([out.all_layers[3], out.all_layers[1]], -1),
        ),
        (
            TaskHead("tagging", 5, layers=(0, 2), combine="mean"),
            lambda out: (out.all_layers[0] + out.all_layers[2]) / 2,
        ),
        (TaskHead("tagging", 5, layers=(1, 2), combine="mix"), lambda out: (out.all_layers[1] + out.all_layers[2]) / 2),
        (TaskHead("regression", 1, layers=(-1,)), lambda out: out.sequence_output[:, :1]),
    ],
)
def test_the_dense_layer_reads_what_was_chosen(task, wanted):
    output = encoded(2, 6)
    found = features(task, output, BATCH)
    np.testing.assert_allclose(found, wanted(output), atol=1e-6)
    assert found.shape[-1] == task.width(MODEL.hidden_size)


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_one_window_is_the_plain_head(kind):
    task, output = TaskHead("classification", 2, fusion=kind), encoded(2, 6)
    plain = features(task, output, BATCH)
    grouped = BATCH | {"row_examples": np.array([0, 1], np.int32), "example_weights": np.ones(2, np.float32)}
    np.testing.assert_allclose(features(task, output, grouped), plain, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_in_its_own_example(kind, value):
    """Or a model that has come apart would predict, and its steps would pass for good ones."""
    x, examples = random(4, 1, 3), jnp.array([0, 0, 1, 3])  # none of example 2, and a row of no example
    x[1, 0, 1] = value
    found = np.asarray(fusion(kind, 3, np.ones(3, np.float32))(jnp.asarray(x), examples, 3))
    assert not np.isfinite(found[0, 0, 1])
    assert np.isfinite(found[1:]).all()
    assert (found[2] == 0).all()


def test_products_are_of_float32_on_accelerators_too():
    """By default these would be rounded to 8 bits on a TPU and to 11 on a GPU."""
    fused, x = fusion("attention", 3, np.ones(3, np.float32)), random(4, 1, 3)
    for made, arguments in ((ScalarMix(3), (random(3, 2, 4, 5),)), (fused, (x, jnp.array([0, 0, 1, 2]), 2))):
        text = str(jax.make_jaxpr(lambda *arrays, made=made, rest=arguments[1:]: made(*arrays, *rest))(arguments[0]))
        products = text.split("dot_general[")[1:]
        assert products
        assert all("HIGHEST" in product.split("]\n")[0] for product in products)


@cache
def tagger() -> tuple[Any, Any]:
    """All that a tagger may have, (parameters, batch) -> logits, jitted."""
    task = TaskHead("tagging", 5, layers=(0, 1, 2), combine="mix", lstm=6)
    description = ModelDescription(MODEL, pooler=False, mlm=False, nsp=False, task=task)

    def create() -> BertModel:
        return BertModel(description, rngs=nnx.Rngs(0))

    graph = nnx.split(nnx.eval_shape(create))[0]
    run = jax.jit(lambda params, batch: nnx.merge(graph, params)(batch).task_logits)
    shapes = nnx.to_pure_dict(nnx.split(nnx.eval_shape(create))[1])
    return run, jax.tree.map(lambda leaf: 0.3 * random(*leaf.shape, seed=leaf.size), shapes)


def rows_of(lengths: list[int], width: int, seed: int) -> dict[str, np.ndarray]:
    valid = np.arange(width) < np.array(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(5, MODEL.vocab_size, valid.shape)
    return {
        "input_ids": np.where(valid, ids, 0).astype(np.int32),
        "segment_ids": np.zeros(valid.shape, np.int32),
        "sequence_ids": valid.astype(np.int32),
        "position_ids": np.tile(np.arange(width, dtype=np.int32), (len(lengths), 1)),
        "cls_positions": np.zeros((len(lengths), 1), np.int32),
    }


def test_a_row_does_not_see_its_neighbours_or_the_width():
    run, params = tagger()
    narrow, wide = rows_of([7, 4], 8, seed=0), rows_of([11, 7, 0], 12, seed=1)
    wide["input_ids"][1, :7] = narrow["input_ids"][0, :7]
    found, other = np.asarray(run(params, narrow)), np.asarray(run(params, wide))
    np.testing.assert_allclose(other[1, :7], found[0, :7], atol=1e-5)
    assert np.abs(other[0, :7] - found[0, :7]).max() > 1e-3
    assert np.isfinite(other).all()


# ---- saved ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with all that a classifier may have, and its weights by name."""
    folder = tmp_path_factory.mktemp("heads") / "run"
    folder.mkdir()
    task = TaskHead("classification", 2, ("no", "yes"), layers=(-1, -2), combine="mix", lstm=3, fusion="attention")
    description = ModelDescription(MODEL, pooler=False, mlm=False, nsp=False, task=task)
    weights: dict[str, np.ndarray] = {}

    def weight(row: NameRow) -> np.ndarray:
        weights[row.ours] = 0.3 * random(*shape_of(row, description), seed=len(weights)) + row.ours.endswith("scale")
        return weights[row.ours]

    WordPieceTokenizer(VOCABULARY, lowercase=True).save(folder)
    write_run(folder, description, weight, config_for(description))
    return folder, description, weights


def test_such_heads_are_saved_and_loaded(saved):
    folder, description, weights = saved
    bert = bert_jax.load(folder)
    assert bert.description == description
    own = {name for name in weights if name.startswith("features/")}
    directions = {f"lstm/{way}/{name}" for way in ("forward", "backward") for name in ("input", "recurrent", "bias")}
    assert own == {f"features/{name}" for name in directions | {"mix/weights", "mix/scale", "fusion/query"}}
    for name in own:
        leaf: Any = bert.params
        for part in name.split("/"):
            leaf = leaf[part]
        np.testing.assert_array_equal(leaf, weights[name])


def test_such_heads_have_no_place_in_other_formats(saved, tmp_path, capsys):
    assert (
        "its head for classification is more than a dense layer (layers=[-1, -2], lstm=3, fusion=attention)"
        in refusal_of(capsys, "convert", saved[0], tmp_path / "out", "--to", "huggingface")
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskHead("parsing", 2), "task.kind=parsing is not known"),
        (lambda: TaskHead("span", 3), "task.outputs=3 is not possible for span: it has 2"),
        (lambda: TaskHead("tagging", 2, ("O",)), "task.labels names 1 outputs, and task.outputs=2"),
        (
            lambda: TaskHead("tagging", 2, combine="max"),
            "task.combine=max is not known: choose one of concat, sum, mean, mix",
        ),
        (
            lambda: TaskHead("tagging", 2, fusion="sum"),
            "task.fusion=sum is not known: choose one of mean, max, attention",
        ),
        (lambda: TaskHead("tagging", 2, lstm=-1), "task.lstm=-1 is negative"),
        (
            lambda: ModelDescription(MODEL, task=TaskHead("tagging", 2, layers=(3,))),
            "layers: the head is to read 3, and the model has 1 to 2 (-1 is the last); 0 is the output of its embeddings",
        ),
        (lambda: ModelDescription(MODEL, task=TaskHead("tagging", 2, layers=(-4,))), "layers: the head is to read -4"),
        (
            lambda: ModelDescription(MODEL, pooler=False, nsp=False, task=TaskHead("choice", 1)),
            "the head choice stands on the pooler, and there is none",
        ),
    ],
)
def test_refused_by_name(make, message):
    with pytest.raises(UserError) as refused:
        make()
    assert message in str(refused.value)
