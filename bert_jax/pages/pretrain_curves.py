# SPDX-License-Identifier: Apache-2.0
"""The curves of a pre-training run: what each section shows, and what it is compared with."""

import math
from collections.abc import Sequence

from bert_jax.config.objective import pair_words
from bert_jax.pages.chart import around, Axis, between, from_zero, Level, logarithmic, percent_text, Points, Upright
from bert_jax.pages.curves import gradient_norm, learning_rate, Lines, Measure, percentages, share_measure
from bert_jax.pages.wording import (
    count,
    decimal,
    exponential,
    GUESSING_LOSS,
    percent,
    perplexity,
    plain,
    teraflops,
)
from bert_jax.runs.reading import number, Run, series


def lines_of(run: Run) -> Lines:
    """The lines of a run, and where phases 1 and later began; phases count from 0 as in the configuration."""
    begin, marks = 0, []
    for place, phase in enumerate(run.config.phases):
        if 0 < begin < run.last_step:
            which = f"phase {place}: " if len(run.config.phases) == 2 else ""
            marks.append(Upright(begin, f"{which}{phase.sequence_length} tokens"))
        begin += phase.steps
    return Lines(run.train, run.evals, run.last_step, phases=marks)


def token_measures(run: Run) -> list[Measure]:
    """Loss, accuracy and perplexity of the predicted tokens, beside what word frequencies alone give."""
    entropy, commonest = run.unigram_entropy, run.commonest_token
    loss = perplexed = always = None
    if entropy is not None:
        loss = Level(entropy, f"unigram entropy {decimal(entropy, 2)}")
        perplexed = Level(_exp(entropy), f"unigram model {perplexity(_exp(entropy))}")
    if commonest is not None:
        always = Level(commonest[1], f"always “{commonest[0]}” {percent(commonest[1])}")
    measures = []
    for words in run.directions:
        short, key = words.short, f"{words.term}_loss"
        of = "of picked tokens" if run.config.objective.masks else f"of {words.predicted}"
        note = below_entropy(series(run.train, key), entropy)
        title = "Perplexity" if len(run.directions) == 1 else f"{short} perplexity"
        measures += [
            Measure(key, f"{short} loss", "nats", decimal, around, True, level=loss, note=note),
            Measure(f"{words.term}_accuracy", f"{short} accuracy", of, percent, percentages, True, level=always),
            Measure(
                key,
                title,
                "e to the loss, logarithmic axis",
                perplexity,
                logarithmic,
                True,
                transform=_exp,
                level=perplexed,
            ),
        ]
    return measures


def _exp(loss: float) -> float:
    value = exponential(loss)
    assert value is not None
    return value


def below_entropy(losses: Points, entropy: float | None) -> str:
    """Since which step the loss has stayed below the unigram entropy."""
    if entropy is None or not losses:
        return ""
    since = None
    for step, loss in reversed(losses):
        if not loss < entropy:
            break
        since = step
    if since is None:
        return "Not below the unigram entropy, what word frequencies alone give."
    return f"Below the unigram entropy, what word frequencies alone give, since step {count(since)}."


def replaced_measures(run: Run) -> list[Measure]:
    """Yield measures of what the discriminator finds of the replaced tokens; none where the run replaces none.

    Most tokens are the text's own, so accuracy stands beside that of saying so of all.
    """
    if not run.config.objective.replaces:
        return []
    shares = [share for _, share in series(run.evals or run.train, "replaced_share")]
    always = Level(1 - shares[-1], f"always “original” {percent(1 - shares[-1])}") if shares else None
    return [
        Measure("rtd_recall", "Replaced tokens found", "of those replaced", percent, percentages, True),
        Measure("rtd_precision", "Rightly flagged", "of those called replaced", percent, percentages, True),
        Measure("rtd_loss", "RTD loss", "nats", decimal, from_zero, True),
        Measure("rtd_accuracy", "RTD accuracy", "of all tokens", percent, _above_guessing, True, level=always),
        Measure("replaced_share", "Replaced", "of all tokens", percent, from_zero, True),
    ]


def taught_measures(run: Run) -> list[Measure]:
    """How far the run is from its teacher, in what it learns of it; none where it has no teacher."""
    measures = (
        Measure(
            "soft_loss", "Distance of predictions", "KL divergence x temperature squared, nats", decimal, from_zero
        ),
        Measure("hidden_loss", "Difference of vectors", "mean square", decimal, from_zero),
        Measure("relations_loss", "Distance of relations", "KL divergence, nats", decimal, from_zero),
    )
    return [measure for measure in measures if series(run.train, measure.key)]


def pair_measures(run: Run) -> list[Measure]:
    """Accuracy and loss of the label of pairs; none where the run does not predict it."""
    words = pair_words(run.config.objective)
    if words is None:
        return []
    guess = Level(0.5, f"guessing {percent(0.5, 0)}")
    guess_loss = Level(GUESSING_LOSS, f"guessing ln 2 = {decimal(GUESSING_LOSS)}")
    return [
        Measure("nsp_accuracy", f"{words.short} accuracy", "of pairs", percent, _above_guessing, True, level=guess),
        Measure("nsp_loss", f"{words.short} loss", "nats", decimal, from_zero, True, level=guess_loss),
    ]


def _above_guessing(values: Sequence[float]) -> Axis:
    """An axis from a little below one half, or the lowest value, to 1."""
    lowest = min((value for value in values if math.isfinite(value)), default=1.0)
    return between(min(0.45, lowest - 0.02), 1.0, percent_text)


def optimizer_measures(run: Run) -> list[Measure]:
    """Learning rate, gradient norm, throughput, and FLOP utilisation where a peak is known."""
    optimizer, peak = run.config.optimizer, run.peak_flops
    warm_up = run.config.schedule_parts()[0].warmup_steps
    schedule = f"Peak {plain(optimizer.learning_rate)}, warm-up of {count(warm_up)} steps."
    key = "model_flops_per_second"
    if peak is None:
        note = "No peak known for this device, so no utilisation."
        flops = Measure(key, "Model FLOPs", "TFLOP/s", _teraflops, transform=lambda rate: rate / 1e12, note=note)
    else:
        flops = share_measure(key, "FLOP utilisation", "of peak", lambda rate: rate / peak, peak_words(run, peak))
    return [
        learning_rate(run.train, schedule),
        gradient_norm(optimizer.clip_norm, "Not clipped: optimizer.clip_norm=0."),
        Measure("tokens_per_second", "Throughput", "tokens/s, without padding", count),
        flops,
    ]


def _teraflops(rate: float) -> str:
    return teraflops(rate * 1e12, 3)


def peak_words(run: Run, peak: float) -> str:
    """The peak that utilisation is measured against, in FLOP a second of all devices."""
    environment = run.environment or {}
    devices, source = number(environment, "device_count"), environment.get("peak_source", "source not recorded")
    each = environment["peak_flops_per_device"] / 1e12
    parts = f", {count(devices)} devices of {each:,.4g}" if devices != 1 else ""
    return f"Peak {teraflops(peak)}{parts} ({source})."
