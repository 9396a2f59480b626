# SPDX-License-Identifier: Apache-2.0
"""The network against Hugging Face's, and what its structure promises.

tests/golden/bert_torch.npz holds outputs and gradients of Hugging Face's model, made by tests/golden_from_torch.py.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_from_torch import formula_weights, SIZES

from bert_jax.config.description import ModelDescription
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.model.dropout import fold_seeds, keep_mask
from bert_jax.model.encoder import (
    ATTENTION_OUTPUT_SITE,
    Compute,
    EMBEDDING_SITE,
    Embeddings,
    Encoder,
    EncoderLayer,
    FEED_FORWARD_OUTPUT_SITE,
    FIRST_HEAD_SITE,
    LayerNorm,
    SelfAttention,
)
from bert_jax.model.heads import BertModel
from bert_jax.train.losses import cross_entropy

GOLDEN_CONFIG = ModelConfig(**SIZES)
GOLDEN_ACTS = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new"}  # ours -> Hugging Face's

# ---- Hugging Face's names -> ours ----------------------------------------------------------------------------------

TABLES = {
    "bert.embeddings.word_embeddings.weight": "encoder/embeddings/word",
    "bert.embeddings.position_embeddings.weight": "encoder/embeddings/position",
    "bert.embeddings.token_type_embeddings.weight": "encoder/embeddings/segment",
    "cls.predictions.bias": "mlm/bias",
}
MODULES = {
    "bert.embeddings.LayerNorm": "encoder/embeddings/norm",
    "bert.pooler.dense": "encoder/pooler",
    "cls.predictions.transform.dense": "mlm/transform",
    "cls.predictions.transform.LayerNorm": "mlm/norm",
    "cls.seq_relationship": "nsp",
}
LAYER_MODULES = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_forward/intermediate",
    "output.dense": "feed_forward/output",
    "output.LayerNorm": "feed_forward_norm",
}


def from_hugging_face(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights or gradients under our paths and in our layouts; layers are stacked."""
    ours = {path: values[name] for name, path in TABLES.items()}
    for module, path in MODULES.items():
        ours |= module_leaves(values, module, path)
    layers = range(SIZES["num_hidden_layers"])
    for module, path in LAYER_MODULES.items():
        each = [module_leaves(values, f"bert.encoder.layer.{i}.{module}", f"encoder/layers/{path}") for i in layers]
        ours |= {leaf: np.stack([layer[leaf] for layer in each]) for leaf in each[0]}
    return ours


def module_leaves(values: dict[str, np.ndarray], module: str, path: str) -> dict[str, np.ndarray]:
    """torch.nn.Linear keeps [out, in], ours [in, out]; LayerNorm's `weight` is our `scale`."""
    weight = values[f"{module}.weight"]
    name = "kernel" if weight.ndim == 2 else "scale"
    return {f"{path}/{name}": weight.T, f"{path}/bias": values[f"{module}.bias"]}


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def by_path(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}


# ---- the golden file -----------------------------------------------------------------------------------------------


@cache
def golden_file() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "golden" / "bert_torch.npz") as file:
        return dict(file)


def golden(hidden_act: str, name: str) -> np.ndarray:
    return golden_file()[f"{GOLDEN_ACTS[hidden_act]}/{name}"]


def golden_gradients(hidden_act: str) -> dict[str, np.ndarray]:
    prefix = f"{GOLDEN_ACTS[hidden_act]}/gradient/"
    return {name.removeprefix(prefix): value for name, value in golden_file().items() if name.startswith(prefix)}


@cache
def golden_weights() -> dict[str, Any]:
    weights = formula_weights({name: value.shape for name, value in golden_gradients("gelu_erf").items()})
    total = sum(np.abs(value).sum(dtype=np.float64) for value in weights.values())
    assert math.isclose(total, golden("gelu_erf", "weight_sum"), rel_tol=1e-7), (
        "NumPy's random numbers changed: run tests/golden_from_torch.py again"
    )
    return nested(from_hugging_face(weights))


