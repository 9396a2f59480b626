# SPDX-License-Identifier: Apache-2.0
"""Functions with gradients of their own, which keep less from the forward to the backward pass than automatic
differentiation would, and compute the same.

What each keeps, in the dtype of the computation unless said otherwise:

- `layer_norm`: its input, and mean and 1 / standard deviation in float32.
- `dense`: its input, and its parameters as they are (float32): their cast is done again, not stored.
- `gelu`: its input.
- `gelu_dense`: the input of GELU; what comes out of GELU is computed again.
- `logits`: as `dense`; the products of its gradient are in the dtype of the computation, though what it returns is float32.

Gradients of parameters are float32, summed in float32.

Shapes: N any number of leading axes, I inputs, O outputs, D features.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

SQRT_HALF = 0.7071067811865476
SQRT_TWO_OVER_PI = 0.7978845608028654
ONE_OVER_SQRT_TWO_PI = 0.3989422804014327
CUBIC = 0.044715  # of the tanh form


# ---- LayerNorm -----------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalise the last axis, in float32 (1607.06450).

    Args:
      x: [N, D].
      scale, bias: [D] float32.
      epsilon: added to the variance.

    Returns:
      [N, D] in the dtype of `x`.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(_variance(wide, mean, x.dtype) + epsilon)
    y = (wide - mean) * inverse * along_last(scale, x.ndim) + along_last(bias, x.ndim)
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _variance(wide: jax.Array, mean: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Return the variance of the last axis: [N, D] float32, that were values of `dtype` -> [N, 1].

    Of bfloat16 by the mean of squares, which needs no second pass over the values. What cancels there, 2^-24 of the squared
    mean, is little beside what rounding the values to bfloat16 has added, 2^-18 / 3 of it.
    """
    if dtype == jnp.bfloat16:
        return jnp.maximum(jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean), 0.0)
    return jnp.square(wide - mean).mean(-1, keepdims=True)


def _layer_norm_backward(
    _: float, residuals: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = residuals
    normal = (x.astype(jnp.float32) - mean) * inverse
    gradient = gradient.astype(jnp.float32)
    scaled = gradient * along_last(scale, x.ndim)
    projection = (scaled * normal).mean(-1, keepdims=True)
    dx = inverse * (scaled - scaled.mean(-1, keepdims=True) - normal * projection)
    leading = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (gradient * normal).sum(leading), gradient.sum(leading)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


# ---- Dense ---------------------------------------------------------------------------------------------------------


@jax.custom_vjp
def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x [N, I] @ kernel [I, O] + bias [O] -> [N, O], in the dtype of `x`; float32 means float32 on accelerators too."""
    return _dense_forward(x, kernel, bias)[0]


# Forward rules are written out, not by calling the function itself: a remat policy looks for their matrix products.
def _dense_forward(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y = multiply(x, kernel.astype(x.dtype)) + along_last(bias.astype(x.dtype), x.ndim)
    return y, (x, kernel)


def _dense_backward(residuals: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = residuals
    dx = multiply(gradient, kernel.astype(x.dtype).T)
    return dx, kernel_gradient(x, gradient), _bias_gradient(gradient)


dense.defvjp(_dense_forward, _dense_backward)


# ---- GELU ----------------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: jax.Array, form: str) -> jax.Array:
    """GELU (1606.08415), in float32, returned in the dtype of `x`.

    Args:
      x: of any shape.
      form: `gelu_tanh` of google-research/bert or `gelu_erf` of Hugging Face's `gelu`.
    """
    return _gelu_forward(x, form)[0]


def _gelu_forward(x: jax.Array, form: str) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide, form)).astype(x.dtype), x


def _gelu_backward(form: str, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    slope = gelu_slope(x.astype(jnp.float32), form)
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def gelu_dense(x: jax.Array, kernel: jax.Array, bias: jax.Array, form: str) -> jax.Array:
    """`dense(gelu(x, form), kernel, bias)`, which keeps `x` only."""
    return _gelu_dense_forward(x, kernel, bias, form)[0]


def _gelu_dense_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, form: str
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y, _ = _dense_forward(_gelu_forward(x, form)[0], kernel, bias)
    return y, (x, kernel)


def _gelu_dense_backward(
    form: str, residuals: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = residuals
    activated, _ = _gelu_forward(x, form)
    (dx,) = _gelu_backward(form, x, multiply(gradient, kernel.astype(x.dtype).T))
    return dx, kernel_gradient(activated, gradient), _bias_gradient(gradient)


gelu_dense.defvjp(_gelu_dense_forward, _gelu_dense_backward)


def gelu_slope(x: jax.Array, form: str) -> jax.Array:
    """The derivative of GELU at x, float32."""
    if form == "gelu_erf":
        return _normal_cdf(x, form) + x * ONE_OVER_SQRT_TWO_PI * jnp.exp(-0.5 * x * x)
    tanh = jnp.tanh(SQRT_TWO_OVER_PI * (x + CUBIC * x**3))
    inner_slope = SQRT_TWO_OVER_PI * (1 + 3 * CUBIC * x * x)
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * inner_slope


def _normal_cdf(x: jax.Array, form: str) -> jax.Array:
    """Return the factor of x in GELU: the normal distribution function, or its approximation by tanh."""
    if form == "gelu_erf":
        return 0.5 * (1 + jax.lax.erf(x * SQRT_HALF))
    return 0.5 * (1 + jnp.tanh(SQRT_TWO_OVER_PI * (x + CUBIC * x**3)))


# ---- logits --------------------------------------------------------------------------------------------------------


@jax.custom_vjp
def logits(x: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
    """x [N, D] @ the transposed table [V, D] + bias [V] -> [N, V] float32, with float32 sums."""
    return _logits_forward(x, table, bias)[0]


def _logits_forward(x: jax.Array, table: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y = multiply(x, table.astype(x.dtype).T, jnp.float32) + along_last(bias, x.ndim)
    return y, (x, table)


def _logits_backward(residuals: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, table = residuals
    narrow = gradient.astype(x.dtype)  # or both products would be float32: two thirds of the head's FLOPs
    return multiply(narrow, table.astype(x.dtype)), kernel_gradient(narrow, x), _bias_gradient(gradient)


logits.defvjp(_logits_forward, _logits_backward)


# ---- what they share -----------------------------------------------------------------------------------------------


def multiply(x: jax.Array, matrix: jax.Array, result: DTypeLike | None = None) -> jax.Array:
    """x [N, I] @ matrix [I, O] -> [N, O]; `result` is the dtype that is asked of the product."""
    return jnp.dot(x, matrix, precision=exact(x.dtype), preferred_element_type=result)


def exact(dtype: DTypeLike) -> jax.lax.Precision | None:
    """The precision of matrix products: float32 means float32, on accelerators too."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """x [N, I], gradient [N, O] -> [I, O] float32."""
    return jax.lax.platform_dependent(x, gradient, cpu=_flat_kernel_gradient, default=_kernel_gradient)


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    leading = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(
        x, gradient, ((leading, leading), ((), ())), precision=exact(x.dtype), preferred_element_type=jnp.float32
    )


def _flat_kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The same with one axis to sum over: of several, a CPU makes a slow product. A TPU then fuses less."""
    return _kernel_gradient(x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1]))


def _bias_gradient(gradient: jax.Array) -> jax.Array:
    return gradient.astype(jnp.float32).sum(tuple(range(gradient.ndim - 1)))


def along_last(vector: jax.Array, ndim: int) -> jax.Array:
    """[D] -> [1, ..., 1, D] with `ndim` axes: broadcasting is written out."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
