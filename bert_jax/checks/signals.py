# SPDX-License-Identifier: Apache-2.0
"""Checks of what is logged beside the losses: gradient norms, throughput, and masks as they really were."""

import math
import statistics
from collections.abc import Iterator

from bert_jax.checks import rules
from bert_jax.checks.commands import lower_rate, packed, pretrain_again
from bert_jax.checks.findings import Finding, NOTE, OK, PROBLEM, WARNING
from bert_jax.checks.first_batches import doubts
from bert_jax.config.training import SchedulePart
from bert_jax.feed.mask_statistics import expected_shares
from bert_jax.runs.reading import mean_share, number, Record, Run, series

LINES_BEFORE = 20


def check_signals(run: Run) -> Iterator[Finding]:
    """Findings about what is logged beside the losses."""
    yield from gradient_norm(run)
    yield from throughput(run)
    yield from treatments(run)
    yield from picked_share(run)
    yield from first_batches(run)


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradient_norm(run: Run) -> Iterator[Finding]:
    """Spikes, and how often the gradient is clipped."""
    norms = series(run.train, "grad_norm")
    if not norms:
        return
    clip = run.config.optimizer.clip_norm
    settled = [norm for step, norm in norms if not _warming_up(run.config.schedule_parts(), step)]
    median = statistics.median(norm for _, norm in norms)
    clipped = sum(norm > clip for norm in settled) / len(settled) if settled and clip else 0.0
    spikes = _spikes(norms)
    if not spikes:
        seen = f"median gradient norm {median:.2f}; {clipped:.0%} of the logged steps after warm-up are clipped at {clip:g}"
        yield rules.CLIPPED.judge(clipped, seen)
        return
    step, norm, before = spikes[-1]
    times = f"{norm:.1f}, {norm / before:.0f} times the steps before"
    seen = f"{len(spikes)} spikes among {len(norms)} logged steps; at step {step:,} {times}"
    lower = pretrain_again(run, **lower_rate(run, step, 2))
    severity = WARNING if _loss_jumped(run, step) else NOTE
    yield rules.GRADIENT.found(severity, seen, command=lower, value=norm / before, threshold=rules.SPIKE)


def _warming_up(parts: list[SchedulePart], step: float) -> bool:
    return any(part.begin <= step <= part.begin + part.warmup_steps for part in parts)


def _spikes(norms: list[tuple[float, float]]) -> list[tuple[int, float, float]]:
    """Return (step, norm, median of the lines before) of each norm far above those before it."""
    found = []
    for place in range(3, len(norms)):
        before = statistics.median(norm for _, norm in norms[max(0, place - LINES_BEFORE) : place])
        step, norm = norms[place]
        if norm > rules.SPIKE * before > 0:
            found.append((int(step), norm, before))
    return found


def _loss_jumped(run: Run, step: int) -> bool:
    """Whether the loss of the line at a step or the next is far above the lines before."""
    losses = series(run.train, run.token_loss)
    place = next((place for place, (at, _) in enumerate(losses) if at >= step), None)
    if not place:
        return False
    before = statistics.median(loss for _, loss in losses[max(0, place - LINES_BEFORE) : place])
    return max(loss for _, loss in losses[place : place + 2]) > before + rules.JUMP


# ---- speed -----------------------------------------------------------------------------------------------------------


