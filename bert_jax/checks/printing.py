# SPDX-License-Identifier: Apache-2.0
"""Findings -> what is printed: problems first, what is in order in a line each."""

import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence

from bert_jax.checks.examination import Examination
from bert_jax.checks.findings import Finding, OK, SEVERITIES

WIDEST = 120  # characters of a line
INDENT = 12


def as_text(examination: Examination, width: int | None = None) -> str:
    """The findings for a person."""
    width = min(width or shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    findings = sorted(examination.findings, key=lambda finding: SEVERITIES.index(finding.severity))
    lines = [f"{examination.path}: {examination.heading}: {counted(findings)}"]
    for finding in findings:
        if finding.severity != OK:
            lines += ["", *_paragraphs(finding, width)]
    in_order = [finding for finding in findings if finding.severity == OK]
    if in_order:
        lines += ["", "in order"]
        lines += [f"  {textwrap.shorten(f'{f.subject}: {f.placed}', width - 2, placeholder=' …')}" for f in in_order]
    return "\n".join(lines)


def counted(findings: Sequence[Finding]) -> str:
    """How many findings of each severity there are."""
    counts = Counter(finding.severity for finding in findings)
    words = [f"{counts[name]} {name}{'s' if counts[name] > 1 else ''}" for name in SEVERITIES[:-1] if counts[name]]
    return ", ".join(words or ["nothing to complain of"]) + f"; {counts[OK]} checks in order"


def _paragraphs(finding: Finding, width: int) -> list[str]:
    lines = [f"{finding.severity.upper():<{INDENT}}{finding.subject}"]
    for name, text in (("seen", finding.placed), ("causes", finding.causes), ("do", finding.remedy)):
        if text:
            first = f"  {name:<{INDENT - 2}}"
            lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * INDENT)
    if finding.command:
        lines.append(" " * INDENT + finding.command)  # not wrapped: it is to be copied
    return lines
