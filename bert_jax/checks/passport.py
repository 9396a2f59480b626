# SPDX-License-Identifier: Apache-2.0
"""Checks of the passport of prepared data for what usually is a mistake: `bert-jax prepare` warns of it, `bert-jax doctor`
explains it, the passport's page shows it.

Every check gives a finding also where nothing is wrong, with what was measured.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from bert_jax.checks import examples, text
from bert_jax.checks.findings import Finding, NOTE, OK, Passport, Remake, serious
from bert_jax.feed.shards import prepare_command

type Check = Callable[[Passport, Remake], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    text.vocabulary,
    text.unknown_tokens,
    text.marks,
    text.commonest_token,
    text.repeated_sentences,
    text.repeated_documents,
    text.near_duplicates,
    text.characters,
    text.dropped,
    text.documents,
    text.held_out,
    examples.pair_labels,
    examples.pair_sources,
    examples.unpaired,
    examples.cut_tokens,
    examples.filled_rows,
    examples.masks,
    text.contamination,
    text.licence,
)


def check_passport(passport: Passport, directory: Path, data: str | None = None) -> list[Finding]:
    """All findings about prepared data.

    Args:
      passport: the manifest, as in passport.json.
      directory: where it lies; the commands repeat its settings.
      data: what the commands call the data, and name new data after; the directory if not given.
    """
    name = data or str(directory)

    def remake(suffix: str, **changes: object) -> str:
        return prepare_command(directory, f"{name}-{suffix}", **changes)

    return [finding for check in CHECKS for finding in _merged(_found(check, passport, remake))]


def _found(check: Check, passport: Passport, remake: Remake) -> list[Finding]:
    """The findings of one check; a passport of an earlier version may lack what it looks at."""
    try:
        return list(check(passport, remake))
    except KeyError as missing:
        subject = check.__name__.replace("_", " ").capitalize()
        return [Finding(NOTE, subject, f"an earlier version prepared the data, and did not record {missing.args[0]}")]


def warnings(passport: Passport) -> list[str]:
    """The warnings of `bert-jax prepare`, one line each, problems first."""
    return [finding.line() for finding in serious(check_passport(passport, Path("DATA")))]


def _merged(findings: list[Finding]) -> list[Finding]:
    """The findings of one check, with all that need no action put into one."""
    kept = [finding for finding in findings if finding.severity not in (OK, NOTE)]
    for severity in (NOTE, OK):
        alike = [finding for finding in findings if finding.severity == severity]
        for subject in dict.fromkeys(finding.subject for finding in alike):
            group = [finding for finding in alike if finding.subject == subject]
            kept.append(group[0] if len(group) == 1 else _joined(group))
    return kept


def _joined(group: list[Finding]) -> Finding:
    return dataclasses.replace(group[0], seen="; ".join(finding.placed for finding in group), where="")
