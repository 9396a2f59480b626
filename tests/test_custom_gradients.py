# SPDX-License-Identifier: Apache-2.0
"""Functions with gradients of their own: the same values and gradients as the formulas, and less kept."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model.custom_gradients import dense, gelu, gelu_dense, gelu_slope, layer_norm

EPSILON = 1e-12
FORMS = ("gelu_erf", "gelu_tanh")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


X, KERNEL, BIAS, SCALE = draw(3, 5, 8), draw(8, 6), draw(6), draw(8)


def plain_layer_norm(x: Any, scale: Any, bias: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale[None, None] + bias[None, None]


def plain_dense(x: Any, kernel: Any, bias: Any) -> Any:
    return x @ kernel + bias[None, None]


def plain_gelu(x: Any, form: str) -> Any:
    return jax.nn.gelu(x, approximate=form == "gelu_tanh")


CASES = {
    "layer_norm": (partial(layer_norm, epsilon=EPSILON), plain_layer_norm, (X, SCALE, draw(8, seed=1))),
    "dense": (dense, plain_dense, (X, KERNEL, BIAS)),
    **{form: (partial(gelu, form=form), partial(plain_gelu, form=form), (X,)) for form in FORMS},
    **{
        f"{form}_dense": (
            partial(gelu_dense, form=form),
            lambda x, kernel, bias, form=form: plain_dense(plain_gelu(x, form), kernel, bias),
            (X, KERNEL, BIAS),
        )
        for form in FORMS
    },
}


def with_positional_form(function: Any, arguments: tuple[Any, ...]) -> Any:
    """custom_vjp takes what is not differentiated by position."""
    return (
        function.func(*arguments, *function.keywords.values())
        if isinstance(function, partial)
        else function(*arguments)
    )


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name):
    """Against automatic differentiation of the formula in float64."""
    function, plain, arguments = CASES[name]
    value, pull_back = jax.vjp(lambda *a: with_positional_form(function, a), *map(jnp.asarray, arguments))
    gradient = draw(*value.shape, seed=2)
    found = (value, *pull_back(jnp.asarray(gradient)))
    with jax.enable_x64(True):
        wide = [jnp.asarray(each, jnp.float64) for each in arguments]
        expected, plain_pull_back = jax.vjp(plain, *wide)
        expected = [np.asarray(each) for each in (expected, *plain_pull_back(jnp.asarray(gradient, jnp.float64)))]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("form", FORMS)
def test_slope_of_gelu_by_differences(form):
    """Against central differences of the published formula in float64."""
    x, step = np.linspace(-6, 6, 241), 1e-5
    with jax.enable_x64(True):
        difference = np.asarray(plain_gelu(jnp.asarray(x + step), form) - plain_gelu(jnp.asarray(x - step), form))
    np.testing.assert_allclose(gelu_slope(jnp.asarray(x, jnp.float32), form), difference / (2 * step), atol=1e-5)


def kept(function: Any, *arguments: Any) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and dtypes of what is kept for the backward pass."""
    _, pull_back = jax.vjp(function, *map(jnp.asarray, arguments))
    return sorted((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(pull_back))


def test_what_is_kept():
    """In bfloat16: the input once, parameters as they are, two numbers a row of LayerNorm."""
    x = jnp.asarray(X, jnp.bfloat16)
    assert kept(dense, x, KERNEL, BIAS) == [((3, 5, 8), "bfloat16"), ((8, 6), "float32")]
    assert kept(lambda x: gelu(x, "gelu_tanh"), x) == [((3, 5, 8), "bfloat16")]
    assert kept(lambda x, k, b: gelu_dense(x, k, b, "gelu_tanh"), x, KERNEL, BIAS) == [
        ((3, 5, 8), "bfloat16"),
        ((8, 6), "float32"),
    ]
    assert kept(lambda x, s, b: layer_norm(x, s, b, EPSILON), x, SCALE, SCALE) == [
        ((3, 5, 1), "float32"),
        ((3, 5, 1), "float32"),
        ((3, 5, 8), "bfloat16"),
        ((8,), "float32"),
    ]


@pytest.mark.parametrize("mean", [0.0, 8.0, 64.0])
def test_layer_norm_of_bfloat16(mean):
    """Rows that lie up to 64 standard deviations from zero, against the formula in float64 on the same rounded values."""
    x = jnp.asarray(mean + np.random.default_rng(3).standard_normal((2, 5, 512)), jnp.bfloat16)
    scale, bias = draw(512, seed=1), draw(512, seed=2)
    expected = np.asarray(plain_layer_norm(*(np.asarray(each, np.float64) for each in (x, scale, bias))))
    found = np.asarray(layer_norm(x, jnp.asarray(scale), jnp.asarray(bias), EPSILON), np.float64)
    assert np.abs(found - expected).max() <= 2**-8 * np.abs(expected).max()


def test_gradients_of_parameters_are_float32_sums():
    """256 terms of 1 + 2^-7 that bfloat16 sums would round."""
    x = jnp.full((256, 1), 1 + 2**-7, jnp.bfloat16)
    _, pull_back = jax.vjp(dense, x, jnp.ones((1, 1)), jnp.zeros(1))
    _, kernel, bias = pull_back(jnp.ones((256, 1), jnp.bfloat16))
    assert kernel.dtype == bias.dtype == jnp.float32
    assert float(kernel[0, 0]) == 256 + 2
    assert float(bias[0]) == 256
