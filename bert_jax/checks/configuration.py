# SPDX-License-Identifier: Apache-2.0
"""What a run's configuration says before a step is made: the recipe, the data for its steps, held-out text, seeds."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bert_jax.checks.commands import packed, pretrain_again
from bert_jax.checks.examples import LEAST_FILLED
from bert_jax.checks.findings import Finding, NOTE, OK, WARNING
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.training import SchedulePart
from bert_jax.runs.reading import number, Run

# The paper's recipe (1810.04805, appendix A.2) for width 768: Adam, 1e-4 for batches of 256, warm-up 10,000 of 1,000,000.
RECIPE_RATE, RECIPE_WIDTH, RECIPE_BATCH, RECIPE_WARMUP_SHARE = 1e-4, 768, 256, 0.01
# The best rate of a small model is known to a factor of a few only; an order of magnitude away is worth a look.
FAR_FROM_RECIPE, VERY_FAR_FROM_RECIPE = 10.0, 30.0
SHORTEST_WARMUP_SHARE = 0.001  # a tenth of the recipe's
# initializer_range x sqrt(hidden_size) is 0.55 for BERT-base and 0.64 for BERT-large. At width 128 a range of 0.02 makes
# 0.23: attention then stays flat for thousands of steps (seen here); 0.12 makes 1.4, and it forms in hundreds.
LEAST_SPREAD = 0.4
MOST_EPOCHS = 40  # the paper's own: 1,000,000 steps are about 40 passes over its 3.3 billion words (appendix A.2)

# Rows that grow from 32 to 64 in configs/demo.py (batches of 64, one seed): at the change the held-out loss on rows of 64 was
# 5.73 nats, and 5.43 with the new rows of the position table copied from the old; it had been 5.01 on rows of 32. After 100
# steps 5.39 and 5.21, after 300 no difference.
STEPS_FOR_POSITIONS = 300
LONGER_ROWS_MEASURED = (
    "in the demo (rows of 32, then 64; batches of 64; one seed) held-out loss went from 5.01 to 5.73 nats at the change, 0.3"
    f" of it for untrained positions, whose share was gone after {STEPS_FOR_POSITIONS} steps"
)


def check_plan(run: Run) -> Iterator[Finding]:
    """Findings about the configuration and the data it is given."""
    for part in run.config.schedule_parts():
        yield learning_rate(run, part)
        yield warm_up(run, part)
    yield initial_weights(run)
    yield from epochs(run)
    if run.data is not None:
        yield held_out(run)
    yield from padding(run)
    yield from longer_rows(run)
    yield seeds(run)


def phase_of(run: Run, part: SchedulePart) -> tuple[int, PhaseConfig]:
    """The phase that a stretch of the schedule begins in."""
    place, _ = run.config.phase_at(part.begin)
    return place, run.config.phases[place]


def recipe_rate(hidden_size: int, batch_size: int) -> float:
    """What the recipe's peak learning rate comes to for another width and batch.

    Inversely with the width (Yang et al. 2022, 2203.03466) and with the root of the batch (Malladi et al. 2022,
    2205.10287), both for Adam.
    """
    return RECIPE_RATE * RECIPE_WIDTH / hidden_size * math.sqrt(batch_size / RECIPE_BATCH)


def learning_rate(run: Run, part: SchedulePart) -> Finding:
    """The peak against the recipe's, scaled to the model's width and the batch."""
    place, phase = phase_of(run, part)
    width = run.config.model.hidden_size
    seen = f"peak learning rate {part.learning_rate:g} for width {width} and batches of {phase.batch_size}"
    if run.config.optimizer.name == "lamb":
        return Finding(OK, "Learning rate", f"{seen}, LAMB: the paper's recipe is for Adam and says nothing of it")
    recipe = recipe_rate(width, phase.batch_size)
    ratio = part.learning_rate / recipe
    times = f"{ratio:.1f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"
    seen += f", {times} times the paper's recipe (1e-4 for width 768 and batches of 256, here {recipe:.1g})"
    distance = max(ratio, 1 / ratio)
    if distance <= FAR_FROM_RECIPE:
        return Finding(OK, "Learning rate", seen)
    name = "optimizer.learning_rate" if part.begin == 0 else f"phases.{place}.learning_rate"
    high = "too high a rate diverges or freezes the loss at the word frequencies"
    low = "too low a rate learns word frequencies and hardly more in these steps"
    return Finding(
        WARNING if distance > VERY_FAR_FROM_RECIPE else NOTE, "Learning rate", seen, high if ratio > 1 else low,
        "try the recipe's", pretrain_again(run, **{name: f"{recipe:.1g}"}),
    )  # fmt: skip


def warm_up(run: Run, part: SchedulePart) -> Finding:
    """Warm-up against the recipe's share, and against the steps done."""
    place, _ = phase_of(run, part)
    name = "optimizer.warmup_steps" if part.begin == 0 else f"phases.{place}.warmup_steps"
    share = part.warmup_steps / part.steps
    seen = (
        f"warm-up of {part.warmup_steps:,} of {part.steps:,} steps ({share:.1%}; the paper: {RECIPE_WARMUP_SHARE:.0%})"
    )
    if share < SHORTEST_WARMUP_SHARE:
        return Finding(
            WARNING, "Warm-up", seen,
            "an encoder with LayerNorm after each sub-layer has large gradients at its start (Xiong et al. 2020,"
            " 2002.04745) and may diverge or stay at the word frequencies",
            "warm up for a hundredth of the steps",
            pretrain_again(run, **{name: max(round(RECIPE_WARMUP_SHARE * part.steps), 1)}),
        )  # fmt: skip
    done = run.last_step - part.begin
    if 0 < done < part.warmup_steps:
        return Finding(
            NOTE, "Warm-up", f"{seen}; the run has done {done:,} steps of it", "",
            "the curves say little before it ends: wait",
        )  # fmt: skip
    return Finding(OK, "Warm-up", seen)


