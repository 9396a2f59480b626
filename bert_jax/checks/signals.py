# SPDX-License-Identifier: Apache-2.0
"""What else a run has logged: gradient norms, throughput, and masks as they really were."""

import math
import statistics
from collections.abc import Iterator

from bert_jax.checks.commands import packed, pretrain_again
from bert_jax.checks.findings import Finding, NOTE, OK, PROBLEM, WARNING
from bert_jax.checks.first_batches import PICKED_TOLERANCE
from bert_jax.config.training import SchedulePart
from bert_jax.feed.mask_statistics import expected_shares
from bert_jax.runs.reading import mean_share, number, Record, Run, series

SPIKE = 10.0  # times the median of the lines before: far outside the spread of a healthy run, a factor of two or three
LINES_BEFORE = 20
MOST_CLIPPED = 0.9  # of the logged steps after warm-up
DROP = 0.7  # of the median throughput
SLOW, MOST_SLOW = 0.5, 0.05  # lines below half the median, and the share of such lines
DEVIATIONS = 5  # standard errors of a share; once in two million
LEAST_DEVIATION = 0.002  # of a share; less does not matter, whatever its significance


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
    seen = f"median gradient norm {median:.2f}; {clipped:.0%} of the logged steps after warm-up are clipped at {clip:g}"
    spikes = _spikes(norms)
    if spikes:
        step, norm, before = spikes[-1]
        yield Finding(
            WARNING if _loss_jumped(run, step) else NOTE, "Gradient norm",
            f"{len(spikes)} spikes among {len(norms)} logged steps; at step {step:,} {norm:.1f}, {norm / before:.0f} times"
            " the steps before",
            "a learning rate near what the model can bear, or a batch unlike the others",
            "if the loss jumps with it, lower the rate or lengthen the warm-up",
            pretrain_again(run, **{"optimizer.learning_rate": f"{run.config.optimizer.learning_rate / 2:.1g}"}),
        )  # fmt: skip
    elif clipped > MOST_CLIPPED:
        yield Finding(
            NOTE, "Gradient norm", seen, "small batches or a small model",
            "nothing needs to be done where the loss falls: Adam's step hardly depends on the scale of the gradient",
        )  # fmt: skip
    else:
        yield Finding(OK, "Gradient norm", seen)


def _warming_up(parts: list[SchedulePart], step: float) -> bool:
    return any(part.begin <= step <= part.begin + part.warmup_steps for part in parts)


def _spikes(norms: list[tuple[float, float]]) -> list[tuple[int, float, float]]:
    """(step, norm, median of the lines before) of each norm far above those before it."""
    found = []
    for place in range(3, len(norms)):
        before = statistics.median(norm for _, norm in norms[max(0, place - LINES_BEFORE) : place])
        step, norm = norms[place]
        if norm > SPIKE * before > 0:
            found.append((int(step), norm, before))
    return found


def _loss_jumped(run: Run, step: int) -> bool:
    """Whether the loss of that line or the next is half a nat above the lines before."""
    losses = series(run.train, "mlm_loss")
    place = next((place for place, (at, _) in enumerate(losses) if at >= step), None)
    if not place:
        return False
    before = statistics.median(loss for _, loss in losses[max(0, place - LINES_BEFORE) : place])
    return max(loss for _, loss in losses[place : place + 2]) > before + 0.5


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
    slow = sum(value < SLOW * median for value in values) / len(values)
    seen = f"{now:,.0f} tokens/s now, {median:,.0f} at the median"
    if now < DROP * median:
        yield Finding(
            WARNING, "Throughput", f"{seen}: {1 - now / median:.0%} slower",
            "another program on the machine, a device that throttles, or storage that has become slow",
            "look at what else runs; the run itself loses nothing",
        )  # fmt: skip
    elif slow > MOST_SLOW:
        yield Finding(
            NOTE, "Throughput", f"{seen}; {slow:.0%} of the logged intervals ran at less than half of that",
            "a shared machine, or a feed that now and then waits for storage", "copy the data to a local disk",
        )  # fmt: skip
    else:
        yield Finding(OK, "Throughput", seen)


# ---- masks -----------------------------------------------------------------------------------------------------------


def _picked(run: Run) -> float:
    """Tokens that were picked, over all logged steps."""
    return math.fsum(
        (number(record, "picked_share") or 0) * (number(record, "valid_tokens") or 0) for record in run.train
    )


def treatments(run: Run) -> Iterator[Finding]:
    """What became of the picked tokens, over all logged steps, against the configured shares."""
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
    wrong = [
        name
        for name, share in known.items()
        if abs(share - expected[name])
        > max(DEVIATIONS * math.sqrt(expected[name] * (1 - expected[name]) / draws), LEAST_DEVIATION)
    ]
    if not wrong:
        yield Finding(OK, "Masks", seen)
        return
    yield Finding(
        PROBLEM, "Masks", f"{seen}: {', '.join(wrong)} is off by more than chance", "an error of the program",
        "do not train on; report it with metrics.jsonl and config.json",
    )  # fmt: skip


def picked_share(run: Run) -> Iterator[Finding]:
    """How many tokens are predicted, against what is configured."""
    share, objective = mean_share(run.train, "picked_share"), run.config.objective
    if share is None:
        return
    steps: list[Record] = [record for record in run.train if number(record, "picked_share") is not None]
    wanted = math.fsum(objective.probability_at(record["step"], run.config.total_steps) for record in steps) / len(
        steps
    )
    seen = f"{share:.2%} of the tokens were picked, {wanted:.2%} are configured"
    if abs(share - wanted) <= PICKED_TOLERANCE * wanted:
        yield Finding(OK, "Picked tokens", seen)
        return
    if share > wanted:
        yield Finding(
            WARNING, "Picked tokens", seen, "rows of a few tokens, which pick one at least",
            "train on longer rows, or pack them", pretrain_again(run, **packed(run)),
        )  # fmt: skip
        return
    phase = run.config.phases[0]
    room = min(round(1.5 * phase.max_predictions_per_seq), phase.sequence_length)
    yield Finding(
        WARNING, "Picked tokens", seen, "max_predictions_per_seq does not hold the words or spans that rows pick",
        "raise it", pretrain_again(run, **{"phases.0.max_predictions_per_seq": room}),
    )  # fmt: skip


def first_batches(run: Run) -> Iterator[Finding]:
    """What the run itself doubted when it measured its first batches."""
    for record in run.first_batches:
        doubts = record.get("warnings", [])
        place = f"phase {record.get('phase')}"
        for doubt in doubts:
            yield Finding(PROBLEM if "do not train on this" in doubt else WARNING, "First batches", f"{place}: {doubt}")
        if not doubts:
            yield Finding(OK, "First batches", f"{place}: {_measured(record)}")


def _measured(record: Record) -> str:
    length = number(record, "mean_unit_length")
    units = f", {length:.2f} tokens picked as one" if length else ""
    return f"{number(record, 'picked') or 0:,.0f} picked tokens measured before the first step{units}"
