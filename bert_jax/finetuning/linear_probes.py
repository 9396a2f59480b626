# SPDX-License-Identifier: Apache-2.0
"""Linear probes: what a linear function can read from each layer's features, and from a mix of all that is learned with it.

Alain and Bengio (1610.01644) put a linear classifier on each layer; Tenney et al. (1905.05950), section 2.2, on a mix of
layers whose weights are learned, which is ELMo's (1802.05365, equation 1).

Shapes: T targets (what is learned from which sample), Z seeds, K layers, R features, B of a batch, D features of the encoder,
C classes (1 of a rating).
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from bert_jax.base.types import PyTree
from bert_jax.model.task_heads import ScalarMix

BATCH = 256
EPOCHS, MOST_SEEN = 20, 400_000  # passes over the training features, and how many are seen by each probe at most
LEARNING_RATE, WEIGHT_DECAY = 2e-2, 1e-2  # of AdamW; the rate falls to 0 in a straight line
AT_ONCE = 50  # steps of a compiled call
PREDICTED_AT_ONCE = 1024  # features


class Standard(NamedTuple):
    """Shift and scale of features, so that each has mean 0 and deviation 1 in training."""

    mean: np.ndarray  # [K, 1, D]
    deviation: np.ndarray  # [K, 1, D]

    @classmethod
    def of(cls, values: np.ndarray) -> "Standard":
        """Measure features [K, R, D]."""
        mean = values.mean(1, keepdims=True, dtype=np.float32)
        deviation = np.stack([layer.std(0, keepdims=True, dtype=np.float32) for layer in values])
        return cls(mean, np.maximum(deviation, 1e-6))

    def applied(self, values: np.ndarray) -> jax.Array:
        """Return features [K, R, D] as float16 on the device."""
        return jnp.stack(
            [
                jnp.asarray(((layer - mean) / deviation).astype(np.float16))
                for layer, mean, deviation in zip(values, self.mean, self.deviation, strict=True)
            ]
        )


class Probes(NamedTuple):
    """Linear functions of each layer, and of a mix of all, for each target."""

    weights: jax.Array  # [T, K + 1, D, C]; the last is of the mix
    biases: jax.Array  # [T, K + 1, C]
    mix: PyTree  # parameters of `ScalarMix`, [T, ...]


def mix_shares(probes: Probes) -> np.ndarray:
    """Return the weight of each layer in the mix, [T, K]; they add up to 1."""
    return np.asarray(jax.nn.softmax(jnp.asarray(probes.mix["weights"][...]), axis=-1))


def _logits(probes: Probes, features: jax.Array) -> jax.Array:
    """[K, B, D] -> [T, K + 1, B, C] float32.

    A linear function of a mix of layers is the same mix of the function of each layer, which is less to compute.
    """
    graph = nnx.split(nnx.eval_shape(lambda: ScalarMix(len(features))))[0]

    def mixed(mix: PyTree, projected: jax.Array) -> jax.Array:
        return nnx.merge(graph, mix)(projected[:, :, None])[:, 0]  # [K, B, 1, C] -> [B, C]

    features = features.astype(jnp.float32)
    layers = jnp.einsum("kbd,tkdc->tkbc", features, probes.weights[:, :-1])
    projected = jnp.einsum("kbd,tdc->tkbc", features, probes.weights[:, -1])
    every = jnp.concatenate([layers, jax.vmap(mixed)(probes.mix, projected)[:, None]], axis=1)
    return every + probes.biases[:, :, None]


def _loss(probes: Probes, features: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Losses of all probes, added up: they share no parameter. [K, B, D], [T, B], [T, B] -> []."""
    logits = _logits(probes, features)
    if logits.shape[-1] == 1:
        losses = jnp.square(logits[..., 0] - labels[:, None])
    else:
        wanted = jnp.broadcast_to(labels[:, None, :, None], (*logits.shape[:-1], 1))
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted, -1)[..., 0]
    return (losses * weights[:, None]).mean(-1).sum()


def fit(features: jax.Array, labels: np.ndarray, weights: np.ndarray, classes: int, title: str) -> Probes:
    """Train a probe on each layer and one on a mix, for all targets at once, by minibatches that they share.

    Args:
      features: [K, R, D], standardised.
      labels: [T, R] int32 classes or float32 ratings; a row for each target.
      weights: [T, R] float32, of each feature in the loss; see `bootstrap`.
      classes: C; 1 for ratings.
      title: of the progress bar.
    """
    targets, (layers, count, width) = len(labels), features.shape
    steps = max(1, min(EPOCHS * count, MOST_SEEN) // BATCH)
    start = Probes(
        jnp.zeros((targets, layers + 1, width, classes)),
        jnp.zeros((targets, layers + 1, classes)),
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (targets, *leaf.shape)), nnx.split(ScalarMix(layers))[1]),
    )
    optimizer = optax.adamw(optax.linear_schedule(LEARNING_RATE, 0.0, steps), weight_decay=WEIGHT_DECAY)

    @jax.jit
    def run(carry: tuple[Probes, PyTree], data: tuple[jax.Array, ...], chosen: jax.Array) -> tuple[Probes, PyTree]:
        def step(carry: tuple[Probes, PyTree], own: jax.Array) -> tuple[tuple[Probes, PyTree], None]:
            probes, state = carry
            gradients = jax.grad(_loss)(probes, *(part[:, own] for part in data))
            updates, state = optimizer.update(gradients, state, probes)
            return (optax.apply_updates(probes, updates), state), None

        return jax.lax.scan(step, carry, chosen)[0]

    data = features, jnp.asarray(labels), jnp.asarray(weights)
    carry, batches = (start, optimizer.init(start)), _batches(count)
    with tqdm(total=steps, unit="step", desc=title, disable=None, leave=False) as bar:
        for begin in range(0, steps, AT_ONCE):
            part = np.stack([next(batches) for _ in range(min(AT_ONCE, steps - begin))])
            carry = jax.block_until_ready(run(carry, data, part))
            bar.update(len(part))
    return carry[0]


def bootstrap(groups: np.ndarray, seeds: int) -> np.ndarray:
    """Weights of features for each seed: how often it drew their group, with replacement, [Z, R] float32 of mean 1.

    Args:
      groups: [R] features of one group (the words of a sentence) are drawn together.
      seeds: Z.
    """
    names, of_group = np.unique(groups, return_inverse=True)
    drawn = [np.random.default_rng(seed).integers(0, len(names), len(names)) for seed in range(seeds)]
    weights = np.stack([np.bincount(own, minlength=len(names))[of_group] for own in drawn]).astype(np.float32)
    return weights / weights.mean(1, keepdims=True)


def _batches(count: int) -> Iterator[np.ndarray]:
    """Numbers of features, [B] a step, pass after pass in another order."""
    rng, left = np.random.default_rng(0), np.zeros(0, np.int64)
    while True:
        while len(left) < BATCH:
            left = np.concatenate([left, rng.permutation(count)])
        yield left[:BATCH]
        left = left[BATCH:]


def predict(probes: Probes, features: jax.Array) -> np.ndarray:
    """Logits of all probes: [K, R, D] standardised -> [T, K + 1, R, C]."""
    run = jax.jit(_logits)
    count = features.shape[1]
    parts = [features[:, begin : begin + PREDICTED_AT_ONCE] for begin in range(0, count, PREDICTED_AT_ONCE)]
    return np.concatenate([np.asarray(run(probes, part)) for part in parts], axis=2)
