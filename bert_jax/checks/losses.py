# SPDX-License-Identifier: Apache-2.0
"""Checks of a run's curves: does it learn from context, diverge, learn by heart, tell pairs apart?"""

import math
from collections.abc import Iterator, Sequence

from bert_jax.checks import rules
from bert_jax.checks.commands import lower_rate, part_at, pretrain_again, schedule_setting
from bert_jax.checks.configuration import (
    draws_attention,
    initial_spread,
    passes,
    range_of_positions,
    recipe_rate,
    wider_weights,
)
from bert_jax.checks.findings import Finding, NOTE, OK, PROBLEM, WARNING
from bert_jax.config.objective import pair_words
from bert_jax.runs.reading import number, Record, Run, series

Points = Sequence[tuple[float, float]]

NEWEST = 0.05  # of the logged lines speak for "now", three at least
TOKEN_DEVIATION = 3.0  # nats; about the standard deviation of the loss of a single token
FEWEST_PAIR_LINES = 20  # their accuracy varies more than losses do
FEWEST_EVALUATIONS = 3


def check_losses(run: Run) -> Iterator[Finding]:
    """Findings about the curves."""
    if not run.train:
        remedy = f"metrics.jsonl gets a line every {run.config.log_every:,} steps: wait"
        yield Finding(NOTE, rules.CURVES.subject, "no step is logged yet", "", remedy)
        return
    bad = [record["step"] for record in run.train if not math.isfinite(number(record, "loss") or 0.0)]
    if bad:
        lower = pretrain_again(run, **lower_rate(run, bad[0], 3))
        yield rules.CURVES.found(PROBLEM, "the loss is not a number", command=lower).at(f"step {bad[0]:,}")
        return
    untrained = run.config.untrained  # the scores of such a head say nothing of the run
    if run.tokens.term not in untrained:
        yield from unigram_floor(run)
        yield from divergence(run)
        yield from memorising(run)
    if "nsp" not in untrained:
        yield from pair_accuracy(run)
    if untrained:
        yield Finding(OK, rules.CURVES.subject, "distill.labels=0: the teacher is all that is learned")


def newest(points: Points) -> float:
    """The mean of the newest values."""
    values = [value for _, value in points[-max(3, round(NEWEST * len(points))) :]]
    return math.fsum(values) / len(values)


def of_newest_phase(records: Sequence[Record]) -> list[Record]:
    """The lines of the newest phase: rows of another length have other losses."""
    return [record for record in records if record.get("phase") == records[-1].get("phase")]


# ---- learning at all -------------------------------------------------------------------------------------------------


def unigram_floor(run: Run) -> Iterator[Finding]:
    """Whether the loss of tokens is below what word frequencies, and topic, alone give."""
    losses, entropy = series(run.train, run.token_loss), run.unigram_entropy
    if not losses or entropy is None:
        return
    now = newest(losses)
    seen = (
        f"{run.tokens.short} loss {now:.2f} nats at step {run.last_step:,}; word frequencies alone give {entropy:.2f}"
    )
    if now < entropy - rules.TOPIC:
        yield rules.CONTEXT.fine(f"{seen}, passed for good at step {_since(losses, entropy):,}")
        return
    since = _since(losses, entropy + rules.FLOOR_BAND)
    stays = run.last_step - since
    late = run.finished or stays > _patience(run)
    if now > entropy + rules.FLOOR_BAND:
        severity = PROBLEM if run.finished else WARNING if run.last_step > _patience(run) else NOTE
        seen += ": not even those are learned"
    elif now > entropy - rules.AT_FLOOR:
        severity = PROBLEM if late else NOTE
        seen += f": the loss sits at that floor since step {since:,}, for {stays:,} steps"
    else:
        severity = WARNING if late else NOTE
        seen += f": {entropy - now:.2f} less, which topic alone can bring, {stays:,} steps after it came near the floor"
    causes, remedy, changes = _why_no_learning(run)
    if severity == NOTE:
        until = min(since + _patience(run), run.config.total_steps)
        forms = "" if run.config.model.is_recurrent else "attention forms late, then all at once: "
        remedy = f"{forms}wait until about step {until:,}; then {remedy}"
    again = pretrain_again(run, **changes)
    yield rules.CONTEXT.found(
        severity, seen, causes=causes, remedy=remedy, command=again, value=now, threshold=entropy - rules.TOPIC
    )


