# SPDX-License-Identifier: Apache-2.0
"""Whether a classifier is as often right as it says: expected calibration error, and the temperature that mends it.

Guo et al. 2017, On Calibration of Modern Neural Networks (1706.04599): section 2 (reliability, ECE), 4.2 (temperature).

Shapes: N examples, C classes.
"""

from typing import NamedTuple

import numpy as np

BINS = 15  # as in the paper's experiments
LOWEST, HIGHEST = 0.05, 20.0  # temperatures that are looked at


class ReliabilityBin(NamedTuple):
    """The examples whose confidence, the probability of the class that is predicted, lies in a range (low, high]."""

    low: float
    high: float
    examples: int
    confidence: float  # their mean
    accuracy: float  # the share of them that is right


def reliability(probabilities: np.ndarray, gold: np.ndarray, bins: int = BINS) -> list[ReliabilityBin]:
    """Return the bins that hold an example, of `bins` equally wide ones.

    Args:
      probabilities: [N, C].
      gold: [N] numbers of the true classes.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == gold
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for place in np.unique(places):
        own = places == place
        means = float(confidence[own].mean()), float(right[own].mean())
        found.append(ReliabilityBin(place / bins, (place + 1) / bins, int(own.sum()), *means))
    return found


def calibration_error(found: list[ReliabilityBin]) -> float:
    """Return the expected calibration error, 0 to 1: the mean over examples of |accuracy - confidence| of their bins."""
    total = sum(one.examples for one in found)
    return sum(one.examples * abs(one.accuracy - one.confidence) for one in found) / total


def tempered(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(logits / temperature), float64 [..., C]; 1 changes nothing, more makes less sure."""
    scaled = logits.astype(np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def best_temperature(logits: np.ndarray, gold: np.ndarray) -> float:
    """Return the temperature with the least mean negative log-likelihood, between `LOWEST` and `HIGHEST`.

    The likelihood is concave in 1 / temperature, so there is one.

    Args:
      logits: [N, C].
      gold: [N]; examples whose class is none of the C do not count.
    """
    from scipy.optimize import minimize_scalar  # takes a quarter of a second to load

    known = gold < logits.shape[-1]
    rows, right = logits[known].astype(np.float64), gold[known].astype(np.int64)
    if not len(rows):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = rows / np.exp(log_temperature)
        highest = scaled.max(-1)
        total = np.log(np.exp(scaled - highest[:, None]).sum(-1)) + highest
        return float((total - scaled[np.arange(len(rows)), right]).mean())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
