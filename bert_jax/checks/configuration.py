# SPDX-License-Identifier: Apache-2.0
"""Checks of a run's configuration before the first step: the recipe, the data for its steps, held-out text, seeds."""

import math
from collections.abc import Iterator

from bert_jax.checks import rules
from bert_jax.checks.commands import packed, pretrain_again, schedule_setting, shorter
from bert_jax.checks.findings import Finding, NOTE, OK, WARNING
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.training import SchedulePart
from bert_jax.runs.reading import number, Record, Run

# The paper's recipe (1810.04805, appendix A.2) for width 768: Adam, 1e-4 for batches of 256.
RECIPE_RATE, RECIPE_WIDTH, RECIPE_BATCH = 1e-4, 768, 256
LONGER_ROWS_MEASURED = (
    "in an earlier demo (rows of 32, then 64; batches of 64; one seed) held-out loss went from 5.01 to 5.73 nats at the change,"
    f" 0.3 of it for untrained positions, whose share was gone after {rules.LONGER_ROWS.warning} steps"
)


def check_plan(run: Run) -> Iterator[Finding]:
    """Findings about the configuration and the data it is given."""
    for part in run.config.schedule_parts():
        yield learning_rate(run, part)
        yield warm_up(run, part)
    if draws_attention(run):
        yield initial_weights(run)
    yield from epochs(run)
    if run.data is not None:
        yield held_out(run)
    yield from padding(run)
    yield from longer_rows(run)
    yield seeds(run)


def draws_attention(run: Run) -> bool:
    """Whether attention begins with drawn weights, of whose spread something is known."""
    return run.source is None and not run.config.model.is_recurrent


def phase_of(run: Run, part: SchedulePart) -> tuple[int, PhaseConfig]:
    """The phase that a stretch of the schedule begins in."""
    place, _ = run.config.phase_at(part.begin)
    return place, run.config.phases[place]


def recipe_rate(hidden_size: int, batch_size: int) -> float:
    """The recipe's peak learning rate, scaled to another width and batch.

    Inversely with the width (Yang et al. 2022, 2203.03466) and with the root of the batch (Malladi et al. 2022,
    2205.10287), both for Adam.
    """
    return RECIPE_RATE * RECIPE_WIDTH / hidden_size * math.sqrt(batch_size / RECIPE_BATCH)


def learning_rate(run: Run, part: SchedulePart) -> Finding:
    """The peak against the recipe's, scaled to the model's width and the batch."""
    _, phase = phase_of(run, part)
    width = run.config.model.hidden_size
    seen = f"peak learning rate {part.learning_rate:g} for width {width} and batches of {phase.batch_size}"
    optimizer = run.config.optimizer
    if not optimizer.kind.adam_rates:
        return rules.RATE.fine(
            f"{seen}, optimizer.name={optimizer.name}: the paper's recipe is for Adam and says nothing of it"
        )
    recipe = recipe_rate(width, phase.batch_size)
    ratio = part.learning_rate / recipe
    times = f"{ratio:.1f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"
    seen += f", {times} times the paper's recipe (1e-4 for width 768 and batches of 256, here {recipe:.1g})"
    name = schedule_setting(run, part, "learning_rate")
    high = "too high a rate diverges or freezes the loss at the word frequencies"
    low = "too low a rate learns word frequencies and hardly more in these steps"
    again = pretrain_again(run, **{name: f"{recipe:.1g}"})
    return rules.RATE.judge(max(ratio, 1 / ratio), seen, causes=high if ratio > 1 else low, command=again)


def warm_up(run: Run, part: SchedulePart) -> Finding:
    """Warm-up against the recipe's share, and against the steps done."""
    name = schedule_setting(run, part, "warmup_steps")
    share, recipe = part.warmup_steps / part.steps, rules.RECIPE_WARMUP_SHARE
    seen = f"warm-up of {part.warmup_steps:,} of {part.steps:,} steps ({share:.1%}; the paper: {recipe:.0%})"
    done = run.last_step - part.begin
    found = rules.WARM_UP.judge(share, seen, command=pretrain_again(run, **{name: max(round(recipe * part.steps), 1)}))
    if found.severity == OK and 0 < done < part.warmup_steps:
        early = f"{seen}; the run has done {done:,} steps of it"
        return Finding(NOTE, found.subject, early, "", "the curves say little before it ends: wait")
    return found


def initial_weights(run: Run) -> Finding:
    """The spread of initial weights, of the position table where it has its own, against the width."""
    spread = initial_spread(run)
    causes = (
        f"0.02 is for width 768; times the root of the width it makes {spread:.2f} here, 0.55 there, and attention stays"
        " flat for a long time"
    )
    name, value = range_of_positions(run)
    seen = f"{name} {value:g} at width {run.config.model.hidden_size}"
    again = pretrain_again(run, **wider_weights(run))
    return rules.SPREAD.judge(spread, seen, causes=causes, command=again)


def range_of_positions(run: Run) -> tuple[str, float]:
    """The setting that the position table starts from, and its value."""
    model = run.config.model
    if model.position_initializer_range is None:
        return "initializer_range", model.initializer_range
    return "position_initializer_range", model.position_initializer_range


def initial_spread(run: Run) -> float:
    """The deviation of what attention to positions begins with, times the root of the run's width."""
    return range_of_positions(run)[1] * math.sqrt(run.config.model.hidden_size)


