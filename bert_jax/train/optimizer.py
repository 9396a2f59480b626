# SPDX-License-Identifier: Apache-2.0
"""The optimizers and their schedule, as optax transformations.

`adamw_bert` is the original's Adam: decoupled weight decay and no bias correction (google-research/bert,
optimization.py). `adamw` has the correction (1711.05101). `lamb` is 1904.00962, algorithm 2, with bias correction.
`muon` is optax's for the matrices of the layers, its steps as long as Adam's (2502.16982), and `adamw` for all else, which
of a biLM is everything.

All of them leave LayerNorm and biases without decay; LAMB leaves these without its trust ratio too, as the published
implementation does. LAMB's ratio and Muon's matrix are those of each layer on its own, although layers are stacked.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.base.types import PyTree
from bert_jax.config.training import OptimizerSettings, SchedulePart
from bert_jax.mesh.sharding import parameter_path

RMS_OF_ADAM = (
    0.2  # root mean square of Adam's steps before the rate, which Muon's are scaled to (2502.16982, section 2.2)
)
STACKED = re.compile(r"(^|/)layers/")  # parameters with a leading axis of layers
MATRIX_OF_LAYER = re.compile(r"(^|/)layers/.*/kernel$")  # [L, in, out]: what Muon orthogonalises
EMBEDDINGS = re.compile(r"(^|/)embeddings(_project)?/")
NOT_DECAYED = re.compile(r"(^|/)(bias|scale|mix/weights)$")


def is_decayed(path: str) -> bool:
    """Weight decay holds for kernels and tables, not for LayerNorm and biases."""
    return not NOT_DECAYED.search(path)


def decay_mask(parameters: PyTree) -> PyTree:
    """True where weight decay holds, in the tree of `parameters`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_decayed(parameter_path(path)), parameters)


# ---- schedules -----------------------------------------------------------------------------------------------------


class Stretch(NamedTuple):
    """The place of a step in its part of the schedule; float32 scalars."""

    step: jax.Array  # from 0
    steps: jax.Array
    warmup: jax.Array  # steps
    decay_share: jax.Array  # of the steps, at their end


def _linear(peak: jax.Array, at: Stretch) -> jax.Array:
    """Fall to 0 as the original does: the decay counts from step 0, so the peak itself is not quite reached."""
    return peak * jnp.maximum(at.steps - at.step, 0) / at.steps


def _cosine(peak: jax.Array, at: Stretch) -> jax.Array:
    """SGDR (1608.03983), equation 5, without restarts: from the end of the warm-up to the last step."""
    progress = (at.step - at.warmup) / jnp.maximum(at.steps - at.warmup, 1)
    return peak * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(progress, 1)))


def _inverse_sqrt(peak: jax.Array, at: Stretch) -> jax.Array:
    """Attention Is All You Need (1706.03762), equation 3, with the peak at the end of the warm-up."""
    return peak * jnp.sqrt(jnp.maximum(at.warmup, 1) / jnp.maximum(at.step, 1))


def _warm_up_stable_decay(peak: jax.Array, at: Stretch) -> jax.Array:
    """MiniCPM (2404.06395), section 4, with a line to 0 as in 2405.18392, section 3: the last step still moves."""
    return peak * jnp.clip((at.steps - at.step) / (at.decay_share * at.steps), 0, 1)


# name of `config.training.SCHEDULES` -> the rate after the warm-up
DECAYS: Mapping[str, Callable[[jax.Array, Stretch], jax.Array]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": lambda peak, _: peak,
    "inverse_sqrt": _inverse_sqrt,
    "wsd": _warm_up_stable_decay,
}


def learning_rate_schedule(
    parts: Sequence[SchedulePart], name: str = "linear"
) -> Callable[[jax.Array | int], jax.Array]:
    """Return step (from 0) -> learning rate, float32: in each part `peak * step / warmup`, then what DECAYS says."""
    begins = [part.begin for part in parts]
    lengths = [part.steps for part in parts]
    peaks = [part.learning_rate for part in parts]
    warmups = [part.warmup_steps for part in parts]
    shares = [part.decay_share for part in parts]

    def schedule(step: jax.Array | int) -> jax.Array:
        part = jnp.searchsorted(jnp.asarray(begins), step, side="right") - 1
        local = (jnp.asarray(step) - jnp.asarray(begins)[part]).astype(jnp.float32)
        peak = jnp.asarray(peaks, jnp.float32)[part]
        warmup = jnp.asarray(warmups, jnp.float32)[part]
        rising = peak * local / jnp.maximum(warmup, 1)
        length = jnp.asarray(lengths, jnp.float32)[part]
        stretch = Stretch(local, length, warmup, jnp.asarray(shares, jnp.float32)[part])
        return jnp.where(local < warmup, rising, DECAYS[name](peak, stretch))

    return schedule


