# SPDX-License-Identifier: Apache-2.0
"""What each chart of the page shows: plain lists -> SVG.

Training curves are logged values, held-out curves are evaluations; a dashed line is what can be had without context.
"""

import math

from bert_jax.pages.drawing import (
    blank_chart,
    draw,
    draw_pair,
    draw_reference,
    exp,
    logarithmic,
    Points,
    round_ticks,
    start_at_zero,
    Steps,
    svg,
)
from bert_jax.pages.wording import decimal, exponential, GUESSING_LOSS, percent, perplexity


def mlm_loss_chart(training: Points, held_out: Points, unigram_entropy: float | None, steps: Steps) -> str:
    """MLM loss in nats; the unigram entropy of the corpus is what word frequencies alone reach."""
    figure, axes = blank_chart(steps)
    round_ticks(axes, [*_values(training, held_out), unigram_entropy])
    draw_pair(axes, training, held_out, unigram_entropy, f"unigram entropy {decimal(unigram_entropy, 2)}")
    return svg(figure, "mlm-loss", "MLM loss against optimizer steps")


def perplexity_chart(training: Points, held_out: Points, unigram_entropy: float | None, steps: Steps) -> str:
    """Perplexity, e to the MLM loss, on a logarithmic axis. The points hold the loss."""
    figure, axes = blank_chart(steps)
    reference = exponential(unigram_entropy)
    values = [exponential(loss) for loss in _values(training, held_out)]
    logarithmic(axes, [value for value in [*values, reference] if value is not None])
    draw_pair(axes, training, held_out, reference, f"unigram model {perplexity(reference)}", transform=exp)
    return svg(figure, "perplexity", "Perplexity against optimizer steps, logarithmic axis")


def mlm_accuracy_chart(training: Points, held_out: Points, commonest: tuple[str, float] | None, steps: Steps) -> str:
    """Share of picked tokens predicted right; `commonest` is a token and its share of the text."""
    figure, axes = blank_chart(steps, percentages=True)
    token, share = commonest or ("", None)
    start_at_zero(axes, [*_values(training, held_out), share or 0])
    draw_pair(axes, training, held_out, share, f"always “{token}” {percent(share)}")
    return svg(figure, "mlm-accuracy", "MLM accuracy against optimizer steps")


def pair_accuracy_chart(training: Points, held_out: Points, steps: Steps, short: str = "NSP") -> str:
    """Share of pairs whose label is predicted right; `short` names what it says, NSP or SOP."""
    figure, axes = blank_chart(steps, percentages=True)
    lowest = min((value for value in _values(training, held_out) if math.isfinite(value)), default=1.0)
    axes.set_ylim(min(0.45, lowest - 0.02), 1.0)
    draw_pair(axes, training, held_out, 0.5, f"guessing {percent(0.5, 0)}")
    return svg(figure, "pair-accuracy", f"{short} accuracy against optimizer steps")


def pair_loss_chart(training: Points, held_out: Points, steps: Steps, short: str = "NSP") -> str:
    """Loss of the label of pairs, in nats."""
    figure, axes = blank_chart(steps)
    start_at_zero(axes, [*_values(training, held_out), GUESSING_LOSS])
    draw_pair(axes, training, held_out, GUESSING_LOSS, f"guessing ln 2 = {decimal(GUESSING_LOSS)}")
    return svg(figure, "pair-loss", f"{short} loss against optimizer steps")


def gradient_norm_chart(norms: Points, clip_norm: float | None, steps: Steps) -> str:
    """Global norm of the gradient before clipping, on a logarithmic axis."""
    figure, axes = blank_chart(steps, names=False)
    logarithmic(axes, [*_values(norms), *([clip_norm / 1.2] if clip_norm else [])])
    draw(axes, norms)
    if clip_norm:
        draw_reference(axes, clip_norm, f"clipped above {clip_norm:g}", [norms])
    return svg(figure, "gradient-norm", "Gradient norm against optimizer steps, logarithmic axis")


def single_chart(points: Points, name: str, quantity: str, steps: Steps, percentages: bool = False) -> str:
    """One quantity of the training from zero on, with nothing to compare it with; `name` stands in the SVG's ids."""
    figure, axes = blank_chart(steps, percentages, names=False)
    start_at_zero(axes, _values(points))
    draw(axes, points)
    return svg(figure, name, f"{quantity} against optimizer steps")


def _values(*curves: Points) -> list[float]:
    return [value for points in curves for _, value in points]
