# SPDX-License-Identifier: Apache-2.0
"""Checks of what a run wasted: time that was not spent on steps (its cost clock), and bad steps."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, NOTE, OK, percent, SEVERITIES, WARNING
from bert_jax.checks.rules import Rule
from bert_jax.runs.cost import Cost
from bert_jax.runs.reading import Record

GOODPUT = "Goodput"
MOST_NAMED = 5  # bad steps
WORDS = {
    "compile": "compiling",
    "data_wait": "waiting for data",
    "steps": "steps",
    "evaluation": "evaluation",
    "save": "saving",
    "restart": "starts and lost work",
}
# part of the clock -> what a run is called that spends too much on it
BOUND: dict[str, tuple[str, Rule]] = {
    "data_wait": ("data-bound", rules.DATA_BOUND),
    "save": ("save-bound", rules.SAVING),
    "restart": ("restart-bound", rules.RESTARTING),
    "evaluation": ("evaluation-bound", rules.EVALUATING),
    "compile": ("compile-bound", rules.COMPILING),
}


def check_cost(cost: Cost | None) -> list[Finding]:
    """Return the one verdict on where a run's time went; none without a clock."""
    if cost is None or not cost.total:
        return []
    seen = cost_words(cost)
    if cost.total < rules.JUDGED_SECONDS:
        return [Finding(OK, GOODPUT, f"{seen}; too short to be judged", value=cost.goodput)]
    found = [
        rule.judge(share, f"{name}: {percent(share, 0)} of the time goes into {WORDS[part]}; {seen}", fine=seen)
        for part, (name, rule) in BOUND.items()
        for share in [share_of(cost, part)]
    ]
    worst = min(found, key=lambda finding: (SEVERITIES.index(finding.severity), -(finding.value or 0.0)))
    return [worst if worst.severity != OK else Finding(OK, GOODPUT, seen, value=cost.goodput)]


def check_bad_steps(bad: Sequence[Record], directory: Path) -> list[Finding]:
    """Return what steps did not count, of lines of kind `bad`; nothing where all did."""
    if not bad:
        return []
    named = [f"{line.get('action')} of {line.get('first')} to {line.get('last')}" for line in bad[-MOST_NAMED:]]
    seen = f"{bad[-1].get('count')} steps were not finite or a spike, and did not count (batches: {', '.join(named)})"
    return [rules.BAD_STEPS.found(WARNING, seen, command=f"bert-jax replay {shlex.quote(str(directory))}")]


def share_of(cost: Cost, part: str) -> float:
    """Return the share that a part is judged by: waiting for data between steps and data, others in the whole."""
    if part == "data_wait":
        return cost.seconds[part] / max(cost.seconds[part] + cost.seconds["steps"], 1e-9)
    return cost.share(part)


def cost_words(cost: Cost) -> str:
    """Return goodput, and the shares of all parts that took a per cent or more."""
    parts = sorted(WORDS, key=lambda part: -cost.seconds[part])
    shares = ", ".join(f"{WORDS[part]} {percent(cost.share(part), 0)}" for part in parts if cost.share(part) >= 0.01)
    times = f", {cost.restarts} restart{'s' if cost.restarts > 1 else ''}" if cost.restarts else ""
    return f"goodput {percent(cost.goodput, 0)} of {cost.total:,.0f} s ({shares}{times})"


def cost_line(cost: Cost) -> str:
    """Return the verdict in one line, for the end of a run."""
    (finding,) = check_cost(cost) or [Finding(NOTE, GOODPUT, "nothing was measured")]
    return finding.line()
