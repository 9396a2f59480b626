# SPDX-License-Identifier: Apache-2.0
"""How much of a score, and of a difference between two, is chance: of the examples, and of the seeds.

Examples: the paired bootstrap (Efron and Tibshirani 1993, chapter 6; for NLP Berg-Kirkpatrick et al. 2012) and the paired
permutation test (Noreen 1989), both by SciPy, on the metric itself. Seeds: Student's t, and a permutation of the runs.

Shapes: N examples, R runs of both sides.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

RESAMPLES = 9_999  # with the one that was seen 10,000
MOST_SEEDS = 1_000  # of each side, beyond which no number of seeds is named
_AT_ONCE = 100  # resamples in memory
_SHARE = 0.975  # of the distribution below the upper end of a 95 % interval

# Numbers of predictions, run x N + example, in the order of examples -> the official scorer's figure.
ScorePredictions = Callable[[np.ndarray], float]


class Spread(NamedTuple):
    """Statistics of the scores of several runs, in the scorer's units."""

    mean: float
    deviation: float | None  # of the sample (n - 1); None of one run
    interval: tuple[float, float] | None  # 95 %, of the mean, from Student's t


def spread_of(values: Sequence[float]) -> Spread | None:
    """Mean, standard deviation and t interval; None of nothing."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(mean, None, None)
    deviation = statistics.stdev(values)
    half = _student(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, (mean - half, mean + half))


def _student(freedom: float) -> float:
    """The quantile of Student's t for a 95 % interval."""
    from scipy.special import stdtrit  # here: loading it takes a quarter of a second

    return float(stdtrit(freedom, _SHARE))


@dataclass(frozen=True)
class ScoreDifference:
    """The difference of two sides in one metric, A - B, in the scorer's units.

    Attributes:
      sides: the scores of the runs of A, and of B.
      standard_error: of the difference, from the choice of examples alone.
      of_examples: its 95 % bootstrap interval, the runs being as they are.
      interval: 95 %, other examples and other seeds both being possible; of single runs `of_examples`.
      p_examples: of a permutation of each example's predictions; None: the sides have different numbers of runs.
      p_seeds: of a permutation of the runs; None: a side has one run.
      seeds_needed: of each side, by which the interval would leave 0, the difference being what it is; None: it is decided,
        no number up to `MOST_SEEDS` would do, or nothing is known of seeds.
    """

    sides: tuple[Spread, Spread]
    difference: float
    standard_error: float
    of_examples: tuple[float, float]
    interval: tuple[float, float]
    p_examples: float | None
    p_seeds: float | None
    seeds_needed: int | None

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


def difference_of(
    score: ScorePredictions,
    examples: int,
    runs: tuple[int, int],
    tick: Callable[[], object] = lambda: None,
    resamples: int = RESAMPLES,
) -> ScoreDifference:
    """Compare two sides on the same examples.

    Args:
      score: of chosen predictions: prediction run x N + example is that of a run for an example; the runs of A come first.
      examples: N.
      runs: how many A and B have.
      tick: called for each resample, 2 x `resamples` times.
      resamples: of the bootstrap, and of the permutations.
    """
    from scipy import stats  # takes a second

    count, others = runs

    def mean(places: np.ndarray, runs: int) -> float:
        """[N] example, + N where it is B's prediction -> the mean score of the runs of a side."""
        side, example = np.divmod(places.astype(np.int64), examples)
        return statistics.fmean(score(example + examples * (run + count * side)) for run in range(runs))

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        tick()
        return mean(first, count) - mean(second, others)

    ours = np.arange(examples)
    sides = ours, ours + examples
    options = {"n_resamples": resamples, "batch": _AT_ONCE, "vectorized": False}
    drawn = stats.bootstrap(
        sides, difference, paired=True, method="percentile", rng=np.random.default_rng(0), **options
    )
    permuted = None
    if count == others:
        permuted = stats.permutation_test(
            sides, difference, permutation_type="samples", rng=np.random.default_rng(0), **options
        ).pvalue
    scores = [
        [score(ours + examples * run) for run in range(first, first + own)]
        for first, own in ((0, count), (count, others))
    ]
    interval = drawn.confidence_interval
    return _with_seeds(
        scores, float(drawn.standard_error), (float(interval.low), float(interval.high)), examples, permuted
    )


def _with_seeds(
    scores: Sequence[Sequence[float]],
    standard_error: float,
    of_examples: tuple[float, float],
    examples: int,
    p_examples: float | None,
) -> ScoreDifference:
    """Take in what the runs of each side tell of seeds; `scores`: of the runs of A, and of B."""
    first, second = (spread_of(side) for side in scores)
    assert first is not None and second is not None
    difference = first.mean - second.mean
    told = (first, second), difference, standard_error, of_examples
    if first.deviation is None or second.deviation is None:
        return ScoreDifference(*told, of_examples, p_examples, None, None)
    variances = first.deviation**2, second.deviation**2
    parts = [(standard_error**2, examples - 1)]
    parts += [(one / len(side), len(side) - 1) for one, side in zip(variances, scores, strict=True)]
    half = _half_width(parts)
    interval = difference - half, difference + half
    decided = not interval[0] <= 0 <= interval[1]
    needed = None if decided else _seeds_needed(abs(difference), parts[0], variances)
    return ScoreDifference(*told, interval, p_examples, _exchanged_runs(scores), needed)


def _half_width(parts: Sequence[tuple[float, float]]) -> float:
    """Half of the 95 % interval of a sum of independent parts, (variance, degrees of freedom) each: Welch, Satterthwaite."""
    variance = sum(part for part, _ in parts)
    if not variance:
        return 0.0
    freedom = variance**2 / sum(part**2 / of for part, of in parts if part)
    return _student(freedom) * math.sqrt(variance)


def _seeds_needed(difference: float, of_examples: tuple[float, float], variances: Sequence[float]) -> int | None:
    """Seeds of each side for an interval that leaves out 0; `variances`: of a seed of each side."""
    if not difference:
        return None

    def enough(seeds: int) -> bool:
        return _half_width([of_examples, *((one / seeds, seeds - 1) for one in variances)]) < difference

    return next((seeds for seeds in range(2, MOST_SEEDS + 1) if enough(seeds)), None) if enough(MOST_SEEDS) else None


def _exchanged_runs(scores: Sequence[Sequence[float]]) -> float:
    """The p value of exchanging runs between the sides; exact where there are few."""
    from scipy import stats

    found = stats.permutation_test(
        [np.asarray(side) for side in scores],
        lambda first, second, axis: first.mean(axis) - second.mean(axis),
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