def _since(losses: Points, level: float) -> float:
    """The step since which the loss has stayed below a level; the newest where it is above."""
    since = losses[-1][0]
    for step, loss in reversed(losses):
        if loss > level:
            break
        since = step
    return since


def _patience(run: Run) -> int:
    return max(rules.PATIENCE * run.config.schedule_parts()[0].warmup_steps, rules.SHORTEST_PATIENCE)


def _why_no_learning(run: Run) -> tuple[str, str, dict[str, object]]:
    """Return (causes, remedy, changed settings) that this run's own numbers point to, else the usual ones."""
    config, data = run.config, run.data or {}
    causes = []
    changes: dict[str, object] = {}
    if draws_attention(run) and rules.SPREAD.passed(initial_spread(run))[0] != OK:
        name, value = range_of_positions(run)
        causes.append(f"{name}={value:g} keeps attention flat at this width")
        changes |= wider_weights(run)
    recipe = recipe_rate(config.model.hidden_size, config.phases[0].batch_size)
    part = part_at(run, 1)
    rate = schedule_setting(run, part, "learning_rate")
    ratio = part.learning_rate / recipe
    if config.optimizer.kind.adam_rates and rules.RATE.passed(max(ratio, 1 / ratio))[0] != OK:
        causes.append(f"a peak learning rate {'above' if ratio > 1 else 'below'} a tenfold of the recipe's")
        changes[rate] = f"{recipe:.1g}"
    sentences = data.get("text", {}).get("sentences", {})
    if rules.REPEATED_SENTENCES.passed(sentences.get("repeated_share", 0))[0] != OK:
        causes.append(f"{sentences['repeated_share']:.0%} of the sentences are repeated lines")
    unknown, tokens = number(run.train_split, "unknown_tokens"), number(run.train_split, "tokens")
    if unknown is not None and tokens and rules.UNKNOWN.passed(unknown / tokens)[0] != OK:
        causes.append(f"{unknown / tokens:.0%} of the tokens are [UNK]")
    size = number(data, "vocab_size")
    if size is not None and rules.VOCABULARY.passed(size)[0] != OK:
        causes.append(f"a vocabulary of {size:,} entries")
    if not causes:
        nearer = part.learning_rate * (3 if ratio < 1 else 1 / 3)  # to the recipe's
        shorter = (
            "" if config.model.is_recurrent else ", or a first phase of shorter rows, in which attention forms sooner"
        )
        return (
            "too few steps, or a learning rate that does not suit the model",
            f"try more steps, another rate{shorter}",
            {rate: f"{nearer:.1g}"},
        )
    return "; ".join(causes), "mend the data where it is the cause" if not changes else "try", changes


def divergence(run: Run) -> Iterator[Finding]:
    """Whether the loss has risen from its best, within a phase."""
    losses = series(of_newest_phase(run.train), run.token_loss)
    width = max(3, round(NEWEST * len(losses)))
    windows = (losses[end - width : end] for end in range(width, len(losses) + 1))
    means = [(window[-1][0], math.fsum(value for _, value in window) / width) for window in windows]
    if len(means) <= width:
        return
    best_step, best = min(means, key=lambda mean: mean[1])
    now = means[-1][1]
    seen = f"training {run.tokens.short} loss {now:.2f}, at best {best:.2f} at step {best_step:,}"
    part = part_at(run, run.last_step)
    lower = lower_rate(run, run.last_step, 3) | {schedule_setting(run, part, "warmup_steps"): 2 * part.warmup_steps}
    risen = f": it has risen by {now - best:.2f} nats"
    yield rules.STABILITY.judge(now - best, seen, risen, command=pretrain_again(run, **lower))


# ---- learning by heart -----------------------------------------------------------------------------------------------