def golden_batch() -> dict[str, np.ndarray]:
    batch = {name.removeprefix("inputs/"): x for name, x in golden_file().items() if name.startswith("inputs/")}
    rows, length = batch["input_ids"].shape
    return batch | {
        "sequence_ids": batch["input_mask"],
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "cls_positions": np.zeros((rows, 1), np.int32),
        "next_sentence_weights": np.ones((rows, 1), np.float32),
    }


# ---- running ours --------------------------------------------------------------------------------------------------


# Halves the time to compile: less of LLVM's optimisation, none of XLA's left out.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Results(NamedTuple):
    loss: jax.Array
    hidden_states: jax.Array  # [L + 1, B, S, D]
    sequence_output: jax.Array  # [B, S, D]
    pooled_output: jax.Array  # [B, E, D]
    mlm_logits: jax.Array  # [B, M, V]
    nsp_logits: jax.Array  # [B, E, 2]
    gradients: dict[str, np.ndarray]


def loss_function(config: ModelConfig, compute: Compute) -> Any:
    """(parameters, batch, dropout's seeds or None) -> (loss, outputs)."""
    graph = nnx.split(nnx.eval_shape(lambda: BertModel(ModelDescription(config), compute, rngs=nnx.Rngs(0))))[0]

    def loss(params: Any, batch: Any, seeds: Any) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
        output = nnx.merge(graph, params)(batch, dropout_seeds=seeds, all_layers=True)
        mlm = cross_entropy(output.mlm_logits, batch["masked_lm_ids"], batch["masked_lm_weights"])
        nsp = cross_entropy(output.nsp_logits, batch["next_sentence_labels"], batch["next_sentence_weights"])
        encoded = output.encoder
        outputs = (encoded.all_layers, encoded.sequence_output, encoded.pooled_output)
        return mlm.loss / mlm.weight + nsp.loss / nsp.weight, (*outputs, output.mlm_logits, output.nsp_logits)

    return loss


def run(config: ModelConfig, compute: Compute, seeds: np.ndarray | None = None) -> Results:
    """The golden weights and batch through our network, with gradients."""
    step = jax.jit(jax.value_and_grad(loss_function(config, compute), has_aux=True), compiler_options=QUICK)
    (loss, outputs), gradients = step(golden_weights(), golden_batch(), seeds)
    return Results(loss, *outputs, by_path(gradients))


@cache
def run_golden(hidden_act: str) -> Results:
    return run(replace(GOLDEN_CONFIG, hidden_act=hidden_act), Compute())


def selected(results: Results) -> dict[str, np.ndarray]:
    """Our outputs in the form of the golden file: valid tokens, masked tokens."""
    batch = golden_batch()
    valid, picked = batch["input_mask"] == 1, batch["masked_lm_weights"] == 1
    return {
        "hidden_states": np.asarray(results.hidden_states)[:, valid],
        "pooled_output": np.asarray(results.pooled_output)[:, 0],
        "mlm_logits": np.asarray(results.mlm_logits)[picked],
        "nsp_logits": np.asarray(results.nsp_logits)[:, 0],
        "loss": np.asarray(results.loss),
    }


def relative_differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Greatest difference of each parameter's gradient over that gradient's greatest entry, layer by layer."""
    assert found.keys() == expected.keys()
    worst = {}
    for path, value in expected.items():
        axes = tuple(range(1, value.ndim)) if "/layers/" in path else None
        difference = np.abs(found[path] - value).max(axes)
        if path.endswith("attention/key/bias"):
            # It adds the same to all scores of a query, so its gradient is 0 but for rounding.
            assert np.abs(value).max() < 1e-6
            worst[path] = float(difference.max())
        else:
            worst[path] = float((difference / np.abs(value).max(axes)).max())
    return worst


# ---- against Hugging Face's model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_act", GOLDEN_ACTS)
def test_whole_network_equals_hugging_face(hidden_act):
    """Every layer, both heads and the loss."""
    results = run_golden(hidden_act)
    for name, value in selected(results).items():
        np.testing.assert_allclose(value, golden(hidden_act, name), rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(results.hidden_states[-1], results.sequence_output)


@pytest.mark.parametrize("hidden_act", GOLDEN_ACTS)
def test_every_gradient_equals_hugging_face(hidden_act):
    """The word embedding's gradient is the lookup's and the output matrix's together."""
    expected = from_hugging_face(golden_gradients(hidden_act))
    differences = relative_differences(run_golden(hidden_act).gradients, expected)
    assert max(differences.values()) < 2e-5, differences


