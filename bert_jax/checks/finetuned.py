# SPDX-License-Identifier: Apache-2.0
"""Findings of a fine-tuned run, from its own judgement (finetuning/degenerate.py, kept in scores.json)."""

from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, NOTE, PROBLEM
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import Record


def learning_findings(run: FinetunedRun) -> list[Finding]:
    """Whether the run has learned anything; none where it has."""
    if run.degenerate:
        return [degenerate_finding(run.degenerate)]
    if run.undecided:
        return [Finding(NOTE, "Undecided", f"whether anything was learned is not decided: {run.undecided}")]
    return []


def degenerate_finding(degenerate: Record) -> Finding:
    """The finding about a degenerate run, from what scores.json says of it."""
    explanation = str(degenerate.get("explanation", "")).strip()
    seen = f"nothing was learned ({degenerate.get('kind', 'not said')})"
    return rules.DEGENERATE.found(PROBLEM, f"{seen}. {explanation[:1].upper()}{explanation[1:]}")