def throughput(run: Run) -> Iterator[Finding]:
    """Whether the newest phase has become slower."""
    phase = run.train[-1].get("phase") if run.train else None
    rates = series([record for record in run.train if record.get("phase") == phase], "tokens_per_second")
    values = [rate for _, rate in rates[1:]]  # the first interval warms the machine up
    if len(values) < 6:
        return
    median = statistics.median(values)
    now = statistics.median(values[-max(3, len(values) // 10) :])
    slow = sum(value < rules.SLOW * median for value in values) / len(values)
    seen = f"{now:,.0f} tokens/s now, {median:,.0f} at the median"
    found = rules.THROUGHPUT.judge(now / median, seen, f": {1 - now / median:.0%} slower")
    if found.severity == OK:
        found = rules.SLOW_LINES.judge(
            slow, seen, f"; {slow:.0%} of the logged intervals ran at less than half of that"
        )
    yield found


# ---- masks -----------------------------------------------------------------------------------------------------------


def _picked(run: Run) -> float:
    """Tokens that were picked, over all logged steps."""
    return math.fsum(
        (number(record, "picked_share") or 0) * (number(record, "valid_tokens") or 0) for record in run.train
    )


def treatments(run: Run) -> Iterator[Finding]:
    """Whether picked tokens were masked, replaced and kept as configured, over all logged steps."""
    picked, objective = _picked(run), run.config.objective
    shares = {name: mean_share(run.train, f"{name}_share") for name in ("mask", "random", "kept")}
    known = {name: share for name, share in shares.items() if share is not None}
    if not picked or len(known) < len(shares):
        return
    expected = expected_shares(objective, int(number(run.data, "vocab_size") or run.config.model.vocab_size))
    unit = max((number(record, "mean_unit_length") or 1.0 for record in run.first_batches), default=1.0)
    draws = picked / (unit if objective.masking == "span" else 1.0)  # a span is replaced as one
    words = " / ".join(f"{share:.2%}" for share in known.values())
    wanted = " / ".join(f"{expected[name]:.1%}" for name in known)
    seen = f"of {picked:,.0f} picked tokens [MASK] / random / kept {words}, configured {wanted}"
    wrong = [name for name, share in known.items() if abs(share - expected[name]) > _chance(expected[name], draws)]
    if wrong:
        yield rules.LOGGED_MASKS.found(PROBLEM, f"{seen}: {', '.join(wrong)} is off by more than chance")
    else:
        yield rules.LOGGED_MASKS.fine(seen)


def _chance(share: float, draws: float) -> float:
    """How far a measured share may be from an expected one by chance."""
    return max(rules.DEVIATIONS * math.sqrt(share * (1 - share) / draws), rules.LEAST_DEVIATION)


def picked_share(run: Run) -> Iterator[Finding]:
    """How many tokens are predicted, against what is configured."""
    share, objective = mean_share(run.train, "picked_share"), run.config.objective
    if share is None:
        return
    measured = [record for record in run.train if number(record, "picked_share") is not None]
    total = run.config.total_steps
    configured = [{**record, "picked_share": objective.probability_at(record["step"], total)} for record in measured]
    wanted = mean_share(configured, "picked_share")
    assert wanted is not None
    phase = run.config.phases[0]
    if share > wanted:
        causes, remedy = "rows of a few tokens, which pick one at least", "train on longer rows, or pack them"
        changes = packed(run)
    else:
        causes, remedy = "max_predictions_per_seq does not hold the words or spans that rows pick", "raise it"
        room = min(round(1.5 * phase.max_predictions_per_seq), phase.sequence_length)
        changes = {"phases.0.max_predictions_per_seq": room}
    seen = f"{share:.2%} of the tokens were picked, {wanted:.2%} are configured"
    again = pretrain_again(run, **changes)
    yield rules.PICKED.judge(abs(share - wanted) / wanted, seen, causes=causes, remedy=remedy, command=again)


def first_batches(run: Run) -> Iterator[Finding]:
    """The measurements of a run's first batches, judged as before its first step."""
    begins = [sum(phase.steps for phase in run.config.phases[:place]) for place in range(len(run.config.phases))]
    for record in run.first_batches:
        phase = record.get("phase")
        begin = begins[phase] if isinstance(phase, int) and phase < len(begins) else 0
        probability = run.config.objective.probability_at(begin, run.config.total_steps)
        try:
            found = doubts(record, run.config.objective, probability)
        except KeyError:  # an earlier version measured less: what it said then stands
            said = record.get("warnings", [])
            found = [Finding(WARNING, rules.FIRST_MASKS.subject, doubt) for doubt in said]
        for finding in found or [rules.FIRST_MASKS.fine(_measured(record))]:
            yield finding.at(f"phase {phase}")


def _measured(record: Record) -> str:
    predicted = number(record, "predicted")
    if predicted is not None:
        return f"{predicted:,.0f} next tokens measured before the first step, each the token behind in its example"
    length = number(record, "mean_unit_length")
    units = f", {length:.2f} tokens picked as one" if length else ""
    return f"{number(record, 'picked') or 0:,.0f} picked tokens measured before the first step{units}"
