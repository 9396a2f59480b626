# SPDX-License-Identifier: Apache-2.0
"""Optimizers against NumPy restatements of the published formulas, in float64."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import optax
import pytest
from conftest import small_config

from bert_jax.base.errors import UserError
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import OptimizerConfig, OPTIMIZERS, SchedulePart, SCHEDULES
from bert_jax.plan import planning
from bert_jax.train.optimizer import (
    decay_mask,
    DECAYS,
    layer_rates,
    learning_rate_schedule,
    make_optimizer,
    MomentsState,
    trained_parts,
    UPDATES,
)
from bert_jax.train.pretraining import check_inputs
from bert_jax.train.state import Training

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


def test_both_tables_name_the_same_optimizers_and_schedules():
    """config/training.py says what each is, train/optimizer.py how it is computed."""
    assert list(UPDATES) == list(OPTIMIZERS)
    assert list(DECAYS) == list(SCHEDULES)


def test_muon_is_optax_s_for_each_layer_s_matrix_and_adamw_for_the_rest():
    """Layers are stacked here, and matrices of their own to optax."""
    rng = np.random.default_rng(3)
    tree = example_tree(rng)
    tree["encoder"]["layers"]["feed_forward"] = {"output": {"kernel": rng.normal(0, 0.5, (2, 8, 4))}}
    params = jax.tree.map(np.float32, tree)
    apart = {"whole": params, "each": {}}
    for name in ("attention/query", "feed_forward/output"):
        one, other = name.split("/")
        apart["each"] |= {f"{name}/{n}": w for n, w in enumerate(params["encoder"]["layers"][one][other]["kernel"])}
    schedule = optax.linear_schedule(1e-2, 2e-3, 5)
    muon = optax.contrib.muon(schedule, weight_decay=0.01, consistent_rms=0.2)
    adamw = optax.adamw(schedule, eps=1e-6, weight_decay=0.01, mask=decay_mask)
    ours = make_optimizer(OptimizerConfig(name="muon", clip_norm=0.0), schedule)
    states = ours.init(params), muon.init(apart["each"]), adamw.init(params)
    update = jax.jit(ours.update)
    for _ in range(4):
        gradient = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), params)
        matrices = {}
        for name in apart["each"]:
            one, other, number = name.split("/")
            matrices[name] = gradient["encoder"]["layers"][one][other]["kernel"][int(number)]
        steps, first = update(gradient, states[0], params)
        theirs, second = muon.update(matrices, states[1], apart["each"])
        rest, third = adamw.update(gradient, states[2], apart["whole"])
        states = first, second, third
        params = optax.apply_updates(params, steps)
        apart = {"each": optax.apply_updates(apart["each"], theirs), "whole": optax.apply_updates(apart["whole"], rest)}
    found, others = by_path(params), by_path(apart["whole"])
    for path, value in found.items():
        if path.endswith("kernel") and "layers" in path:
            stem = path.removeprefix("encoder/layers/").removesuffix("/kernel")
            expected = np.stack([apart["each"][f"{stem}/{number}"] for number in range(2)])
        else:
            expected = others[path]
        np.testing.assert_allclose(value, expected, atol=2e-6, err_msg=path)
        assert np.abs(value - by_path(tree)[path]).max() > 1e-3


def test_the_average_of_the_weights_follows_its_formula():
    """In float64; of what is frozen it is that to the bit."""
    tree = deep_tree(np.random.default_rng(0))
    config = OptimizerConfig(name="adamw", average=0.4, freeze="embeddings")
    optimizer = make_optimizer(config, lambda step: 1e-2)
    params = jax.tree.map(np.float32, tree)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    expected = by_path(params)
    for step in range(1, 9):  # the decay grows from 2/11 and is 0.4 from step 5 on
        gradient = jax.tree.map(lambda x, s=step: np.full(x.shape, 0.1 * s, np.float32), params)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.4, (1 + step) / (10 + step))
        expected = {path: decay * expected[path] + (1 - decay) * now for path, now in by_path(params).items()}
    found = by_path(state[-1].average)
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, atol=1e-6, err_msg=path)
    word = "encoder/embeddings/word"
    np.testing.assert_array_equal(found[word], by_path(jax.tree.map(np.float32, tree))[word])
    assert np.abs(found["task/kernel"] - by_path(params)["task/kernel"]).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cosine", optax.warmup_cosine_decay_schedule(0.0, PEAK, WARMUP, TOTAL)),
        ("constant", optax.warmup_constant_schedule(0.0, PEAK, WARMUP)),
        (
            "wsd",
            optax.join_schedules(
                [optax.warmup_constant_schedule(0.0, PEAK, WARMUP), optax.linear_schedule(PEAK, 0.0, TOTAL // 10)],
                [TOTAL - TOTAL // 10],
            ),
        ),
        ("inverse_sqrt", lambda step: PEAK * min(step / WARMUP, (WARMUP / max(step, 1)) ** 0.5)),
    ],
)
def test_other_schedules_are_those_of_optax_or_their_formula(name, published):
    schedule = learning_rate_schedule([SchedulePart(0, TOTAL, PEAK, WARMUP)], name)
    steps = range(TOTAL + 2)
    np.testing.assert_allclose([schedule(step) for step in steps], [published(step) for step in steps], atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_table_says_of_an_optimizer_s_state(name):
    config = OptimizerConfig(name=name, clip_norm=0.0)
    state = make_optimizer(config, lambda step: 1.0).init({"kernel": np.zeros(2)})
    assert any(isinstance(part, MomentsState) for part in state) == OPTIMIZERS[name].keeps_moments
    alike = [other for other, kind in OPTIMIZERS.items() if kind.family == OPTIMIZERS[name].family]
    for other in alike:
        theirs = make_optimizer(replace(config, name=other), lambda step: 1.0).init({"kernel": np.zeros(2)})
        assert jax.tree.structure(theirs) == jax.tree.structure(state)


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


# ---- rates of layers, and what is frozen -------------------------------------------------------------------


def deep_tree(rng: np.random.Generator) -> dict:
    """As `example_tree`, with a pooler and a task's head."""
    tree = example_tree(rng)
    tree["encoder"]["pooler"] = {"kernel": rng.normal(0, 0.5, (4, 4)), "bias": rng.normal(0, 0.1, 4)}
    tree["features"] = {"mix": {"weights": rng.normal(0, 0.1, 3), "scale": np.ones(())}}
    tree["task"] = tree.pop("nsp")
    return tree