def test_the_two_forms_of_gelu_are_told_apart():
    """A mix-up of the forms would fail the comparison above, in every output and by far."""
    found = selected(run_golden("gelu_erf"))
    for name in ("hidden_states", "pooled_output", "mlm_logits", "nsp_logits", "loss"):
        assert np.abs(found[name] - golden("gelu_tanh", name)).max() > 1e-4, name


# ---- how it is computed --------------------------------------------------------------------------------------------

SEEDS = np.random.default_rng(1).integers(2**32, size=(4, 2), dtype=np.uint32)


@cache
def run_with_dropout(compute: Compute) -> Results:
    return run(GOLDEN_CONFIG, compute, SEEDS)


@pytest.mark.parametrize(
    "compute",
    [Compute(scan_layers=False), Compute(remat="full"), Compute(remat="dots")],
    ids=["unrolled", "full", "dots"],
)
def test_scan_unroll_and_remat_compute_the_same(compute):
    """With dropout on, so that a mask drawn anew in the backward pass would show."""
    base, other = run_with_dropout(Compute()), run_with_dropout(compute)
    for name in ("loss", "hidden_states", "pooled_output", "mlm_logits", "nsp_logits"):
        np.testing.assert_allclose(getattr(other, name), getattr(base, name), rtol=0, atol=1e-6, err_msg=name)
    differences = relative_differences(other.gradients, base.gradients)
    assert max(differences.values()) < 1e-6, differences
    assert abs(base.loss - run_golden("gelu_tanh").loss) > 1e-3, "nothing was dropped"


def test_remat_and_unrolling_are_handed_on():
    """`full` runs each matrix product of a layer again, `dots` those of attention only (they have batch axes)."""

    def traced(compute: Compute) -> list[Any]:
        gradient = jax.grad(lambda *inputs: loss_function(GOLDEN_CONFIG, compute)(*inputs)[0])
        return list(all_equations(jax.make_jaxpr(gradient)(golden_weights(), golden_batch(), None).jaxpr))

    def products(remat: str) -> int:
        return sum(equation.primitive.name == "dot_general" for equation in traced(Compute(remat=remat)))

    def unrolled(compute: Compute) -> set[int]:
        return {each.params["unroll"] for each in traced(compute) if each.primitive.name == "scan"}

    none, dots, full = (products(remat) for remat in ("none", "dots", "full"))
    assert dots - none == 2  # scores and context
    assert full - dots == 6  # query, key, value, output, and the two of the feed-forward layer
    assert unrolled(Compute()) == {1}
    assert unrolled(Compute(scan_layers=False)) == {GOLDEN_CONFIG.num_hidden_layers}


def test_bfloat16_is_close_to_float32():
    """8 bits of mantissa: activations of size about 1 after three layers are within 0.05, on average within 0.01."""
    exact, found = run_golden("gelu_tanh"), run(GOLDEN_CONFIG, Compute(dtype=jnp.bfloat16))
    valid = golden_batch()["input_mask"] == 1
    assert found.sequence_output.dtype == found.pooled_output.dtype == jnp.bfloat16
    assert found.mlm_logits.dtype == found.nsp_logits.dtype == found.loss.dtype == jnp.float32
    difference = np.abs(np.asarray(found.sequence_output, np.float32) - exact.sequence_output)[valid]
    assert difference.max() < 0.05
    assert difference.mean() < 0.01
    np.testing.assert_allclose(found.loss, exact.loss, rtol=0.01)
    for path, gradient in found.gradients.items():
        assert gradient.dtype == np.float32, path
        reference = exact.gradients[path].ravel()
        if not path.endswith("attention/key/bias"):  # 0, see above
            cosine = gradient.ravel() @ reference / np.linalg.norm(gradient) / np.linalg.norm(reference)
            assert cosine > 0.995, path