def wider_weights(run: Run) -> dict[str, str]:
    """The setting, with its value, that lets attention form sooner at the run's width: by Muon that of positions alone."""
    name = "position_initializer_range" if run.config.optimizer.name == "muon" else range_of_positions(run)[0]
    return {f"model.{name}": f"{1 / math.sqrt(run.config.model.hidden_size):.2g}"}


# ---- data for the steps ----------------------------------------------------------------------------------------------


def measured(run: Run, phase: int) -> Record:
    """The measurements of the first batches of a phase, or of an earlier one with rows alike; empty where there are none."""
    length = run.config.phases[phase].sequence_length
    alike = [record for record in run.first_batches if record.get("sequence_length", length) == length]
    return next((record for record in reversed(alike) if (number(record, "phase") or 0) <= phase), {})


def passes(run: Run, steps: int) -> float | None:
    """Passes over the training examples in the first steps of the run; None where the passport does not say."""
    total = 0.0
    for place, phase in enumerate(run.config.phases):
        examples = number(run.examples(run.train_split, phase.sequence_length), "examples")
        per_row = number(measured(run, place), "examples_per_row") or 1.0
        if not examples:
            return None
        total += min(steps, phase.steps) * phase.batch_size * per_row / examples
        steps -= min(steps, phase.steps)
    return total


def epochs(run: Run) -> Iterator[Finding]:
    """Whether there is text enough for the steps."""
    planned, tokens = passes(run, run.config.total_steps), number(run.train_split, "tokens")
    if planned is None or tokens is None:
        yield Finding(NOTE, rules.EPOCHS.subject, "the passport does not say how many examples there are")
        return
    most = rules.EPOCHS.warning or 0
    yield rules.EPOCHS.judge(
        planned,
        f"{run.config.total_steps:,} steps are {planned:,.1f} passes over {tokens:,.0f} training tokens",
        f"; the paper made about {most}",
        remedy=f"prepare about {tokens * planned / most:,.0f} tokens of text, or train for fewer steps",
        command=pretrain_again(run, **shorter(run, most / planned)),
    )


def held_out(run: Run) -> Finding:
    """Whether held-out text is scored."""
    split, rule = (run.data or {}).get("splits", {}).get("validation"), rules.NOT_HELD_OUT
    if split is not None:
        return rule.fine(f"{split['documents']:,} documents, {split['tokens']:,} tokens are held out")
    seen = "there is no validation split, so nothing shows whether the model learns the text by heart"
    command = "bert-jax prepare --input TEXT... --vocab VOCAB --output DATA --held-out 0.05"
    return rule.found(WARNING, seen, command=command)


def padding(run: Run) -> Iterator[Finding]:
    """How much of the rows is not padding, where examples are not packed."""
    for place, phase in enumerate(run.config.phases):
        share = number(measured(run, place), "valid_token_share")
        if share is None and run.config.packing == "padded":
            share = number(run.examples(run.train_split, phase.sequence_length), "valid_token_share")
        if share is None:
            continue
        seen = f"{share:.1%} of the places in rows of {phase.sequence_length} are tokens"
        if run.config.packing != "padded":
            yield rules.FILLED.fine(seen, share).at(f"phase {place}")
            continue
        causes = "examples shorter than a row, one in each (packing=padded)"
        remedy = "several in a row make the same steps see more text"
        again = pretrain_again(run, **packed(run))
        found = rules.FILLED.judge(share, seen, causes=causes, remedy=remedy, command=again)
        yield found.at(f"phase {place}")


def longer_rows(run: Run) -> Iterator[Finding]:
    """Phases with longer rows than any before: their last positions begin untrained, and the loss rises at the change.

    What trains these positions are the steps of the phase and of later ones with rows as long.
    """
    longest = int(number(run.source or {}, "longest") or 0)  # of the model that the run began with
    begin, rule, enough = 0, rules.LONGER_ROWS, int(rules.LONGER_ROWS.warning or 0)
    for place, phase in enumerate(run.config.phases):
        length, before = phase.sequence_length, longest
        longest, first_step, begin = max(longest, length), begin, begin + phase.steps
        if not before or length <= before:
            continue
        steps = sum(later.steps for later in run.config.phases[place:] if later.sequence_length >= length)
        seen = (
            f"phase {place} has rows of {length} after rows of at most {before}: positions {before} to {length - 1} are"
            f" untrained when it begins at step {first_step:,}, and rows as long have {steps:,} steps"
        )
        rises = f"held-out loss rises at the change: {LONGER_ROWS_MEASURED}"
        done = run.last_step - first_step
        if steps >= enough and 0 < done < enough:
            wait = f"wait until step {first_step + enough:,}, and compare held-out losses within a phase only"
            yield rule.found(NOTE, f"{seen}, {done:,} of them done", causes=rises, remedy=wait)
        elif steps >= enough:
            yield rule.fine(f"{seen}; {rises}", steps)
        else:
            yield rule.judge(
                steps,
                seen,
                causes=f"too few steps for new positions: {LONGER_ROWS_MEASURED}",
                remedy=f"give the phase {enough} steps or more, or rows of one length to all phases",
                command=pretrain_again(run, **{f"phases.{place}.steps": enough - steps + phase.steps}),
            )


def seeds(run: Run) -> Finding:
    """The seeds of a run and of its data."""
    data = (run.data or {}).get("seed", "not recorded")
    seen = f"run {run.config.seed}, data {data}; the same seeds give the same run, others show what is chance"
    return Finding(OK, "Seeds", seen)