LAYERS = ("encoder/layers/attention/query/kernel", "encoder/layers/attention_norm/scale")
TOP = ("encoder/pooler/kernel", "features/mix/weights", "features/mix/scale", "task/kernel", "task/bias")


def after_steps(config: OptimizerConfig, tree: dict, steps: int = 3) -> dict[str, np.ndarray]:
    """Parameters by path after steps with gradients that are nowhere 0."""
    optimizer = make_optimizer(config, lambda step: 1e-2)
    params = jax.tree.map(np.float32, tree)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    gradient = jax.tree.map(lambda x: np.full(x.shape, 0.3, np.float32), params)
    for _ in range(steps):
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return by_path(params)


def test_rates_of_layers_follow_the_formula():
    """1801.06146, section 3.2: a layer learns at the rate of the one above it times a factor; 2 layers here."""
    rates = by_path(layer_rates(deep_tree(np.random.default_rng(0)), 0.5))
    assert float(rates["encoder/embeddings/word"]) == 0.5**3
    for path in LAYERS:
        np.testing.assert_array_equal(rates[path].reshape(-1), [0.5**2, 0.5])
    assert {float(rates[path]) for path in TOP} == {1.0}


def test_rates_of_layers_scale_steps_and_decay():
    """The step of Adam is that without it, times the rate: moments do not see it."""
    tree = deep_tree(np.random.default_rng(0))
    start, rates = by_path(tree), by_path(layer_rates(tree, 0.5))
    plain = after_steps(OptimizerConfig(name="adamw"), tree, steps=1)
    scaled = after_steps(OptimizerConfig(name="adamw", layer_decay=0.5), tree, steps=1)
    for path, value in start.items():
        np.testing.assert_allclose(scaled[path] - value, rates[path] * (plain[path] - value), atol=1e-6, err_msg=path)
        assert np.abs(plain[path] - value).min() > 1e-3


@cache
def free_steps() -> dict[str, np.ndarray]:
    """Of nothing frozen."""
    return after_steps(OptimizerConfig(name="lamb", clip_norm=0), deep_tree(np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("embeddings", {"encoder/embeddings/word": [0]}),
        ("1", {"encoder/embeddings/word": [0], **{path: [0, 1] for path in LAYERS}}),
        ("2", {"encoder/embeddings/word": [0], **{path: [0, 0] for path in LAYERS}}),
        ("encoder", {path: [0] for path in ("encoder/embeddings/word", *LAYERS, "encoder/pooler/kernel")}),
    ],
)
def test_what_is_frozen_stays_to_the_bit(freeze, frozen):
    """Decay too; all else moves as if nothing were frozen."""
    tree = deep_tree(np.random.default_rng(0))
    start, mask = by_path(jax.tree.map(np.float32, tree)), by_path(trained_parts(tree, freeze))
    found = after_steps(OptimizerConfig(name="lamb", freeze=freeze, clip_norm=0), tree)
    free = free_steps()
    for path, value in start.items():
        if path in frozen:
            np.testing.assert_array_equal(mask[path].reshape(-1), frozen[path])
        trains = np.broadcast_to(mask[path], value.shape) > 0
        np.testing.assert_array_equal(found[path][~trains], value[~trains], err_msg=path)
        np.testing.assert_allclose(found[path][trains], free[path][trains], atol=1e-6, err_msg=path)
        assert (found[path][trains] != value[trains]).all()
    assert {path for path, values in mask.items() if (values == 0).any()} >= set(frozen)


def test_to_freeze_more_layers_than_there_are_is_refused():
    """Before data are read; as many as there are can be frozen."""
    config = small_config(optimizer=replace(small_config().optimizer, freeze="3"))
    nothing: Any = None  # no data and no mesh
    for check in (lambda: check_inputs(config, nothing, nothing), lambda: planning.check(Training(config, nothing))):
        with pytest.raises(
            UserError, match=r"^optimizer\.freeze=3 is more layers than model\.num_hidden_layers=1: use"
        ):
            check()
    OptimizerConfig(freeze="2").require_layers(ModelConfig(num_hidden_layers=2))


def test_frozen_gradients_do_not_count_in_the_norm_that_is_clipped():
    tree = {"encoder": {"layers": {"w": {"kernel": np.ones((1, 2, 2))}}}, "task": {"kernel": np.ones((2, 2))}}
    optimizer = make_optimizer(OptimizerConfig(name="adamw", freeze="encoder", clip_norm=1.0), lambda step: 1.0)
    gradient = {
        "encoder": {"layers": {"w": {"kernel": np.full((1, 2, 2), 1e6)}}},
        "task": {"kernel": np.full((2, 2), 0.4)},
    }
    params = jax.tree.map(np.float32, tree)
    state = optimizer.update(jax.tree.map(np.float32, gradient), optimizer.init(params), params)[1]
    moments = next(part for part in state if hasattr(part, "mu"))
    np.testing.assert_allclose(moments.mu["task"]["kernel"], 0.1 * 0.4, rtol=1e-6)  # of norm 0.8: not clipped