def memorising(run: Run) -> Iterator[Finding]:
    """Whether held-out loss rises while training loss falls, in the newest phase."""
    training = of_newest_phase(run.train)
    begin, key = training[0]["step"], run.token_loss
    evals = [record for record in run.evals if record["step"] >= begin and number(record, key) is not None]
    if len(evals) < FEWEST_EVALUATIONS:
        yield rules.BY_HEART.fine(f"{len(evals)} evaluations in this phase: too few to see it rise")
        return
    best = min(evals, key=lambda record: record[key])
    rise = evals[-1][key] - best[key]
    noise = 3 * TOKEN_DEVIATION / math.sqrt(number(evals[-1], run.tokens.counter) or 1e4)
    losses = series(training, key)
    then, now = _around(losses, best["step"]), newest(losses)
    seen = (
        f"held-out {run.tokens.short} loss {evals[-1][key]:.3f}, at best {best[key]:.3f} at step {best['step']:,};"
        f" training loss {then:.3f} then, {now:.3f} now"
    )
    if rise <= noise or then - now < rules.FALL:
        yield rules.BY_HEART.fine(seen, rise)
        return
    seen_so_far = passes(run, run.last_step)
    many = f"{seen_so_far:.0f} passes over the text" if seen_so_far else "many passes over little text"
    dropout = {"model.hidden_dropout_prob": 0.1, "model.attention_probs_dropout_prob": 0.1}
    yield rules.BY_HEART.judge(
        rise,
        seen,
        ": the model learns the training text by heart",
        causes=many,
        remedy=f"more text, more dropout, or stop at about step {best['step']:,}",
        command=pretrain_again(run, **dropout) if run.config.model.hidden_dropout_prob < 0.1 else "",
    )


def _around(losses: Points, step: float) -> float:
    """The mean loss of the lines nearest to a step."""
    width = max(3, round(NEWEST * len(losses)))
    nearest = sorted(losses, key=lambda point: abs(point[0] - step))[:width]
    return math.fsum(loss for _, loss in nearest) / len(nearest)


# ---- pairs -----------------------------------------------------------------------------------------------------------


def pair_accuracy(run: Run) -> Iterator[Finding]:
    """Whether the label of pairs is told better than by always naming the commoner one."""
    words = pair_words(run.config.objective)
    lines = [record for record in run.train if number(record, "nsp_accuracy") is not None]
    if words is None or not lines:
        return
    lines = lines[-max(FEWEST_PAIR_LINES, round(2 * NEWEST * len(lines))) :]
    accuracy = math.fsum(line["nsp_accuracy"] for line in lines) / len(lines)
    first = _first_label_shares(lines)
    majority = math.fsum(max(share, 1 - share) for share in first) / len(first)
    commoner = words.labels[0 if first[-1] >= 0.5 else 1]
    pairs = math.fsum((number(line, "sequences_per_second") or 0) * (number(line, "seconds") or 0) for line in lines)
    seen = f"{words.short} accuracy {accuracy:.1%} on training pairs; always saying {commoner} gives {majority:.1%}"
    if accuracy > majority + max(rules.PAIR_GAIN, 1 / math.sqrt(max(pairs, 1.0))):
        yield Finding(OK, words.task.capitalize(), seen)
        return
    early = run.last_step <= _patience(run) and not run.finished
    wait = "wait: it comes after the MLM loss leaves the word frequencies"
    look = "if the MLM loss has fallen, check that the text's sentences stand in their order; else see to that first"
    yield Finding(
        NOTE if early else WARNING,
        words.task.capitalize(),
        f"{seen}: nothing is learned of the pairs",
        "attention that has not formed yet, sentences out of order in the text, or rows of a sentence or two",
        wait if early else look,
        value=accuracy,
        threshold=majority,
    )


def _first_label_shares(lines: Sequence[Record]) -> list[float]:
    """Return for each line the share of the first label in its phase; one half where nothing is logged."""
    shares = {}
    for phase in {line.get("phase") for line in lines}:
        logged = [number(line, "is_next_share") for line in lines if line.get("phase") == phase]
        known = [share for share in logged if share is not None]
        shares[phase] = math.fsum(known) / len(known) if known else 0.5
    return [shares[line.get("phase")] for line in lines]