def all_equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from all_equations(inner)


def test_bfloat16_keeps_softmax_layer_norm_and_loss_in_float32():
    """Of the traced loss: exp and log (softmax, cross-entropy), rsqrt (LayerNorm), and sums over an axis."""
    loss = loss_function(GOLDEN_CONFIG, Compute(dtype=jnp.bfloat16))
    equations = list(all_equations(jax.make_jaxpr(loss)(golden_weights(), golden_batch(), SEEDS).jaxpr))
    seen = {}
    for equation in equations:
        name = equation.primitive.name
        if name in ("exp", "log", "rsqrt", "reduce_sum", "reduce_max", "div"):
            kinds = {v.aval.dtype for v in equation.invars if jnp.issubdtype(v.aval.dtype, jnp.floating)}
            assert kinds <= {jnp.dtype(jnp.float32)}, f"{name} of {kinds}"
            seen[name] = seen.get(name, 0) + 1
    assert {"exp", "log", "rsqrt", "reduce_sum"} <= seen.keys()
    dots = [equation for equation in equations if equation.primitive.name == "dot_general"]
    products = [equation.invars[0].aval.dtype for equation in dots]
    # 8 products of the layer (scanned), pooler, heads.
    assert products == [jnp.bfloat16] * (8 + 1 + 3)
    wide = [equation for equation in dots if equation.outvars[0].aval.dtype == jnp.float32]
    assert len(wide) == 2, "scores and MLM logits keep their float32 sums"


# ---- sizes ---------------------------------------------------------------------------------------------------------


def parameter_shapes(config: ModelConfig) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))))


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("size", "parameters"), [("base", 109_482_240), ("large", 335_141_888)])
def test_parameter_counts_are_exact(size, parameters):
    """Nothing is allocated."""
    config = ModelConfig(**MODEL_SIZES[size])
    assert config == ModelConfig(**MODEL_SIZES[size], vocab_size=30_522, max_position_embeddings=512, type_vocab_size=2)
    assert count(parameter_shapes(config)) == parameters


@pytest.mark.parametrize(
    "layers_hidden_heads", [(3, 768, 12), (6, 768, 3), (6, 768, 12), (12, 768, 12), (12, 1024, 16), (24, 1024, 16)]
)
def test_every_size_of_the_papers_table_can_be_made(layers_hidden_heads):
    """The head size is hidden / heads, 256 in the second."""
    layers, hidden, heads = layers_hidden_heads
    config = ModelConfig(**MODEL_SIZES["x".join(map(str, layers_hidden_heads))])
    assert config.head_size == hidden // heads
    shapes = parameter_shapes(config)
    tables = (30_522 + 512 + 2) * hidden + 2 * hidden
    each = 4 * (hidden**2 + hidden) + 2 * 4 * hidden**2 + 5 * hidden + 2 * 2 * hidden
    assert count(shapes) == tables + layers * each + hidden**2 + hidden
    assert shapes["layers"]["attention"]["query"]["kernel"].shape == (layers, hidden, hidden)


# ---- structure -----------------------------------------------------------------------------------------------------

SMALL = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
)


def layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def test_embeddings_are_one_product_with_joined_one_hot_vectors():
    """4 words, 3 positions, 2 segments: one-hot vectors of 4 + 3 + 2 = 9 entries, all 4 * 3 * 2 = 24."""
    sizes = {"vocab_size": 4, "max_position_embeddings": 3, "type_vocab_size": 2}
    module = Embeddings(replace(SMALL, **sizes), Compute(), rngs=nnx.Rngs(0))
    words, positions, segments = (axis.reshape(1, 24).astype(np.int32) for axis in np.indices((4, 3, 2)))
    one_hot = np.concatenate([np.eye(4)[words], np.eye(3)[positions], np.eye(2)[segments]], axis=-1)
    matrix = np.concatenate([module.word[...], module.position[...], module.segment[...]])
    assert one_hot.shape == (1, 24, 9)
    assert len(np.unique(one_hot[0], axis=0)) == 24
    found = module(words, positions, segments, None)
    np.testing.assert_allclose(found, layer_norm(one_hot @ matrix), rtol=0, atol=1e-5)


