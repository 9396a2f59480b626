# SPDX-License-Identifier: Apache-2.0
"""A function taken operation by operation: the same result, and the first operation that is not finite, with its place."""

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.rerun.finite import examine, place_of


def network(weights, x):
    """Three layers under a scan; the second overflows where its weight is large, a mask is -inf on purpose."""

    def layer(x, weight):
        with jax.named_scope("attention"):
            scores = jnp.where(x > 0, x, -jnp.inf)
            x = x + jax.nn.softmax(scores)
        with jax.named_scope("feed_forward"):
            return jnp.tanh(jnp.exp(weight * x) * 1e-3), None

    with jax.named_scope("embedding"):
        x = jnp.sin(x)
    return jax.lax.scan(layer, x, weights)[0].sum()


def test_a_sound_function_gives_its_result_and_no_fault():
    weights, x = jnp.array([1.0, 2.0, 1.0]), jnp.linspace(0.1, 1, 6).reshape(2, 3)
    gradient = jax.grad(network, argnums=(0, 1))
    found, looked = examine(gradient, weights, x, layers=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, gradient(weights, x))
    assert looked.bad == []
    assert {(place.layer, place.direction) for place in looked.largest if place.region == "feed_forward"} == {
        (layer, direction) for layer in (1, 2, 3) for direction in ("forward", "backward")
    }


def test_the_first_bad_operation_is_named_with_its_layer():
    x = jnp.array([[0.5, 0.6], [0.1, 0.2]])
    _, looked = examine(jax.grad(network), jnp.array([1.0, 300.0, 1.0]), x, layers=3)
    first = looked.bad[0]
    assert (first.name, first.value, first.rows) == ("exp", "inf", [0, 1])
    assert first.place == ("forward", 2, "feed_forward")


def test_what_is_wrong_in_the_gradient_alone_is_found_there():
    square = jax.custom_vjp(jnp.square)
    square.defvjp(lambda x: (jnp.square(x), x), lambda x, gradient: (gradient / (x - x),))

    def function(x):
        with jax.named_scope("attention"):
            return square(x).sum()

    _, looked = examine(jax.grad(function), jnp.ones(3), layers=9)
    assert [(operation.name, operation.place.direction) for operation in looked.bad] == [("div", "backward")]


def test_an_outer_loop_is_no_loop_over_layers():
    def function(weights, x):
        return jax.lax.scan(lambda total, part: (total + network(weights, part), None), 0.0, x)[0]

    x = jnp.linspace(0.1, 1, 12).reshape(3, 2, 2)
    found, looked = examine(function, jnp.ones(3), x, layers=3, outer_loops=1)
    np.testing.assert_allclose(found, function(jnp.ones(3), x), rtol=1e-6)
    assert {place.layer for place in looked.largest if place.region == "embedding"} == {None}


def test_places():
    assert place_of("jit/jvp(heads)/loss", None) == ("forward", None, "loss")
    assert place_of("jit/transpose(jvp(attention))/dot_general", 2).words() == "attention, layer 2, backward"
    assert place_of("jit/reduce_sum", None).region == "rest"
