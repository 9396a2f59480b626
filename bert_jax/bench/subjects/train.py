# SPDX-License-Identifier: Apache-2.0
"""Training on the made-up language in float32 and in bfloat16 with one seed: the curves agree, and both learn.

Micikevicius et al., Mixed Precision Training (1710.03740), section 3: master weights in float32.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bert_jax.bench.loop import run_loop
from bert_jax.bench.made_up import unigram_entropy
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import arrangement_of, prepare, Record, Workbench

DTYPES = ("float32", "bfloat16")
WINDOW = 20  # steps of the running mean that the curves are compared by


def measure(bench: Workbench) -> Iterator[Record]:
    """The suite's case."""
    yield from bench.each([bench.suite.train], lambda case: measure_training(bench, case))


def measure_training(bench: Workbench, case: Case) -> Record:
    """Losses by step in both types; `learned` says whether both end below what word frequencies alone give."""
    steps = bench.suite.train_steps
    losses = {dtype: train_in(bench, case, dtype, steps) for dtype in DTYPES}
    entropy = unigram_entropy(arrangement_of(case, steps).examples)
    wide, narrow = (np.array(losses[dtype]) for dtype in DTYPES)
    smooth = running_mean(wide, WINDOW) - running_mean(narrow, WINDOW)
    final = {dtype: float(running_mean(np.array(values), WINDOW)[-1]) for dtype, values in losses.items()}
    return {
        **prepare(case).description(),
        "kind": "train",
        "steps": steps,
        "loss": losses,
        "unigram_entropy": entropy,
        "window": WINDOW,
        "largest_difference": float(np.abs(wide - narrow).max()),
        "largest_smoothed_difference": float(np.abs(smooth).max()),
        "final_loss": final,
        "learned": all(loss < entropy for loss in final.values()),
    }


def train_in(bench: Workbench, case: Case, dtype: str, steps: int) -> list[float]:
    """The MLM loss of every step, in nats a prediction."""
    typed = Case(case.name, replace(case.config, compute_dtype=dtype))
    prepared, stream = bench.prepare(typed), arrangement_of(typed, steps)
    state, seed = prepared.training.initial_state(), typed.config.seed
    _, sums = run_loop(prepared.training, prepared.step, state, lambda step: stream.batch(seed, step), steps)
    return [step["mlm_loss"] / max(step["mlm_weight"], 1.0) for step in sums]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return means of `window` neighbours, [N] -> [N - window + 1], or of all where there are fewer."""
    window = min(window, len(values))
    return np.convolve(values, np.full(window, 1 / window), mode="valid")
