# SPDX-License-Identifier: Apache-2.0
"""Attention in plain jax.numpy against an explicit loop over rows, heads and queries in NumPy, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_samples import assert_near, assert_only_own_gradients, make_sample, numpy_keep, run, Sample
from attention_samples import numpy_attention as numpy_attention_and_gradients
from conftest import refusal_of
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.base.errors import UserError
from bert_jax.config.training import ATTENTIONS, MeshConfig
from bert_jax.mesh.sharding import make_mesh
from bert_jax.model.attention import (
    attention,
    AttentionCase,
    IMPLEMENTATIONS,
    interpreted_kernels,
    refusal,
    resolve_implementation,
)

B, S, H, D = 2, 9, 3, 4  # rows, tokens, heads, head size
RATE = 0.3

RNG = np.random.default_rng(0)
QUERY, KEY, VALUE = (RNG.normal(0, 1.5, (B, S, H, D)).astype(np.float32) for _ in range(3))
SEQUENCE_IDS = np.array([[1] * 4 + [2] * 3 + [0] * 2, [1] * 9], np.int32)  # two packed examples and padding; one
SEEDS = RNG.integers(2**32, size=(B, H, 2), dtype=np.uint32)

compiled = jax.jit(attention, static_argnames=("dropout_rate", "implementation"))


def numpy_attention(keep: np.ndarray | None = None) -> np.ndarray:
    """Row by row, head by head, query by query: no transpose, no batch axis, no masking by large numbers."""
    output = np.zeros((B, S, H, D))
    for b, h, q in np.ndindex(B, H, S):
        partners = [k for k in range(S) if SEQUENCE_IDS[b, k] == SEQUENCE_IDS[b, q]]
        scores = np.array([np.dot(QUERY[b, q, h].astype(float), KEY[b, k, h]) / np.sqrt(D) for k in partners])
        probabilities = np.exp(scores) / np.exp(scores).sum()
        for k, probability in zip(partners, probabilities, strict=True):
            scale = 1.0 if keep is None else keep[b, h, q, k] / (1 - RATE)
            output[b, q, h] += scale * probability * VALUE[b, k, h]
    return output


def probabilities_of(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """[B, H, S, S], read off by values that are one-hot vectors."""
    rows, tokens, heads, _ = query.shape
    value = np.broadcast_to(np.eye(tokens, dtype=np.float32)[None, :, None], (rows, tokens, heads, tokens))
    return np.asarray(compiled(query, key, value, np.ones((rows, tokens), np.int32))).swapaxes(1, 2)


# ---- against NumPy -------------------------------------------------------------------------------------------------


def test_equals_a_loop_over_heads():
    """Block-diagonal in sequence_ids."""
    found = compiled(QUERY, KEY, VALUE, SEQUENCE_IDS)
    assert found.shape == (B, S, H, D)
    np.testing.assert_allclose(found, numpy_attention(), rtol=0, atol=1e-6)


def test_dropout_of_probabilities_equals_numpy():
    """The published place: after the softmax, so that the kept ones do not add up to 1."""
    keep = numpy_keep(SEEDS, S, RATE)
    assert 0 < keep.mean() < 1
    found = compiled(QUERY, KEY, VALUE, SEQUENCE_IDS, dropout_rate=RATE, dropout_seeds=SEEDS)
    np.testing.assert_allclose(found, numpy_attention(keep), rtol=0, atol=1e-6)


def test_without_seeds_nothing_is_dropped():
    found = compiled(QUERY, KEY, VALUE, SEQUENCE_IDS, dropout_rate=RATE)
    np.testing.assert_array_equal(found, compiled(QUERY, KEY, VALUE, SEQUENCE_IDS))


# ---- scaling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_size", [16, 256])
def test_scaled_scores_of_random_vectors_have_variance_1(head_size):
    """q.k of d standard normal entries has variance d, and 1 after the division by sqrt(d).

    log p is the scaled score less a number of its query's own, so its variance over the keys is the scores'.
    """
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(16, 64, 1, head_size)).astype(np.float32) for _ in range(2))
    variance = np.log(probabilities_of(query, key)).var(-1, ddof=1).mean()
    raw = np.einsum("bqhd,bkhd->bhqk", query, key).var(-1, ddof=1).mean()
    assert abs(variance - 1) < 0.05
    assert abs(raw / head_size - 1) < 0.05


@pytest.mark.parametrize(("a", "printed", "digits"), [(1, 0.5761, 4), (10, 0.99991, 5), (100, 1.0, 5)])
def test_softmax_saturates_with_large_scores(a, printed, digits):
    """The probability of the last of the scores a, a, 2a."""
    query, key = np.ones((1, 3, 1, 1), np.float32), np.array([a, a, 2 * a], np.float32).reshape(1, 3, 1, 1)
    probabilities = probabilities_of(query, key)[0, 0, 0]
    assert round(float(probabilities[2]), digits) == printed
    np.testing.assert_allclose(probabilities[:2], (1 - np.float64(probabilities[2])) / 2, atol=1e-7)


def test_saturated_softmax_has_no_gradient():
    """What the scaling is for."""
    value = np.array([0, 0, 1], np.float32).reshape(1, 3, 1, 1)

    @jax.jit
    @jax.grad
    def slope(a: jax.Array) -> jax.Array:
        key = (a * jnp.array([1.0, 1.0, 2.0])).reshape(1, 3, 1, 1)
        return attention(jnp.ones((1, 3, 1, 1)), key, value, jnp.ones((1, 3), jnp.int32))[0, 0, 0, 0]

    assert slope(1.0) > 0.2  # p (1 - p) at p = 0.5761
    assert abs(slope(1.0) - 0.5761 * 0.4239) < 1e-4
    assert slope(100.0) < 1e-30


# ---- masks ---------------------------------------------------------------------------------------------------------


def test_other_examples_and_padding_do_not_reach_a_token():
    """Their values may be anything finite, their gradient is exactly zero."""
    own = SEQUENCE_IDS[0] == 2

    def first_row(query: Any, key: Any, value: Any) -> jax.Array:
        return jnp.sin(compiled(query, key, value, SEQUENCE_IDS)[0, own]).sum()

    gradients = jax.jit(jax.grad(first_row, argnums=(0, 1, 2)))(QUERY, KEY, VALUE)
    for gradient in gradients:
        assert (np.asarray(gradient)[0, own] != 0).all()
        assert (np.asarray(gradient)[0, ~own] == 0).all()
        assert (np.asarray(gradient)[1] == 0).all()
    loud = [np.where(own[None, :, None, None], x, np.float32(1e6)) for x in (QUERY, KEY, VALUE)]
    found, base = compiled(*loud, SEQUENCE_IDS), compiled(QUERY, KEY, VALUE, SEQUENCE_IDS)
    np.testing.assert_array_equal(found[0, own], base[0, own])


def test_masked_partners_lose_to_any_score():
    """A mask of -10,000, as in google-research/bert, loses to scores below it."""
    query = np.full((B, S, H, D), 1e3, np.float32)
    key = np.where(SEQUENCE_IDS[..., None, None] == 2, -query, query)  # scores of -2e6 inside the second example
    found = np.asarray(compiled(query, key, VALUE, SEQUENCE_IDS))[0, 4:7]
    np.testing.assert_allclose(found, np.broadcast_to(VALUE[0, 4:7].mean(0), found.shape), atol=1e-6)


def test_a_row_of_padding_alone_is_finite():
    """A filler row of the last batch: its gradient must not turn into NaN either."""
    ids = np.zeros((B, S), np.int32)
    loss = lambda *inputs: compiled(*inputs, ids).sum()  # noqa: E731
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(QUERY, KEY, VALUE)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


# ---- types ---------------------------------------------------------------------------------------------------------


def test_scores_and_softmax_are_float32_in_bfloat16():
    """Only inputs, probabilities and output are rounded: within 8 bits of the float32 result."""
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in (QUERY, KEY, VALUE)]
    found = compiled(*narrow, SEQUENCE_IDS)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), numpy_attention(), rtol=0, atol=0.05)
    jaxpr = jax.make_jaxpr(attention)(*narrow, SEQUENCE_IDS)
    exponentials = [each for each in jaxpr.eqns if each.primitive.name in ("exp", "exp2")]
    assert exponentials
    assert all(each.invars[0].aval.dtype == jnp.float32 for each in exponentials)


# ---- the reference, with gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "rate"), [(16, 0.1), (48, 0.0), (128, 0.1), (512, 0.1)])
def test_reference_and_its_gradients_equal_numpy(length, rate):
    sample = make_sample(length)
    assert_near(run("reference", sample, rate), numpy_attention_and_gradients(sample, rate), 1e-5)


def test_gradients_stay_inside_a_packed_example():
    assert_only_own_gradients("reference")


# ---- choice of an implementation -----------------------------------------------------------------------------------

ON_CPU = AttentionCase("cpu", "cpu", (128, 512), 12, 64, jnp.float32, 0.1)
ON_TPU = ON_CPU._replace(platform="tpu", device_kind="TPU v5 lite", dtype=jnp.bfloat16)
ON_GPU = ON_TPU._replace(platform="gpu", device_kind="NVIDIA H200")


@pytest.mark.parametrize(
    ("case", "chosen"),
    [
        (ON_CPU, "reference"),
        (ON_TPU, "pallas_tpu"),
        (ON_TPU._replace(sequence_lengths=(128, 1024)), "xla"),
        (ON_GPU, "pallas_gpu"),
        (ON_GPU._replace(device_kind="NVIDIA H100 80GB HBM3"), "pallas_gpu"),
        (ON_GPU._replace(device_kind="NVIDIA GH200 480GB"), "pallas_gpu"),
        (ON_GPU._replace(device_kind="NVIDIA A100-SXM4-40GB"), "xla"),
        (ON_GPU._replace(head_size=96), "xla"),
    ],
)
def test_auto_takes_the_fused_kernel_where_there_is_one(case, chosen):
    assert resolve_implementation("auto", case) == chosen


def test_reference_and_xla_refuse_nothing():
    odd = ON_GPU._replace(sequence_lengths=(7, 4096), heads=5, head_size=100, dtype=jnp.float16)
    for name in ("reference", "xla"):
        assert refusal(name, odd) is None
        assert resolve_implementation(name, odd) == name


@pytest.mark.parametrize("name", ["pallas_tpu", "pallas_gpu", "cudnn"])
def test_a_kernel_is_refused_where_its_hardware_is_not(name):
    """Never run by an interpreter that nobody asked for."""
    seeds = None if name == "cudnn" else SEEDS
    with pytest.raises(UserError, match=f"^attention={name} needs an? .* and this is a cpu: set attention=auto$"):
        attention(QUERY, KEY, VALUE, SEQUENCE_IDS, dropout_rate=RATE, dropout_seeds=seeds, implementation=name)


def test_an_unknown_implementation_is_refused_by_name():
    with pytest.raises(UserError, match=r"^attention=flashy is not known: choose auto or one of .*reference"):
        attention(QUERY, KEY, VALUE, SEQUENCE_IDS, implementation="flashy")


def test_every_configurable_implementation_exists():
    assert set(ATTENTIONS) == {"auto", *IMPLEMENTATIONS}


def test_the_command_line_refuses_it_too(tmp_path, capsys):
    arguments = ["pretrain", "tiny", "--data", str(tmp_path), "--output", str(tmp_path / "run"), "attention=flashy"]
    assert "attention=flashy is not known: choose one of auto, reference" in refusal_of(capsys, *arguments)


# ---- over a mesh ---------------------------------------------------------------------------------------------------


def on_mesh(name: str, sample: Sample, **sizes: int) -> list[np.ndarray]:
    """Output and gradients with rows and heads cut over a mesh."""
    mesh = make_mesh(MeshConfig(**sizes))
    cut = NamedSharding(mesh, P(("dcn", "data", "fsdp"), None, "tensor", None))
    with jax.set_mesh(mesh), interpreted_kernels():
        placed = sample._replace(**{field: jax.device_put(getattr(sample, field), cut) for field in Sample._fields[:4]})
        results = run(name, placed, 0.1)
    assert all(x.sharding.is_equivalent_to(cut, 4) for x in results), "gathered somewhere"
    return [np.asarray(x) for x in results]


@pytest.mark.parametrize("name", ["pallas_tpu", "pallas_gpu"])
def test_every_mesh_gives_the_same_bits(name):
    sample = make_sample(32, heads=4)
    single = on_mesh(name, sample, data=1)
    assert_near(tuple(single), numpy_attention_and_gradients(sample, 0.1), 1e-5)
    for sizes in ({"data": 4}, {"data": 2, "tensor": 2}, {"dcn": 2, "fsdp": 2, "tensor": 2}):
        for found, wanted in zip(on_mesh(name, sample, **({"data": 1} | sizes)), single, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_heads_that_tensor_does_not_divide_are_refused():
    with (
        jax.set_mesh(make_mesh(MeshConfig(data=1, tensor=2))),
        pytest.raises(UserError, match=r"^model.num_attention_heads=3 is not divisible by mesh.tensor=2: change one"),
    ):
        attention(QUERY, KEY, VALUE, SEQUENCE_IDS)