# ---- optimizers ----------------------------------------------------------------------------------------------------


def _decay(config: OptimizerSettings) -> optax.GradientTransformation:
    return optax.add_decayed_weights(config.weight_decay, mask=decay_mask)


def _adam(config: OptimizerSettings) -> list[optax.GradientTransformation]:
    moments = scale_by_moments(config.b1, config.b2, config.eps, bias_correction=config.kind.corrects_bias)
    return [moments, _decay(config)]


def _muon(config: OptimizerSettings) -> list[optax.GradientTransformation]:
    """Muon's momentum is optax's own (0.95, Nesterov's); b1, b2 and eps are those of the rest, which AdamW moves."""
    muon = optax.contrib.scale_by_muon(weight_dimension_numbers=_matrices)
    matrices = optax.chain(muon, optax.stateless(lambda updates, _: jax.tree.map(_as_long_as_adam, updates)))
    others = scale_by_moments(config.b1, config.b2, config.eps, bias_correction=config.kind.corrects_bias)
    return [optax.partition({"matrix": matrices, "other": others}, _kinds_for_muon), _decay(config)]


def _as_long_as_adam(update: jax.Array) -> jax.Array:
    """Scale updates to Adam's length: the root mean square of an orthogonal [L, in, out] is 1 / sqrt(max(in, out))."""
    return update * (RMS_OF_ADAM * max(update.shape[1:]) ** 0.5)


def _kinds_for_muon(parameters: PyTree) -> PyTree:
    def kind(path: jax.tree_util.KeyPath, _: jax.Array) -> str:
        return "matrix" if MATRIX_OF_LAYER.search(parameter_path(path)) else "other"

    return jax.tree_util.tree_map_with_path(kind, parameters)


def _matrices(parameters: PyTree) -> PyTree:
    """The axes of a kernel of stacked layers: each layer's matrix is orthogonalised by itself."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2), parameters)


# name of `config.training.OPTIMIZERS` -> what stands between the clipped gradient and the learning rate
UPDATES: Mapping[str, Callable[[OptimizerSettings], list[optax.GradientTransformation]]] = {
    "adamw_bert": _adam,
    "adamw": _adam,
    "lamb": lambda config: [*_adam(config), scale_by_layer_trust_ratio()],
    "muon": _muon,
}


def make_optimizer(config: OptimizerSettings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clip by global norm, the update of the optimizer's name, learning rate, (rates of layers, average of the weights)."""
    steps = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.freeze != "none":
        steps.insert(0, scale_by_factors(lambda parameters: trained_parts(parameters, config.freeze)))
    steps += [*UPDATES[config.name](config), optax.scale_by_learning_rate(schedule)]
    if config.layer_decay != 1:
        steps.append(scale_by_factors(lambda parameters: layer_rates(parameters, config.layer_decay)))
    if config.freeze != "none":  # decay too
        steps.append(scale_by_factors(lambda parameters: trained_parts(parameters, config.freeze)))
    if config.average is not None:  # of what the updates lead to, so it comes last
        steps.append(average_weights(config.average))
    return optax.chain(*steps)


def layer_rates(parameters: PyTree, decay: float) -> PyTree:
    """Return decay^(L + 1 - l) for layer l of L; the embeddings are layer 0, and everything above the layers has 1.

    Universal Language Model Fine-tuning (1801.06146), section 3.2. ELECTRA's code (2003.10555) counts a step more below the
    head: its layers learn at `decay` times these rates.

    Returns:
      A factor for each parameter that broadcasts against it: of stacked layers [L, 1, ...].
    """
    return _by_depth(parameters, lambda depth, layers: decay ** (layers + 1 - depth))


