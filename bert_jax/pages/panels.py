# SPDX-License-Identifier: Apache-2.0
"""The charts of a run, each with its heading, newest values and footnote."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import markupsafe

from bert_jax.config.objective import pair_words
from bert_jax.pages.charts import (
    gradient_norm_chart,
    mlm_accuracy_chart,
    mlm_loss_chart,
    pair_accuracy_chart,
    pair_loss_chart,
    perplexity_chart,
    single_chart,
)
from bert_jax.pages.drawing import Points, Steps
from bert_jax.pages.wording import (
    count,
    decimal,
    exponential,
    millions,
    percent,
    perplexity,
    picked_words,
    plain,
    superscript,
    teraflops,
)
from bert_jax.runs.reading import mean_share, number, Run, series


@dataclass(frozen=True)
class Panel:
    """One chart with its heading. Without a drawing, `missing` says why."""

    title: str
    unit: str
    svg: markupsafe.Markup | None
    readings: tuple[tuple[str, str, str], ...] = ()  # (name, newest value, CSS class)
    note: str = ""
    missing: str = ""


def steps_axis(run: Run) -> Steps:
    """The steps done, and where phases 1 and later began; phases count from 0 as in the configuration."""
    begin, marks = 0, []
    for place, phase in enumerate(run.config.phases):
        if 0 < begin < run.last_step:
            marks.append((begin, f"phase {place}: {phase.sequence_length} tokens"))
        begin += phase.steps
    return Steps(run.last_step, tuple(marks))


def _panel(
    run: Run, title: str, unit: str, draw: Callable[[], str], curves: Mapping[str, Any], note: str = ""
) -> Panel:
    """A panel of `curves`: name -> (points, how its newest value is written)."""
    readings = tuple(
        (name, text(points[-1][1]), "held-out" if name == "held-out" else "training")
        for name, (points, text) in curves.items()
        if points
    )
    if not readings:
        missing = "No such value in metrics.jsonl." if run.train or run.evals else "No step is logged yet."
        return Panel(title, unit, None, missing=missing)
    return Panel(title, unit, markupsafe.Markup(draw()), readings, note)


def _pair(run: Run, key: str, text: Callable[[float], str]) -> tuple[Points, Points, dict[str, Any]]:
    training, held_out = series(run.train, key), series(run.evals, key)
    return training, held_out, {"training": (training, text), "held-out": (held_out, text)}


def mlm_panels(run: Run) -> list[Panel]:
    """MLM loss, accuracy and perplexity."""
    steps, entropy, commonest = steps_axis(run), run.unigram_entropy, run.commonest_token
    training, held_out, losses = _pair(run, "mlm_loss", decimal)
    right, held_out_right, accuracies = _pair(run, "mlm_accuracy", percent)
    perplexities = {name: (points, lambda loss: perplexity(exponential(loss))) for name, (points, _) in losses.items()}
    return [
        _panel(
            run, "MLM loss", "nats", lambda: mlm_loss_chart(training, held_out, entropy, steps), losses,
            below_entropy(training, entropy),
        ),
        _panel(
            run, "MLM accuracy", "of picked tokens",
            lambda: mlm_accuracy_chart(right, held_out_right, commonest, steps), accuracies,
        ),
        _panel(
            run, "Perplexity", "e to the loss, logarithmic axis",
            lambda: perplexity_chart(training, held_out, entropy, steps), perplexities,
        ),
    ]  # fmt: skip


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


def picked_tokens(run: Run) -> dict[str, str]:
    """How much of the text enters the MLM loss, in the words of the note beside the curves."""
    configured = picked_words(run.config.objective, 0)
    tokens = math.fsum(number(record, "valid_tokens") or 0 for record in run.train)
    measured = mean_share(run.train, "picked_share")
    if measured is None:
        return {"configured": configured, "measured": ""}
    predictions = f"{millions(measured * tokens)} predictions from {millions(tokens)} tokens"
    return {"configured": configured, "measured": f"{predictions} ({percent(measured, 2)})"}


def pair_panels(run: Run) -> list[Panel]:
    """Accuracy and loss of the label of pairs; none where the run does not predict it."""
    words = pair_words(run.config.objective)
    if words is None:
        return []
    short = words.short
    steps = steps_axis(run)
    right, held_out_right, accuracies = _pair(run, "nsp_accuracy", percent)
    training, held_out, losses = _pair(run, "nsp_loss", decimal)
    return [
        _panel(
            run, f"{short} accuracy", "of pairs",
            lambda: pair_accuracy_chart(right, held_out_right, steps, short), accuracies,
        ),
        _panel(run, f"{short} loss", "nats", lambda: pair_loss_chart(training, held_out, steps, short), losses),
    ]  # fmt: skip


def optimizer_panels(run: Run) -> list[Panel]:
    """Learning rate and gradient norm."""
    steps, optimizer = steps_axis(run), run.config.optimizer
    rates, norms = series(run.train, "learning_rate"), series(run.train, "grad_norm")
    exponent = math.floor(math.log10(max([rate for _, rate in rates if rate > 0], default=1.0)))
    scaled = [(step, rate / 10.0**exponent) for step, rate in rates]
    schedule = (
        f"Peak {plain(optimizer.learning_rate)}, warm-up of {count(run.config.schedule_parts()[0].warmup_steps)} steps."
    )
    return [
        _panel(
            run, "Learning rate", f"× 10{superscript(exponent)}",
            lambda: single_chart(scaled, "learning-rate", "Learning rate", steps),
            {"newest": (rates, lambda rate: f"{rate:.2g}")}, schedule,
        ),
        _panel(
            run, "Gradient norm", "before clipping, logarithmic axis",
            lambda: gradient_norm_chart(norms, optimizer.clip_norm, steps),
            {"newest": (norms, lambda norm: decimal(norm, 2))},
            "" if optimizer.clip_norm else "Not clipped: optimizer.clip_norm=0.",
        ),
    ]  # fmt: skip


def speed_panels(run: Run) -> list[Panel]:
    """Throughput, and FLOP utilisation where a peak is known."""
    tokens, steps = series(run.train, "tokens_per_second"), steps_axis(run)
    throughput = _panel(
        run, "Throughput", "tokens/s, without padding",
        lambda: single_chart(tokens, "throughput", "Tokens a second", steps), {"newest": (tokens, count)},
    )  # fmt: skip
    return [throughput, _flops_panel(run) if run.peak_flops is None else _utilisation_panel(run, run.peak_flops)]


def _flops_panel(run: Run) -> Panel:
    flops, steps = series(run.train, "model_flops_per_second"), steps_axis(run)
    scaled = [(step, rate / 1e12) for step, rate in flops]
    return _panel(
        run, "Model FLOPs", "TFLOP/s",
        lambda: single_chart(scaled, "flops", "Model TFLOP a second", steps),
        {"newest": (flops, lambda rate: teraflops(rate, 3))}, "No peak known for this device, so no utilisation.",
    )  # fmt: skip


def _utilisation_panel(run: Run, peak: float) -> Panel:
    flops, steps = series(run.train, "model_flops_per_second"), steps_axis(run)
    shares = [(step, rate / peak) for step, rate in flops]
    return _panel(
        run, "FLOP utilisation", "of peak",
        lambda: single_chart(shares, "utilisation", "FLOP utilisation", steps, percentages=True),
        {"newest": (shares, percent)}, peak_words(run, peak),
    )  # fmt: skip


def peak_words(run: Run, peak: float) -> str:
    """The peak that utilisation is measured against."""
    environment = run.environment or {}
    devices, source = number(environment, "device_count"), environment.get("peak_source", "source not recorded")
    each = environment["peak_flops_per_device"] / 1e12
    parts = f", {count(devices)} devices of {each:,.4g}" if devices != 1 else ""
    return f"Peak {teraflops(peak)}{parts} ({source})."