def initial_weights(run: Run) -> Finding:
    """The spread of initial weights against the width."""
    model = run.config.model
    spread = model.initializer_range * math.sqrt(model.hidden_size)
    seen = f"initializer_range {model.initializer_range:g} at width {model.hidden_size}"
    if spread >= LEAST_SPREAD:
        return Finding(OK, "Initial weights", seen)
    return Finding(
        NOTE, "Initial weights", seen,
        f"0.02 is for width 768; times the root of the width it makes {spread:.2f} here, 0.55 there, and attention stays"
        " flat for a long time",
        "about 1 / sqrt(hidden_size) lets attention form sooner",
        pretrain_again(run, **{"model.initializer_range": f"{wide_range(run):.2g}"}),
    )  # fmt: skip


def wide_range(run: Run) -> float:
    """The initializer_range that suits the run's width."""
    return 1 / math.sqrt(run.config.model.hidden_size)


# ---- data for the steps ----------------------------------------------------------------------------------------------


def measured(run: Run, phase: int) -> Mapping[str, Any]:
    """What was measured of the first batches of a phase; empty where nothing was."""
    return next((record for record in run.first_batches if record.get("phase") == phase), {})


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
        yield Finding(NOTE, "Text for the steps", "the passport does not say how many examples there are")
        return
    seen = f"{run.config.total_steps:,} steps are {planned:,.1f} passes over {tokens:,.0f} training tokens"
    if planned <= MOST_EPOCHS:
        yield Finding(OK, "Text for the steps", seen)
        return
    enough = tokens * planned / MOST_EPOCHS
    yield Finding(
        WARNING, "Text for the steps", f"{seen}; the paper made about {MOST_EPOCHS}",
        "too little text for so many steps: the model learns it by heart",
        f"prepare about {enough:,.0f} tokens of text, or train for fewer steps",
        pretrain_again(run, **{"phases.0.steps": max(int(run.config.phases[0].steps * MOST_EPOCHS / planned), 1)}),
    )  # fmt: skip


def held_out(run: Run) -> Finding:
    """Whether held-out text is scored."""
    split = (run.data or {}).get("splits", {}).get("validation")
    if split is not None:
        return Finding(
            OK, "Held-out text", f"{split['documents']:,} documents, {split['tokens']:,} tokens are held out"
        )
    return Finding(
        WARNING, "Held-out text", "there is no validation split, so nothing shows whether the model learns the text by heart",
        "prepared with --held-out 0", "prepare the data again with some documents held out",
        "bert-jax prepare --input PATH... --vocab VOCAB --output DATA --held-out 0.05",
    )  # fmt: skip


def padding(run: Run) -> Iterator[Finding]:
    """How much of the rows is not padding, where examples are not packed."""
    for place, phase in enumerate(run.config.phases):
        share = number(measured(run, place), "valid_token_share")
        if share is None and run.config.packing == "padded":
            share = number(run.examples(run.train_split, phase.sequence_length), "valid_token_share")
        if share is None:
            continue
        seen = f"phase {place}: {share:.1%} of the places in rows of {phase.sequence_length} are tokens"
        if share >= LEAST_FILLED or run.config.packing != "padded":
            yield Finding(OK, "Padding", seen)
            continue
        yield Finding(
            NOTE, "Padding", seen, "examples shorter than a row, one in each (packing=padded)",
            "several in a row make the same steps see more text", pretrain_again(run, **packed(run)),
        )  # fmt: skip


def longer_rows(run: Run) -> Iterator[Finding]:
    """Phases with longer rows than any before: their last positions begin untrained, and the loss rises at the change."""
    longest, begin = 0, 0
    for place, phase in enumerate(run.config.phases):
        length, before = phase.sequence_length, longest
        longest, first_step, begin = max(longest, length), begin, begin + phase.steps
        if not before or length <= before:
            continue
        seen = (
            f"phase {place} has rows of {length} after rows of at most {before}: positions {before} to {length - 1} are"
            f" untrained when it begins at step {first_step:,}, and it has {phase.steps:,} steps"
        )
        if phase.steps < STEPS_FOR_POSITIONS:
            yield Finding(
                WARNING, "Longer rows", seen, f"too few steps for new positions: {LONGER_ROWS_MEASURED}",
                f"give the phase {STEPS_FOR_POSITIONS} steps or more, or rows of one length to all phases",
                pretrain_again(run, **{f"phases.{place}.steps": STEPS_FOR_POSITIONS}),
            )  # fmt: skip
        elif first_step < run.last_step < first_step + STEPS_FOR_POSITIONS:
            yield Finding(
                NOTE, "Longer rows", f"{seen}, {run.last_step - first_step:,} of them done",
                f"held-out loss rises at the change: {LONGER_ROWS_MEASURED}",
                f"wait until step {first_step + STEPS_FOR_POSITIONS:,}, and compare held-out losses within a phase only",
            )  # fmt: skip
        else:
            yield Finding(OK, "Longer rows", f"{seen}; held-out loss rises at the change: {LONGER_ROWS_MEASURED}")


def seeds(run: Run) -> Finding:
    """Which random numbers a run is made of."""
    data = (run.data or {}).get("seed", "not recorded")
    return Finding(
        OK, "Seeds", f"run {run.config.seed}, data {data}; the same seeds give the same run, others show what is chance"
    )