def trained_parts(parameters: PyTree, freeze: str) -> PyTree:
    """0 where `optimizer.freeze` keeps a parameter as it is, 1 elsewhere; as `layer_rates`."""
    if freeze == "encoder":  # its pooler too
        return jax.tree_util.tree_map_with_path(
            lambda path, _: 0.0 if parameter_path(path).startswith("encoder/") else 1.0, parameters
        )
    lowest = 0 if freeze == "embeddings" else int(freeze)
    return _by_depth(parameters, lambda depth, layers: (depth > lowest) * 1.0)


def _by_depth(parameters: PyTree, factor: Callable[[int | np.ndarray, int], float | np.ndarray]) -> PyTree:
    """`factor` of the depth of each parameter, of L: embeddings 0, stacked layers [L, 1, ...] of 1 to L, the rest L + 1."""
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    layers = next(leaf.shape[0] for path, leaf in leaves if STACKED.search(parameter_path(path)))

    def of(path: jax.tree_util.KeyPath, leaf: jax.Array) -> PyTree:
        name = parameter_path(path)
        if STACKED.search(name):
            depths = np.arange(1, layers + 1).reshape(-1, *(1,) * (leaf.ndim - 1))
            return np.asarray(factor(depths, layers), np.float32)
        return float(factor(0 if EMBEDDINGS.search(name) else layers + 1, layers))

    return jax.tree_util.tree_map_with_path(of, parameters)


def scale_by_factors(factors: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Multiply updates by constants that follow from the parameters' names."""

    def apply(updates: PyTree, state: PyTree, parameters: PyTree) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda update, by: update * by, updates, factors(parameters)), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), apply)


class MomentsState(NamedTuple):
    """First and second moments of the gradient."""

    updates: jax.Array  # [] int32, how many so far
    mu: PyTree
    nu: PyTree


def scale_by_moments(b1: float, b2: float, eps: float, *, bias_correction: bool) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps) with moments m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, corrected or not."""

    def init(parameters: PyTree) -> MomentsState:
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return MomentsState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, parameters))

    def update(gradients: PyTree, state: MomentsState, _: object = None) -> tuple[PyTree, MomentsState]:
        updates = state.updates + 1
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, gradients, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * jnp.square(g), gradients, state.nu)
        first, second = (1 - b1**updates, 1 - b2**updates) if bias_correction else (1, 1)
        scaled = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + eps), mu, nu)
        return scaled, MomentsState(updates, mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_layer_trust_ratio() -> optax.GradientTransformation:
    """LAMB's trust ratio |parameter| / |update|, 1 where either is 0, of each layer's array on its own."""

    def rescale(path: jax.tree_util.KeyPath, update: jax.Array, parameter: jax.Array) -> jax.Array:
        name = parameter_path(path)
        if not is_decayed(name):
            return update
        axes = tuple(range(1 if STACKED.search(name) else 0, update.ndim))
        size = jnp.sqrt(jnp.square(parameter).sum(axes, keepdims=True))
        step = jnp.sqrt(jnp.square(update).sum(axes, keepdims=True))
        return update * jnp.where((size > 0) & (step > 0), size / jnp.where(step > 0, step, 1), 1)

    def apply(updates: PyTree, state: PyTree, parameters: PyTree) -> tuple[PyTree, PyTree]:
        return jax.tree_util.tree_map_with_path(rescale, updates, parameters), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), apply)


class AverageState(NamedTuple):
    """A moving average of the parameters."""

    updates: jax.Array  # [] int32, how many so far
    average: PyTree


def average_weights(decay: float) -> optax.GradientTransformation:
    """Pass updates on, and keep a <- a + (1 - d) (p - a) of the parameters p that they lead to, from p of step 0.

    In step t (from 1) d is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten: as TensorFlow's
    ExponentialMovingAverage is told the number of updates.
    """

    def init(parameters: PyTree) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, parameters))

    def update(updates: PyTree, state: AverageState, parameters: PyTree) -> tuple[PyTree, AverageState]:
        number = state.updates + 1
        gain = 1 - jnp.minimum(decay, (1 + number) / (10 + number))
        reached = optax.apply_updates(parameters, updates)
        average = jax.tree.map(lambda a, p: a + gain * (p - a), state.average, reached)
        return updates, AverageState(number, average)

    return optax.GradientTransformation(init, update)