def test_layer_norm_follows_each_residual_sum():
    """Post-LN. Without what the sub-layers add, a layer is LayerNorm of its input, whatever its size."""
    layer = EncoderLayer(SMALL, Compute(), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(3, 5, (2, 6, 16)).astype(np.float32)
    sequence_ids = np.ones((2, 6), np.int32)
    output = np.asarray(layer(x, sequence_ids, None))
    np.testing.assert_allclose(output.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(output.std(-1), 1, atol=1e-5)
    attended = layer_norm(x + np.asarray(layer.attention(x, sequence_ids, None)))
    np.testing.assert_allclose(output, layer_norm(attended + np.asarray(layer.feed_forward(attended))), atol=1e-4)
    assert np.abs(output - layer_norm(x)).max() > 1e-3
    layer.attention.output.kernel[...] *= 0
    layer.feed_forward.output.kernel[...] *= 0
    np.testing.assert_allclose(layer(x, sequence_ids, None), layer_norm(x), atol=1e-5)


@pytest.mark.parametrize("all_layers", [True, False])
def test_shapes_of_the_outputs(all_layers):

    def encode(ids: jax.Array, cls: jax.Array) -> tuple[jax.Array | None, ...]:
        output = Encoder(SMALL, rngs=nnx.Rngs(0))(ids, ids, ids, ids, cls, all_layers=all_layers)
        return output.sequence_output, output.pooled_output, output.all_layers

    ids, cls = jax.ShapeDtypeStruct((3, 20), jnp.int32), jax.ShapeDtypeStruct((3, 4), jnp.int32)
    sequence, pooled, layers = jax.eval_shape(encode, ids, cls)
    assert sequence.shape == (3, 20, 16)
    assert pooled.shape == (3, 4, 16)
    assert (layers.shape == (3, 3, 20, 16)) if all_layers else (layers is None)


def test_position_and_segment_tables_can_be_larger():
    """600 positions and 5 segments; the last row of each is read, not the one it would be clipped to."""
    config = replace(SMALL, max_position_embeddings=600, type_vocab_size=5)
    module = Embeddings(config, Compute(), rngs=nnx.Rngs(0))
    last = module(*(np.array([[i]], np.int32) for i in (3, 599, 4)), None)
    expected = layer_norm(np.asarray(module.word[...][3] + module.position[...][599] + module.segment[...][4]))
    np.testing.assert_allclose(last[0, 0], expected, rtol=0, atol=1e-5)


# ---- padding and packing -------------------------------------------------------------------------------------------

FIRST, SECOND, LENGTH = 9, 7, 20  # tokens of two examples, and of the row


def packed_and_alone() -> dict[str, np.ndarray]:
    """Two examples in row 0, each alone in rows 1 and 2; every token of a row, padding too, has an id of its own."""
    batch = {name: np.zeros((3, LENGTH), np.int32) for name in ("segment_ids", "sequence_ids", "position_ids")}
    batch["input_ids"] = np.tile(np.arange(1, LENGTH + 1, dtype=np.int32), (3, 1))
    batch["input_ids"][2] = np.roll(batch["input_ids"][2], -FIRST)
    batch["cls_positions"] = np.array([[0, FIRST], [0, 0], [0, 0]], np.int32)
    for row, start, length, number in ((0, 0, FIRST, 1), (0, FIRST, SECOND, 2), (1, 0, FIRST, 1), (2, 0, SECOND, 1)):
        place = slice(start, start + length)
        batch["sequence_ids"][row, place] = number
        batch["position_ids"][row, place] = np.arange(length)
        batch["segment_ids"][row, place] = np.arange(length) > length // 2
    return batch


@cache
def packed_encoder() -> tuple[Any, Any]:
    """The jitted encoder, (parameters, batch) -> (sequence output, pooled output), and parameters far from zero."""

    def create() -> Encoder:
        return Encoder(replace(SMALL, initializer_range=0.3), rngs=nnx.Rngs(0))

    graph = nnx.split(nnx.eval_shape(create))[0]

    @jax.jit
    def encode(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        output = nnx.merge(graph, params)(**batch)
        return output.sequence_output, output.pooled_output

    return encode, jax.jit(lambda: nnx.to_pure_dict(nnx.state(create())))()


def test_packed_examples_equal_each_alone():
    encode, params = packed_encoder()
    sequence, pooled = map(np.asarray, encode(params, packed_and_alone()))
    np.testing.assert_allclose(sequence[0, :FIRST], sequence[1, :FIRST], rtol=0, atol=1e-5)
    np.testing.assert_allclose(sequence[0, FIRST : FIRST + SECOND], sequence[2, :SECOND], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pooled[0], [pooled[1, 0], pooled[2, 0]], rtol=0, atol=1e-5)
    assert np.abs(pooled[0, 0] - pooled[0, 1]).max() > 0.1


def test_padding_and_other_examples_change_nothing():
    """Not one bit."""
    encode, params = packed_encoder()
    batch = packed_and_alone()
    changed = {name: x.copy() for name, x in batch.items()}
    changed["input_ids"][:, FIRST:] = 30
    changed["segment_ids"][:, FIRST:] = 1
    (before, pooled_before), (after, pooled_after) = encode(params, batch), encode(params, changed)
    np.testing.assert_array_equal(before[:2, :FIRST], after[:2, :FIRST])
    np.testing.assert_array_equal(pooled_before[:2, 0], pooled_after[:2, 0])
    assert np.abs(before[0, FIRST:] - after[0, FIRST:]).max() > 0.1


def test_padding_and_other_examples_get_exactly_zero_gradient():
    """Each token has a word of its own, so that the word table's rows tell whose gradient it is."""
    encode, params = packed_encoder()

    def loss(params: Any, batch: Any) -> jax.Array:
        sequence, pooled = encode(params, batch)
        return jnp.sin(sequence[0, :FIRST]).sum() + pooled[0, 0].sum()

    gradient = np.abs(jax.jit(jax.grad(loss))(params, packed_and_alone())["embeddings"]["word"]).max(-1)  # [V]
    own = np.arange(1, FIRST + 1)
    assert (gradient[own] > 1e-4).all()
    assert (np.delete(gradient, own) == 0).all()


# ---- dropout inside the network ------------------------------------------------------------------------------------


def test_every_place_drops_by_seeds_of_its_own():
    """The masks are read off the network's outputs: embeddings, the two sub-layers' outputs, attention of each head."""
    config = replace(SMALL, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.4)
    seeds, ones = jnp.asarray(SEEDS), np.ones((4, 8), np.int32)

    def mask(site: int) -> np.ndarray:
        return np.asarray(keep_mask(fold_seeds(seeds, site), 8, 16, 0.4))

    embedded = Embeddings(config, Compute(), rngs=nnx.Rngs(0))(ones, ones, ones, seeds)
    np.testing.assert_array_equal(np.asarray(embedded) != 0, mask(EMBEDDING_SITE))

    # A bias so large that what is kept of it is above the mean of its token, the rest below.
    x = np.asarray(embedded)
    sites = {"attention": ATTENTION_OUTPUT_SITE, "feed_forward": FEED_FORWARD_OUTPUT_SITE}
    masks = []
    for name, site in sites.items():
        layer = EncoderLayer(config, Compute(), rngs=nnx.Rngs(0))
        for module in (layer.attention, layer.feed_forward):
            module.output.kernel[...] *= 0
        getattr(layer, name).output.bias[...] += 1e4
        masks.append(np.asarray(layer(x, ones, seeds)) > 0)
        np.testing.assert_array_equal(masks[-1], mask(site), err_msg=name)
    assert (masks[0] != masks[1]).mean() > 0.3

    # All keys score alike and all values are 1: a head's output is the kept share of the keys / (1 - rate).
    attention = SelfAttention(config, Compute(), rngs=nnx.Rngs(0))
    attention.query.kernel[...] *= 0
    attention.value.kernel[...] *= 0
    attention.value.bias[...] += 1
    attention.output.kernel[...] = jnp.eye(16)
    output = np.asarray(attention(x, ones, seeds))
    for head in range(2):
        kept = np.asarray(keep_mask(fold_seeds(seeds, FIRST_HEAD_SITE + head), 8, 8, 0.4)).mean(-1) / 0.6  # [B, Q]
        np.testing.assert_allclose(output[:, :, 8 * head], kept, atol=1e-5)


def test_every_layer_drops_by_seeds_of_its_own():
    """The scan equals a loop in which layer i, counted from 1, has i folded into the row's seeds."""
    found = run_with_dropout(Compute()).hidden_states
    params = golden_weights()["encoder"]["layers"]
    graph = nnx.split(nnx.eval_shape(lambda: EncoderLayer(GOLDEN_CONFIG, Compute(), rngs=nnx.Rngs(0))))[0]
    layer = jax.jit(lambda params, x, ids, seeds: nnx.merge(graph, params)(x, ids, seeds))
    for number in range(1, 4):
        own = jax.tree.map(lambda leaf, i=number - 1: leaf[i], params)
        expected = layer(own, found[number - 1], golden_batch()["sequence_ids"], fold_seeds(jnp.asarray(SEEDS), number))
        np.testing.assert_allclose(found[number], expected, rtol=0, atol=1e-5)


# ---- initial weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [None, 0.12])
def test_initial_weights_are_a_truncated_normal(positions):
    """google-research/bert: standard deviation 0.02 before the cut at two of them, 0.02 * 0.8796 after."""
    config = replace(SMALL, vocab_size=500, hidden_size=64, intermediate_size=256, max_position_embeddings=100)
    config = replace(config, position_initializer_range=positions)

    @jax.jit
    def create() -> Any:
        return nnx.to_pure_dict(nnx.state(BertModel(ModelDescription(config), rngs=nnx.Rngs(7))))

    leaves = by_path(create())
    for path, value in leaves.items():
        last = path.split("/")[-1]
        if last == "bias":
            assert (value == 0).all(), path
        elif last == "scale":
            assert (value == 1).all(), path
        else:
            deviation = (positions if last == "position" else None) or 0.02
            assert np.abs(value).max() <= 2 * deviation, path
            error = deviation * 0.8796 / math.sqrt(value.size)
            assert abs(value.mean()) < 5 * error, path
            # The error of a standard deviation is less than that of a mean.
            assert abs(value.std() - deviation * 0.8796) < 5 * error, path
    assert np.abs(leaves["encoder/embeddings/word"]).max() > 0.0399
    assert leaves["encoder/layers/attention_norm/scale"].shape == (2, 64)


def test_no_two_matrices_begin_alike():
    """Layers and projections of one shape have keys of their own."""
    state = nnx.to_pure_dict(nnx.state(Encoder(SMALL, rngs=nnx.Rngs(0))))
    attention = state["layers"]["attention"]
    squares = [kernel for name in attention for kernel in np.asarray(attention[name]["kernel"])]
    squares += [np.asarray(state["pooler"]["kernel"]), np.asarray(state["embeddings"]["word"])[:16]]
    squares.append(np.asarray(state["embeddings"]["position"])[:16])
    flat = np.stack([square.ravel() for square in squares])
    correlation = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlation).max() < 5 / math.sqrt(flat.shape[1])
    assert len(flat) == 2 * 4 + 3


def test_layer_norm_epsilon_is_inside_the_square_root():
    """A constant row gives the bias, not NaN; a tiny one is held down by epsilon."""
    norm = LayerNorm(replace(SMALL, layer_norm_eps=1e-2))
    x = np.zeros((2, 16), np.float32)
    x[1, ::2] = 0.2  # mean 0.1, variance 0.01
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2)
    np.testing.assert_allclose(norm(x), expected, atol=1e-6)
