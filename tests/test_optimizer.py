# SPDX-License-Identifier: Apache-2.0
"""Optimizers against NumPy restatements of the published formulas, in float64 (row S38)."""

import jax
import numpy as np
import optax
import pytest

from bert_jax.config import OptimizerConfig, PhaseConfig, PretrainConfig
from bert_jax.optimizer import decay_mask, learning_rate_schedule, make_optimizer

STEPS = 20
TOTAL, WARMUP, PEAK = 40, 5, 1e-2
DECAYED = ("encoder/layers/attention/query/kernel", "encoder/embeddings/word", "nsp/kernel")


def example_tree(rng: np.random.Generator) -> dict:
    """Stacked layers, a table, a head, biases and LayerNorm: every kind of parameter there is."""
    norm = {"scale": rng.normal(1, 0.1, (2, 4)), "bias": rng.normal(0, 0.1, (2, 4))}
    query = {"kernel": rng.normal(0, 0.5, (2, 4, 4)), "bias": rng.normal(0, 0.1, (2, 4))}
    return {
        "encoder": {
            "embeddings": {"word": rng.normal(0, 0.5, (6, 4))},
            "layers": {"attention": {"query": query}, "attention_norm": norm},
        },
        "nsp": {"kernel": rng.normal(0, 0.5, (4, 2)), "bias": np.zeros(2)},
    }


def by_path(tree: dict) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(part.key for part in path): np.asarray(leaf, np.float64) for path, leaf in leaves}


def published_rate(step: int) -> float:
    """google-research/bert, optimization.py: polynomial decay to 0, replaced by the linear warm-up before its end."""
    return PEAK * step / WARMUP if step < WARMUP else PEAK * (1 - step / TOTAL)


def published_steps(name: str, start: dict, gradients: list[dict]) -> dict[str, np.ndarray]:
    """The formulas, parameter by parameter, layer by layer."""
    b1, b2, eps, decay = 0.9, 0.999, 1e-6, 0.01
    x = dict(start)
    m = {path: np.zeros_like(value) for path, value in x.items()}
    v = {path: np.zeros_like(value) for path, value in x.items()}
    for step, gradient in enumerate(gradients):
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for path, g in gradient.items():
            g = g / norm if norm > 1.0 else g
            m[path] = b1 * m[path] + (1 - b1) * g
            v[path] = b2 * v[path] + (1 - b2) * g**2
            if name == "adamw_bert":
                update = m[path] / (np.sqrt(v[path]) + eps)
            else:
                m_hat, v_hat = m[path] / (1 - b1 ** (step + 1)), v[path] / (1 - b2 ** (step + 1))
                update = m_hat / (np.sqrt(v_hat) + eps)
            if path in DECAYED:
                update = update + decay * x[path]
            if name == "lamb" and path in DECAYED:
                layers = list(zip(x[path], update, strict=True)) if "layers" in path else [(x[path], update)]
                scaled = [np.linalg.norm(old) / np.linalg.norm(new) * new for old, new in layers]
                update = np.stack(scaled) if "layers" in path else scaled[0]
            x[path] = x[path] - published_rate(step) * update
    return x


@pytest.mark.parametrize("name", ["adamw_bert", "adamw", "lamb"])
def test_twenty_steps_equal_the_published_formulas(name):
    rng = np.random.default_rng(0)
    start = example_tree(rng)
    # Some gradients are longer than the clip norm of 1, some shorter.
    gradients = [jax.tree.map(lambda x, s=s: rng.normal(0, s, x.shape), start) for s in [0.5, 0.01] * (STEPS // 2)]
    phases = (PhaseConfig(sequence_length=16, steps=TOTAL, batch_size=1, max_predictions_per_seq=3),)
    config = OptimizerConfig(name=name, learning_rate=PEAK, warmup_steps=WARMUP)
    optimizer = make_optimizer(
        config, learning_rate_schedule(PretrainConfig(phases=phases, optimizer=config).schedule_parts())
    )

    params = jax.tree.map(np.float32, start)
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = step(jax.tree.map(np.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)

    expected = published_steps(name, by_path(start), [by_path(gradient) for gradient in gradients])
    found = by_path(params)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=0, atol=1e-6, err_msg=path)
        assert np.abs(value - by_path(start)[path]).max() > 1e-3, "the test must move every parameter"


def test_decay_spares_layer_norm_and_biases():
    mask = by_path(decay_mask(example_tree(np.random.default_rng(0))))
    assert {path for path, decayed in mask.items() if decayed} == set(DECAYED)


def test_schedule_of_the_original():
    phases = tuple(
        PhaseConfig(sequence_length=16, steps=steps, batch_size=1, max_predictions_per_seq=3) for steps in (30, 10)
    )
    config = OptimizerConfig(learning_rate=PEAK, warmup_steps=WARMUP)
    schedule = learning_rate_schedule(PretrainConfig(phases=phases, optimizer=config).schedule_parts())
    rates = [float(schedule(step)) for step in range(TOTAL + 1)]
    np.testing.assert_allclose(rates, [published_rate(step) for step in range(TOTAL + 1)], rtol=1e-6)


def test_a_phase_may_start_the_schedule_anew():
    """The LAMB recipe: a second warm-up and decay at sequence length 512."""
    first = PhaseConfig(sequence_length=16, steps=20, batch_size=1, max_predictions_per_seq=3)
    second = PhaseConfig(
        sequence_length=32, steps=10, batch_size=1, max_predictions_per_seq=5, learning_rate=0.5, warmup_steps=2
    )
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    schedule = learning_rate_schedule(PretrainConfig(phases=(first, second), optimizer=config).schedule_parts())
    rates = [float(schedule(step)) for step in (0, 2, 10, 19, 20, 21, 22, 29, 30)]
    np.testing.assert_allclose(rates, [0, 0.5, 0.5, 0.05, 0, 0.25, 0.4, 0.05, 0], atol=1e-6)
